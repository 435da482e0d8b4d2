"""The paper's claims, and the rules by which the study's numbers decide them: each claim's rule stands in its function.

The rules are written before the numbers they decide are read. They have changed, after earlier studies had been read:
`pipeline.report.history` lists every change with its date, and the verdict that was known then.

All differences are paired: each resample draws the same tracks for both sides. Where codecs were trained with several
seeds, the mean over seeds decides, by the interval of `statistics.over_seeds`, which speaks of other seeds and other
tracks; models of one codec's seed are averaged first. A single seed decides by its interval over tracks, and speaks of
that codec alone. A difference goes a claim's way if its whole interval lies on that side of the stated margin, and
against it if the whole interval lies on the other. A claim is

- supported, if every deciding difference goes its way;
- not supported, if none goes its way and at least one goes against it by the wider interval that Bonferroni asks for:
  of confidence 1 - (1 - c) / m where m differences decide at confidence c;
- undecided at this size, otherwise: the verdict says how many seeds would decide it, if they went on as they are;
- not tested, if the study lacks what its rule needs.

If every difference truly lies at its margin, either verdict comes in at most (1 - c) / 2 of studies, 2.5 %, whatever m:
"supported" needs all intervals on one side, and Bonferroni holds "not supported" to it. In simulated studies of three
seeds, and 1, 4 and 10 differences, "supported" came in 1.5, 0 and 0 %, "not supported" in 2.0, 1.3 and 1.5 %. A single
seed's interval over tracks is a little short, and lets through up to 5 % either way.

C9, of the loss on innovations, is no claim of the paper; studies that train such codecs list it.

The deciding codecs are, of each architecture and quantizer, those with the loss that have language models, or all with
the loss where none has; the others are reported beside them. C1 to C6, C8 and C9 are about the paper's quantizer, the
residual one. C1, C2 and C6 to C9 are decided by all architectures together. Music, in C3 and C5, is decided where at
least `MUSIC_SEEDS` seeds were trained: the better codec, for it costs too much to train that many of each.

A language model counts only where it is trained: a comparison decides nothing yet if one of its models saves less than
`GAIN` of the static entropy of its codes. When that gate was set, the recipe in `params.yaml` saved 17 % without the
loss (25.4 of 30.7 bits a frame) and 12 % with it (27.8 of 31.7), and the recipe before it, whose models told no codecs
apart, less than a tenth.

`report.claims` lists the claims that a study decides; any module of `pipeline.report` may define more of them in a
table `CLAIMS` like the one below.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import params, statistics
from pipeline.report.results import ALIGNMENTS, ESTIMATORS, Results
from pipeline.statistics import MOST_SEEDS, Estimate
from pipeline.study import DEPTH, JOINT, Kind, Model, Run, Study

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
UNDECIDED = "undecided at this size"
NOT_TESTED = "not tested"

PAPER = "residual"  # the paper's quantizer
DELAY, PARALLEL = "delay", "parallel"  # the patterns that model the product of marginals; the paper's is delay
ENTROPY_COST = 0.05  # share of the summed entropy
FASTER = 2.0
SI_SDR_MARGIN = 0.5  # dB
LOG_MEL_MARGIN = 0.02  # share of the distance
ENTROPY_MARGIN = 0.02  # share of the summed entropy, within which two codecs say as much
CODECS, WEIGHTS = 12, 3  # of one architecture, and different weights of the loss, from which a rank correlation decides
MUSIC_SEEDS = 3  # of the codec, from which a difference in music decides
GAIN = 0.1  # of the static entropy, from which a language model is trained

MUSIC = (  # distances by which music is compared, of `Results.lower_is_better`
    "FAD-MTT",
    "KAD-MTT",
    "KL-MTT (nats)",
    "FAD-MTT to own reconstruction",
    "KAD-MTT to own reconstruction",
)
RECONSTRUCTED = "FAD-MTT of the reconstructions"
LOCAL_SHARE = "share of the fall that is local excess"


class Basis(NamedTuple):
    """What a difference rests on, and what it can see."""

    unit: str  # seeds, or codecs of a rank correlation
    number: int  # of those
    tracks: int
    effect: float  # the difference found minus its margin, or the correlation
    confidence: float
    spread: float | None = None  # standard deviation over seeds; None of one seed, and of a correlation
    track_error: float | None = None  # standard error of what the tracks add to all seeds alike

    @property
    def smallest(self) -> float:
        """The least effect that is seen with the usual power."""
        if self.track_error is None:
            return statistics.smallest_correlation(self.number, (1 - self.confidence) / 2)
        return statistics.smallest_effect(self.number, self.spread or 0.0, self.track_error, self.confidence)

    @property
    def needed(self) -> int | None:
        """Seeds or codecs that would see the effect found, with the usual power; None where that is not known."""
        if self.track_error is None:
            points = statistics.points_needed(self.effect, (1 - self.confidence) / 2)
            return points and max(points, CODECS)
        if self.spread is None:
            return None
        return statistics.seeds_needed(self.effect, self.spread, self.track_error, self.confidence)


class Finding(NamedTuple):
    """One number, and what it says of the claim: `verdict` is empty where the number decides nothing."""

    measure: str
    of: str
    seed: str
    value: float
    low: float | None
    high: float | None
    verdict: str
    basis: Basis | None = None


class Claim(NamedTuple):
    """A claim and how it was decided."""

    says: str  # the claim in words
    measured: str  # what was measured for it
    verdict: str
    rests_on: str  # numbers of frames, clips, tracks and seeds
    findings: list[Finding]
    note: str = ""  # what readers should know beside the verdict


class Pair(NamedTuple):
    """Two codecs, the first minus the second."""

    ours: str
    theirs: str

    @property
    def name(self) -> str:
        """As findings name it."""
        return f"{self.ours} - {self.theirs}"


class Comparison(NamedTuple):
    """Language models of one pattern on two codecs, those with the same codec seed compared."""

    pair: Pair
    pattern: str
    decides: bool  # what its rule asks of the pattern

    @property
    def name(self) -> str:
        """As findings name it."""
        return f"{self.pair.name}, {self.pattern}"

    def models(self, study: Study) -> dict[int, tuple[list[Model], list[Model]]]:
        """Models of either codec by the codec's seed, where both have one."""
        by_seed = {
            seed: tuple(
                [model for model in study.models if (model.pattern, model.run) == (self.pattern, Run(codec, seed))]
                for codec in self.pair
            )
            for seed in study.seeds(*self.pair)
        }
        return {seed: (ours, theirs) for seed, (ours, theirs) in by_seed.items() if ours and theirs}

    def changes(self, results: Results, measure: Callable[[Model], Estimate | None]) -> dict[int, Estimate]:
        """Differences by codec seed of the mean over each codec's models; none where a model lacks the measure."""
        changes = {}
        for seed, sides in self.models(results.study).items():
            found = [[measure(model) for model in side] for side in sides]
            ours, theirs = ([value for value in side if value] for side in found)
            if (len(ours), len(theirs)) == (len(sides[0]), len(sides[1])):
                changes[seed] = results.difference(results.mean(ours), results.mean(theirs))
        return changes

    def untrained(self, results: Results) -> list[str]:
        """Its models that are not trained, with what they save of their codes' static entropy."""
        models = [model for sides in self.models(results.study).values() for side in sides for model in side]
        gains = {model.name: float(results.gain(model).value) for model in models}
        return [f"{name} saves {gain:.0%} of the static entropy" for name, gain in gains.items() if gain < GAIN]


