"""Every parameter of the study, typed and strict: `params.yaml` states each one, a key it does not know is an error.

No field has a default here, so that the file says everything and DVC has something to compare. Choices are made by
name; `TABLES` says where the code behind each name stands.
"""

import ast
import functools
import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, Tag, ValidationError, model_validator
from pydantic import Discriminator as TellApart

PACKAGE = Path(__file__).parent
SPLITS = ("train", "validation", "test")
# Systems that are scored beside the study's own: real music of the test split, as many clips of the validation split,
# and, as a prefix of its name, one that others made.
REFERENCE, FLOOR, OUTSIDE = "reference", "floor", "outside/"
MAIN = "musicnn-mtt"  # the embedder that is always asked: FAD-MTT, KAD-MTT, and the tags behind KL-MTT
ADVERSARIAL = {"adversarial", "feature"}  # losses that a discriminator makes
# Each kind of choice is a table, name -> code, which any module of its package may define: a new module with such a
# table adds its names to the choice, and nothing else has to know of it.
TABLES = {"SOURCES": "corpus", "QUANTIZERS": "codec", "ARCHITECTURES": "codec", "PRETRAINED": "codec"}
TABLES |= {"PATTERNS": "lm", "DECODINGS": "generation", "EMBEDDERS": "evaluation", "CLAIMS": "report"}


@functools.cache
def choices(table: str) -> dict[str, str]:
    """Names in a table of choices -> the module that has each; read from the sources, so that none is imported.

    Raises:
        ValueError: a key of the table is no plain string, so that it cannot be read, or two modules have it.
    """
    modules: dict[str, str] = {}
    for path in sorted((PACKAGE / TABLES[table]).glob("*.py")):
        for key in _keys(path, table):
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                raise ValueError(f"{path}: a name in {table} is no plain string")
            if key.value in modules:
                raise ValueError(f"{path}: {table} has '{key.value}' already, from {modules[key.value]}")
            modules[key.value] = f"pipeline.{TABLES[table]}.{path.stem}"
    return modules


def choice(table: str, name: str) -> Any:
    """What stands under `name` in a table of choices; ValueError where nothing does."""
    return getattr(importlib.import_module(choices(table)[_one_of(table)(name)]), table)[name]


def _keys(path: Path, table: str) -> Iterator[ast.expr | None]:
    """Keys of the assignments `TABLE = {...}` and `TABLE["name"] = ...` at a module's top level."""
    source = path.read_text()
    for node in ast.parse(source, str(path)).body if table in source else []:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and target.id == table and isinstance(node.value, ast.Dict):
                yield from node.value.keys
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and target.value.id == table:
                yield target.slice


def _one_of(table: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in choices(table):
            raise ValueError(f"'{name}' is not one of {', '.join(choices(table))}")
        return name

    return check


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*$")]
Count = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(gt=0, lt=1, multiple_of=0.01)]


def _without_repeats(values: list[Any]) -> list[Any]:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{repeated} more than once: name each once, or it would count twice")
    return values


Once = AfterValidator(_without_repeats)


Seeds = Annotated[list[Natural], Field(min_length=1), Once]
Windows = Annotated[list[Annotated[int, Field(ge=4)]], Field(min_length=1)]  # samples, hop a quarter of each
Source = Annotated[str, AfterValidator(_one_of("SOURCES"))]
Architecture = Annotated[str, AfterValidator(_one_of("ARCHITECTURES"))]
Quantizer = Annotated[str, AfterValidator(_one_of("QUANTIZERS"))]
Pattern = Annotated[str, AfterValidator(_one_of("PATTERNS"))]
Decoding = Annotated[str, AfterValidator(_one_of("DECODINGS"))]
Embedder = Annotated[str, AfterValidator(_one_of("EMBEDDERS"))]
Claim = Annotated[str, AfterValidator(_one_of("CLAIMS"))]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Independence(_Section):
    """The loss as one codec uses it; `weight` 0 leaves it out."""

    weight: NonNegative
    delay: bool  # shift stream k by k frames, as the delay-pattern LM predicts them
    stream: Literal["quantized", "input", "residual", "innovation", "embedding", "time"]
    estimator: Literal["closed_form", "permutation", "audiocraft"]  # the last is the paper's released code as it is

    @model_validator(mode="after")
    def _streams_are_codebooks_where_delayed(self) -> Self:
        if self.delay and self.stream in ("embedding", "time"):
            raise ValueError(f"delay shifts codebooks, and the streams of {self.stream} are none: set delay to false")
        return self


