"""Codecs to and from `EncodecModel` of transformers: the same weights, and so the same codes and waveforms.

    python -m pipeline.exchange.encodec export --model results/codec/mmd-seed0 --out exported
    python -m pipeline.exchange.encodec import --model encodec_32khz --out imported

`export` writes a folder for `EncodecModel.from_pretrained`, and `import` reads such a folder (`config.json` and
`model.safetensors`, as in `facebook/encodec_32khz`). Transformers has no model with `latent_norm`, so the folder of a
codec with it also holds the model's code (`latent_norm_encodec.py`): load it with
`AutoModel.from_pretrained(folder, trust_remote_code=True)`. A plain EncodecModel decodes its codes too, but does not
encode to the same ones. A codec of the architecture `stft` comes with its code in the same way (`stft_codec.py` and the
networks' own files).
"""

import argparse
import inspect
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pipeline import job, provenance
from pipeline.codec import cosine, finite_scalar, quantizer, stft
from pipeline.codec import model as codecs
from pipeline.codec.quantizer import GroupedVectorQuantizer, ResidualVectorQuantizer, VectorQuantizer
from pipeline.files import atomic, read_json, write_json

if TYPE_CHECKING:
    from transformers import EncodecConfig, EncodecModel, PreTrainedModel

# Sizes of SEANet here, and what EncodecConfig calls them.
SEANET = {
    "filters": "num_filters",
    "ratios": "upsampling_ratios",
    "residual_layers": "num_residual_layers",
    "kernel_size": "kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "last_kernel_size": "last_kernel_size",
    "dilation_base": "dilation_growth_rate",
    "lstm_layers": "num_lstm_layers",
    "causal": "use_causal_conv",
    "pad_mode": "pad_mode",
}
# Settings of EncodecConfig with the values that a codec here can have; exports get the first.
FIXED: dict[str, tuple[Any, ...]] = {
    "audio_channels": (1,),
    "normalize": (False,),
    "chunk_length_s": (None,),
    "norm_type": ("weight_norm",),
    "pad_mode": ("reflect", "constant"),
    "compress": (2,),
    "trim_right_ratio": (1.0,),
    "use_conv_shortcut": (False,),
}
# The least that a network can be built of.
SMALLEST = {
    "sampling_rate": 1,
    "hidden_size": 1,
    "codebook_size": 2,
    "num_filters": 1,
    "kernel_size": 1,
    "residual_kernel_size": 1,
    "last_kernel_size": 1,
    "dilation_growth_rate": 1,
    "num_residual_layers": 0,
    "num_lstm_layers": 1,
}
LATENT_NORM, STFT_CODEC = "encodec_latent_norm", "stft_codec"  # model types of the modules of these names beside this
# What a model's files import of each other, as they stand here and as they do in one folder.
IMPORTS = {"from pipeline.codec.": "from .", "from pipeline.params import Stft": "from typing import Any as Stft"}
# How weight norm was stored before torch had parametrizations, as in the published checkpoints.
RENAMED = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def to_transformers(codec: codecs.Coder) -> "PreTrainedModel":
    """The model that encodes and decodes as `codec` does, on the CPU.

    An EncodecModel, a subclass of it where `codec` has `latent_norm`, or the `StftCodecModel` of a codec with an STFT.

    EncodecModel has one quantizer and always an LSTM. A grouped quantizer becomes a residual one whose codebooks are 0
    outside their own dimensions, which chooses the same codes; where `codec` has no LSTM, its weights are 0 and it adds
    nothing.

    Raises:
        ValueError: `codec` came trained; no model of transformers has its architecture or quantizer, as `band`,
            `shared` or one of the user's; a SEANet's quantizer is neither residual nor grouped, or its codebooks are
            not of a power of two of codes.
    """
    if not isinstance(codec, codecs.Codec):
        raise ValueError("this codec came trained: export the one that it was adopted from, or take that as it is")
    if codec.configuration["architecture"] == "stft":
        return _stft_codec(codec.configuration, codec.state_dict())
    config, codebooks = _encodec_config(codec.configuration), _residual(codec)
    _, model_class = _transformers(codec.configuration["latent_norm"])
    model = model_class(config).eval()
    if not codec.configuration["seanet"]["lstm_layers"]:
        for lstm in _layers(model, nn.LSTM):
            lstm.load_state_dict({name: torch.zeros_like(value) for name, value in lstm.state_dict().items()})
    for part in ("encoder", "decoder"):
        _copy(getattr(codec, part), getattr(model, part))
    for k, layer in enumerate(model.quantizer.layers):
        layer.codebook.embed.copy_(_among_all(codebooks, codebooks.codebooks, k))
        layer.codebook.embed_avg.copy_(_among_all(codebooks, codebooks.sums, k))
        layer.codebook.cluster_size.copy_(codebooks.hits[k])
    return model


