"""Language models to and from `MusicgenForCausalLM` of transformers, and whole MusicGen checkpoints from a folder.

    python -m pipeline.exchange.musicgen export --model results/lm/delay/mmd-seed0 --out exported
    python -m pipeline.exchange.musicgen import --model exported --out imported
    python -m pipeline.exchange.musicgen import --model musicgen-small --out imported

The folder that `export` writes is what `MusicgenForCausalLM.from_pretrained` reads; beside its files stands the
projection of the text states, which that model takes projected. `import` reads such a folder, or a whole checkpoint
such as `facebook/musicgen-small`, of which it writes the codec and the text encoder too: `imported/lm`,
`imported/codec` and, for `conditioner.encoder`, `imported/text_encoder`. Nothing is unpickled.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import job, provenance
from pipeline.codec import model as codecs
from pipeline.exchange import encodec
from pipeline.files import atomic, read_json, write_json
from pipeline.lm import model as language_model
from pipeline.lm.model import LanguageModel, ModelShape

if TYPE_CHECKING:
    from transformers import MusicgenForCausalLM

# What every language model here is, in the words of MusicgenDecoderConfig.
FIXED: dict[str, Any] = {"activation_function": "gelu", "scale_embedding": False, "audio_channels": 1}
SIZES = ("hidden_size", "num_codebooks", "vocab_size", "num_attention_heads", "num_hidden_layers", "ffn_dim")
LAYER = {  # our name -> theirs, joined along the first dimension
    "self_norm": ["self_attn_layer_norm"],
    "self_qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_out": ["self_attn.out_proj"],
    "cross_norm": ["encoder_attn_layer_norm"],
    "cross_q": ["encoder_attn.q_proj"],
    "cross_kv": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "cross_out": ["encoder_attn.out_proj"],
    "norm": ["final_layer_norm"],
    "fc1": ["fc1"],
    "fc2": ["fc2"],
}
PROJECTION = ("enc_to_dec_proj.weight", "enc_to_dec_proj.bias")
PROJECTION_FILE = "text_projection.safetensors"
TRAINED_SECONDS = 30.0  # of MusicGen's clips; its configuration does not say
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model", "added_tokens.json")


def to_transformers(model: LanguageModel) -> "MusicgenForCausalLM":
    """The MusicgenForCausalLM whose logits are those of `model`, given text states as `model.condition` projects them.

    Raises:
        ValueError: `model` has another codebook pattern than delay, the only one that MusicgenForCausalLM knows.
    """
    shape = model.shape
    if shape.pattern != "delay":
        raise ValueError(f"MusicgenForCausalLM knows the delay pattern alone, and this model's is {shape.pattern}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    special = shape.codebook_size
    theirs = MusicgenForCausalLM(
        MusicgenDecoderConfig(
            **FIXED,
            vocab_size=shape.codebook_size,
            max_position_embeddings=shape.frames + shape.codebooks,
            num_hidden_layers=shape.layers,
            ffn_dim=shape.feedforward,
            num_attention_heads=shape.heads,
            hidden_size=shape.width,
            dropout=shape.dropout,
            attention_dropout=0.0,
            activation_dropout=shape.dropout,
            num_codebooks=shape.codebooks,
            pad_token_id=special,
            bos_token_id=special,
        )
    ).eval()
    theirs.load_state_dict(_theirs(model), strict=True)
    theirs.generation_config.update(
        max_length=shape.frames + shape.codebooks,
        pad_token_id=special,
        bos_token_id=special,
        decoder_start_token_id=special,
    )
    return theirs


def from_weights(config: dict[str, Any], weights: dict[str, Tensor], frames: int) -> LanguageModel:
    """The language model of a MusicgenForCausalLM's configuration and weights.

    Args:
        config: its MusicgenDecoderConfig.
        weights: its state dict, and `enc_to_dec_proj.weight`, `.bias` where text states are not of its width.
        frames: T of the clips it was trained on.

    Raises:
        ValueError: no model here can be it, or a weight is missing or of another shape.
    """
    wrong = [
        f"{name} is {config[name]!r} and must be {value!r}"
        for name, value in FIXED.items()
        if config.get(name, value) != value
    ]
    if wrong:
        raise ValueError(f"no language model here is this MusicgenForCausalLM: {'; '.join(wrong)}")
    _expect_sizes(config)
    if frames < 1:
        raise ValueError(f"its clips have {frames} frames: max_length or max_position_embeddings is too small")
    width = config["hidden_size"]
    if PROJECTION[0] not in weights:
        weights = {**weights, PROJECTION[0]: torch.eye(width), PROJECTION[1]: torch.zeros(width)}
    model = LanguageModel(
        ModelShape(
            pattern="delay",
            codebooks=config["num_codebooks"],
            codebook_size=config["vocab_size"],
            frames=frames,
            text_dimension=weights[PROJECTION[0]].shape[1],
            width=width,
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            feedforward=config["ffn_dim"],
            dropout=config.get("dropout") or 0.0,
        )
    )
    own = model.state_dict()
    for name, parts in _names(model.shape).items():
        if missing := [part for part in parts if part not in weights]:
            raise ValueError(f"the checkpoint lacks {missing[0]}: give one whose weights are whole")
        whole = torch.cat([weights[part].float() for part in parts])
        if whole.numel() != own[name].numel():
            raise ValueError(f"{parts[0]} is {list(weights[parts[0]].shape)}, which config.json does not describe")
        own[name].copy_(whole.view_as(own[name]))
    return model.eval()


def save_musicgen(model: LanguageModel, folder: Path, origin: dict | None = None) -> None:
    """Writes what `MusicgenForCausalLM.from_pretrained` reads, the projection of the text states, and `origin`.

    Raises:
        ValueError: MusicgenForCausalLM cannot be `model`.
    """
    theirs = to_transformers(model)
    theirs.config.architectures = [type(theirs).__name__]
    with atomic(folder / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, temporary, metadata={"format": "pt"})
    with atomic(folder / PROJECTION_FILE) as temporary:
        save_file({f"enc_to_dec_proj.{k}": v for k, v in model.text_projection.state_dict().items()}, temporary)
    write_json(folder / "generation_config.json", theirs.generation_config.to_diff_dict())
    if origin:
        write_json(folder / "provenance.json", origin)
    write_json(folder / "config.json", theirs.config.to_diff_dict())


def load_musicgen(folder: Path) -> tuple[LanguageModel, codecs.Codec | None, dict[str, Any] | None]:
    """The language model of a checkpoint's folder and, of a whole MusicGen, its codec and its text encoder's files.

    Returns:
        The language model; the codec, or None; the text encoder's configuration and weights, or None.

    Raises:
        ValueError: a file is missing, the checkpoint is not a MusicGen, or nothing here can be it.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder / 'config.json'} is missing: give the folder of a MusicGen checkpoint")
    config, weights = _object(folder / "config.json"), _weights(folder)
    if config.get("model_type") == "musicgen_decoder":
        config = _defaults() | config
        if (folder / PROJECTION_FILE).exists():
            weights |= load_file(folder / PROJECTION_FILE)
        _expect_sizes(config)
        return from_weights(config, weights, _steps(folder, config) - config["num_codebooks"]), None, None
    if config.get("model_type") != "musicgen":
        raise ValueError(f"{folder / 'config.json'} describes a model of type {config.get('model_type')!r}")
    for part in ("audio_encoder", "decoder", "text_encoder"):
        if not isinstance(config.get(part), dict):
            raise ValueError(f"{folder / 'config.json'} lacks the configuration of {part}: give a whole MusicGen")
    codec = encodec.from_weights(config["audio_encoder"], _under(weights, "audio_encoder."), folder)
    own = _under(weights, "decoder.") | {name: weights[name] for name in PROJECTION if name in weights}
    model = from_weights(_defaults() | config["decoder"], own, round(TRAINED_SECONDS * codec.frame_rate))
    return model, codec, {"config": config["text_encoder"], "weights": _under(weights, "text_encoder.")}