class StudyCodec(_Section):
    """A codec of the study: what sets it apart, and the seeds with which it is trained."""

    architecture: Architecture
    quantizer: Quantizer
    loss: Independence
    seeds: Seeds


class PretrainedCodec(_Section):
    """A codec that is trained already."""

    pretrained: Annotated[str, Field(min_length=1)]  # its folder, relative to the study's directory unless absolute
    codebooks: Annotated[int, Field(ge=2)]  # kept of its own, the first

    @property
    def seeds(self) -> list[int]:
        """One, by which its results are named: nothing is drawn."""
        return [0]


def _how_a_codec_comes(codec: Any) -> str:
    pretrained = isinstance(codec, PretrainedCodec) or "pretrained" in _mapping(codec)
    return "[pretrained]" if pretrained else "[trained]"


AnyCodec = Annotated[
    Annotated[StudyCodec, Tag("[trained]")] | Annotated[PretrainedCodec, Tag("[pretrained]")],
    TellApart(_how_a_codec_comes),
]


class LanguageModels(_Section):
    """Which codecs get language models of one codebook pattern, and the seeds of those; none, if none is named."""

    codecs: dict[Name, Seeds]  # and which of their seeds
    seeds: Seeds  # of the language models themselves: one each for every codec and seed


class Study(_Section):
    """What is compared with what."""

    codecs: Annotated[dict[Name, AnyCodec], Field(min_length=1)]
    language_models: dict[Pattern, LanguageModels]
    shuffled: Annotated[list[Natural], Once]  # seeds for which codecs with language models have their codes shuffled
    depth: Annotated[list[Natural], Once]  # seeds of codecs whose factorised language models get depth heads as well
    kept: Annotated[list[Count], Once]  # numbers of codebooks with which the first codec without the loss is decoded

    @property
    def trained(self) -> dict[str, StudyCodec]:
        """The codecs that the study trains."""
        return {name: codec for name, codec in self.codecs.items() if isinstance(codec, StudyCodec)}

    @property
    def pretrained(self) -> dict[str, PretrainedCodec]:
        """The codecs that come trained."""
        return {name: codec for name, codec in self.codecs.items() if isinstance(codec, PretrainedCodec)}

    @model_validator(mode="after")
    def _names_what_exists(self) -> Self:
        for pattern, models in self.language_models.items():
            if unknown := set(models.codecs) - set(self.codecs):
                raise ValueError(f"study.language_models.{pattern}.codecs names {sorted(unknown)}, not in study.codecs")
            for codec, seeds in models.codecs.items():
                if untrained := set(seeds) - set(self.codecs[codec].seeds):
                    if codec in self.pretrained:
                        raise ValueError(
                            f"study.language_models.{pattern}.codecs.{codec} names the seeds {sorted(untrained)}; "
                            "a pretrained codec has 0 alone"
                        )
                    raise ValueError(
                        f"study.language_models.{pattern}.codecs.{codec} names the seeds {sorted(untrained)}, "
                        f"not in study.codecs.{codec}.seeds"
                    )
        for name, seeds in (("shuffled", self.shuffled), ("depth", self.depth)):
            if unused := set(seeds) - {seed for codec in self.codecs.values() for seed in codec.seeds}:
                raise ValueError(f"study.{name} names the seeds {sorted(unused)}, which no codec of study.codecs has")
        return self


class Soundtracks(_Section):
    """Eight game soundtracks packaged by Debian."""

    packages: Annotated[list[str], Field(min_length=1), Once]


class Scores(_Section):
    """Scores from music21's corpus, rendered with a sound font."""

    collections: Annotated[list[str], Field(min_length=1), Once]
    works: Count  # per collection
    renditions: Count  # per work, each with its own instruments, tempo and transposition
    seconds: Positive  # of each rendition that are kept


class Local(_Section):
    """Music that the user has, for the sources folder, musiccaps, jamendo and fma."""

    audio: str  # folder, relative to the study's directory unless absolute
    metadata: str  # file that the data set publishes; for folder a CSV or JSON lines of captions, or empty


