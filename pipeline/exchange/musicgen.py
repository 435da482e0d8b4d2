"""Language models to and from `MusicgenForCausalLM` of transformers, and whole MusicGen checkpoints from a folder.

    python -m pipeline.exchange.musicgen export --model results/lm/delay/mmd-seed0-lm0 --out exported
    python -m pipeline.exchange.musicgen import --model exported --out imported
    python -m pipeline.exchange.musicgen import --model musicgen-small --out imported

`export` writes a folder for `MusicgenForCausalLM.from_pretrained`, and the projection of the text states as a file of
its own, because that model expects them already projected. `import` reads such a folder, or a whole checkpoint such as
`facebook/musicgen-small`; from a whole one it writes `imported/lm`, `imported/codec` and `imported/text_encoder`, which
`conditioner.encoder` can name. Nothing is unpickled.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline import job, provenance
from pipeline.codec import model as codecs
from pipeline.exchange import encodec
from pipeline.files import atomic, write_json
from pipeline.lm import model as language_model
from pipeline.lm.model import LanguageModel, ModelShape

if TYPE_CHECKING:
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

# Settings of MusicgenDecoderConfig that are the same for every language model here.
FIXED: dict[str, Any] = {"activation_function": "gelu", "scale_embedding": False, "audio_channels": 1}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "ffn_dim", "num_attention_heads", "num_codebooks")
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
TRAINED_SECONDS = 30.0  # length of MusicGen's training clips, which its configuration does not give
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model", "added_tokens.json")


def to_transformers(model: LanguageModel) -> "MusicgenForCausalLM":
    """The MusicgenForCausalLM with the logits of `model`, given text states that `model.condition` projected.

    Raises:
        ValueError: the codebook pattern is not delay, the only one that MusicgenForCausalLM has, positions are not its
            sinusoids, or the model has depth heads.
    """
    shape = model.shape
    if shape.positions != "sinusoidal":
        raise ValueError(f"MusicgenForCausalLM has only sinusoidal positions, and this model's are {shape.positions}")
    if shape.pattern != "delay":
        raise ValueError(f"MusicgenForCausalLM has only the delay pattern, and this model's is {shape.pattern}")
    if shape.depth:
        raise ValueError("MusicgenForCausalLM has no depth heads: export the model that they were added to")
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


def from_weights(config: "MusicgenDecoderConfig", weights: dict[str, Tensor], frames: int) -> LanguageModel:
    """The language model of a MusicgenForCausalLM's configuration and weights.

    Args:
        config: its configuration.
        weights: its state dict, and `enc_to_dec_proj.weight`, `.bias` where text states are not of its width.
        frames: T of the clips it was trained on.

    Raises:
        ValueError: a setting is not supported, or a weight is missing or has another shape.
    """
    wrong = encodec.unsupported(config, {name: (value,) for name, value in FIXED.items()}, dict.fromkeys(SIZES, 1))
    if not wrong and config.hidden_size % config.num_attention_heads:
        wrong = [f"num_attention_heads is {config.num_attention_heads}, which does not divide {config.hidden_size}"]
    if wrong:
        raise ValueError(f"this MusicgenForCausalLM is not supported: {'; '.join(wrong)}")
    width = config.hidden_size
    if PROJECTION[0] not in weights:
        weights = {**weights, PROJECTION[0]: torch.eye(width), PROJECTION[1]: torch.zeros(width)}
    model = LanguageModel(
        ModelShape(
            pattern="delay",
            codebooks=config.num_codebooks,
            codebook_size=config.vocab_size,
            frames=frames,
            text_dimension=weights[PROJECTION[0]].shape[-1],
            width=width,
            heads=config.num_attention_heads,
            layers=config.num_hidden_layers,
            feedforward=config.ffn_dim,
            dropout=config.dropout,
        )
    )
    own = model.state_dict()
    for name, parts in _names(model.shape).items():
        if missing := [part for part in parts if part not in weights]:
            raise ValueError(f"the checkpoint lacks the weight {missing[0]}: give a complete one")
        found = torch.cat([weights[part].float().flatten() for part in parts])
        if found.numel() != own[name].numel():
            raise ValueError(f"{parts[0]} is {list(weights[parts[0]].shape)}, which does not fit config.json")
        own[name].copy_(found.view_as(own[name]))
    return model.eval()


def save_musicgen(model: LanguageModel, folder: Path, origin: dict | None = None) -> None:
    """Writes what `MusicgenForCausalLM.from_pretrained` reads, the projection of the text states, and `origin`.

    Raises:
        ValueError: MusicgenForCausalLM does not support `model`.
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
        ValueError: a file is missing, or the checkpoint is not a MusicGen or not a supported one.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder / 'config.json'} is missing: give the folder of a MusicGen checkpoint")
    settings, weights = encodec.read_settings(folder / "config.json"), _weights(folder)
    kind = settings.get("model_type")
    if kind == "musicgen_decoder":
        if (folder / PROJECTION_FILE).exists():
            weights |= encodec.read_weights(folder / PROJECTION_FILE)
        config = _config(settings, folder)
        return from_weights(config, weights, _frames(config, folder)), None, None
    if kind != "musicgen":
        raise ValueError(f"{folder / 'config.json'} describes a model of type {kind!r}, which must be 'musicgen'")
    for name in ("text_encoder", "audio_encoder", "decoder"):
        if not isinstance(settings.get(name), dict):
            raise ValueError(f"{folder / 'config.json'} lacks the section {name}: give a whole MusicGen checkpoint")
    codec = encodec.from_weights(settings["audio_encoder"], _under(weights, "audio_encoder."), folder)
    own = _under(weights, "decoder.") | {name: weights[name] for name in PROJECTION if name in weights}
    model = from_weights(_config(settings["decoder"], folder), own, round(TRAINED_SECONDS * codec.frame_rate))
    return model, codec, {"config": settings["text_encoder"], "weights": _under(weights, "text_encoder.")}


