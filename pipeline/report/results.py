"""What the study measured, read back from its result files by name, with intervals that can be paired."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import files, params, statistics
from pipeline.statistics import Estimate

JOINT = "flatten"  # the pattern that models the codebooks of a frame jointly
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


class Model(NamedTuple):
    """One language model: its codebook pattern, and the codec and seed that its tokens come from."""

    pattern: str
    codec: str
    seed: int

    @property
    def name(self) -> str:
        """As in the names of its files."""
        return f"{self.pattern}/{self.codec}-seed{self.seed}"


class Results:
    """Results of one study under `root`; every reader says which file is missing, and how to make it."""

    def __init__(self, root: Path, argument: str) -> None:
        """`argument` is a job's `--params`: the sections `study`, `evaluation` and `report` are read."""
        self.root = root
        self.study = params.section(argument, "study", params.Study)
        self.evaluation = params.section(argument, "evaluation", params.Evaluation)
        report = params.section(argument, "report", params.Report)
        self.confidence, self.claims = report.confidence, report.claims

    @property
    def codecs(self) -> dict[str, params.StudyCodec]:
        """The study's codecs by name."""
        return self.study.codecs

    def baseline(self, quantizer: str) -> list[str]:
        """The codec of a quantizer that was trained without the loss, the first if there are several; or none."""
        return [n for n, codec in self.codecs.items() if codec.loss.weight == 0 and codec.quantizer == quantizer][:1]

    @property
    def independent(self) -> list[str]:
        """Codecs trained with the loss."""
        return [name for name, codec in self.codecs.items() if codec.loss.weight > 0]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every codec with each of its seeds."""
        return [(name, seed) for name, codec in self.codecs.items() for seed in codec.seeds]

    @property
    def sweeps(self) -> dict[str, list[str]]:
        """Codecs that differ in the weight of their loss alone, in its order, from the codec without it."""
        lines: dict[str, list[str]] = {}
        for name in sorted(self.independent, key=lambda name: self.codecs[name].loss.weight):
            codec, loss = self.codecs[name], self.codecs[name].loss
            words = [codec.quantizer, loss.stream, loss.estimator.replace("_", " ")] + ["delayed"] * loss.delay
            lines.setdefault(", ".join(words), self.baseline(codec.quantizer)).append(name)
        return lines

    @property
    def modelled(self) -> list[tuple[str, int]]:
        """Codecs and seeds that have language models."""
        return list(dict.fromkeys((model.codec, model.seed) for model in self.models))

    def seeds(self, *codecs: str) -> list[int]:
        """Seeds that all of these codecs were trained with."""
        return [seed for seed in self.codecs[codecs[0]].seeds if all(seed in self.codecs[c].seeds for c in codecs)]

    def pairs(self, quantizer: str) -> list[tuple[str, str]]:
        """Codecs of a quantizer with the loss, each beside the codec without it."""
        ours = [name for name in self.independent if self.codecs[name].quantizer == quantizer]
        return [(name, without) for without in self.baseline(quantizer) for name in ours]

    @cached_property
    def models(self) -> list[Model]:
        """The study's language models."""
        return [
            Model(pattern, codec, seed)
            for pattern, models in self.study.language_models.items()
            for codec in models.codecs
            for seed in models.seeds
        ]

    def codec(self, codec: str, seed: int) -> dict[str, Any]:
        """Summary of a codec's reconstruction."""
        return self._json(f"codec/{codec}-seed{seed}/metrics.json")

    def reconstruction(self, codec: str, seed: int, measure: str) -> Estimate:
        """Mean over test clips of `si_sdr` (dB) or `log_mel` (dB), or over some of them of `mos` (1 to 5)."""
        return self._mean(f"codec/{codec}-seed{seed}/metrics.npz", measure)

    def history(self, codec: str, seed: int) -> pd.DataFrame:
        """Training history: the trunk's, which all codecs of a quantizer and seed share, then the codec's own."""
        own = pd.read_csv(self._path(f"codec/{codec}-seed{seed}/history.csv"))
        trunk = pd.read_csv(self._path(f"codec/trunk-{self.codecs[codec].quantizer}-seed{seed}/history.csv"))
        return pd.concat([trunk[trunk["step"] < own["step"].min()], own], ignore_index=True)

    def dependence(self, codec: str, seed: int) -> dict[str, Any]:
        """Dependence between a codec's codebooks, as `pipeline.dependence.pairwise` writes it."""
        return self._json(f"dependence/{codec}-seed{seed}.json")

    def snapshots(self, codec: str, seed: int, alignment: str) -> pd.DataFrame:
        """MMD and mutual information over a codec's training, as `pipeline.dependence.snapshots` writes it."""
        found = pd.read_csv(self._path(f"dependence/snapshots/{codec}-seed{seed}.csv"))
        return found[(found["alignment"] == alignment) & (found["estimator"] == self.estimator)]

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """Errors of every estimator where the truth is known, as `pipeline.dependence.calibration` writes them."""
        return self._json("dependence/calibration.json")

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
        return self._json(f"dependence/learned/{codec}-seed{seed}.json")

    def total_correlation(self, codec: str, seed: int, alignment: str) -> Estimate:
        """Total correlation of all codebooks in bits, bounded from below."""
        return self._estimate(self.learned(codec, seed)["alignments"][alignment]["total_correlation"])

    def bits(self, model: Model) -> Estimate:
        """Bits per frame that a language model needs for the test split's tokens."""
        return self._mean(f"lm/{model.name}/held_out.npz", "bits_per_frame")

    def price(self, model: Model) -> Estimate | None:
        """Bits per frame of a model minus those of the joint model of its codec; None where the study has no such."""
        joint = model._replace(pattern=JOINT)
        if model.pattern == JOINT or not {model, joint} <= set(self.models):
            return None
        return statistics.difference(self.bits(model), self.bits(joint), self.confidence)

    def timing(self, model: Model) -> dict[str, Any]:
        """Steps and seconds of generation."""
        return self._json(f"generation/{model.name}/timing.json")

    def patterns(self) -> list[dict[str, Any]]:
        """Speed of every codebook pattern, as `pipeline.generation.speed` writes it; none in a study without models."""
        return self._json("generation/patterns.json")["patterns"] if self.models else []

    def repeats(self, ours: list[float], theirs: list[float]) -> Estimate:
        """Ratio of the medians of two sets of repeated timings."""
        settings = {"resamples": self.evaluation.bootstrap, "seed": self.evaluation.seed, "confidence": self.confidence}
        return statistics.ratio_of_medians(np.array(ours), np.array(theirs), **settings)

    def score(self, system: str) -> dict[str, Any]:
        """Scores of a system: `floor` (real music of other tracks), `reconstruction/...` or `generation/...`."""
        return self._json(f"evaluation/scores/{system}.json")

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
        return self._mean(f"evaluation/scores/{system}.npz", "kl")

    def kl_passt(self, system: str) -> Estimate | None:
        """KL-PaSST of a system: mean over clips, in nats; None where it was not asked."""
        return self.text(system, "kl_passt")

    def text(self, system: str, measure: str = "text") -> Estimate | None:
        """Agreement of a system's clips with their captions, or their `clap` score; None where it was not measured."""
        return self._mean(f"evaluation/scores/{system}.npz", measure) if self.score(system).get(measure) else None

    def mean(self, estimates: list[Estimate]) -> Estimate:
        """Mean over seeds; its interval is over tracks alone, for two or three seeds tell nothing of all seeds."""
        value = float(np.mean([e.value for e in estimates]))
        return statistics.interval(value, np.mean([e.resamples for e in estimates], axis=0), self.confidence)

    def _mean(self, name: str, key: str) -> Estimate:
        with np.load(self._path(name), allow_pickle=False) as arrays:
            if key not in arrays:
                raise ValueError(
                    f"{self.root / name} lacks {key}: older code made it; delete it and run the study again"
                )
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

    def _json(self, name: str) -> Any:
        path = self._path(name)
        try:
            return files.read_json(path)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not whole ({error}); delete it and run the study again") from None

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            raise ValueError(f"{path} is missing; run the study again: it makes what is not there")
        return path