class Split(_Section):
    """Shares of the groups (package, artist) that go to each split, by a hash with a fixed salt."""

    salt: str
    validation: Fraction
    test: Fraction


class Corpus(_Section):
    """Clips of music, their splits and their credits."""

    source: Source
    sample_rate: Count  # Hz
    clip_seconds: Positive
    clips_per_track: Count
    silence_db: float  # dB RMS re full scale; quieter clips are dropped
    split: Split
    max_cosine: Fraction  # between embeddings of clips in different splits
    soundtracks: Soundtracks
    scores: Scores
    local: Local

    @property
    def clip_samples(self) -> int:
        """Samples of a clip."""
        return round(self.clip_seconds * self.sample_rate)


class Captions(_Section):
    """Templates over what tags and signal analysis say of a clip."""

    tag_threshold: Fraction  # probability above which a MSD_musicnn tag is named
    max_tags: Count
    paraphrases: Count
    seed: Natural


class Discriminator(_Section):
    """The network that tells real audio from the codec's, and its own optimiser's settings."""

    kind: Literal["mel", "stft"]  # on log-mel spectrograms, a light one; or EnCodec's, on complex STFTs
    windows: Windows
    windows_a_step: Count  # drawn from these
    filters: Count
    mel_bins: Count  # at most, of kind mel
    slope: Fraction  # of its leaky ReLUs below 0
    relative_features: bool  # divide feature matching by the real features' mean magnitude
    learning_rate: Positive  # constant
    betas: tuple[Fraction, Fraction]

    @model_validator(mode="after")
    def _windows_are_there(self) -> Self:
        if self.windows_a_step > len(self.windows):
            raise ValueError(f"windows_a_step is {self.windows_a_step} of {len(self.windows)} windows")
        return self


class CodecTraining(_Section):
    """One training run of the codec; shares are of its steps."""

    steps: Count
    batch_size: Count  # segments
    segment_seconds: Positive
    learning_rate: Positive
    betas: tuple[Fraction, Fraction]
    weight_decay: NonNegative  # of matrices
    warmup: Fraction  # share over which the rate grows from 0
    quantize_from: Fraction  # share from which the latent is quantized; the network trains unquantized until then
    weight_ema: Fraction  # decay of the weights' moving average, which is what gets saved
    l1_weight: NonNegative
    si_sdr_weight: NonNegative  # per dB
    cosine_weight: NonNegative  # per dB
    mel_weight: NonNegative
    mel_windows: Windows
    mel_windows_a_step: Count  # drawn from these
    mel_bins: Count
    adversarial_weight: NonNegative
    feature_weight: NonNegative
    adversary_from: Fraction  # share from which these two weights grow from 0, over another share
    adversary_ramp: Fraction
    discriminator: Discriminator  # built only where one of these two weights is above 0
    balancer: bool  # weights are shares in the gradient of the decoder's output; else they multiply the losses
    balancer_decay: Fraction  # of the moving averages of the gradients' norms
    commitment_weight: NonNegative
    gradient_clip: Positive

    def step(self, share: float) -> int:
        """The step at a share of the run."""
        return round(share * self.steps)

    @property
    def output_weights(self) -> dict[str, float]:
        """Weights of the losses of the decoder's output, those above 0."""
        losses = ("l1", "mel", "si_sdr", "cosine", "adversarial", "feature")
        return {name: weight for name in losses if (weight := getattr(self, f"{name}_weight")) > 0}

    @property
    def adversarial(self) -> bool:
        """Whether the codec has a discriminator to learn from."""
        return not ADVERSARIAL.isdisjoint(self.output_weights)

    @model_validator(mode="after")
    def _output_is_trained(self) -> Self:
        if not set(self.output_weights) - ADVERSARIAL:
            raise ValueError("no loss holds the decoder's output to its target: set mel_weight, l1_weight or another")
        if self.mel_windows_a_step > len(self.mel_windows):
            raise ValueError(f"mel_windows_a_step is {self.mel_windows_a_step} of {len(self.mel_windows)} mel_windows")
        if self.balancer and self.adversarial and (self.adversary_from, self.adversary_ramp) != (0, 0):
            raise ValueError(
                "the balancer weighs all losses from the start: set adversary_from and adversary_ramp to 0"
            )
        return self