def _steps(folder: Path, config: dict[str, Any]) -> int:
    """Steps of the clips that a decoder was trained on; where it sets itself no length, as many as it has positions."""
    path = folder / "generation_config.json"
    limit = _object(path).get("max_length") if path.exists() else None
    for origin, length in ((path, limit), (folder / "config.json", config.get("max_position_embeddings"))):
        if length is not None and _count(length):
            return int(length)
        if length is not None:
            raise ValueError(
                f"{origin} gives a length of {length!r}: it must be a whole number above 0, or be left out"
            )
    raise ValueError(f"{folder / 'config.json'} lacks max_position_embeddings, the longest clip in steps")


def _object(path: Path) -> dict[str, Any]:
    """A configuration's JSON object; ValueError where the file holds anything else."""
    try:
        config = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}): get the checkpoint again") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object: give a checkpoint of transformers")
    return config


def _expect_sizes(config: dict[str, Any]) -> None:
    """Raises ValueError where a size is missing or no count, or the heads do not divide the width."""
    if wrong := [name for name in SIZES if not _count(config.get(name))]:
        values = ", ".join(f"{name} is {config.get(name)!r}" for name in wrong)
        raise ValueError(f"no language model here is this MusicgenForCausalLM: {values} and must be a number above 0")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(
            f"hidden_size is {config['hidden_size']} and must be a multiple of num_attention_heads, "
            f"{config['num_attention_heads']}"
        )


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _names(shape: ModelShape) -> dict[str, list[str]]:
    """Name of each weight here -> those in MusicgenForCausalLM that, joined along their first dimension, are it."""
    codebooks = range(shape.codebooks)
    names = {
        "embedding.weight": [f"model.decoder.embed_tokens.{k}.weight" for k in codebooks],
        "heads": [f"lm_heads.{k}.weight" for k in codebooks],
        "text_projection.weight": [PROJECTION[0]],
        "text_projection.bias": [PROJECTION[1]],
    }
    for kind in ("weight", "bias"):
        names[f"transformer.norm.{kind}"] = [f"model.decoder.layer_norm.{kind}"]
    for i in range(shape.layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias") if "norm" in ours else ("weight",):
                names[f"transformer.layers.{i}.{ours}.{kind}"] = [
                    f"model.decoder.layers.{i}.{t}.{kind}" for t in theirs
                ]
    return names


def _theirs(model: LanguageModel) -> dict[str, Tensor]:
    """State dict of the MusicgenForCausalLM that `model` is."""
    own = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, parts in _names(model.shape).items():
        if name.startswith("text_projection."):
            continue
        whole = own[name].flatten(0, 1) if name == "heads" else own[name]
        tensors |= dict(zip(parts, (part.clone() for part in whole.chunk(len(parts))), strict=True))
    return tensors


def _defaults() -> dict[str, Any]:
    """MusicgenDecoderConfig as it is where a file leaves something out."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import MusicgenDecoderConfig

    return MusicgenDecoderConfig().to_dict()


def _weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of `model.safetensors`, or of the files that its index names."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).exists():
            raise ValueError(
                f"{folder / name} is missing: give a checkpoint in safetensors, as `save_pretrained` writes it"
            )
        with safe_open(folder / name, "pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dictionary
    return tensors


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def main() -> None:
    """Writes a language model as a MusicgenForCausalLM, or a MusicGen checkpoint as language model and codec."""
    arguments = encodec.conversion(
        "Convert language models to and from MusicGen of transformers.",
        "folder of the language model, or of the checkpoint",
        *("export", "import"),
    )
    if arguments.what == "export":
        digest = provenance.file_digest(arguments.model / "model.safetensors")
        save_musicgen(language_model.load(arguments.model), arguments.out, provenance.record({"lm": digest}))
        return
    model, codec, text = load_musicgen(arguments.model)
    language_model.save(model, arguments.out / "lm")
    if codec is not None:
        origin = {"musicgen": provenance.file_digest(arguments.model / "config.json")}
        codecs.save(codec, arguments.out / "codec", provenance.record(origin))
    if text is not None:
        folder = arguments.out / "text_encoder"
        with atomic(folder / "model.safetensors") as temporary:
            save_file({k: v.contiguous() for k, v in text["weights"].items()}, temporary, metadata={"format": "pt"})
        write_json(folder / "config.json", text["config"])
        for name in TOKENIZER:
            if (arguments.model / name).exists():
                shutil.copyfile(arguments.model / name, folder / name)


if __name__ == "__main__":
    job.run(main)
