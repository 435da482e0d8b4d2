"""What the study measured, read back from its result files by name, with intervals that can be paired."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import files, params, statistics
from pipeline import study as place
from pipeline.statistics import Estimate
from pipeline.study import JOINT, Model, Study

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
# What some clips have no value of: of captions that name no tag, of clips that an embedder or a slow measure left out.
PARTIAL = ("kl", "kl_passt", "text", "clap", "mos")
ALIGNMENTS = {"equal_time": "equal time", "delayed": "delay shift"}


class Results:
    """Reads the results of the study in folder `root`; every reader says which file is missing, and how to make it."""

    def __init__(self, root: Path, argument: str) -> None:
        """`argument` is a job's `--params`: the sections `study`, `evaluation` and `report` are read."""
        self.root = root
        self.evaluation = params.section(argument, "evaluation", params.Evaluation)
        self.study = Study(params.section(argument, "study", params.Study), self.evaluation.systems)
        report = params.section(argument, "report", params.Report)
        self.confidence, self.claims = report.confidence, report.claims

    def codec(self, codec: str, seed: int) -> dict[str, Any]:
        """Summary of a codec's reconstruction."""
        return self._json(f"{place.CODEC}/metrics.json", codec=codec, seed=seed)

    def reconstruction(self, codec: str, seed: int, measure: str) -> Estimate:
        """Mean over test clips of `si_sdr` (dB) or `log_mel` (dB), or over some of them of `mos` (1 to 5)."""
        return self._mean(measure, f"{place.CODEC}/metrics.npz", codec=codec, seed=seed)

    def history(self, codec: str, seed: int) -> pd.DataFrame:
        """Training history: the trunk's, which all codecs of a quantizer and seed share, then the codec's own."""
        own = pd.read_csv(self._path(f"{place.CODEC}/history.csv", codec=codec, seed=seed))
        trunk = pd.read_csv(self._path(f"{place.TRUNK}/history.csv", **self.study.trunk(codec, seed)))
        return pd.concat([trunk[trunk["step"] < own["step"].min()], own], ignore_index=True)

    def dependence(self, codec: str, seed: int) -> dict[str, Any]:
        """Dependence between a codec's codebooks, as `pipeline.dependence.pairwise` writes it."""
        return self._json(place.DEPENDENCE, codec=codec, seed=seed)

    def snapshots(self, codec: str, seed: int, alignment: str) -> pd.DataFrame:
        """MMD and mutual information over a codec's training, as `pipeline.dependence.snapshots` writes it."""
        found = pd.read_csv(self._path(place.SNAPSHOTS, codec=codec, seed=seed))
        return found[(found["alignment"] == alignment) & (found["estimator"] == self.estimator)]

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """Errors of every estimator where the truth is known, as `pipeline.dependence.calibration` writes them."""
        return self._json(place.CALIBRATION)

    @property
    def estimator(self) -> str:
        """The estimator of mutual information that calibration chose, by which all of the report goes."""
        return self.calibration["chosen"]

    def total(self, codec: str, seed: int, alignment: str, measure: str, estimator: str | None = None) -> Estimate:
        """One of `dependence.SUMS` under one of `ALIGNMENTS`, by the chosen estimator where none is named."""
        found = self.dependence(codec, seed)["alignments"][alignment]["estimators"]
        return self._estimate(found[estimator or self.estimator]["total"][measure])

    def learned(self, codec: str, seed: int) -> dict[str, Any]:
        """Bounds on what a codec's codebooks share, as `pipeline.dependence.learned` writes them."""
        return self._json(place.LEARNED, codec=codec, seed=seed)

    def total_correlation(self, codec: str, seed: int, alignment: str) -> Estimate:
        """Total correlation of all codebooks in bits, bounded from below."""
        return self._estimate(self.learned(codec, seed)["alignments"][alignment]["total_correlation"])

    def bits(self, model: Model) -> Estimate:
        """Bits per frame that a language model needs for the test split's tokens."""
        return self._mean("bits_per_frame", f"{place.LM}/held_out.npz", **model._asdict())

    def price(self, model: Model) -> Estimate | None:
        """Bits per frame of a model minus those of the joint model of its codec; None where the study has no such."""
        joint = model._replace(pattern=JOINT)
        if model.pattern == JOINT or not {model, joint} <= set(self.study.models):
            return None
        return statistics.difference(self.bits(model), self.bits(joint), self.confidence)

    def timing(self, model: Model) -> dict[str, Any]:
        """Steps and seconds of generation."""
        return self._json(f"{place.GENERATION}/timing.json", **model._asdict())

    def patterns(self) -> list[dict[str, Any]]:
        """Speed of every codebook pattern, as `pipeline.generation.speed` writes it; none in a study without models."""
        return self._json(place.PATTERNS)["patterns"] if self.study.models else []

    def repeats(self, ours: list[float], theirs: list[float]) -> Estimate:
        """Ratio of the medians of two sets of repeated timings."""
        settings = {"resamples": self.evaluation.bootstrap, "seed": self.evaluation.seed, "confidence": self.confidence}
        return statistics.ratio_of_medians(np.array(ours), np.array(theirs), **settings)

    def score(self, system: str) -> dict[str, Any]:
        """Scores of a system: `floor` (real music of other tracks), `reconstruction/...` or `generation/...`."""
        return self._json(f"{place.SCORES}.json", system=system)

    def fad(self, system: str, embedder: str = "musicnn-mtt") -> Estimate | None:
        """Fréchet distance of a system to held-out music, None where `embedder` was not asked."""
        return self._asked(system, "fad", embedder)

    def kad(self, system: str, embedder: str = "musicnn-mtt") -> Estimate | None:
        """Kernel distance of a system to held-out music, None where `embedder` was not asked."""
        return self._asked(system, "kad", embedder)

    def fma_pop(self, system: str, embedder: str) -> Estimate | None:
        """Fréchet distance of a system to FMA-Pop, None where `embedder` was not asked."""
        return self._asked(system, "fma_pop", embedder)

    def kl(self, system: str) -> Estimate:
        """KL-MTT of a system: mean over clips, in nats."""
        return self._mean("kl", f"{place.SCORES}.npz", system=system)

    def kl_passt(self, system: str) -> Estimate | None:
        """KL-PaSST of a system: mean over clips, in nats; None where it was not asked."""
        return self.text(system, "kl_passt")

    def text(self, system: str, measure: str = "text") -> Estimate | None:
        """Agreement of a system's clips with their captions, or their `clap` score; None where it was not measured."""
        return self._mean(measure, f"{place.SCORES}.npz", system=system) if self.score(system).get(measure) else None

    def mean(self, estimates: list[Estimate]) -> Estimate:
        """Mean over seeds; its interval is over tracks alone, for two or three seeds tell nothing of all seeds."""
        value = float(np.mean([e.value for e in estimates]))
        return statistics.interval(value, np.mean([e.resamples for e in estimates], axis=0), self.confidence)

    def _mean(self, key: str, template: str, **wildcards: Any) -> Estimate:
        path = self._path(template, **wildcards)
        with np.load(path, allow_pickle=False) as arrays:
            if key not in arrays:
                raise ValueError(f"{path} lacks {key}: older code made it; delete it and run the study again")
            values, tracks = arrays[key], arrays["track_id"]
        known = ~np.isnan(values) if key in PARTIAL else slice(None)
        return statistics.mean(
            values[known],
            tracks[known],
            resamples=self.evaluation.bootstrap,
            seed=self.evaluation.seed,
            confidence=self.confidence,
        )

    def _asked(self, system: str, measure: str, embedder: str) -> Estimate | None:
        found = self.score(system)[measure].get(embedder)
        return found and self._estimate(found)

    def _estimate(self, stored: dict[str, Any]) -> Estimate:
        return statistics.interval(stored["value"], np.array(stored["resamples"]), self.confidence)

    def _json(self, template: str, **wildcards: Any) -> Any:
        path = self._path(template, **wildcards)
        try:
            return files.read_json(path)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not whole ({error}); delete it and run the study again") from None

    def _path(self, template: str, **wildcards: Any) -> Path:
        path = self.root / template.format(**wildcards)
        if not path.exists():
            raise ValueError(f"{path} is missing; run the study again: it makes what is not there")
        return path