class Innovation(_Section):
    """What the past tells of a frame's vectors, and streams of innovations therefore leave out."""

    frames: Count  # of all codebooks, before the one that they predict
    ridge: Annotated[list[Positive], Field(min_length=1), Once]  # candidates, relative to the past's mean diagonal
    through: bool  # let the loss' gradient through the regression's coefficients


class IndependenceTraining(_Section):
    """When and on how much the independence loss is taken; what it weighs is `study.codecs`."""

    start: Fraction  # of the steps, until which all codecs of an architecture, quantizer and seed share one run
    ramp: Fraction  # of the steps, over which the weight grows from 0
    every: Count  # steps between losses, and batches per macro-batch
    checkpointed: bool  # encode each batch again in the backward pass: memory of one batch, but a second encoder pass
    unit: Literal["variance", "median"]  # of the bandwidths: 1, or the rows' median squared distance
    bandwidths: Annotated[list[Positive], Field(min_length=1)]
    innovation: Innovation
    snapshots: Natural  # for MMD against MI: the last at the end, each other halfway from `start` to the next


class Seanet(_Section):
    """Sizes of EnCodec's network."""

    filters: Count
    ratios: Annotated[list[Count], Field(min_length=1)]
    residual_layers: Count
    kernel_size: Count
    residual_kernel_size: Count
    last_kernel_size: Count
    dilation_base: Count
    lstm_layers: Natural
    causal: bool  # convolutions see no later frame
    pad_mode: Literal["reflect", "constant"]  # what convolutions see past a clip's ends

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return math.prod(self.ratios)


class _Spectral(_Section):
    """Sizes of a network that ends in an inverse STFT."""

    window: Count  # samples of the STFT
    hop: Count  # samples between its frames
    joined: Count  # of its frames in one of the latent
    fine_width: Count  # of the layers at the STFT's rate
    fine_blocks: Count
    width: Count  # of the layers at the latent's rate
    blocks: Count
    kernel_size: Count  # frames that a block's convolution sees
    expansion: Count  # of the width, inside a block

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return self.hop * self.joined

    @property
    def bins(self) -> int:
        """Of the STFT."""
        return self.window // 2 + 1

    @model_validator(mode="after")
    def _frames_cover_the_waveform(self) -> Self:
        if self.hop % 2 or self.window % (2 * self.hop):
            raise ValueError(f"window ({self.window}) must be an even multiple of hop ({self.hop}), an even number too")
        if (self.window - self.hop) // 2 >= self.hop_length:
            raise ValueError(
                f"window ({self.window}) reaches past a clip's ends by more than a frame of {self.hop_length}"
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {self.kernel_size}")
        return self


class Stft(_Spectral):
    """Sizes of the network between an STFT and its inverse."""

    complex_bins: Count  # lowest bins whose real and imaginary part the encoder sees

    @model_validator(mode="after")
    def _complex_bins_are_there(self) -> Self:
        if self.complex_bins > self.bins:
            raise ValueError(f"complex_bins is {self.complex_bins}, and the window has {self.bins} bins")
        return self


class Band(_Spectral):
    """Sizes of the network between patches of a log-mel spectrogram, each of one band, and an inverse STFT."""

    bands: Count  # of as many mels each; study.codecs asks for codec.codebooks of them
    mel_bins: Annotated[int, Field(ge=2)]  # in all bands
    corner: Positive  # bins of the STFT in 700 Hz, above which the mel scale is logarithmic
    band_width: Count  # of the encoder's layers, at the latent's rate
    band_blocks: Count

    @model_validator(mode="after")
    def _bands_have_mels_and_mels_have_bins(self) -> Self:
        if self.mel_bins % self.bands:
            raise ValueError(f"mel_bins ({self.mel_bins}) must be a multiple of bands ({self.bands})")
        # Where bins are fewest to a mel: bin 1 must lie below mel 2, or mel 1 would have none.
        if (self.mel_bins - 1) * math.log1p(1 / self.corner) >= 2 * math.log1p((self.bins - 1) / self.corner):
            raise ValueError(
                f"mel_bins is {self.mel_bins}: a window of {self.window} samples has no bin for some of them"
            )
        return self


# Of our own architectures, known without torch.
SIZES: dict[str, type[BaseModel]] = {"seanet": Seanet, "stft": Stft, "band": Band}


class SharedCodec(_Section):
    """What the codecs of all architectures have in common."""

    dimension: Count  # of the latent
    latent_norm: bool  # scale each frame of the latent to mean square 1
    codebooks: Count
    codebook_size: Count
    codebook_decay: Fraction
    kmeans_iterations: Count
    dead_code_threshold: NonNegative
    quantizer_dropout: Fraction  # share of training segments decoded from a random number of codebooks
    levels: Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)]  # of each number of a group of fsq
    codebook_dimension: Count  # of the codes of cosine
    independence: IndependenceTraining


