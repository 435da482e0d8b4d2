"""What the study measured, read back from its result files by name, with intervals that can be paired."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import files, params, statistics
from pipeline.statistics import Estimate

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
        self.confidence = params.section(argument, "report", params.Report).confidence

    @property
    def codecs(self) -> dict[str, params.StudyCodec]:
        """The study's codecs by name."""
        return self.study.codecs

    @property
    def baselines(self) -> list[str]:
        """Codecs trained without the loss."""
        return [name for name, codec in self.codecs.items() if codec.loss.weight == 0]

    @property
    def independent(self) -> list[str]:
        """Codecs trained with the loss."""
        return [name for name, codec in self.codecs.items() if codec.loss.weight > 0]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every codec with each of its seeds."""
        return [(name, seed) for name, codec in self.codecs.items() for seed in codec.seeds]

    def seeds(self, *codecs: str) -> list[int]:
        """Seeds that all of these codecs were trained with."""
        return [seed for seed in self.codecs[codecs[0]].seeds if all(seed in self.codecs[c].seeds for c in codecs)]

    def pairs(self, quantizer: str) -> list[tuple[str, str]]:
        """Codecs of a quantizer with the loss, each beside the codec without it."""
        without = [name for name in self.baselines if self.codecs[name].quantizer == quantizer]
        return [(c, without[0]) for c in self.independent if without and self.codecs[c].quantizer == quantizer]

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
        """Mean over test clips of `si_sdr` (dB) or `log_mel`."""
        return self._mean(f"codec/{codec}-seed{seed}/metrics.npz", measure)

    def history(self, codec: str, seed: int) -> pd.DataFrame:
        """Training history: the trunk's, which all codecs of a quantizer and seed share, then the codec's own."""
        own = pd.read_csv(self._path(f"codec/{codec}-seed{seed}/history.csv"))
        trunk = pd.read_csv(self._path(f"codec/trunk-{self.codecs[codec].quantizer}-seed{seed}/history.csv"))
        return pd.concat([trunk[trunk["step"] < own["step"].min()], own], ignore_index=True)

    def dependence(self, codec: str, seed: int) -> dict[str, Any]:
        """Dependence between a codec's codebooks, as `pipeline.dependence` writes it."""
        return self._json(f"dependence/{codec}-seed{seed}.json")

    def total(self, codec: str, seed: int, alignment: str, measure: str) -> Estimate:
        """One of `dependence.SUMS` under one of `ALIGNMENTS`."""
        return self._estimate(self.dependence(codec, seed)["alignments"][alignment]["total"][measure])

    def bits(self, model: Model) -> Estimate:
        """Bits per frame that a language model needs for the test split's tokens."""
        return self._mean(f"lm/{model.name}/held_out.npz", "bits_per_frame")

    def timing(self, model: Model) -> dict[str, Any]:
        """Steps and seconds of generation."""
        return self._json(f"generation/{model.name}/timing.json")

    def patterns(self) -> list[dict[str, Any]]:
        """Speed of every codebook pattern on one model, as `pipeline.speed` writes it; none where there is no model."""
        return self._json("generation/patterns.json")["patterns"] if self.models else []

    def repeats(self, ours: list[float], theirs: list[float]) -> Estimate:
        """Ratio of the medians of two sets of repeated timings."""
        settings = {"resamples": self.evaluation.bootstrap, "seed": self.evaluation.seed, "confidence": self.confidence}
        return statistics.ratio_of_medians(np.array(ours), np.array(theirs), **settings)

    def score(self, system: str) -> dict[str, Any]:
        """Scores of a system: `floor` (real music of other tracks), `reconstruction/...` or `generation/...`."""
        return self._json(f"evaluation/scores/{system}.json")

    def fad(self, system: str) -> Estimate:
        """FAD-MTT of a system."""
        return self._estimate(self.score(system)["fad"])

    def kl(self, system: str) -> Estimate:
        """KL-MTT of a system: mean over clips, in nats."""
        return self._mean(f"evaluation/scores/{system}.npz", "kl")

    def mean(self, estimates: list[Estimate]) -> Estimate:
        """Mean over seeds; its interval is over tracks alone, for two or three seeds tell nothing of all seeds."""
        value = float(np.mean([e.value for e in estimates]))
        return statistics.interval(value, np.mean([e.resamples for e in estimates], axis=0), self.confidence)

    def _mean(self, name: str, key: str) -> Estimate:
        with np.load(self._path(name), allow_pickle=False) as arrays:
            values, tracks = arrays[key], arrays["track_id"]
        return statistics.mean(
            values,
            tracks,
            resamples=self.evaluation.bootstrap,
            seed=self.evaluation.seed,
            confidence=self.confidence,
        )

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
