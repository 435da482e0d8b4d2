"""What a study is made of and where each of its results lies: the lists and places that the rules and the report share.

The rules read this on every start, so it imports neither torch nor anything else that takes long.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from pipeline import params
from pipeline.params import FLOOR, OUTSIDE, REFERENCE

JOINT = "flatten"  # the pattern that models the codebooks of a frame jointly
FACTORISED = ("parallel", "delay")  # patterns whose steps hold all codebooks, each predicted apart from the others

# What the report holds, in its order; `pipeline.report` has the code behind each name.
TABLE_NAMES = (
    "reconstruction",
    "dependence",
    "estimators",
    "total_correlation",
    "calibration",
    "scores",
    "likelihood",
    "price",
    "speed",
    "patterns",
    "published",
    "claims",
    "findings",
)
FIGURE_NAMES = (
    "dependence",
    "dependence_matrices",
    "dependence_by_lag",
    "total_correlation",
    "calibration",
    "reconstruction_dependence",
    "criterion",
    "scores",
    "likelihood",
    "price",
    "speed",
    "patterns",
    "training",
)
OF_MODELS = ("total_correlation", "likelihood", "speed", "patterns")  # need language models, or the tokens they learn
OF_FACTORISED = ("price",)  # need language models of a factorised pattern

# Places, relative to the study's folder; names in braces are wildcards.
CORPUS = "results/corpus"
TRUNK = "results/codec/trunk/{quantizer}-seed{seed}"  # `trunk` is no codec's folder: those end in a seed
TOKENS = "results/codec/tokens/{codec}-seed{seed}"
CODEC = "results/codec/{codec}-seed{seed}"
DEPENDENCE = "results/dependence/{codec}-seed{seed}.json"
LEARNED = "results/dependence/learned/{codec}-seed{seed}.json"
SNAPSHOTS = "results/dependence/snapshots/{codec}-seed{seed}.csv"
CALIBRATION = "results/dependence/calibration.json"
CONDITIONAL = "results/dependence/conditional/{pattern}/{codec}-seed{seed}.json"
CONDITIONAL_CALIBRATION = "results/dependence/conditional/calibration.json"
TEXT = "results/lm/text"
LM = "results/lm/{pattern}/{codec}-seed{seed}"
RECONSTRUCTION = "results/generation/reconstruction/{codec}-seed{seed}"
GENERATION = "results/generation/{pattern}/{codec}-seed{seed}"
PATTERNS = "results/generation/patterns.json"
EMBEDDINGS = "results/evaluation/embeddings/{system}.npz"
SCORES = "results/evaluation/scores/{system}"  # .json, and .npz with a value a clip
TABLES = "results/tables"
FIGURES = "figures"


class Run(NamedTuple):
    """One training run of a codec."""

    codec: str
    seed: int

    @property
    def system(self) -> str:
        """Its reconstructions, as a system that is scored."""
        return f"reconstruction/{self.codec}-seed{self.seed}"


class Model(NamedTuple):
    """One language model: its codebook pattern, and the codec and seed that its tokens come from."""

    pattern: str
    codec: str
    seed: int

    @property
    def run(self) -> Run:
        """The codec that it models."""
        return Run(self.codec, self.seed)

    @property
    def name(self) -> str:
        """As in the names of its files."""
        return f"{self.pattern}/{self.codec}-seed{self.seed}"

    @property
    def system(self) -> str:
        """The music that it generates, as a system that is scored."""
        return f"generation/{self.name}"


class Study:
    """The codecs, language models and systems that a configuration means."""

    def __init__(self, settings: params.Study, outside: Mapping[str, params.OutsideSystem]) -> None:
        """`outside` are the systems of `evaluation.systems`."""
        self.settings, self.outside = settings, outside

    @property
    def codecs(self) -> dict[str, params.StudyCodec]:
        """The study's codecs by name."""
        return self.settings.codecs

    @property
    def patterns(self) -> list[str]:
        """Codebook patterns that the configuration names, also those without a model."""
        return list(self.settings.language_models)

    @cached_property
    def runs(self) -> list[Run]:
        """Every codec with each of its seeds."""
        return [Run(name, seed) for name, codec in self.codecs.items() for seed in codec.seeds]

    @cached_property
    def models(self) -> list[Model]:
        """The study's language models."""
        return [
            Model(pattern, codec, seed)
            for pattern, models in self.settings.language_models.items()
            for codec in models.codecs
            for seed in models.seeds
        ]

    @property
    def factorised(self) -> list[Model]:
        """Language models whose steps hold all codebooks of a frame or of the delay shift, and so have a price."""
        return [model for model in self.models if model.pattern in FACTORISED]

    @cached_property
    def modelled(self) -> list[Run]:
        """Codec runs that have language models."""
        return list(dict.fromkeys(model.run for model in self.models))

    @property
    def modelled_codecs(self) -> dict[str, list[int]]:
        """Codecs that have language models, and the seeds of their runs that have one."""
        seeds: dict[str, list[int]] = {}
        for run in self.modelled:
            seeds.setdefault(run.codec, []).append(run.seed)
        return seeds

    @cached_property
    def systems(self) -> list[str]:
        """What is scored: real music, the codecs' reconstructions, the language models, and what others made."""
        made = [*(run.system for run in self.runs), *(model.system for model in self.models)]
        return [REFERENCE, FLOOR, *made, *(f"{OUTSIDE}{name}" for name in self.outside)]

    @property
    def tables(self) -> list[str]:
        """Tables that the report of this study has."""
        return self._reported(TABLE_NAMES)

    @property
    def figures(self) -> list[str]:
        """Figures that the report of this study has."""
        return self._reported(FIGURE_NAMES)

    def _reported(self, names: tuple[str, ...]) -> list[str]:
        without = (() if self.models else OF_MODELS) + (() if self.factorised else OF_FACTORISED)
        return [name for name in names if name not in without]

    def trunk(self, codec: str, seed: int) -> dict[str, Any]:
        """Wildcards of the trunk that a codec's run branches from."""
        return {"quantizer": self.codecs[codec].quantizer, "seed": seed}

    def seeds(self, *codecs: str) -> list[int]:
        """Seeds that all of these codecs were trained with."""
        return [seed for seed in self.codecs[codecs[0]].seeds if all(seed in self.codecs[c].seeds for c in codecs)]

    def baseline(self, quantizer: str) -> list[str]:
        """The first codec of a quantizer that is trained without the loss; an empty list if there is none."""
        return [n for n, codec in self.codecs.items() if codec.loss.weight == 0 and codec.quantizer == quantizer][:1]

    @property
    def independent(self) -> list[str]:
        """Codecs that are trained with the loss."""
        return [name for name, codec in self.codecs.items() if codec.loss.weight > 0]

    def pairs(self, quantizer: str) -> list[tuple[str, str]]:
        """Each codec of a quantizer with the loss, paired with the codec without it."""
        ours = [name for name in self.independent if self.codecs[name].quantizer == quantizer]
        return [(name, without) for without in self.baseline(quantizer) for name in ours]

    @property
    def sweeps(self) -> dict[str, list[str]]:
        """Codecs that differ only in the weight of their loss, by growing weight; the codec without the loss leads."""
        lines: dict[str, list[str]] = {}
        for name in sorted(self.independent, key=lambda name: self.codecs[name].loss.weight):
            codec, loss = self.codecs[name], self.codecs[name].loss
            words = [codec.quantizer, loss.stream, loss.estimator.replace("_", " ")] + ["delayed"] * loss.delay
            lines.setdefault(", ".join(words), self.baseline(codec.quantizer)).append(name)
        return lines

    def audio(self, system: str) -> str:
        """Where a system's clips lie: rows of the corpus, an array of its own, or a folder from outside."""
        if theirs := self.theirs(system):
            return theirs[0]
        if system in (REFERENCE, FLOOR):
            return f"{CORPUS}/audio.npy"
        return f"results/generation/{system.removeprefix('generation/')}/audio.npy"

    def theirs(self, system: str) -> list[str]:
        """A system that others made: its folder and, if it has one, its captions file; nothing if it is the study's."""
        if not system.startswith(OUTSIDE):
            return []
        settings = self.outside[system.removeprefix(OUTSIDE)]
        return [settings.folder, *filter(None, [settings.captions])]