class CodecSettings(SharedCodec):
    """A network of one architecture with a quantizer, and how it is trained."""

    architecture: Architecture
    sizes: Any
    training: CodecTraining

    @property
    def loss_from(self) -> int:
        """The step from which the independence loss is on."""
        return self.training.step(self.independence.start)


class Codec(SharedCodec):
    """What all codecs share, and a section for each architecture: its sizes, and how such a codec is trained."""

    model_config = ConfigDict(extra="allow")

    @property
    def architectures(self) -> list[str]:
        """Those that have a section."""
        return list(self.model_extra or {})

    @property
    def hop_length(self) -> int:
        """Samples a frame, of every architecture."""
        return int(self.of(self.architectures[0]).sizes.hop_length)

    def of(self, architecture: str) -> CodecSettings:
        """The codec of one architecture; ValueError where it has no section."""
        section = (self.model_extra or {}).get(architecture)
        if not isinstance(section, dict):
            raise ValueError(f"codec.{architecture} must hold the sizes and training of that architecture")
        rest = {name: value for name, value in section.items() if name != "training"}
        sizes = SIZES.get(architecture) or choice("ARCHITECTURES", architecture).Sizes
        shared = {name: getattr(self, name) for name in type(self).model_fields}
        return CodecSettings(
            architecture=architecture,
            sizes=_part(sizes, rest, "codec", architecture),
            training=_part(CodecTraining, section.get("training"), "codec", architecture, "training"),
            **shared,
        )

    @model_validator(mode="after")
    def _architectures_are_complete(self) -> Self:
        if not self.architectures:
            raise ValueError(f"there is no section of an architecture: {', '.join(choices('ARCHITECTURES'))}")
        for name in self.architectures:
            if name not in choices("ARCHITECTURES"):
                raise ValueError(f"there is no key '{name}' here, and no codec architecture of that name")
            training, start = self.of(name).training, self.independence.start
            if training.quantize_from > start:
                raise ValueError(
                    f"codec.independence.start is {start}; it must not be under codec.{name}.training.quantize_from "
                    f"({training.quantize_from})"
                )
            if (hop := self.of(name).sizes.hop_length) != self.hop_length:
                raise ValueError(
                    f"codec.{name} has {hop} samples a frame and codec.{self.architectures[0]} has {self.hop_length}: "
                    "codecs of one study share a frame rate"
                )
        return self


class Learned(_Section):
    """The networks that predict one codebook from others, and the training of each."""

    hidden: Count  # units
    steps: Count
    batch_size: Count  # frames
    learning_rate: Positive


class Conditional(_Section):
    """The heads that measure the price of factorising, their training, and the processes that calibrate them."""

    clips: Annotated[int, Field(ge=2)]  # of the training split, evenly spaced
    rank: Count
    steps: Annotated[int, Field(ge=4)]
    batch_size: Count  # steps of the language model
    embedding_rate: Positive  # learning rate of E
    learning_rate: Positive  # of O and W
    betas: tuple[Fraction, Fraction]
    weight_decay: NonNegative
    warmup_steps: Count
    shared: Annotated[list[Fraction], Field(min_length=1), Once]  # of the made processes that calibrate

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})")
        return self


class Calibration(_Section):
    """Runs of every estimator on codes of known mutual information."""

    draws: Annotated[int, Field(ge=2)]  # of each distribution
    copied: Fraction  # share of the frames in which codebook 2 repeats codebook 1
    repeated: Fraction  # share of the frames in which a codebook of the Markov pair repeats its last code
    correlation: Fraction  # of the Gaussian pair