Verdict = Callable[[Estimate, float], str]  # of an interval and its margin


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


def higher(estimate: Estimate, margin: float = 0.0) -> str:
    """For the claim where the whole interval is above `margin`, against it where the whole interval is below."""
    if estimate.low > margin:
        return SUPPORTED
    return NOT_SUPPORTED if estimate.high < margin else UNDECIDED


def decided(results: Results, findings_of: Callable[[Results], list[Finding]]) -> list[Finding]:
    """Findings at the study's confidence, of which only what holds by Bonferroni's interval goes against the claim."""
    findings = findings_of(results)
    tests = max(sum(bool(finding.verdict) for finding in findings), 1)
    wider = findings_of(results.at(1 - (1 - results.confidence) / tests))
    return [
        finding._replace(verdict=UNDECIDED)
        if finding.verdict == NOT_SUPPORTED and wide.verdict != NOT_SUPPORTED
        else finding
        for finding, wide in zip(findings, wider, strict=True)
    ]


def kinds(study: Study, *, paper: bool = True) -> list[Kind]:
    """Kinds of the study's codecs that have the paper's quantizer, or those that have another."""
    return [kind for kind in study.kinds if (kind.quantizer == PAPER) == paper]


def pairs(study: Study, kind: Kind) -> list[Pair]:
    """Each codec of a kind with the loss, paired with the first that is trained without it."""
    return [Pair(*pair) for pair in study.pairs(kind)]


def deciding(study: Study, kind: Kind) -> list[Pair]:
    """The pairs of a kind that decide: whose codec with the loss has language models; all of them where none has."""
    modelled = [pair for pair in pairs(study, kind) if pair.ours in study.modelled_codecs]
    return modelled or pairs(study, kind)


def aligned(loss: params.Independence) -> str:
    """The pattern whose steps hold the codes that a loss makes independent."""
    return DELAY if loss.delay else PARALLEL