def from_transformers(model: "EncodecModel") -> codecs.Codec:
    """The codec that encodes and decodes as `model` does at its highest bandwidth, the last.

    At a lower bandwidth `model` uses only the first codebooks, and its codes are the first streams of this codec's.

    Raises:
        ValueError: settings of `model` are not supported; the message names each.
    """
    _expect_representable(model.config)
    lstms = _layers(model, nn.LSTM)
    names = {ours: getattr(model.config, theirs) for ours, theirs in SEANET.items()}
    silent = not any(value.any() for lstm in lstms for value in lstm.parameters())
    codebooks: list[Any] = [layer.codebook for layer in model.quantizer.layers]
    learned = ResidualVectorQuantizer(len(codebooks), model.config.codebook_size, model.config.hidden_size)
    codec = codecs.Codec(
        {
            "sample_rate": model.config.sampling_rate,
            "quantizer": "residual",
            "codebooks": len(codebooks),
            "codebook_size": model.config.codebook_size,
            "latent_norm": model.config.model_type == LATENT_NORM,
            "dimension": model.config.hidden_size,
            "architecture": "seanet",
            "seanet": names | {"ratios": list(names["ratios"]), "lstm_layers": 0 if silent else names["lstm_layers"]},
        }
    ).eval()
    for part in ("encoder", "decoder"):
        _copy(getattr(model, part), getattr(codec, part))
    for k, codebook in enumerate(codebooks):
        learned.codebooks[k] = codebook.embed
        # Hits are counted in frames there, and here in equal shares of a batch; untrained, all are 0.
        mean = codebook.cluster_size.mean()
        learned.hits[k] = codebook.cluster_size / mean if mean > 0 else 1.0
        learned.sums[k] = learned.codebooks[k] * learned.hits[k][:, None]
    codec.quantizer.load_state_dict(learned.state_dict())
    return codec


def save_encodec(codec: codecs.Coder, folder: Path, origin: dict | None = None) -> None:
    """Writes what `from_pretrained` reads, the configuration of its feature extractor, and `origin`.

    Raises:
        ValueError: no model of transformers supports `codec`.
    """
    model = to_transformers(codec)
    from transformers import EncodecFeatureExtractor

    model.config.architectures = [type(model).__name__]
    code = Path(inspect.getfile(type(model)))
    if code.parent == Path(__file__).parent:
        kinds = {"AutoConfig": type(model.config), "AutoModel": type(model)}
        model.config.auto_map = {auto: f"{code.stem}.{kind.__name__}" for auto, kind in kinds.items()}
        networks = (stft, quantizer, finite_scalar, cosine) if code.stem == STFT_CODEC else ()
        for file in [code, *(Path(inspect.getfile(network)) for network in networks)]:
            text = file.read_text()
            for here, there in IMPORTS.items():
                text = text.replace(here, there)
            with atomic(folder / file.name) as temporary:
                temporary.write_text(text)
    with atomic(folder / "model.safetensors") as temporary:
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, temporary, metadata={"format": "pt"})
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=codec.sample_rate)
    write_json(folder / "preprocessor_config.json", extractor.to_dict())
    if origin:
        write_json(folder / "provenance.json", origin)
    write_json(folder / "config.json", model.config.to_diff_dict())