class Dependence(_Section):
    """Measurement of the dependence between codebooks on held-out codes."""

    shuffles: Count  # permutations behind the shuffled baseline
    bootstrap: Count  # resamples of tracks behind an interval
    snapshot_clips: Count  # on which a codec's snapshots are measured
    far_lags: Annotated[list[Positive], Field(min_length=1), Once]  # s, at which codebooks share the piece alone
    seed: Natural
    learned: Learned
    conditional: Conditional
    calibration: Calibration


class Conditioner(_Section):
    """The encoder whose token states of captions the language models read."""

    encoder: str  # "minilm", or the folder or hub name of a T5, such as t5-base
    max_tokens: Count  # of a caption; what is longer is cut


class LanguageModel(_Section):
    """Decoder-only transformer and its training."""

    width: Count
    heads: Count
    layers: Count
    feedforward: Count
    positions: Literal["sinusoidal", "rotary_2d"]  # of steps; or of their tokens, where each step has one
    dropout: Fraction
    steps: Count
    batch_size: Count  # clips, or crops of as many clips
    crop_seconds: NonNegative  # of each clip, at a random offset; 0 or more than it has: the whole clip
    micro_batch_size: Count  # clips at once, in each of the passes over which a step's gradient is summed
    precision: Literal["float32", "bfloat16"]  # of training's matrix products
    optimizer: Literal["muon", "adamw"]  # of the layers' matrices; AdamW has the rest
    learning_rate: Positive  # of the layers' matrices
    embedding_learning_rate: Positive
    other_learning_rate: Positive  # of heads, norms and the projection of the text
    betas: tuple[Fraction, Fraction]  # of AdamW
    weight_decay: NonNegative  # of matrices
    warmup_steps: Natural
    gradient_clip: Positive
    text_dropout: Fraction  # share of captions replaced by the null text, for guidance
    weight_ema: Fraction
    snapshots: Annotated[list[Percent], Once]  # shares of the steps after which the averaged weights are kept as well

    @property
    def snapshot_percents(self) -> list[int]:
        """The snapshots by the names of their folders, whole per cents."""
        return [round(100 * share) for share in self.snapshots]

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"lm.width ({self.width}) must be a multiple of lm.heads ({self.heads})")
        if self.positions == "rotary_2d" and self.width // self.heads % 4:
            size = self.width // self.heads
            raise ValueError(f"lm.width / lm.heads ({size}) must be a multiple of 4 where lm.positions is rotary_2d")
        return self


class Generation(_Section):
    """Sampling from a language model."""

    clips: Count  # captions of the test split, the same for every system
    guidance_scale: NonNegative
    top_k: Count
    temperature: Positive
    batch_size: Count
    seed: Natural
    decoding: Decoding  # how the codebooks of one step are drawn


class Speed(_Section):
    """Timing of generation by every codebook pattern."""

    batch_sizes: Annotated[list[Count], Field(min_length=1), Once]  # clips
    repeats: Count


class OutsideSystem(_Section):
    """Clips that another system made."""

    folder: str  # of audio files, relative to the study's directory unless absolute
    captions: str  # CSV: file, and caption or clip_id; empty without one


class Evaluation(_Section):
    """Scores of generated and reconstructed audio against held-out music."""

    embedders: dict[Embedder, Natural]  # clips of each system that each of them takes, at most; 0 leaves it out
    systems: dict[Name, OutsideSystem]
    loudness_lufs: float
    seconds: Positive  # kept of each clip, at a seeded offset
    bootstrap: Count
    seed: Natural

    @model_validator(mode="after")
    def _tags_are_there(self) -> Self:
        if self.embedders.get(MAIN, 0) < 2:
            raise ValueError(f"evaluation.embedders must give {MAIN} two clips or more: KL-MTT comes from its tags")
        return self


class Confidence(RootModel[Fraction]):
    """Level of an interval."""


class Number(RootModel[Natural]):
    """A number of things."""


class Shares(RootModel[Annotated[list[Percent], Once]]):
    """Shares of the language models' training after which they are kept as well."""


class Report(_Section):
    """Tables and figures."""

    confidence: Fraction
    claims: Annotated[list[Claim], Once]
    gallery_clips: Natural  # captions whose clips the page plays