def _factorised(study: Study) -> list[Comparison]:
    """Language models of either factorised pattern on the deciding pairs; the pattern aligned with the loss decides."""
    return [
        Comparison(pair, pattern, pattern == aligned(study.trained[pair.ours].loss))
        for kind in kinds(study)
        for pair in deciding(study, kind)
        for pattern in (DELAY, PARALLEL)
    ]


def _deepened(study: Study) -> list[Comparison]:
    """As `_factorised`, of models with depth heads, which decide nothing."""
    return [Comparison(each.pair, f"{each.pattern}{DEPTH}", False) for each in _factorised(study)]


def c1(results: Results) -> Claim:
    """C1: trained with the loss, a codec has less dependence between its codebooks.

    Decided by mutual information summed over pairs of codebooks, codec with the loss minus codec without: lower than 0;
    at equal time, or under the delay shift where the loss is delayed. The estimator is the one that
    `pipeline.dependence.calibration` chooses from codes of known mutual information, without seeing a codec. Where the
    loss cost more than `ENTROPY_COST` of the summed entropy in any seed, information normalised by the sum of entropies
    decides instead, because a codec that says less also shares less.

    Reported beside it, deciding nothing: which part of the fall is far, that is, still there at lags of a third of a
    second and more, where codebooks share only which piece is playing, and which is local excess above that; and total
    correlation, which a learned model bounds from below. How far it lies below the truth may differ between two codecs.
    """
    says = "The loss reduces the statistical dependence between codebooks"
    return _less_dependence(results, says, kinds(results.study))


def c2(results: Results) -> Claim:
    """C2: the criterion that the loss minimises, MMD, ranks codecs as mutual information does.

    Decided by Spearman's rank correlation of the two over codecs and seeds, at equal time and under the delay shift:
    positive with one-sided p under (1 - confidence) / 2 (against the claim: negative with such a p). Of every
    architecture that has at least `CODECS` trained codecs with at least `WEIGHTS` different weights of the loss; fewer
    leave it undecided, because the correlation over six would have to be 0.93 to be seen. MMD is read above its floor
    (`independence.above_floor`).

    Reported beside it, deciding nothing: the same correlation over snapshots of those codecs' training, which are not
    independent of each other.
    """
    study, tracks = results.study, results.tracks
    runs = {kind: [run for run in study.trained_runs if study.kind(run.codec) == kind] for kind in kinds(study)}
    many = [
        kind
        for kind, codecs in runs.items()
        if len(codecs) >= CODECS and len({study.trained[run.codec].loss.weight for run in codecs}) >= WEIGHTS
    ]

    def findings_of(results: Results) -> list[Finding]:
        findings, alpha = [], (1 - results.confidence) / 2
        for kind, codecs in runs.items():
            for alignment, where in ALIGNMENTS.items():
                mmd = np.array([results.codec(*run)["mmd"][alignment] for run in codecs])
                bits = np.array([results.total(*run, alignment, "mutual_information").value for run in codecs])
                found, against = statistics.rank_correlation(mmd, bits), statistics.rank_correlation(-mmd, bits)
                verdict = SUPPORTED if found.p < alpha else NOT_SUPPORTED if against.p < alpha else UNDECIDED
                if kind not in many:
                    verdict = "" if many else UNDECIDED
                basis = Basis("codecs", found.points, tracks, found.rho, results.confidence)
                p = f"p = {found.p:.3f}" if found.p >= 0.001 else "p < 0.001"
                name = f"{kind.architecture}, {found.points} codecs, {p}"
                measure = f"Spearman's rho of MMD and MI, {where}"
                findings.append(Finding(measure, name, "all", found.rho, None, None, verdict, basis))
                over = pd.concat([results.snapshots(*run, alignment) for run in codecs])
                rho = statistics.rank_correlation(over["mmd"].to_numpy(), over["mutual_information"].to_numpy()).rho
                name = f"{kind.architecture}, {len(over)} snapshots of {len(codecs)} codecs"
                measure = f"Spearman's rho of MMD and MI over training, {where}"
                findings.append(Finding(measure, name, "all", rho, None, None, ""))
        return findings

    counts = [f"{len(codecs)} codecs ({len({r.codec for r in codecs})} settings)" for codecs in runs.values()]
    return _claim(
        "The criterion (MMD) follows mutual information",
        "rank correlation of MMD and mutual information on held-out codes",
        ", ".join(counts),
        decided(results, findings_of),
    )