def _frames(config: "MusicgenDecoderConfig", folder: Path) -> int:
    """T of the clips a language model without its codec was trained on, which `export` writes as `max_length`.

    Without a `max_length`, or with null, transformers stops after a few tokens by default, which says nothing of the
    training: then it is the longest sequence that the configuration has positions for.
    """
    name, length = "max_position_embeddings", config.max_position_embeddings
    path = folder / "generation_config.json"
    if path.exists() and (limit := encodec.read_settings(path).get("max_length")) is not None:
        name, length = "max_length", limit
    if not isinstance(length, int) or length <= config.num_codebooks:
        raise ValueError(f"{folder}: {name} is {length!r} and must be a whole number above {config.num_codebooks}")
    return length - config.num_codebooks


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
    found: dict[str, Tensor] = {}
    for name, parts in _names(model.shape).items():
        if name.startswith("text_projection."):
            continue
        whole = own[name].flatten(0, 1) if name == "heads" else own[name]
        found |= dict(zip(parts, (part.clone() for part in whole.chunk(len(parts))), strict=True))
    return found


def _config(settings: dict[str, Any], folder: Path) -> "MusicgenDecoderConfig":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import MusicgenDecoderConfig

    return encodec.checked_config(MusicgenDecoderConfig, settings, folder)


def _weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of `model.safetensors`, or of the files that its index names."""
    names, index = ["model.safetensors"], folder / "model.safetensors.index.json"
    if index.exists():
        files = encodec.read_settings(index).get("weight_map")
        if not isinstance(files, dict):
            raise ValueError(f"{index} lacks weight_map, which names the file of each weight: download it again")
        names = sorted(set(files.values()))
    found: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).exists():
            raise ValueError(
                f"{folder / name} is missing: give a checkpoint in safetensors, as `save_pretrained` writes it"
            )
        found |= encodec.read_weights(folder / name)
    return found


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
        model = language_model.load(arguments.model)
        digest = provenance.file_digest(arguments.model / "model.safetensors")
        save_musicgen(model, arguments.out, provenance.record({"lm": digest}))
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