class Runtime(_Section):
    """Where and how jobs run; nothing here decides whether a result is up to date."""

    device: Literal["auto", "cpu", "cuda"]
    archive: str  # "apt", a mirror's base address, or a folder of packages
    downloads: str  # folder that keeps what was downloaded and embedded, shared by every run
    checkpoints: str  # folder of the embedders' checkpoints that no package has
    offline: bool  # ask no model hub: a missing checkpoint is an error


class Params(_Section):
    """The whole of `params.yaml`."""

    study: Study
    corpus: Corpus
    captions: Captions
    codec: Codec
    dependence: Dependence
    conditioner: Conditioner
    lm: LanguageModel
    generation: Generation
    speed: Speed
    evaluation: Evaluation
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _architectures_have_sections(self) -> Self:
        for name, codec in self.study.trained.items():
            if codec.architecture not in self.codec.architectures:
                raise ValueError(
                    f"study.codecs.{name}.architecture is {codec.architecture}, and codec has no section of that name"
                )
        return self

    @model_validator(mode="after")
    def _windows_fit_a_segment(self) -> Self:
        for name in self.codec.architectures:
            training = self.codec.of(name).training
            samples = round(training.segment_seconds * self.corpus.sample_rate)
            if (longest := max(training.mel_windows)) > samples:
                raise ValueError(
                    f"codec.{name}.training.mel_windows has {longest} samples, and segment_seconds gives {samples}: "
                    "take shorter windows or longer segments"
                )
        return self

    @model_validator(mode="after")
    def _segments_have_a_past(self) -> Self:
        past = self.codec.independence.innovation.frames
        for codec in [codec for codec in self.study.trained.values() if codec.loss.stream == "innovation"]:
            seconds = self.codec.of(codec.architecture).training.segment_seconds
            frames = round(seconds * self.corpus.sample_rate) // self.codec.hop_length
            if past + codec.loss.delay * (self.codec.codebooks - 1) >= frames:
                raise ValueError(
                    f"codec.independence.innovation.frames ({past}) leaves no frame of the {frames} in "
                    f"codec.{codec.architecture}.training.segment_seconds: take fewer frames or longer segments"
                )
        return self

    @model_validator(mode="after")
    def _groups_divide_the_latent(self) -> Self:
        grouped = [name for name, codec in self.study.trained.items() if codec.quantizer in ("grouped", "shared")]
        if grouped and self.codec.dimension % self.codec.codebooks:
            raise ValueError(
                f"codec.dimension ({self.codec.dimension}) must be a multiple of codec.codebooks "
                f"({self.codec.codebooks}) where study.codecs.{grouped[0]}.quantizer is "
                f"{self.study.trained[grouped[0]].quantizer}"
            )
        return self

    @model_validator(mode="after")
    def _bands_are_codebooks(self) -> Self:
        for name, codec in self.study.trained.items():
            if codec.architecture == "band" and (bands := self.codec.of("band").sizes.bands) != self.codec.codebooks:
                raise ValueError(
                    f"codec.band.bands is {bands} and codec.codebooks is {self.codec.codebooks}: they must be equal, "
                    f"for the streams of study.codecs.{name} are its bands"
                )
        return self

    @model_validator(mode="after")
    def _rotated_steps_have_places(self) -> Self:
        if self.lm.positions != "rotary_2d":
            return self
        import torch  # which takes seconds; rules of patterns count with it

        codebooks, frames = self.codec.codebooks, 2 * self.codec.codebooks
        k, t = torch.arange(codebooks)[:, None], torch.arange(frames)[None]
        steps = {name: choice("PATTERNS", name)(k, t, codebooks, frames) for name in choices("PATTERNS")}
        placed = [name for name, step in steps.items() if step.unique().numel() == codebooks * frames]
        for name, models in self.study.language_models.items():
            if models.codecs and name not in placed:
                raise ValueError(
                    f"lm.positions is rotary_2d, and steps of study.language_models.{name} hold several codebooks: "
                    f"leave it out (patterns with one a step: {', '.join(placed)}), or take sinusoidal"
                )
        return self

    @model_validator(mode="after")
    def _levels_make_the_codebook(self) -> Self:
        finite = [name for name, codec in self.study.trained.items() if codec.quantizer == "fsq"]
        if finite and (codes := math.prod(self.codec.levels)) != self.codec.codebook_size:
            raise ValueError(
                f"codec.levels ({self.codec.levels}) make {codes} codes and must make codec.codebook_size "
                f"({self.codec.codebook_size}) where study.codecs.{finite[0]}.quantizer is fsq"
            )
        return self

    @model_validator(mode="after")
    def _fewer_codebooks_are_kept(self) -> Self:
        if (most := max(self.study.kept, default=0)) >= self.codec.codebooks:
            raise ValueError(f"study.kept has {most}: keep fewer than the {self.codec.codebooks} of codec.codebooks")
        return self