def c3(results: Results) -> Claim:
    """C3: on a codec trained with the loss, a language model of the product of marginals makes better music.

    Decided by each score of `MUSIC`, of the language model on the codec with the loss minus that on the codec without:
    lower than 0. The undelayed loss is compared under the parallel pattern and the delayed one under the delay pattern,
    whose steps hold the codes that it makes independent. The scores are distances to real music, and to the same
    captions' clips as the model's own codec reconstructs them, which is what the language model alone can gain or lose.
    A score decides only if it held its own known orders (`Results.valid`); a pair of codecs only where at least
    `MUSIC_SEEDS` seeds were trained, and all its models are; where no pair has so many, the claim is undecided.

    Reported beside it, deciding nothing: FAD-MTT of the reconstructions, which is the codec's part of a gain, agreement
    with the captions, each seed, the loss under the pattern that it is not aligned with, and models with depth heads:
    whether the loss still helps where codebooks are modelled jointly.
    """
    return _music_claim(
        results,
        "With the loss, modelling the product of marginals gives better music",
        "FAD, KAD and KL of factorised LMs to real music, FAD and KAD to their codec's reconstructions, on the codec "
        "with the loss minus without",
        [*_factorised(results.study), *_deepened(results.study)],
    )


def c4(results: Results) -> Claim:
    """C4: a model of the product of marginals generates much faster than the joint model.

    Decided by seconds of generation a clip, flatten over delay on one codec, medians over batches: the whole interval
    over batches is at least `FASTER` (against the claim: at most 1).

    Reported beside it, deciding nothing: processor seconds, which other jobs on the machine disturb less, steps, and
    what depth heads cost, which also model a step jointly.
    """
    study = results.study
    joint = [m for m in study.models if m.pattern == JOINT and m._replace(pattern=DELAY) in study.models]

    def findings_of(results: Results) -> list[Finding]:
        findings = []
        for model in joint:
            slow, fast = results.timing(model), results.timing(model._replace(pattern=DELAY))
            of, seed = model.codec, model.seed
            seconds = results.repeats(slow["a_clip"], fast["a_clip"])
            processor = results.repeats(slow["processor_a_clip"], fast["processor_a_clip"])
            verdict = SUPPORTED if seconds.low >= FASTER else NOT_SUPPORTED if seconds.high <= 1 else UNDECIDED
            steps = slow["steps"] / fast["steps"]
            findings += [
                _finding("seconds a clip, flatten over delay", of, seed, seconds, verdict),
                _finding("processor seconds a clip, flatten over delay", of, seed, processor),
                Finding("steps, flatten over delay", of, str(seed), steps, None, None, ""),
            ]
        for model in study.deepened:
            slow, fast = (results.timing(each) for each in (model, study.factorised_of(model)))
            seconds = results.repeats(slow["a_clip"], fast["a_clip"])
            findings.append(
                _finding(
                    "seconds a clip, with depth heads over without",
                    f"{model.codec}, {model.pattern}",
                    model.seed,
                    seconds,
                )
            )
        return findings

    timing: dict[str, Any] = results.timing(joint[0]) if joint else {"a_clip": [], "batch_size": 0}
    return _claim(
        "Modelling the product of marginals generates much faster than the joint model",
        "steps and seconds of generation, flatten over delay, same codec and captions",
        f"{len(joint)} pairs of models, medians of {len(timing['a_clip'])} batches of {timing['batch_size']} clips",
        decided(results, findings_of),
    )


def c5(results: Results) -> Claim:
    """C5: the loss works best on codes aligned as the language model decodes them: delayed for the delay pattern.

    Decided by the codec with the delayed loss minus the one whose loss is the same but not delayed: mutual information
    under the delay shift, by the estimator of C1, and the scores of the delay-pattern LM, as in C3: lower than 0. The
    claim is about music, so without such models it is not tested.

    Reported beside it, deciding nothing: what C3 has beside it, and total correlation under the delay shift.
    """
    study = results.study
    compared = []
    for kind in kinds(study):
        losses = {pair.ours: study.trained[pair.ours].loss for pair in deciding(study, kind)}
        for ours in (name for name, loss in losses.items() if loss.delay):
            undelayed = losses[ours].model_copy(update={"delay": False})
            compared += [
                Comparison(Pair(ours, name), DELAY, True) for name, loss in losses.items() if loss == undelayed
            ]
    return _music_claim(
        results,
        "The loss should follow the LM's decoding strategy (delayed loss for a delayed LM)",
        "mutual information under the delay shift, FAD, KAD and KL of the delay-pattern LM to real music, FAD and KAD "
        "to its codec's reconstructions, on the codec with the delayed loss minus the undelayed",
        compared,
        beside=_delayed_dependence,
    )


def c6(results: Results) -> Claim:
    """C6: the loss does not make reconstruction worse.

    Decided by SI-SDR and log-mel distance, with the loss minus without: worse by less than `SI_SDR_MARGIN` dB and
    `LOG_MEL_MARGIN` of the distance (against the claim: worse by more). The margins are ours; the paper states none.

    Reported beside it, deciding nothing: FAD-MTT of the reconstructions.
    """
    compared = [pair for kind in kinds(results.study) for pair in deciding(results.study, kind)]
    return _claim(
        "Reconstruction does not pay for the loss",
        "SI-SDR and log-mel distance, with the loss minus without; "
        f"margins {SI_SDR_MARGIN} dB and {LOG_MEL_MARGIN:.0%}",
        _held_out(results, compared),
        decided(results, lambda results: [f for pair in compared for f in _reconstruction(results, pair)]),
    )


