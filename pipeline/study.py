"""What a study is made of and where each of its results lies: the lists and places that the rules and the report share.

The rules read this on every start, so it imports neither torch nor anything else that takes long.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from pipeline import params
from pipeline.params import FLOOR, OUTSIDE, REFERENCE

JOINT = "flatten"  # the pattern that models the codebooks of a frame jointly
FACTORISED = ("parallel", "delay")  # patterns whose steps hold all codebooks, each predicted apart from the others
DEPTH = "-depth"  # ends the name of a pattern whose models have depth heads, and so predict a step's codebooks jointly

# What the report holds, in its order; `pipeline.report` has the code behind each name.
TABLE_NAMES = (
    "reconstruction",
    "dependence",
    "estimators",
    "total_correlation",
    "calibration",
    "systems",
    "scores",
    "orders",
    "shuffles",
    "generated_information",
    "likelihood",
    "price",
    "speed",
    "patterns",
    "published",
    "claims",
    "findings",
    "power",
    "rules",
)
FIGURE_NAMES = (
    "verdicts",
    "dependence",
    "dependence_matrices",
    "dependence_by_lag",
    "total_correlation",
    "calibration",
    "reconstruction_dependence",
    "criterion",
    "scores",
    "likelihood",
    "learning",
    "price",
    "speed",
    "patterns",
    "training",
)
# These need language models, or the tokens they learn.
OF_MODELS = (
    "total_correlation",
    "shuffles",
    "generated_information",
    "likelihood",
    "learning",
    "speed",
    "patterns",
)

OF_TRAINED = ("verdicts", "reconstruction_dependence", "criterion", "training")  # need codecs that the study trains
OF_FACTORISED = ("price",)  # need language models of a factorised pattern

# How a track's codes are shuffled: whole frames, whole steps of the delay pattern, or each codebook by itself.
SHUFFLES = ("equal_time", "delayed", "independent")

# Places, relative to the study's folder; names in braces are wildcards.
CORPUS = "results/corpus"
TRUNK = "results/codec/trunk/{architecture}-{quantizer}-seed{seed}"  # `trunk` is no codec's folder: those end in a seed
TOKENS = "results/codec/tokens/{codec}-seed{seed}"
CODEC = "results/codec/{codec}-seed{seed}"
DEPENDENCE = "results/dependence/{codec}-seed{seed}.json"
LEARNED = "results/dependence/learned/{codec}-seed{seed}.json"
SNAPSHOTS = "results/dependence/snapshots/{codec}-seed{seed}.csv"
CALIBRATION = "results/dependence/calibration.json"
CONDITIONAL = "results/dependence/conditional/{pattern}/{codec}-seed{seed}-lm{lm}.json"
CONDITIONAL_CALIBRATION = "results/dependence/conditional/calibration.json"
TEXT = "results/lm/text"
LM = "results/lm/{pattern}/{codec}-seed{seed}-lm{lm}"
LM_SNAPSHOT = LM + "/snapshots/{percent}"  # the model after so many per cent of its training
RECONSTRUCTION = "results/generation/reconstruction/{codec}-seed{seed}"
KEPT = "results/generation/kept/{kept}/{codec}-seed{seed}"
SHUFFLED = "results/generation/shuffled/{kind}/{codec}-seed{seed}"
SHUFFLED_LEVELS = "results/generation/shuffled/{codec}-seed{seed}.npz"
GENERATION = "results/generation/{pattern}/{codec}-seed{seed}-lm{lm}"
GENERATION_SNAPSHOT = "results/generation/snapshot/{percent}/{pattern}/{codec}-seed{seed}-lm{lm}"
INFORMATION = "results/generation/information/{pattern}/{codec}-seed{seed}-lm{lm}.json"
PATTERNS = "results/generation/patterns.json"
EMBEDDINGS = "results/evaluation/embeddings/{system}.npz"
SCORES = "results/evaluation/scores/{system}"  # .json, and .npz with a value a clip
TABLES = "results/tables"
FIGURES = "figures"
GALLERY = "results/gallery"
PAGE = "results/index.html"


def without_depth(pattern: str) -> str:
    """The pattern of the models to which depth heads were added to make those of `pattern`, or `pattern` itself."""
    return pattern.removesuffix(DEPTH)


class Kind(NamedTuple):
    """What codecs have in common that differ in their loss alone."""

    architecture: str
    quantizer: str


class Run(NamedTuple):
    """One codec and seed; of a pretrained codec there is one."""

    codec: str
    seed: int

    @property
    def name(self) -> str:
        """As in the names of its files."""
        return f"{self.codec}-seed{self.seed}"

    @property
    def system(self) -> str:
        """Its reconstructions, as a system that is scored."""
        return f"reconstruction/{self.name}"

    def kept(self, codebooks: int) -> str:
        """Its reconstructions from the first codebooks alone, as a system that is scored."""
        return f"kept/{codebooks}/{self.name}"

    def shuffled(self, kind: str) -> str:
        """Its codes shuffled in one of the ways `SHUFFLES`, as a system that is scored."""
        return f"shuffled/{kind}/{self.name}"


class Model(NamedTuple):
    """One language model: its codebook pattern, the codec and seed that its tokens come from, and its own seed."""

    pattern: str
    codec: str
    seed: int
    lm: int

    @property
    def run(self) -> Run:
        """The codec that it models."""
        return Run(self.codec, self.seed)

    @property
    def name(self) -> str:
        """As in the names of its files."""
        return f"{self.pattern}/{self.codec}-seed{self.seed}-lm{self.lm}"

    @property
    def system(self) -> str:
        """The music that it generates, as a system that is scored."""
        return f"generation/{self.name}"

    def snapshot(self, percent: int) -> str:
        """The music that it generates after so much of its training, as a system that is scored."""
        return f"snapshot/{percent}/{self.name}"


class Shown(NamedTuple):
    """A system that the page plays."""

    system: str
    label: str
    kind: str  # real, reconstruction, model or outside


class Study:
    """The codecs, language models and systems that a configuration means."""

    def __init__(
        self,
        settings: params.Study,
        outside: Mapping[str, params.OutsideSystem],
        percents: Sequence[int],
    ) -> None:
        """`outside` are the systems of `evaluation.systems`, `percents` the per cents of `lm.snapshots`."""
        self.settings, self.outside, self.percents = settings, outside, sorted(percents)

    @cached_property
    def trained(self) -> dict[str, params.StudyCodec]:
        """The codecs that it trains, kind by kind, that of most runs first; of a kind, by loss: none, then by weight.

        Jobs are given the configuration with sorted keys, so that no order may come from where a key stands.
        """
        codecs = self.settings.trained
        kinds = [self.kind(name) for name, codec in codecs.items() for _ in codec.seeds]

        def place(name: str) -> tuple[Any, ...]:
            loss = codecs[name].loss
            return (
                -kinds.count(self.kind(name)),
                self.kind(name),
                loss.weight > 0,
                loss.stream != "quantized",
                loss.stream,
                loss.estimator,
                loss.delay,
                loss.weight,
                name,
            )

        return {name: codecs[name] for name in sorted(codecs, key=place)}

    @cached_property
    def pretrained(self) -> dict[str, params.PretrainedCodec]:
        """The codecs that come trained, by name."""
        return dict(sorted(self.settings.pretrained.items()))

    @cached_property
    def codecs(self) -> dict[str, params.StudyCodec | params.PretrainedCodec]:
        """All codecs of the study."""
        return {**self.trained, **self.pretrained}

    @property
    def patterns(self) -> list[str]:
        """Codebook patterns that the configuration names, also those without a model, and those with depth, sorted."""
        return sorted({*self.settings.language_models, *(model.pattern for model in self.deepened)})

    @cached_property
    def runs(self) -> list[Run]:
        """Every codec with each of its seeds."""
        return [Run(name, seed) for name, codec in self.codecs.items() for seed in codec.seeds]

    @property
    def trained_runs(self) -> list[Run]:
        """Those of them that the study trains."""
        return [run for run in self.runs if run.codec in self.trained]

    @cached_property
    def models(self) -> list[Model]:
        """The study's language models, by pattern."""
        return sorted([*self.trained_models, *self.deepened], key=lambda model: model.pattern)

    @cached_property
    def trained_models(self) -> list[Model]:
        """Language models that are trained from the start."""
        return [
            Model(pattern, codec, seed, lm)
            for pattern in sorted(self.settings.language_models)
            for codec in self.codecs
            for seed in self.settings.language_models[pattern].codecs.get(codec, [])
            for lm in self.settings.language_models[pattern].seeds
        ]

    @property
    def factorised(self) -> list[Model]:
        """Language models whose steps hold all codebooks of a frame or of the delay shift, and so have a price."""
        return [model for model in self.trained_models if model.pattern in FACTORISED]

    @property
    def deepened(self) -> list[Model]:
        """Factorised language models with depth heads."""
        deep = [model for model in self.factorised if model.seed in self.settings.depth]
        return [model._replace(pattern=f"{model.pattern}{DEPTH}") for model in deep]

    def factorised_of(self, model: Model) -> Model:
        """The model that one with depth heads was made of."""
        return model._replace(pattern=without_depth(model.pattern))

    @cached_property
    def modelled(self) -> list[Run]:
        """Codec runs that have language models."""
        return list(dict.fromkeys(model.run for model in self.models))

    @cached_property
    def shuffled(self) -> list[Run]:
        """Codec runs whose codes are shuffled and decoded."""
        return [run for run in self.modelled if run.seed in self.settings.shuffled]

    @property
    def plain(self) -> list[Run]:
        """The first run without the loss, which is decoded from ever fewer codebooks; none if all have the loss."""
        return [run for run in self.trained_runs if self.trained[run.codec].loss.weight == 0][:1]

    @property
    def growing(self) -> list[Model]:
        """The first language model, factorised where one is, whose music is also scored after parts of its training."""
        return (self.factorised or self.trained_models)[:1]

    @property
    def modelled_codecs(self) -> dict[str, list[int]]:
        """Codecs that have language models, and the seeds of their runs that have one."""
        seeds: dict[str, list[int]] = {}
        for run in self.modelled:
            seeds.setdefault(run.codec, []).append(run.seed)
        return seeds

    @cached_property
    def systems(self) -> list[str]:
        """What is scored: real music, what codecs and language models of the study made, and what others made."""
        return [REFERENCE, FLOOR, *self.made, *(f"{OUTSIDE}{name}" for name in self.outside)]

    @cached_property
    def made(self) -> dict[str, Run]:
        """The systems of the study, each with the codec that decoded it."""
        return {
            **{run.system: run for run in self.runs},
            **{model.system: model.run for model in self.models},
            **{run.kept(codebooks): run for run in self.plain for codebooks in self.settings.kept},
            **{model.snapshot(percent): model.run for model in self.growing for percent in self.percents},
            **{run.shuffled(kind): run for run in self.shuffled for kind in SHUFFLES},
        }

    @property
    def shown(self) -> list[Shown]:
        """Real music, each codec and each pattern on it by its first seeds, and what others made."""
        runs = {run.codec: run for run in reversed(self.runs)}
        models = {(model.codec, model.pattern): model for model in reversed(self.models)}
        return [
            Shown(REFERENCE, "the recording", "real"),
            *(Shown(runs[codec].system, f"{codec}, reconstruction", "reconstruction") for codec in self.codecs),
            *(
                Shown(model.system, f"{codec}, {pattern} language model", "model")
                for codec in self.codecs
                for pattern in self.patterns
                if (model := models.get((codec, pattern)))
            ),
            *(Shown(f"{OUTSIDE}{name}", name, "outside") for name in self.outside),
        ]

    def bound(self, system: str) -> list[str]:
        """The reconstructions of the codec that decoded a system; none if no codec did, or if they are the system."""
        run = self.made.get(system)
        return [] if run is None or run.system == system else [run.system]

    @property
    def orders(self) -> dict[str, list[str]]:
        """Systems whose order is known, from the worst to the best; a score that is any good finds it."""
        orders = {}
        for run in self.plain:
            orders["codebooks kept"] = [*(run.kept(number) for number in sorted(self.settings.kept)), run.system]
            orders["reconstruction, real music"] = [run.system, FLOOR]
        for model in self.growing:
            orders["language model's training"] = [*(model.snapshot(each) for each in self.percents), model.system]
        return {name: systems for name, systems in orders.items() if len(systems) > 1}

    @property
    def tables(self) -> list[str]:
        """Tables that the report of this study has."""
        return self._reported(TABLE_NAMES)

    @property
    def figures(self) -> list[str]:
        """Figures that the report of this study has."""
        return self._reported(FIGURE_NAMES)

    @property
    def metrics(self) -> list[str]:
        """Files of a few numbers each for `dvc metrics`, in the folder of tables."""
        models = dict.fromkeys(f"lm/{model.pattern}-{model.codec}" for model in self.models)
        return ["claims", *(f"codec/{codec}" for codec in self.codecs), *models]

    def _reported(self, names: tuple[str, ...]) -> list[str]:
        without = (() if self.models else OF_MODELS) + (() if self.factorised else OF_FACTORISED)
        without += () if self.trained else OF_TRAINED
        return [name for name in names if name not in without]

    def trunk(self, codec: str, seed: int) -> dict[str, Any]:
        """Wildcards of the trunk that a codec's run branches from."""
        settings = self.trained[codec]
        return {"architecture": settings.architecture, "quantizer": settings.quantizer, "seed": seed}

    def seeds(self, *codecs: str) -> list[int]:
        """Seeds that all of these codecs were trained with."""
        return [seed for seed in self.codecs[codecs[0]].seeds if all(seed in self.codecs[c].seeds for c in codecs)]

    @property
    def kinds(self) -> list[Kind]:
        """The architectures and quantizers that the study has codecs of."""
        return list(dict.fromkeys(self.kind(name) for name in self.trained))

    def kind(self, codec: str) -> Kind:
        """What a codec is, its loss aside."""
        settings = self.settings.trained[codec]
        return Kind(settings.architecture, settings.quantizer)

    def baseline(self, kind: Kind) -> list[str]:
        """The first codec of a kind that is trained without the loss; an empty list if there is none."""
        return [n for n, codec in self.trained.items() if codec.loss.weight == 0 and self.kind(n) == kind][:1]

    @property
    def independent(self) -> list[str]:
        """Codecs that are trained with the loss."""
        return [name for name, codec in self.trained.items() if codec.loss.weight > 0]

    def pairs(self, kind: Kind) -> list[tuple[str, str]]:
        """Each codec of a kind with the loss, paired with the codec without it."""
        ours = [name for name in self.independent if self.kind(name) == kind]
        return [(name, without) for without in self.baseline(kind) for name in ours]

    @property
    def sweeps(self) -> dict[str, list[str]]:
        """Codecs that differ only in the weight of their loss, by growing weight; the codec without the loss leads."""
        lines: dict[str, list[str]] = {}
        for name in sorted(self.independent, key=lambda name: self.trained[name].loss.weight):
            loss = self.trained[name].loss
            words = [*self.kind(name), loss.stream, loss.estimator.replace("_", " ")] + ["delayed"] * loss.delay
            lines.setdefault(", ".join(words), self.baseline(self.kind(name))).append(name)
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