S = TypeVar("S", bound=BaseModel)


class ParamsError(ValueError):
    """Parameters that do not fit their schema; the message names each one and says what is wrong."""


def checked(model: type[S], data: Any, origin: str) -> S:
    """`data` as `model`, or one sentence a faulty key (ParamsError)."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ParamsError(f"{origin}: {_faults(error)}") from None


def _part(model: type[S], data: Any, *place: str) -> S:
    """What stands at `place` of the parameters as `model`, for a validator of what holds it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ValueError(_faults(error, *place)) from None


def _faults(error: ValidationError, *place: str) -> str:
    """One sentence a fault; its key as params.yaml spells it, unless the sentence begins with one below that."""
    sentences = []
    for fault in error.errors():
        # What pydantic puts in brackets, as a key or one of several kinds, is no part of the key's name.
        key = ".".join(part for part in map(str, (*place, *fault["loc"])) if not part.startswith("["))
        message = fault["msg"].removeprefix("Value error, ")
        sentences.append(f"{key}: {message}" if key and not message.startswith(f"{key}.") else message)
    return "; ".join(sentences)


def section(argument: str, name: str, model: type[S]) -> S:
    """Section `name` of parameters given as a YAML or JSON file's path, or as JSON text, as a job receives them."""
    if not holds(argument, name):
        raise ParamsError(f"--params lacks the section '{name}': give params.yaml or JSON with that key")
    return checked(model, _read(argument)[name], f"--params, {name}")


def confidence(argument: str) -> float:
    """Level of the study's intervals, `report.confidence`, which rules of other phases hand over alone."""
    if not holds(argument, "confidence"):
        return section(argument, "report", Report).confidence
    return section(argument, "confidence", Confidence).root


def gallery_clips(argument: str) -> int:
    """How many captions' clips the page plays, `report.gallery_clips`, which the gallery's rule hands over alone."""
    if not holds(argument, "gallery_clips"):
        return section(argument, "report", Report).gallery_clips
    return section(argument, "gallery_clips", Number).root


def snapshot_percents(argument: str) -> list[int]:
    """Per cents of `lm.snapshots`, which rules of other phases hand over alone."""
    if not holds(argument, "snapshots"):
        return section(argument, "lm", LanguageModel).snapshot_percents
    return [round(100 * share) for share in section(argument, "snapshots", Shares).root]


def given(argument: str) -> dict[str, Any]:
    """All sections of parameters given as `section` takes them, unchecked."""
    return _read(argument)


def holds(argument: str, name: str) -> bool:
    """Whether parameters given as `section` takes them have section `name`."""
    data = _read(argument)
    return isinstance(data, dict) and name in data


def _read(argument: str) -> Any:
    return yaml.safe_load(argument if argument.lstrip().startswith("{") else Path(argument).read_text())


def leave_out(config: dict[str, Any]) -> None:
    """Takes what a preset names null from `config`: codecs and their language models, patterns, architectures.

    Other faults are left to `checked`.
    """
    study = _mapping(config.get("study"))
    codecs, patterns = _mapping(study.get("codecs")), _mapping(study.get("language_models"))
    modelled = [_mapping(_mapping(models).get("codecs")) for models in patterns.values()]
    for of_pattern in modelled:
        of_pattern.update({name: None for name in of_pattern if name in codecs and codecs[name] is None})
    for named in (*modelled, codecs, patterns, _mapping(config.get("codec"))):
        for name in [name for name, value in named.items() if value is None]:
            del named[name]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def load(path: Path) -> Params:
    """The whole of a parameter file; ParamsError where it does not fit."""
    return checked(Params, yaml.safe_load(path.read_text()), str(path))