def c7(results: Results) -> Claim:
    """C7: the loss also makes the streams of codecs with another quantizer less dependent.

    Decided as C1 is, on codecs of every quantizer but the residual one.

    Reported beside it, deciding nothing: what C1 has beside it, and everything of C6.
    """
    others = kinds(results.study, paper=False)
    claim = _less_dependence(results, "The loss carries over to other multi-stream codecs", others)
    compared = [pair for kind in others for pair in pairs(results.study, kind)]
    beside = [f._replace(verdict="", basis=None) for pair in compared for f in _reconstruction(results, pair)]
    return claim._replace(findings=claim.findings + beside)


def c8(results: Results) -> Claim:
    """C8: on a codec trained with the loss, factorising costs a language model less.

    Decided by the price of factorising (`pipeline.dependence.conditional`): a bound from below, in bits a frame, on
    what the codes of one step share given the past, which the product of marginals leaves out. Codec with the loss
    minus codec without, the undelayed loss under the parallel pattern and the delayed one under the delay pattern,
    whose steps hold the codes that it makes independent: lower than 0. All models of a pair must be trained. The bound
    reads low, and small prices as nothing: `pipeline.dependence.conditional_calibration` prints it beside true prices.

    Reported beside it, deciding nothing: the price under the pattern that the loss is not aligned with, and the gap at
    equal steps, bits a frame of the factorised model minus those of the joint one. After so little training that gap is
    no price: the joint model may be behind.
    """
    compared = [each for each in _factorised(results.study) if each.models(results.study)]
    untrained = [fault for each in compared if each.decides for fault in each.untrained(results)]

    def findings_of(results: Results) -> list[Finding]:
        findings = []
        for each in compared:
            prices, gaps = (each.changes(results, of) for of in (results.price_of_factorising, results.gap))
            verdict = (_not_yet if each.untrained(results) else lower) if each.decides else None
            findings += _over_seeds(results, "price of factorising (bits a frame)", each.name, prices, verdict)
            findings += _over_seeds(results, "gap at equal steps (bits a frame)", each.name, gaps)
        return findings

    return _claim(
        "With the loss, factorising costs less",
        "price of factorising: a bound from below on what the codes of a step share given the past, with the loss "
        "minus without",
        _held_out(results, [each.pair for each in compared if each.decides]),
        decided(results, findings_of),
        "; ".join(untrained),
        trained=not untrained,
    )


def c9(results: Results) -> Claim:
    """C9: promoting independence given the past lowers the price of factorising more.

    Decided by the price of factorising, as in C8, under the parallel pattern: the codec whose loss has the stream
    `innovation` minus the one whose loss has the stream `quantized`, of one architecture, quantizer and estimator, both
    undelayed: lower than 0. All models of a pair must be trained.

    A pair decides only if its codecs are equal in what else moves the price: the mean over seeds of the difference is
    at most `SI_SDR_MARGIN` dB in SI-SDR, `LOG_MEL_MARGIN` of the log-mel distance and `ENTROPY_MARGIN` of the summed
    entropy of held-out codes, to either side. Else the claim is undecided, and says what differs. Means decide this,
    not intervals, for that of SI-SDR over three seeds is wider than its margin. The margin of the entropy: a codec
    that says less shares less. A price in proportion to the entropy would move by 2 % of a bit: a sixth of the
    half-width of C8's interval over three seeds when this was written.

    Reported beside it, deciding nothing: those three differences, FAD-MTT of the reconstructions, mutual information at
    equal time with its far and local parts, and total correlation.
    """
    study = results.study
    compared = [each for each in _given_the_past(study) if each.models(study)]
    faults = {each: [*each.untrained(results), *_unequal(results, each)] for each in compared}

    def findings_of(results: Results) -> list[Finding]:
        findings = []
        for each in compared:
            prices = each.changes(results, results.price_of_factorising)
            verdict = _not_yet if faults[each] else lower
            findings += _over_seeds(results, "price of factorising (bits a frame)", each.name, prices, verdict)
            beside = [*_reconstruction(results, each.pair), *_dependence(results, each.pair, decides=False)]
            findings += [finding._replace(verdict="", basis=None) for finding in beside]
        return findings

    claim = _claim(
        "Promoting independence given the past lowers the price of factorising more",
        "price of factorising, parallel pattern, with the loss on innovations minus with the loss on quantized vectors",
        _held_out(results, [each.pair for each in compared]),
        decided(results, findings_of),
        "; ".join(fault for each in compared for fault in faults[each]),
    )
    wanting = any(faults.values()) and claim.verdict.startswith(UNDECIDED)
    return claim._replace(verdict=f"{UNDECIDED}: {claim.note}") if wanting else claim