def load_encodec(folder: Path) -> codecs.Codec:
    """The codec of an EnCodec checkpoint in transformers' format, a local folder; nothing is unpickled.

    Raises:
        ValueError: a file is missing, or the checkpoint is not an EnCodec, not whole or not supported.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise ValueError(f"{folder / name} is missing: give the folder of an EnCodec checkpoint of transformers")
    return from_weights(read_settings(folder / "config.json"), read_weights(folder / "model.safetensors"), folder)


def from_weights(settings: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> codecs.Codec:
    """The codec of an EncodecModel's configuration and weights; errors name `folder`, which holds them.

    Raises:
        ValueError: the configuration is not an EnCodec's or not supported, or the weights do not fit it.
    """
    kind = settings.get("model_type")
    if kind == STFT_CODEC:
        return _from_stft_codec(settings, weights, folder)
    if kind not in ("encodec", LATENT_NORM):
        raise ValueError(f"{folder / 'config.json'} describes a codec of type {kind!r}, which must be 'encodec'")
    config_class, model_class = _transformers(kind == LATENT_NORM)
    config = checked_config(config_class, settings, folder)
    _expect_representable(config)
    model = model_class(config)
    try:
        model.load_state_dict({_renamed(name): value for name, value in weights.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{folder}: the weights do not fit config.json: {reason}") from None
    return from_transformers(model)


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object that a file of a checkpoint holds; ValueError where it holds none."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no JSON object: give a checkpoint as `save_pretrained` writes it")
    return settings


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError where it is not whole."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): download or export it again") from None


def checked_config(config_class: Any, settings: dict[str, Any], folder: Path) -> Any:
    """`config_class` of a checkpoint's settings, with its own defaults for those left out.

    Raises:
        ValueError: a value, such as null, is of a type that the setting cannot have.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        return config_class.from_dict(settings)
    except StrictDataclassError as error:
        raise ValueError(f"{folder / 'config.json'}: {str(error).splitlines()[-1].strip()}") from None


def unsupported(config: Any, fixed: dict[str, tuple[Any, ...]], smallest: dict[str, int]) -> list[str]:
    """One complaint for each setting that has none of its `fixed` values or is below its `smallest`."""
    wrong = [
        f"{name} is {getattr(config, name)!r} and must be {' or '.join(map(repr, allowed))}"
        for name, allowed in fixed.items()
        if getattr(config, name) not in allowed
    ]
    return wrong + [
        f"{name} is {getattr(config, name)} and must be at least {least}"
        for name, least in smallest.items()
        if getattr(config, name) < least
    ]


def _transformers(latent_norm: bool) -> tuple[type["EncodecConfig"], type["EncodecModel"]]:
    """Imported where it is needed: it takes seconds."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import EncodecConfig, EncodecModel

    if latent_norm:
        from pipeline.exchange.latent_norm_encodec import LatentNormEncodecConfig, LatentNormEncodecModel

        return LatentNormEncodecConfig, LatentNormEncodecModel
    return EncodecConfig, EncodecModel


def _stft_codec(configuration: dict, weights: dict[str, Tensor]) -> "PreTrainedModel":
    """The StftCodecModel of a codec's configuration and weights; ValueError where the quantizer is the user's own."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from pipeline.exchange.stft_codec import QUANTIZERS, StftCodecConfig, StftCodecModel

    if configuration["quantizer"] not in QUANTIZERS:
        raise ValueError(f"no model of transformers has this codec's quantizer, {configuration['quantizer']}")
    model = StftCodecModel(StftCodecConfig(configuration)).eval()
    model.load_state_dict(weights)
    return model


def _from_stft_codec(settings: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> codecs.Codec:
    """The codec of a StftCodecModel, which has its configuration and weights as they are.

    Raises:
        ValueError: the configuration is not whole, or the weights do not fit it.
    """
    try:
        codec = codecs.Codec(settings["codec"]).eval()
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder / 'config.json'} does not hold the configuration of a codec: {reason}") from None
    try:
        codec.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{folder}: the weights do not fit config.json: {reason}") from None
    return codec


def _encodec_config(configuration: dict) -> "EncodecConfig":
    """The EncodecConfig of a codec's configuration; ValueError where there is none."""
    if configuration["architecture"] != "seanet":
        raise ValueError(f"EncodecModel is a SEANet, and this codec's architecture is {configuration['architecture']}")
    size, sizes = configuration["codebook_size"], configuration["seanet"]
    if size < 2 or size & (size - 1):
        raise ValueError(f"EncodecModel takes codebooks of 2, 4, 8, ... codes, and this codec's have {size}")
    config_class, _ = _transformers(configuration["latent_norm"])
    config = config_class(
        **{name: allowed[0] for name, allowed in FIXED.items()}
        | {theirs: sizes[ours] for ours, theirs in SEANET.items()}
        | {"num_lstm_layers": max(sizes["lstm_layers"], 1)},
        sampling_rate=configuration["sample_rate"],
        hidden_size=configuration["dimension"],
        codebook_size=size,
    )
    # It knows its codebooks by the bandwidth in kb/s, and rounds down: 4 at 2.2 kb/s must not become 3.
    bandwidth = configuration["codebooks"] * config.frame_rate * config.codebook_nbits / 1000
    config.target_bandwidths = [bandwidth]
    if config.num_quantizers < configuration["codebooks"]:
        config.target_bandwidths = [math.nextafter(bandwidth, math.inf)]
    return config


