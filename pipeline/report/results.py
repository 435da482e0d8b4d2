"""What the study measured, read back from its result files by name, with intervals that can be paired."""

from collections.abc import Callable
from copy import copy
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import files, params, statistics
from pipeline import study as place
from pipeline.params import MAIN
from pipeline.report import orders
from pipeline.report.orders import Order
from pipeline.statistics import Estimate
from pipeline.study import JOINT, Model, Run, Study

# Names in result files, from `information`, `learned` and `calibration` of `pipeline.dependence` -> as shown.
ESTIMATORS = {
    "plug_in": "plug-in",
    "miller_madow": "Miller-Madow",
    "grassberger": "Grassberger",
    "chao_shen": "Chao-Shen",
    "chao_wang_jost": "Chao-Wang-Jost",
    "shuffled_baseline": "shuffled baseline",
    "difference_of_entropies": "learned bound",
}
DISTRIBUTIONS = {
    "independent": "independent",
    "noisy_copy": "noisy copy",
    "markov_pair": "Markov pair",
    "quantised_gaussian": "quantised Gaussian",
}
ALIGNMENTS = {"equal_time": "equal time", "delayed": "delay shift"}
PARTIAL = "mos"  # the one measure of reconstruction that only some clips have


class Results:
    """Reads the results of the study in folder `root`; if a file is missing, the error names it and says what to do."""

    def __init__(self, root: Path, argument: str) -> None:
        """`argument` is a job's `--params`: `study`, `evaluation`, `report` and `lm.snapshots` are read."""
        self.root = root
        self._read: dict[Path, Any] = {}  # every claim is decided twice, at two confidences
        self.evaluation = params.section(argument, "evaluation", params.Evaluation)
        percents = params.snapshot_percents(argument)
        self.study = Study(params.section(argument, "study", params.Study), self.evaluation.systems, percents)
        report = params.section(argument, "report", params.Report)
        self.confidence, self.claims = report.confidence, report.claims

    def at(self, confidence: float) -> "Results":
        """The same results with intervals of another confidence."""
        other = copy(self)
        other.confidence = confidence
        return other

    def codec(self, codec: str, seed: int) -> dict[str, Any]:
        """Summary of a codec's reconstruction."""
        return self._json(f"{place.CODEC}/metrics.json", codec=codec, seed=seed)

    def reconstruction(self, codec: str, seed: int, measure: str) -> Estimate:
        """Mean over test clips of `si_sdr` (dB) or `log_mel` (dB), or over some of them of `mos` (1 to 5)."""
        values, tracks = self._clips(measure, f"{place.CODEC}/metrics.npz", codec=codec, seed=seed)
        return self._mean_of_known(values, tracks) if measure == PARTIAL else self._mean(values, tracks)

    def history(self, codec: str, seed: int) -> pd.DataFrame:
        """Training history: that of the trunk, which codecs of a kind and seed share, then the codec's own."""
        own = pd.read_csv(self._path(f"{place.CODEC}/history.csv", codec=codec, seed=seed))
        trunk = pd.read_csv(self._path(f"{place.TRUNK}/history.csv", **self.study.trunk(codec, seed)))
        return pd.concat([trunk[trunk["step"] < own["step"].min()], own], ignore_index=True)

    def dependence(self, codec: str, seed: int) -> dict[str, Any]:
        """Dependence between a codec's codebooks, as `pipeline.dependence.pairwise` writes it."""
        return self._json(place.DEPENDENCE, codec=codec, seed=seed)

    def snapshots(self, codec: str, seed: int, alignment: str) -> pd.DataFrame:
        """MMD and mutual information over a codec's training, as `pipeline.dependence.snapshots` writes it."""
        rows = pd.read_csv(self._path(place.SNAPSHOTS, codec=codec, seed=seed))
        return rows[(rows["alignment"] == alignment) & (rows["estimator"] == self.estimator)]

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """Errors of every estimator where the truth is known, as `pipeline.dependence.calibration` writes them."""
        return self._json(place.CALIBRATION)

    @property
    def estimator(self) -> str:
        """The estimator of mutual information that calibration chose, which the whole report uses."""
        return self.calibration["chosen"]

    def total(self, codec: str, seed: int, alignment: str, measure: str, estimator: str | None = None) -> Estimate:
        """One of `pairwise.SUMS` under one of `ALIGNMENTS`, by the chosen estimator where none is named."""
        by_estimator = self.dependence(codec, seed)["alignments"][alignment]["estimators"]
        return self._estimate(by_estimator[estimator or self.estimator]["total"][measure])

    def part_by_lag(self, codec: str, seed: int, part: str) -> Estimate:
        """Mutual information summed over pairs: `far`, or on the same frames at `equal_time` or `delayed`."""
        return self._estimate(self.dependence(codec, seed)["by_lag"]["parts"][self.estimator][part])

    @cached_property
    def tracks(self) -> int:
        """Held-out tracks, over which intervals are taken."""
        return int(self.dependence(*self.study.runs[0])["alignments"]["equal_time"]["tracks"])

    def learned(self, codec: str, seed: int) -> dict[str, Any]:
        """Learned bounds on what a codec's codebooks share, as `pipeline.dependence.learned` writes them."""
        return self._json(place.LEARNED, codec=codec, seed=seed)

    def total_correlation(self, codec: str, seed: int, alignment: str) -> Estimate:
        """Total correlation of all codebooks in bits, bounded from below."""
        return self._estimate(self.learned(codec, seed)["alignments"][alignment]["total_correlation"])

    def bits(self, model: Model) -> Estimate:
        """Bits per frame that a language model needs for the test split's tokens."""
        return self._mean(*self._clips("bits_per_frame", f"{place.LM}/held_out.npz", **model._asdict()))

    def static_bits(self, model: Model) -> Estimate:
        """The same without a language model: by how often each code occurs in the train split, the static entropy."""
        return self._mean(*self._clips("static_bits", f"{place.LM}/held_out.npz", **model._asdict()))

    def gain(self, model: Model) -> Estimate:
        """Share of the static entropy that a language model saves."""
        ratio = self.ratio(self.bits(model), self.static_bits(model))
        return statistics.interval(-ratio.value, -ratio.resamples, self.confidence)

    def learning(self, model: Model) -> pd.DataFrame:
        """Training history of a language model."""
        return pd.read_csv(self._path(f"{place.LM}/history.csv", **model._asdict()))

    def gap(self, model: Model) -> Estimate | None:
        """Bits per frame of a model minus those of the joint model, both after equal steps; None where one is missing.

        Only between fully trained models is it the price of factorising, for which see `price_of_factorising`.
        """
        joint = model._replace(pattern=JOINT)
        if model.pattern == JOINT or not {model, joint} <= set(self.study.models):
            return None
        return self.difference(self.bits(model), self.bits(joint))

    def conditional(self, model: Model) -> dict[str, Any]:
        """What a factorised model pays, as `pipeline.dependence.price` writes it."""
        return self._json(place.CONDITIONAL, **model._asdict())

    def price_of_factorising(self, model: Model) -> Estimate:
        """Bits a step that one of the study's `factorised` models pays for predicting codes apart, from below."""
        return self._estimate(self.conditional(model)["price"])

    @cached_property
    def price_calibration(self) -> list[dict[str, Any]]:
        """Prices of made processes, and their truths, from `pipeline.dependence.conditional_calibration`."""
        return self._json(place.CONDITIONAL_CALIBRATION)["processes"]

    def timing(self, model: Model) -> dict[str, Any]:
        """Steps and seconds of generation."""
        return self._json(f"{place.GENERATION}/timing.json", **model._asdict())

    def patterns(self) -> list[dict[str, Any]]:
        """Speed of every codebook pattern, as `pipeline.generation.speed` writes it; none in a study without models."""
        return self._json(place.PATTERNS)["patterns"] if self.study.models else []

    def repeats(self, ours: list[float], theirs: list[float]) -> Estimate:
        """Ratio of the medians of two sets of repeated timings."""
        return statistics.ratio_of_medians(
            np.array(ours),
            np.array(theirs),
            resamples=self.evaluation.bootstrap,
            seed=self.evaluation.seed,
            confidence=self.confidence,
        )

    def score(self, system: str) -> dict[str, Any]:
        """Scores of one of the study's `systems`, as `pipeline.evaluation.score` writes them."""
        return self._json(f"{place.SCORES}.json", system=system)

    def embedders(self, system: str) -> dict[str, dict[str, str]]:
        """Of each embedder that was asked, its `label` in tables.

        An embedder that tags also has `divergence`, one that embeds texts `cosine`: the keys of what it says of a clip.
        """
        score = self.score(system)
        return {name: {"label": name} for name in score["fad"]} | score.get("embedders", {})

    def distances(self, system: str, measure: str) -> dict[str, Estimate]:
        """By embedder: `fad` or `kad` of a system to held-out music, or `fma_pop`, its Fréchet distance to FMA-Pop."""
        return {name: self._estimate(stored) for name, stored in self.score(system)[measure].items()}

    def fad(self, system: str) -> Estimate:
        """FAD-MTT: Fréchet distance of a system to held-out music."""
        return self.distances(system, "fad")[MAIN]

    def kad(self, system: str) -> Estimate:
        """KAD-MTT: kernel distance of a system to held-out music."""
        return self.distances(system, "kad")[MAIN]

    def to_reconstruction(self, system: str, measure: str, embedder: str = MAIN) -> Estimate:
        """`fad` or `kad` of a system to the reconstructions by the codec that decoded it.

        Raises:
            ValueError: no codec of the study decoded it, or it is such a reconstruction itself.
        """
        stored = self.score(system).get("to_reconstruction")
        if stored is None:
            raise ValueError(f"{system} is not compared with a codec's reconstructions: none decoded it, or it is one")
        return self._estimate(stored[measure][embedder])

    def valid(self, score: str) -> bool:
        """Whether a score, one of `lower_is_better`, may decide a claim: it found known orders of this study."""
        return orders.valid([order.verdict for order in self.orders if order.score == score])

    @property
    def lower_is_better(self) -> dict[str, Callable[[str], Estimate | None]]:
        """The main embedder's distances by their names in tables and findings; None where one is not defined."""

        def own(measure: str) -> Callable[[str], Estimate | None]:
            return lambda system: self.to_reconstruction(system, measure) if self.study.bound(system) else None

        return {
            "FAD-MTT": self.fad,
            "KAD-MTT": self.kad,
            "KL-MTT (nats)": lambda system: self.kl(system) if self.paired(system) else None,
            "FAD-MTT to own reconstruction": own("fad"),
            "KAD-MTT to own reconstruction": own("kad"),
        }

    @cached_property
    def orders(self) -> list[Order]:
        """What each score makes of each known order of the study, of the systems that it is defined for."""
        tried = []
        for score, measure in self.lower_is_better.items():
            for name, systems in self.study.orders.items():
                values = {system: value for system in systems if (value := measure(system))}
                if len(values) > 1:
                    estimates = list(values.values())
                    steps = [self.difference(ours, theirs) for theirs, ours in pairwise(estimates)]
                    tried.append(Order(score, name, list(values), estimates, steps))
        return tried

    def shuffled(self, run: Run, kind: str) -> dict[str, Estimate]:
        """Distances of a run's codes, shuffled in one of the ways `study.SHUFFLES`, to its reconstructions, by name."""
        return {
            "FAD-MTT": self.to_reconstruction(run.shuffled(kind), "fad"),
            "KAD-MTT": self.to_reconstruction(run.shuffled(kind), "kad"),
            "levels (dB)": self._mean(*self._clips(kind, place.SHUFFLED_LEVELS, **run._asdict())),
        }

    def generated_information(self, model: Model) -> dict[str, Any]:
        """Dependence in a model's codes, and in the real ones, as `pipeline.generation.information` writes it."""
        return self._json(place.INFORMATION, **model._asdict())

    def generated_total(self, model: Model, whose: str, alignment: str, measure: str) -> Estimate:
        """As `total`, of the codes that a model generated (`generated`) or of the same captions' clips (`real`)."""
        by_estimator = self.generated_information(model)[whose][alignment]["estimators"]
        return self._estimate(by_estimator[self.estimator]["total"][measure])

    def kl(self, system: str) -> Estimate:
        """KL-MTT of a system: mean over clips, in nats."""
        return self._mean_of_known(*self._clips("kl", f"{place.SCORES}.npz", system=system))

    def text(self, system: str) -> Estimate | None:
        """Agreement of a system's clips with their captions; None where it was not measured."""
        return self.clip_score(system, "text")

    def clip_score(self, system: str, key: str) -> Estimate | None:
        """Mean over clips of what their scores have under `key`; None where too few clips have it."""
        if not self.score(system).get(key):
            return None
        return self._mean_of_known(*self._clips(key, f"{place.SCORES}.npz", system=system))

    def paired(self, system: str) -> bool:
        """Whether each clip was made from the caption of the reference's clip that its tags are compared with."""
        divergence = self.score(system)["kl"]
        return bool(divergence and divergence["paired"])

    def difference(self, ours: Estimate, theirs: Estimate) -> Estimate:
        """`ours - theirs`, paired."""
        return statistics.difference(ours, theirs, self.confidence)

    def ratio(self, ours: Estimate, theirs: Estimate) -> Estimate:
        """`ours / theirs - 1`, paired."""
        return statistics.ratio(ours, theirs, self.confidence)

    def mean(self, estimates: list[Estimate]) -> Estimate:
        """Mean over seeds; its interval is over tracks alone: two or three seeds say little about all others."""
        value = float(np.mean([e.value for e in estimates]))
        return statistics.interval(value, np.mean([e.resamples for e in estimates], axis=0), self.confidence)

    def _clips(self, key: str, template: str, **wildcards: Any) -> tuple[np.ndarray, np.ndarray]:
        """Each clip's value under `key`, and its track."""
        path = self._path(template, **wildcards)
        with np.load(path, allow_pickle=False) as arrays:
            if key not in arrays:
                raise ValueError(f"{path} lacks {key}: older code made it; delete it and run the study again")
            return arrays[key], arrays["track_id"]

    def _mean_of_known(self, values: np.ndarray, tracks: np.ndarray) -> Estimate:
        """Mean over the clips that have a value: a caption may name no tag, an embedder may be given fewer clips."""
        known = ~np.isnan(values)
        return self._mean(values[known], tracks[known])

    def _mean(self, values: np.ndarray, tracks: np.ndarray) -> Estimate:
        return statistics.mean(
            values,
            tracks,
            resamples=self.evaluation.bootstrap,
            seed=self.evaluation.seed,
            confidence=self.confidence,
        )

    def _estimate(self, stored: dict[str, Any]) -> Estimate:
        return statistics.interval(stored["value"], np.array(stored["resamples"]), self.confidence)

    def _json(self, template: str, **wildcards: Any) -> Any:
        path = self._path(template, **wildcards)
        if path not in self._read:
            self._read[path] = files.read_json(path)
        return self._read[path]

    def _path(self, template: str, **wildcards: Any) -> Path:
        path = self.root / template.format(**wildcards)
        if not path.exists():
            raise ValueError(f"{path} is missing; run the study again: it makes what is not there")
        return path