CLAIMS: dict[str, Callable[[Results], Claim]] = {
    "C1": c1,
    "C2": c2,
    "C3": c3,
    "C4": c4,
    "C5": c5,
    "C6": c6,
    "C7": c7,
    "C8": c8,
    "C9": c9,
}


def _claim(
    says: str, measured: str, rests_on: str, findings: list[Finding], note: str = "", *, trained: bool = True
) -> Claim:
    verdict = combine([finding.verdict for finding in findings if finding.verdict])
    wanted = _wanted(findings) if trained else "its language models are not trained enough"
    if verdict == UNDECIDED and wanted:
        verdict = f"{verdict}: {wanted}"
    return Claim(says, measured, verdict, rests_on if findings else "nothing", findings, note)


def _wanted(findings: list[Finding]) -> str:
    """How many seeds, or codecs, would decide those of a claim's differences that are undecided."""
    bases = [finding.basis for finding in findings if finding.verdict == UNDECIDED and finding.basis]
    if not bases:
        return ""
    if any(basis.spread is None for basis in bases if basis.unit == "seeds"):
        return "one seed does not say how many would decide it"
    # What is undecided at so many needs more, whatever its power at the plain level.
    needed = [basis.needed and max(basis.needed, basis.number + 1) for basis in bases]
    known = [number for number in needed if number]
    if len(known) < len(needed):
        return f"over {MOST_SEEDS} {bases[0].unit}, or more tracks, would be needed"
    return f"{max(known)} {bases[0].unit} would decide it"


def _finding(measure: str, of: str, seed: int | str, estimate: Estimate, verdict: str = "") -> Finding:
    value, low, high = (float(number) for number in (estimate.value, estimate.low, estimate.high))
    return Finding(measure, of, str(seed), value, low, high, verdict)


def _over_seeds(
    results: Results,
    measure: str,
    of: str,
    by_seed: dict[int, Estimate],
    verdict: Verdict | None = None,
    margin: float = 0.0,
) -> list[Finding]:
    """The mean over seeds of a difference, with its verdict, then each seed; one finding where there is one seed."""
    if not by_seed:
        return []
    mean = statistics.over_seeds(list(by_seed.values()), results.confidence)
    seed = "all" if len(by_seed) > 1 else str(next(iter(by_seed)))
    finding = _finding(measure, of, seed, mean.estimate, verdict(mean.estimate, margin) if verdict else "")
    each = [_finding(measure, of, seed, change) for seed, change in by_seed.items()] if len(by_seed) > 1 else []
    basis = Basis(
        "seeds",
        mean.seeds,
        results.tracks,
        float(mean.estimate.value) - margin,
        results.confidence,
        mean.spread,
        mean.track_error,
    )
    return [finding._replace(basis=basis if verdict else None), *each]


def _less_dependence(results: Results, says: str, among: Sequence[Kind]) -> Claim:
    """The claim, decided by the rule of C1, that the loss reduces the dependence between codebooks."""
    study = results.study
    compared = [(pair, pair in deciding(study, kind)) for kind in among for pair in pairs(study, kind)]
    findings = decided(
        results, lambda results: [f for pair, decides in compared for f in _dependence(results, pair, decides)]
    )
    between = [pair for pair, decides in compared if decides]
    measured = (
        f"pairwise mutual information of held-out codes ({ESTIMATORS[results.estimator]}), with the loss minus without"
    )
    claim = _claim(says, measured, _held_out(results, between), findings, note=_parts_of_the_fall(findings, between))
    if not any(finding.verdict and finding.measure.startswith("MI over") for finding in findings):
        return claim
    verdict = f"{SUPPORTED}, at an entropy cost" if claim.verdict == SUPPORTED else claim.verdict
    return claim._replace(measured=f"{measured}; normalised where the loss cost entropy", verdict=verdict)


