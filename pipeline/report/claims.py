"""The paper's claims C1 to C7 and the rules by which the study's numbers decide them.

The rules were written before the numbers they decide were read; those of C1, C3 and C5 were sharpened once, after an
earlier study (of commit 2268497) and before the one in `results/`. All differences are paired: the same tracks are
drawn for both sides in every resample. A difference goes a claim's way where its whole interval lies on that side of
the stated margin, and against it where the whole interval lies on the other. A claim is

- supported, where every deciding difference goes its way: for every codec with the loss, and every seed;
- not supported, where at least one goes against it and none goes its way;
- undecided at this size, otherwise;
- not tested, where the study lacks what it takes.

C1  Mutual information by the estimator that `pipeline.dependence.calibration` chooses, from known truths and no codec,
    summed over pairs of codebooks, codec with the loss minus codec without; at equal time, or under the delay shift
    where the loss is delayed: lower than 0. Where the loss cost more than `ENTROPY_COST` of the summed entropy in any
    seed, information normalised by the sum of entropies decides instead, for a codec that says less shares less.
    Beside it, deciding nothing: the total correlation that a learned model finds, a bound from below, whose gap to the
    truth need not be the same for two codecs.
C2  Spearman's rank correlation of MMD and mutual information over codecs and seeds: positive with p under
    1 - confidence at equal time and under the delay shift (against it: negative with such a p). Beside it, deciding
    nothing: the same over snapshots of those codecs' training, which are not independent of each other.
C3  FAD-MTT and KL-MTT of the delay-pattern LM on a codec with the loss, minus those on the codec without, mean over
    seeds: lower than 0. A difference is of models that share the seed, on the same captions; a resample draws tracks,
    with their captions, and seeds, so that seeds that disagree leave it undecided. Beside it, deciding nothing: each
    seed's difference, KAD-MTT, agreement with the captions, and the price of the product of marginals, held-out bits
    per frame of delay minus flatten.
C4  Seconds of generation a clip, flatten over delay on one codec, medians over batches, with the whole interval over
    batches: at least `FASTER` (against it: no more than 1). Beside them, deciding nothing: processor seconds, which
    other jobs on the machine touch less, and steps.
C5  Codec with the delayed loss minus the one whose loss has no delay: mutual information under the delay shift, as in
    C1, and FAD-MTT and KL-MTT under the delay-pattern LM, as in C3: lower than 0. Without such models the claim is of
    music and not tested. Beside it, deciding nothing: as for C3, and their total correlation under the delay shift.
C6  SI-SDR and log-mel distance, with the loss minus without: worse by less than `SI_SDR_MARGIN` dB and `LOG_MEL_MARGIN`
    of the distance (against it: worse by more). The margins are ours; the paper states none. Beside it, deciding
    nothing: FAD-MTT of the reconstructions.
C7  What decides C1, on codecs of every quantizer but the residual one; C1 to C6 are about that one alone. Beside it,
    deciding nothing: what stands under C6.

Where several seeds or codecs decide, nothing corrects for their number: supported takes all of them, which is the
stricter side; not supported takes one, which is the looser.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline import params, statistics
from pipeline.report.results import ALIGNMENTS, ESTIMATORS, Results
from pipeline.statistics import Estimate
from pipeline.study import Model

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
UNDECIDED = "undecided at this size"
NOT_TESTED = "not tested"

PAPER = "residual"  # the paper's quantizer
ENTROPY_COST = 0.05  # share of the summed entropy
FASTER = 2.0
SI_SDR_MARGIN = 0.5  # dB
LOG_MEL_MARGIN = 0.02  # share of the distance

SAYS = {
    "C1": "The loss reduces the statistical dependence between codebooks",
    "C2": "The criterion (MMD) follows mutual information",
    "C3": "With the loss, modelling the product of marginals gives better music",
    "C4": "Modelling the product of marginals generates much faster than the joint model",
    "C5": "The loss should follow the LM's decoding strategy (delayed loss for a delayed LM)",
    "C6": "Reconstruction does not pay for the loss",
    "C7": "The loss carries over to other multi-stream codecs",
}


class Finding(NamedTuple):
    """One measured number; `verdict` is for or against the claim, or neither, and empty where it decides nothing."""

    measure: str
    of: str
    seed: str
    value: float
    low: float | None
    high: float | None
    verdict: str


class Claim(NamedTuple):
    """A claim, what was measured for it, what that says, and what it rests on."""

    id: str
    measured: str
    verdict: str
    rests_on: str
    findings: list[Finding]

    @property
    def says(self) -> str:
        """The claim in words."""
        return SAYS[self.id]


def assess(results: Results) -> list[Claim]:
    """All claims, decided by the rules above.

    Raises:
        ValueError: a result file that the study should have made is missing or does not fit the others.
    """
    return [params.choice("CLAIMS", name)(results) for name in results.claims]


def combine(verdicts: list[str]) -> str:
    """One verdict of many: all for it, one against it and none for it, or undecided; of none, not tested."""
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


def _finding(measure: str, of: str, seed: int | str, estimate: Estimate, verdict: str = "") -> Finding:
    return Finding(measure, of, str(seed), *map(float, estimate[:3]), verdict)


def _claim(id_: str, measured: str, rests_on: str, findings: list[Finding]) -> Claim:
    deciding = [finding.verdict for finding in findings if finding.verdict]
    return Claim(id_, measured, combine(deciding), rests_on if findings else "nothing", findings)


def c1(results: Results) -> Claim:
    return _less_dependence(results, "C1", [PAPER])


def _less_dependence(results: Results, id_: str, quantizers: list[str]) -> Claim:
    """The claim, by the rule of C1, that the loss reduces the dependence between codebooks of these quantizers."""
    findings, cost = [], False
    for ours, theirs in (pair for quantizer in quantizers for pair in results.study.pairs(quantizer)):
        alignment = "delayed" if results.study.codecs[ours].loss.delay else "equal_time"
        where, between = ALIGNMENTS[alignment], f"{ours} - {theirs}"
        changes = {seed: _changes(results, ours, theirs, seed, alignment) for seed in results.study.seeds(ours, theirs)}
        costly = min(entropy.value for _, _, entropy in changes.values()) < -ENTROPY_COST
        cost = cost or costly
        for seed, (bits, share, entropy) in changes.items():
            by_bits, by_share = ("", lower(share)) if costly else (lower(bits), "")
            findings += [
                _finding(f"MI, {where} (bits)", between, seed, bits, by_bits),
                _finding(f"MI over sum of entropies, {where}", between, seed, share, by_share),
                _finding("summed entropy (relative)", between, seed, entropy),
                *_beyond_pairs(results, ours, theirs, seed, alignment),
            ]
    measured = (
        f"pairwise mutual information of held-out codes ({ESTIMATORS[results.estimator]}), with the loss minus without"
    )
    claim = _claim(id_, measured, _held_out(results), findings)
    if not cost:
        return claim
    verdict = f"{SUPPORTED}, at an entropy cost" if claim.verdict == SUPPORTED else claim.verdict
    return claim._replace(measured=f"{measured}; normalised where the loss cost entropy", verdict=verdict)


def _changes(
    results: Results, ours: str, theirs: str, seed: int, alignment: str
) -> tuple[Estimate, Estimate, Estimate]:
    """Mutual information (bits) and normalised, one codec minus another, and the relative change of summed entropy."""

    def change(how: Callable[..., Estimate], measure: str) -> Estimate:
        return how(*(results.total(codec, seed, alignment, measure) for codec in (ours, theirs)), results.confidence)

    return (
        change(statistics.difference, "mutual_information"),
        change(statistics.difference, "normalised_by_sum"),
        change(statistics.ratio, "entropy"),
    )


def _beyond_pairs(results: Results, ours: str, theirs: str, seed: int, alignment: str) -> list[Finding]:
    """Total correlation, one codec minus another, of the bounds from below; nothing where one has none."""
    if not {(ours, seed), (theirs, seed)} <= set(results.study.modelled):
        return []
    bounds = (results.total_correlation(codec, seed, alignment) for codec in (ours, theirs))
    change = statistics.difference(*bounds, results.confidence)
    of = f"{ours} - {theirs}"
    return [_finding(f"total correlation bound, {ALIGNMENTS[alignment]} (bits)", of, seed, change)]


def c2(results: Results) -> Claim:
    findings, alpha = [], 1 - results.confidence
    runs = [run for run in results.study.runs if results.study.codecs[run[0]].quantizer == PAPER]
    for alignment, where in ALIGNMENTS.items():
        mmd = np.array([results.codec(*run)["mmd"][alignment] for run in runs])
        information = np.array([results.total(*run, alignment, "mutual_information").value for run in runs])
        with_it = statistics.rank_correlation(mmd, information)
        against = statistics.rank_correlation(-mmd, information)
        verdict = SUPPORTED if with_it.p < alpha else NOT_SUPPORTED if against.p < alpha else UNDECIDED
        of = f"{with_it.points} codecs, p = {with_it.p:.3f}"
        findings.append(Finding(f"Spearman's rho of MMD and MI, {where}", of, "all", with_it.rho, None, None, verdict))
        over = pd.concat([results.snapshots(*run, alignment) for run in runs])
        rho = statistics.rank_correlation(over["mmd"].to_numpy(), over["mutual_information"].to_numpy()).rho
        of = f"{len(over)} snapshots of {len(runs)} codecs"
        findings.append(Finding(f"Spearman's rho of MMD and MI over training, {where}", of, "all", rho, None, None, ""))
    rests_on = f"{len(runs)} codecs ({len({codec for codec, _ in runs})} settings)"
    return _claim("C2", "rank correlation of MMD and mutual information on held-out codes", rests_on, findings)


def c3(results: Results) -> Claim:
    findings = []
    for ours, theirs in results.study.pairs(PAPER):
        findings += _music(results, ours, theirs)
        for seed in results.study.seeds(ours, theirs):
            sides = [Model("delay", codec, seed) for codec in (ours, theirs)]
            between = f"{ours} - {theirs}"
            prices = [price for side in sides if (price := results.price(side))]
            if len(prices) == len(sides):
                change = statistics.difference(*prices, results.confidence)
                findings.append(_finding("price of the product of marginals (bits per frame)", between, seed, change))
    measured = "FAD-MTT and KL-MTT of the delay-pattern LM, on the codec with the loss minus without"
    return _claim("C3", measured, _generated(results), findings)


def c4(results: Results) -> Claim:
    findings = []
    for joint in results.study.models:
        marginal = joint._replace(pattern="delay")
        if joint.pattern != "flatten" or marginal not in results.study.models:
            continue
        slow, fast = results.timing(joint), results.timing(marginal)
        of, seed = joint.codec, joint.seed
        for key, measure in (("a_clip", "seconds"), ("processor_a_clip", "processor seconds")):
            times = results.repeats(slow[key], fast[key])
            decided = SUPPORTED if times.low >= FASTER else NOT_SUPPORTED if times.high <= 1 else UNDECIDED
            findings.append(
                _finding(f"{measure} a clip, flatten over delay", of, seed, times, decided if key == "a_clip" else "")
            )
        steps = slow["steps"] / fast["steps"]
        findings.append(Finding("steps, flatten over delay", of, str(seed), steps, None, None, ""))
        repeats = f"medians of {len(slow['a_clip'])} batches of {slow['batch_size']} clips"
    rests_on = f"{len(findings) // 3} pairs of models, {repeats}" if findings else ""
    measured = "steps and seconds of generation, flatten over delay, same codec and captions"
    return _claim("C4", measured, rests_on, findings)


def c5(results: Results) -> Claim:
    findings = []
    losses = {name: results.study.codecs[name].loss for name, _ in results.study.pairs(PAPER)}
    for ours in (name for name, loss in losses.items() if loss.delay):
        same = losses[ours].model_copy(update={"delay": False})
        for theirs in (name for name, loss in losses.items() if loss == same):
            music = _music(results, ours, theirs)
            findings += music
            for seed in results.study.seeds(ours, theirs):
                between = f"{ours} - {theirs}"
                information = statistics.difference(
                    results.total(ours, seed, "delayed", "mutual_information"),
                    results.total(theirs, seed, "delayed", "mutual_information"),
                    results.confidence,
                )
                decided = lower(information) if music else ""
                findings += [
                    _finding("MI, delay shift (bits)", between, seed, information, decided),
                    *_beyond_pairs(results, ours, theirs, seed, "delayed"),
                ]
    measured = (
        "mutual information under the delay shift, and FAD-MTT and KL-MTT of the delay-pattern LM, "
        "on the codec with the delayed loss minus the undelayed"
    )
    return _claim("C5", measured, _generated(results), findings)


def c6(results: Results) -> Claim:
    measured = (
        f"SI-SDR and log-mel distance, with the loss minus without; margins {SI_SDR_MARGIN} dB and {LOG_MEL_MARGIN:.0%}"
    )
    return _claim("C6", measured, _held_out(results), _reconstruction(results, PAPER))


def _reconstruction(results: Results, quantizer: str) -> list[Finding]:
    """What the loss costs codecs of a quantizer, with verdicts by the rule of C6."""
    findings = []
    for ours, theirs in results.study.pairs(quantizer):
        for seed in results.study.seeds(ours, theirs):
            si_sdr, log_mel = (
                [results.reconstruction(codec, seed, measure) for codec in (ours, theirs)]
                for measure in ("si_sdr", "log_mel")
            )
            gain = statistics.difference(*si_sdr, results.confidence)
            loss = statistics.difference(*reversed(si_sdr), results.confidence)
            distance = statistics.ratio(*log_mel, results.confidence)
            music = [results.fad(f"reconstruction/{codec}-seed{seed}") for codec in (ours, theirs)]
            between = f"{ours} - {theirs}"
            findings += [
                _finding("SI-SDR (dB)", between, seed, gain, lower(loss, SI_SDR_MARGIN)),
                _finding("log-mel distance (relative)", between, seed, distance, lower(distance, LOG_MEL_MARGIN)),
                _finding("FAD-MTT", between, seed, statistics.difference(*music, results.confidence)),
            ]
    return findings


def c7(results: Results) -> Claim:
    quantizers = list(
        dict.fromkeys(codec.quantizer for codec in results.study.codecs.values() if codec.quantizer != PAPER)
    )
    claim = _less_dependence(results, "C7", quantizers)
    beside = [
        finding._replace(verdict="") for quantizer in quantizers for finding in _reconstruction(results, quantizer)
    ]
    return claim._replace(findings=claim.findings + beside)


def _music(results: Results, ours: str, theirs: str) -> list[Finding]:
    """Scores of the delay-pattern LM on one codec minus another's: mean over the seeds of both, then each seed's."""
    models = [[Model("delay", codec, seed) for codec in (ours, theirs)] for seed in results.study.seeds(ours, theirs)]
    both = [pair for pair in models if set(pair) <= set(results.study.models)]
    measures = {
        "FAD-MTT": results.fad,
        "KL-MTT (nats)": results.kl,
        "KAD-MTT": results.kad,
        "agreement with captions": results.text,
    }
    findings, beside, between = [], [], f"{ours} - {theirs}"
    for name, measure in measures.items():
        sides = [[measure(f"generation/{model.name}") for model in pair] for pair in both]
        if not sides or any(side is None for pair in sides for side in pair):
            continue
        changes = [statistics.difference(*pair, results.confidence) for pair in sides]
        pooled = statistics.over_seeds(changes, seed=results.evaluation.seed, confidence=results.confidence)
        decided = lower(pooled) if name in ("FAD-MTT", "KL-MTT (nats)") else ""
        findings.append(_finding(name, between, "all", pooled, decided))
        for (model, _), change in zip(both, changes, strict=True):
            beside.append(_finding(name, between, model.seed, change))
    return findings + beside


def _held_out(results: Results) -> str:
    found = results.dependence(*results.study.runs[0])["alignments"]["equal_time"]
    return f"{found['frames']:,} held-out frames of {found['clips']} clips of {found['tracks']} tracks"


def _generated(results: Results) -> str:
    delay = [model for model in results.study.models if model.pattern == "delay"]
    if not delay:
        return "nothing"
    score = results.score(f"generation/{delay[0].name}")
    seeds = sorted({model.seed for model in delay})
    return f"{score['clips']} generated clips a model, captions from {score['tracks']} tracks; {_seeds(seeds)}"


def _seeds(seeds: list[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


CLAIMS: dict[str, Callable[[Results], Claim]] = {
    "C1": c1,
    "C2": c2,
    "C3": c3,
    "C4": c4,
    "C5": c5,
    "C6": c6,
    "C7": c7,
}