def _expect_representable(config: "EncodecConfig") -> None:
    """Raises ValueError with every setting of `config` that is not supported."""
    wrong = unsupported(config, FIXED, SMALLEST)
    if config.codebook_dim != config.hidden_size:
        wrong.append(f"codebook_dim is {config.codebook_dim} and must be hidden_size, {config.hidden_size}")
    if min(config.upsampling_ratios, default=0) < 1:
        wrong.append(f"upsampling_ratios is {config.upsampling_ratios} and must be one or more numbers of at least 1")
    # The number of codebooks follows from all of these.
    if not wrong and (not config.target_bandwidths or config.num_quantizers < 1):
        wrong.append(f"target_bandwidths is {config.target_bandwidths}, whose last must be enough for one codebook")
    if wrong:
        raise ValueError(f"this EncodecModel is not supported: {'; '.join(wrong)}")


def _layers(network: nn.Module, kind: Any) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    """The weights of one SEANet in the other, which has the same layers in the same order under other names."""
    convolutions = nn.Conv1d | nn.ConvTranspose1d
    for old, new in zip(_layers(source, convolutions), _layers(target, convolutions), strict=True):
        if isinstance(old, nn.ConvTranspose1d) or not is_parametrized(old):
            # Of a transposed convolution, EncodecModel norms each input's weights and SEANet here each output's.
            new.weight = old.weight.detach().to(new.weight)
            new.bias.copy_(old.bias)
        else:
            new.load_state_dict(old.state_dict())
    # One side has no LSTM where the other's is of zeros.
    for old, new in zip(_layers(source, nn.LSTM), _layers(target, nn.LSTM), strict=False):
        new.load_state_dict(old.state_dict())


def _residual(codec: codecs.Codec) -> VectorQuantizer:
    """The quantizer of a codec where it can become EncodecModel's, which is residual; ValueError where it cannot."""
    held, name = codec.quantizer, codec.configuration["quantizer"]
    # Not isinstance alone: what is built on a residual quantizer may choose or join its vectors otherwise.
    if isinstance(held, VectorQuantizer) and type(held) in (ResidualVectorQuantizer, GroupedVectorQuantizer):
        return held
    raise ValueError(f"EncodecModel's quantizer is residual, and this codec's, {name}, cannot become one")


def _among_all(held: VectorQuantizer, vectors: Tensor, k: int) -> Tensor:
    """Codebook k of `[K, C, D']` as `[C, D]`, 0 outside its own part where the quantizer is grouped."""
    if not isinstance(held, GroupedVectorQuantizer):
        return vectors[k]
    width = vectors.shape[2]
    return F.pad(vectors[k], (k * width, (len(vectors) - 1 - k) * width))


def _renamed(name: str) -> str:
    *path, last = name.split(".")
    return ".".join([*path, RENAMED.get(last, last)])


def conversion(description: str, model: str, *what: str) -> argparse.Namespace:
    """The command line of a conversion: `what` of these to do, and the folders `model` and `out`.

    Raises:
        ValueError: both folders are one.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("what", choices=what)
    parser.add_argument("--model", type=Path, required=True, help=model)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; not that of the model")
    arguments = parser.parse_args()
    if arguments.out.resolve() == arguments.model.resolve():
        raise ValueError(f"--out is {arguments.out}, the model's own folder, whose files would be overwritten")
    return arguments


def main() -> None:
    """Writes a codec as an EncodecModel, or an EncodecModel as a codec."""
    arguments = conversion(
        "Convert a codec to and from EncodecModel of transformers.",
        "folder of the codec, or of the EncodecModel",
        *("export", "import"),
    )
    if arguments.what == "export":
        codec = codecs.load(arguments.model)
        save_encodec(codec, arguments.out, read_json(arguments.model / "model.json").get("provenance"))
    else:
        codec = load_encodec(arguments.model)
        digests = {
            name: provenance.file_digest(arguments.model / name) for name in ("config.json", "model.safetensors")
        }
        codecs.save(codec, arguments.out, provenance.record({"encodec": digests}))


if __name__ == "__main__":
    job.run(main)