def _dependence(results: Results, pair: Pair, decides: bool) -> list[Finding]:
    """What the loss does to dependence: deciding, the part of it that is far, and what decides nothing."""
    alignment = "delayed" if results.study.trained[pair.ours].loss.delay else "equal_time"
    where, seeds = ALIGNMENTS[alignment], results.study.seeds(*pair)

    def totals(measure: str) -> dict[int, list[Estimate]]:
        return {seed: [results.total(codec, seed, alignment, measure) for codec in pair] for seed in seeds}

    def part(name: str) -> dict[int, Estimate]:
        return {seed: results.difference(*(results.part_by_lag(codec, seed, name) for codec in pair)) for seed in seeds}

    bits = {seed: results.difference(*both) for seed, both in totals("mutual_information").items()}
    share = {seed: results.difference(*both) for seed, both in totals("normalised_by_sum").items()}
    entropy = {seed: results.ratio(*both) for seed, both in totals("entropy").items()}
    costly = bool(seeds) and min(float(change.value) for change in entropy.values()) < -ENTROPY_COST
    far, near = part("far"), part(alignment)
    local = {seed: results.difference(near[seed], far[seed]) for seed in seeds}
    findings = [
        *_over_seeds(results, f"MI, {where} (bits)", pair.name, bits, lower if decides and not costly else None),
        *_over_seeds(
            results, f"MI over sum of entropies, {where}", pair.name, share, lower if decides and costly else None
        ),
        *_over_seeds(results, "summed entropy (relative)", pair.name, entropy),
        *_over_seeds(results, "MI a third of a second apart or more (bits)", pair.name, far),
        *_over_seeds(results, f"local excess of MI, {where} (bits)", pair.name, local),
    ]
    if seeds and sum(float(change.value) for change in near.values()) < 0:  # of no fall, there is no share
        shares = statistics.share_over_seeds(list(local.values()), list(near.values()), results.confidence)
        seed = "all" if len(seeds) > 1 else seeds[0]
        findings.append(_finding(LOCAL_SHARE, pair.name, seed, shares.estimate))
    return findings + _total_correlation(results, pair, alignment)


def _parts_of_the_fall(findings: list[Finding], compared: list[Pair]) -> str:
    """In words, which part of a fall in mutual information is far, and which is local excess."""
    shares = {finding.of: finding for finding in findings if finding.measure == LOCAL_SHARE}
    return "; ".join(
        f"{pair.name}: {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of the fall is local excess, "
        "the rest is which piece is playing"
        for pair in compared
        if (share := shares.get(pair.name))
    )


def _total_correlation(results: Results, pair: Pair, alignment: str) -> list[Finding]:
    """Difference of two codecs' bounds on total correlation, over the seeds that have one."""
    changes = {
        seed: results.difference(*(results.total_correlation(codec, seed, alignment) for codec in pair))
        for seed in results.study.seeds(*pair)
        if {Run(codec, seed) for codec in pair} <= set(results.study.modelled)
    }
    return _over_seeds(results, f"total correlation bound, {ALIGNMENTS[alignment]} (bits)", pair.name, changes)


def _delayed_dependence(results: Results, pair: Pair) -> list[Finding]:
    """What C5 decides by beside the music."""
    bits = {
        seed: results.difference(*(results.total(codec, seed, "delayed", "mutual_information") for codec in pair))
        for seed in results.study.seeds(*pair)
    }
    return [
        *_over_seeds(results, "MI, delay shift (bits)", pair.name, bits, lower),
        *_total_correlation(results, pair, "delayed"),
    ]


def _reconstruction(results: Results, pair: Pair) -> list[Finding]:
    """What the loss costs in reconstruction, with verdicts by the rule of C6."""

    def both(measure: str) -> dict[int, list[Estimate]]:
        return {
            seed: [results.reconstruction(codec, seed, measure) for codec in pair]
            for seed in results.study.seeds(*pair)
        }

    gain = {seed: results.difference(*each) for seed, each in both("si_sdr").items()}
    cost = {seed: results.ratio(*each) for seed, each in both("log_mel").items()}
    return [
        *_over_seeds(results, "SI-SDR (dB)", pair.name, gain, higher, -SI_SDR_MARGIN),
        *_over_seeds(results, "log-mel distance (relative)", pair.name, cost, lower, LOG_MEL_MARGIN),
        *_reconstructed_fad(results, pair, results.study.seeds(*pair)),
    ]


def _given_the_past(study: Study) -> list[Comparison]:
    """Each undelayed loss on innovations against each on quantized vectors, of one kind and estimator, for C9."""
    losses = {name: study.trained[name].loss for name in study.independent}
    undelayed = {
        stream: [name for name, loss in losses.items() if loss.stream == stream and not loss.delay]
        for stream in ("innovation", "quantized")
    }
    return [
        Comparison(Pair(ours, theirs), PARALLEL, decides=True)
        for kind in kinds(study)
        for ours in undelayed["innovation"]
        for theirs in undelayed["quantized"]
        if study.kind(ours) == study.kind(theirs) == kind and losses[ours].estimator == losses[theirs].estimator
    ]


def _unequal(results: Results, each: Comparison) -> list[str]:
    """In words, where the means over seeds of two codecs differ by more than C9 allows."""
    seeds = each.models(results.study)

    def mean(change: Callable[..., Estimate], measure: Callable[..., Estimate], *which: str) -> float:
        return float(np.mean([change(*(measure(codec, seed, *which) for codec in each.pair)).value for seed in seeds]))

    differences = [
        ("SI-SDR", mean(results.difference, results.reconstruction, "si_sdr"), SI_SDR_MARGIN, "+.1f", " dB"),
        ("log-mel distance", mean(results.ratio, results.reconstruction, "log_mel"), LOG_MEL_MARGIN, "+.1%", ""),
        ("summed entropy", mean(results.ratio, results.total, "equal_time", "entropy"), ENTROPY_MARGIN, "+.1%", ""),
    ]
    return [
        f"{each.pair.name}: {name} differs by {found:{form}}{unit}"
        for name, found, margin, form, unit in differences
        if abs(found) > margin
    ]


