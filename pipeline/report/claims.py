"""The paper's claims, and the rules by which the study's numbers decide them: each claim's rule stands in its function.

The rules were written before the numbers they decide were read; those of C1, C3 and C5 were sharpened once, after an
earlier study (of commit 2268497) and before the one in `results/`.

All differences are paired: each resample draws the same tracks for both sides. A difference goes a claim's way if its
whole interval lies on that side of the stated margin, and against it if the whole interval lies on the other. A claim
is

- supported, if every deciding difference goes its way: for every codec with the loss, and every seed;
- not supported, if at least one goes against it and none goes its way;
- undecided at this size, otherwise;
- not tested, if the study lacks what its rule needs.

Nothing corrects for the number of seeds or codecs that decide: "supported" needs all of them, which is stricter than a
single test; "not supported" needs only one, which is looser.

C1 to C6 are about the paper's quantizer, the residual one, alone. `report.claims` lists the claims that a study
decides; any module of `pipeline.report` may define more of them in a table `CLAIMS` like the one below.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline import params, statistics
from pipeline.report.results import ALIGNMENTS, ESTIMATORS, Results
from pipeline.statistics import Estimate
from pipeline.study import JOINT, Model, Run

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
UNDECIDED = "undecided at this size"
NOT_TESTED = "not tested"

PAPER = "residual"  # the paper's quantizer
DELAY = "delay"  # the paper's pattern, which models the product of marginals
ENTROPY_COST = 0.05  # share of the summed entropy
FASTER = 2.0
SI_SDR_MARGIN = 0.5  # dB
LOG_MEL_MARGIN = 0.02  # share of the distance


class Finding(NamedTuple):
    """One number, and what it says of the claim: `verdict` is empty where the number decides nothing."""

    measure: str
    of: str
    seed: str
    value: float
    low: float | None
    high: float | None
    verdict: str


class Claim(NamedTuple):
    """A claim and how it was decided."""

    says: str  # the claim in words
    measured: str  # what was measured for it
    verdict: str
    rests_on: str  # numbers of frames, clips, tracks and seeds
    findings: list[Finding]


def assess(results: Results) -> dict[str, Claim]:
    """The claims that `report.claims` names, each decided by its rule.

    Raises:
        ValueError: a result file that the study should have made is missing or does not fit the others.
    """
    return {name: params.choice("CLAIMS", name)(results) for name in results.claims}


def combine(verdicts: list[str]) -> str:
    """The verdict on a claim from those of its deciding differences, by the rules at the top of this module."""
    if not verdicts:
        return NOT_TESTED
    if set(verdicts) == {SUPPORTED}:
        return SUPPORTED
    return NOT_SUPPORTED if NOT_SUPPORTED in verdicts and SUPPORTED not in verdicts else UNDECIDED


def lower(estimate: Estimate, margin: float = 0.0) -> str:
    """For the claim where the whole interval is below `margin`, against it where the whole interval is above."""
    if estimate.high < margin:
        return SUPPORTED
    return NOT_SUPPORTED if estimate.low > margin else UNDECIDED


def c1(results: Results) -> Claim:
    """C1: trained with the loss, a codec has less dependence between its codebooks.

    Decided by mutual information summed over pairs of codebooks, codec with the loss minus codec without: lower than 0;
    at equal time, or under the delay shift where the loss is delayed. The estimator is the one that
    `pipeline.dependence.calibration` chooses from codes of known mutual information, without seeing a codec. Where the
    loss cost more than `ENTROPY_COST` of the summed entropy in any seed, information normalised by the sum of entropies
    decides instead, because a codec that says less also shares less.

    Reported beside it, deciding nothing: total correlation, which a learned model bounds from below. How far it lies
    below the truth may differ between two codecs.
    """
    return _less_dependence(results, "The loss reduces the statistical dependence between codebooks", [PAPER])


def c2(results: Results) -> Claim:
    """C2: the criterion that the loss minimises, MMD, ranks codecs as mutual information does.

    Decided by Spearman's rank correlation of the two over codecs and seeds, at equal time and under the delay shift:
    positive with p under 1 - confidence (against the claim: negative with such a p).

    Reported beside it, deciding nothing: the same correlation over snapshots of those codecs' training, which are not
    independent of each other.
    """
    findings, alpha = [], 1 - results.confidence
    runs = [run for run in results.study.runs if results.study.codecs[run.codec].quantizer == PAPER]
    for alignment, where in ALIGNMENTS.items() if runs else ():
        mmd = np.array([results.codec(*run)["mmd"][alignment] for run in runs])
        information = np.array([results.total(*run, alignment, "mutual_information").value for run in runs])
        positive = statistics.rank_correlation(mmd, information)
        negative = statistics.rank_correlation(-mmd, information)
        verdict = SUPPORTED if positive.p < alpha else NOT_SUPPORTED if negative.p < alpha else UNDECIDED
        of = f"{positive.points} codecs, p = {positive.p:.3f}"
        findings.append(Finding(f"Spearman's rho of MMD and MI, {where}", of, "all", positive.rho, None, None, verdict))
        over = pd.concat([results.snapshots(*run, alignment) for run in runs])
        rho = statistics.rank_correlation(over["mmd"].to_numpy(), over["mutual_information"].to_numpy()).rho
        of = f"{len(over)} snapshots of {len(runs)} codecs"
        findings.append(Finding(f"Spearman's rho of MMD and MI over training, {where}", of, "all", rho, None, None, ""))
    return _claim(
        "The criterion (MMD) follows mutual information",
        "rank correlation of MMD and mutual information on held-out codes",
        f"{len(runs)} codecs ({len({run.codec for run in runs})} settings)",
        findings,
    )


def c3(results: Results) -> Claim:
    """C3: on a codec trained with the loss, a language model of the product of marginals makes better music.

    Decided by FAD-MTT and KL-MTT of the delay-pattern LM on the codec with the loss, minus those on the codec without,
    mean over seeds: lower than 0. Both models of a difference share the seed and the captions. A resample draws tracks,
    with their captions, and seeds, so that seeds that disagree leave the claim undecided.

    Reported beside it, deciding nothing: each seed's difference, KAD-MTT, agreement with the captions, and the gap at
    equal steps: held-out bits per frame of delay minus flatten.
    """
    findings = []
    for ours, theirs in results.study.pairs(PAPER):
        findings += _music(results, ours, theirs)
        for seed in results.study.seeds(ours, theirs):
            gap, gap_without = (results.gap(Model(DELAY, codec, seed)) for codec in (ours, theirs))
            if gap and gap_without:
                change = results.difference(gap, gap_without)
                measure = "gap at equal steps, delay - flatten (bits per frame)"
                findings.append(_finding(measure, f"{ours} - {theirs}", seed, change))
    return _claim(
        "With the loss, modelling the product of marginals gives better music",
        "FAD-MTT and KL-MTT of the delay-pattern LM, on the codec with the loss minus without",
        _generated(results),
        findings,
    )


def c4(results: Results) -> Claim:
    """C4: a model of the product of marginals generates much faster than the joint model.

    Decided by seconds of generation a clip, flatten over delay on one codec, medians over batches: the whole interval
    over batches is at least `FASTER` (against the claim: at most 1).

    Reported beside it, deciding nothing: processor seconds, which other jobs on the machine disturb less, and steps.
    """
    findings, batches = [], ""
    for joint in results.study.models:
        marginal = joint._replace(pattern=DELAY)
        if joint.pattern != JOINT or marginal not in results.study.models:
            continue
        slow, fast = results.timing(joint), results.timing(marginal)
        of, seed = joint.codec, joint.seed
        seconds = results.repeats(slow["a_clip"], fast["a_clip"])
        processor = results.repeats(slow["processor_a_clip"], fast["processor_a_clip"])
        verdict = SUPPORTED if seconds.low >= FASTER else NOT_SUPPORTED if seconds.high <= 1 else UNDECIDED
        steps = slow["steps"] / fast["steps"]
        findings += [
            _finding("seconds a clip, flatten over delay", of, seed, seconds, verdict),
            _finding("processor seconds a clip, flatten over delay", of, seed, processor),
            Finding("steps, flatten over delay", of, str(seed), steps, None, None, ""),
        ]
        batches = f"medians of {len(slow['a_clip'])} batches of {slow['batch_size']} clips"
    pairs = sum(bool(finding.verdict) for finding in findings)
    return _claim(
        "Modelling the product of marginals generates much faster than the joint model",
        "steps and seconds of generation, flatten over delay, same codec and captions",
        f"{pairs} pairs of models, {batches}",
        findings,
    )


def c5(results: Results) -> Claim:
    """C5: the loss works best on codes aligned as the language model decodes them: delayed for the delay pattern.

    Decided by the codec with the delayed loss minus the one whose loss is the same but not delayed: mutual information
    under the delay shift, by the estimator of C1, and FAD-MTT and KL-MTT of the delay-pattern LM, as in C3: lower than
    0. The claim is about music, so without such models it is not tested.

    Reported beside it, deciding nothing: what C3 has beside it, and total correlation under the delay shift.
    """
    findings = []
    losses = {name: results.study.codecs[name].loss for name, _ in results.study.pairs(PAPER)}
    for ours in (name for name, loss in losses.items() if loss.delay):
        undelayed = losses[ours].model_copy(update={"delay": False})
        for theirs in (name for name, loss in losses.items() if loss == undelayed):
            music = _music(results, ours, theirs)
            findings += music
            for seed in results.study.seeds(ours, theirs):
                information = results.difference(
                    results.total(ours, seed, "delayed", "mutual_information"),
                    results.total(theirs, seed, "delayed", "mutual_information"),
                )
                verdict = lower(information) if music else ""
                findings += [
                    _finding("MI, delay shift (bits)", f"{ours} - {theirs}", seed, information, verdict),
                    *_total_correlation(results, ours, theirs, seed, "delayed"),
                ]
    return _claim(
        "The loss should follow the LM's decoding strategy (delayed loss for a delayed LM)",
        "mutual information under the delay shift, and FAD-MTT and KL-MTT of the delay-pattern LM, "
        "on the codec with the delayed loss minus the undelayed",
        _generated(results),
        findings,
    )


def c6(results: Results) -> Claim:
    """C6: the loss does not make reconstruction worse.

    Decided by SI-SDR and log-mel distance, with the loss minus without: worse by less than `SI_SDR_MARGIN` dB and
    `LOG_MEL_MARGIN` of the distance (against the claim: worse by more). The margins are ours; the paper states none.

    Reported beside it, deciding nothing: FAD-MTT of the reconstructions.
    """
    return _claim(
        "Reconstruction does not pay for the loss",
        "SI-SDR and log-mel distance, with the loss minus without; "
        f"margins {SI_SDR_MARGIN} dB and {LOG_MEL_MARGIN:.0%}",
        _held_out(results),
        _reconstruction(results, PAPER),
    )


def c7(results: Results) -> Claim:
    """C7: the loss also makes the streams of codecs with another quantizer less dependent.

    Decided as C1 is, on codecs of every quantizer but the residual one.

    Reported beside it, deciding nothing: what C1 has beside it, and everything of C6.
    """
    quantizers = list(
        dict.fromkeys(codec.quantizer for codec in results.study.codecs.values() if codec.quantizer != PAPER)
    )
    claim = _less_dependence(results, "The loss carries over to other multi-stream codecs", quantizers)
    beside = [
        finding._replace(verdict="") for quantizer in quantizers for finding in _reconstruction(results, quantizer)
    ]
    return claim._replace(findings=claim.findings + beside)


CLAIMS: dict[str, Callable[[Results], Claim]] = {
    "C1": c1,
    "C2": c2,
    "C3": c3,
    "C4": c4,
    "C5": c5,
    "C6": c6,
    "C7": c7,
}


def _claim(says: str, measured: str, rests_on: str, findings: list[Finding]) -> Claim:
    deciding = [finding.verdict for finding in findings if finding.verdict]
    return Claim(says, measured, combine(deciding), rests_on if findings else "nothing", findings)


def _finding(measure: str, of: str, seed: int | str, estimate: Estimate, verdict: str = "") -> Finding:
    value, low, high = (float(number) for number in (estimate.value, estimate.low, estimate.high))
    return Finding(measure, of, str(seed), value, low, high, verdict)


def _less_dependence(results: Results, says: str, quantizers: list[str]) -> Claim:
    """The claim, decided by the rule of C1, that the loss reduces the dependence between codebooks."""
    findings, any_costly = [], False
    for ours, theirs in (pair for quantizer in quantizers for pair in results.study.pairs(quantizer)):
        alignment = "delayed" if results.study.codecs[ours].loss.delay else "equal_time"
        where, between = ALIGNMENTS[alignment], f"{ours} - {theirs}"
        changes = {seed: _changes(results, ours, theirs, seed, alignment) for seed in results.study.seeds(ours, theirs)}
        costly = min(change.entropy.value for change in changes.values()) < -ENTROPY_COST
        any_costly = any_costly or costly
        for seed, (bits, share, entropy) in changes.items():
            by_bits, by_share = ("", lower(share)) if costly else (lower(bits), "")
            findings += [
                _finding(f"MI, {where} (bits)", between, seed, bits, by_bits),
                _finding(f"MI over sum of entropies, {where}", between, seed, share, by_share),
                _finding("summed entropy (relative)", between, seed, entropy),
                *_total_correlation(results, ours, theirs, seed, alignment),
            ]
    measured = (
        f"pairwise mutual information of held-out codes ({ESTIMATORS[results.estimator]}), with the loss minus without"
    )
    claim = _claim(says, measured, _held_out(results), findings)
    if not any_costly:
        return claim
    verdict = f"{SUPPORTED}, at an entropy cost" if claim.verdict == SUPPORTED else claim.verdict
    return claim._replace(measured=f"{measured}; normalised where the loss cost entropy", verdict=verdict)


class _Changes(NamedTuple):
    """From one codec to another."""

    bits: Estimate  # difference of mutual information, summed over pairs
    share: Estimate  # difference of mutual information over the sum of entropies
    entropy: Estimate  # relative change of the summed entropy


def _changes(results: Results, ours: str, theirs: str, seed: int, alignment: str) -> _Changes:
    def change(how: Callable[[Estimate, Estimate], Estimate], measure: str) -> Estimate:
        return how(results.total(ours, seed, alignment, measure), results.total(theirs, seed, alignment, measure))

    return _Changes(
        change(results.difference, "mutual_information"),
        change(results.difference, "normalised_by_sum"),
        change(results.ratio, "entropy"),
    )


def _total_correlation(results: Results, ours: str, theirs: str, seed: int, alignment: str) -> list[Finding]:
    """Difference of the two codecs' bounds on total correlation; nothing if one of them has no bound."""
    if not {Run(ours, seed), Run(theirs, seed)} <= set(results.study.modelled):
        return []
    change = results.difference(
        results.total_correlation(ours, seed, alignment), results.total_correlation(theirs, seed, alignment)
    )
    of = f"{ours} - {theirs}"
    return [_finding(f"total correlation bound, {ALIGNMENTS[alignment]} (bits)", of, seed, change)]