def _reconstructed_fad(results: Results, pair: Pair, seeds: Sequence[int]) -> list[Finding]:
    fads = {seed: results.difference(*(results.fad(Run(codec, seed).system) for codec in pair)) for seed in seeds}
    return _over_seeds(results, RECONSTRUCTED, pair.name, fads)


def _music_claim(
    results: Results,
    says: str,
    measured: str,
    comparisons: list[Comparison],
    beside: Callable[[Results, Pair], list[Finding]] | None = None,
) -> Claim:
    """A claim decided by the rule of C3, and by what stands `beside` the music of each pair."""
    study = results.study
    comparisons = [each for each in comparisons if each.models(study)]
    valid = [score for score in MUSIC if results.valid(score)]
    seeds = {each: len(each.models(study)) for each in comparisons}
    most = max((number for each, number in seeds.items() if each.decides), default=0)
    # Where no pair has seeds enough, the one with most of them is undecided.
    deciding = [each for each in comparisons if each.decides and seeds[each] >= min(most, MUSIC_SEEDS)]
    untrained = [fault for each in deciding for fault in each.untrained(results)]

    def findings_of(results: Results) -> list[Finding]:
        findings = []
        for each in comparisons:
            ready = seeds[each] >= MUSIC_SEEDS and not each.untrained(results)
            verdict = (lower if ready else _not_yet) if each in deciding else None
            for score, distance in results.lower_is_better.items():
                changes = each.changes(results, partial(_of_system, distance))
                findings += _over_seeds(results, score, each.name, changes, verdict if score in valid else None)
            agreement = each.changes(results, partial(_of_system, results.text))
            findings += _over_seeds(results, "agreement with captions", each.name, agreement)
            findings += _reconstructed_fad(results, each.pair, list(each.models(study)))
            others = beside(results, each.pair) if beside else []
            findings += others if valid else [finding._replace(verdict="", basis=None) for finding in others]
        return findings

    findings = decided(results, findings_of)
    failed = [f"{score} did not hold its known orders and decides nothing" for score in MUSIC if score not in valid]
    few = [f"{each.name} has fewer than {MUSIC_SEEDS} seeds" for each in deciding if seeds[each] < MUSIC_SEEDS]
    parts = [_parts_of_the_gain(findings, each) for each in deciding]
    note = "; ".join([*parts, *failed, *few, *untrained] if comparisons else [])
    return _claim(says, measured, _generated(results, deciding), findings, note, trained=not untrained)


def _parts_of_the_gain(findings: list[Finding], compared: Comparison) -> str:
    """In words, what the codec and what the language model add to a change in FAD-MTT."""
    values = {(finding.measure, finding.of): finding.value for finding in reversed(findings)}
    whole, own = (values[score, compared.name] for score in ("FAD-MTT", "FAD-MTT to own reconstruction"))
    codec = values[RECONSTRUCTED, compared.pair.name]
    return (
        f"{compared.name}: FAD-MTT {whole:+.1f}, of the codecs' reconstructions {codec:+.1f}, "
        f"from the models to those {own:+.1f}"
    )


def _of_system(distance: Callable[[str], Estimate | None], model: Model) -> Estimate | None:
    return distance(model.system)


def _not_yet(_: Estimate, __: float) -> str:
    """The verdict where seeds or training are wanting."""
    return UNDECIDED


def _held_out(results: Results, compared: Sequence[Pair]) -> str:
    sizes = results.dependence(*results.study.runs[0])["alignments"]["equal_time"]
    seeds = [_seeds(pair.name, len(results.study.seeds(*pair))) for pair in dict.fromkeys(compared)]
    frames = f"{sizes['frames']:,} held-out frames of {sizes['clips']} clips of {sizes['tracks']} tracks"
    return "; ".join([frames, *seeds])


def _generated(results: Results, compared: Sequence[Comparison]) -> str:
    if not compared:
        return "nothing"
    first, _ = next(iter(compared[0].models(results.study).values()))
    score = results.score(first[0].system)
    seeds = [_seeds(each.name, len(each.models(results.study))) for each in compared]
    counts = f"{score['clips']} generated clips a model, captions from {score['tracks']} tracks"
    return "; ".join([counts, *seeds])


def _seeds(name: str, number: int) -> str:
    return f"{name}: {number} seed{'s' * (number > 1)}"