def _reconstruction(results: Results, quantizer: str) -> list[Finding]:
    """What the loss costs codecs of a quantizer, with verdicts by the rule of C6."""
    findings = []
    for ours, theirs in results.study.pairs(quantizer):
        between = f"{ours} - {theirs}"
        for seed in results.study.seeds(ours, theirs):
            si_sdr, si_sdr_without = (results.reconstruction(codec, seed, "si_sdr") for codec in (ours, theirs))
            log_mel, log_mel_without = (results.reconstruction(codec, seed, "log_mel") for codec in (ours, theirs))
            fad, fad_without = (results.fad(Run(codec, seed).system) for codec in (ours, theirs))
            gain, cost = results.difference(si_sdr, si_sdr_without), results.difference(si_sdr_without, si_sdr)
            distance = results.ratio(log_mel, log_mel_without)
            findings += [
                _finding("SI-SDR (dB)", between, seed, gain, lower(cost, SI_SDR_MARGIN)),
                _finding("log-mel distance (relative)", between, seed, distance, lower(distance, LOG_MEL_MARGIN)),
                _finding("FAD-MTT", between, seed, results.difference(fad, fad_without)),
            ]
    return findings


def _music(results: Results, ours: str, theirs: str) -> list[Finding]:
    """Scores of the delay-pattern LM on one codec minus another's: mean over the seeds of both, then each seed's."""
    pairs = [(Model(DELAY, ours, seed), Model(DELAY, theirs, seed)) for seed in results.study.seeds(ours, theirs)]
    pairs = [pair for pair in pairs if set(pair) <= set(results.study.models)]
    measures: dict[str, Callable[[str], Estimate | None]] = {
        "FAD-MTT": results.fad,
        "KL-MTT (nats)": results.kl,
        "KAD-MTT": results.kad,
        "agreement with captions": results.text,
    }
    means, by_seed, between = [], [], f"{ours} - {theirs}"
    for name, measure in measures.items():
        scores = [(measure(model.system), measure(without.system)) for model, without in pairs]
        changes = [results.difference(score, without) for score, without in scores if score and without]
        if not changes or len(changes) < len(pairs):
            continue
        mean = statistics.over_seeds(changes, seed=results.evaluation.seed, confidence=results.confidence)
        means.append(_finding(name, between, "all", mean, lower(mean) if name in ("FAD-MTT", "KL-MTT (nats)") else ""))
        for (model, _), change in zip(pairs, changes, strict=True):
            by_seed.append(_finding(name, between, model.seed, change))
    return means + by_seed


def _held_out(results: Results) -> str:
    sizes = results.dependence(*results.study.runs[0])["alignments"]["equal_time"]
    return f"{sizes['frames']:,} held-out frames of {sizes['clips']} clips of {sizes['tracks']} tracks"


def _generated(results: Results) -> str:
    models = [model for model in results.study.models if model.pattern == DELAY]
    if not models:
        return "nothing"
    score, seeds = results.score(models[0].system), len({model.seed for model in models})
    counts = f"{score['clips']} generated clips a model, captions from {score['tracks']} tracks"
    return f"{counts}; {seeds} seed{'s' * (seeds > 1)}"
