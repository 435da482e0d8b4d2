"""Models of transformers with small random weights, as somebody else's codecs; each uses many of its codes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

C, K = 16, 4  # codes, codebooks
SECOND = 1600  # samples


def encodec(**changes: Any) -> Any:
    """Hop 16 at 1600 Hz."""
    from transformers import EncodecConfig, EncodecModel

    sizes = {"num_filters": 2, "hidden_size": 8, "upsampling_ratios": [4, 4], "num_lstm_layers": 1}
    rest = {"sampling_rate": SECOND, "codebook_size": C, "target_bandwidths": [0.8, 1.6]}
    model = EncodecModel(EncodecConfig(**{**sizes, **rest, **changes})).eval()
    spread = model.encoder(noise().expand(-1, model.config.audio_channels, -1)).std()
    for k, layer in enumerate(model.quantizer.layers):
        layer.codebook.embed.normal_(0, float(spread) * 0.7**k)
    return model


def dac(**changes: Any) -> Any:
    """Hop 10 at 1000 Hz, of which 5 is an odd stride."""
    from transformers import DacConfig, DacModel

    sizes = {"encoder_hidden_size": 2, "decoder_hidden_size": 16, "downsampling_ratios": [2, 5], "codebook_dim": 2}
    rest = {"sampling_rate": 1000, "codebook_size": C, "n_codebooks": K}
    return DacModel(DacConfig(**{**sizes, **rest, **changes})).eval()


def mimi(**changes: Any) -> Any:
    """Hop 24 at 2400 Hz."""
    from transformers import MimiConfig, MimiModel

    sizes = {"num_filters": 2, "hidden_size": 8, "upsampling_ratios": [4, 3], "codebook_dim": 4, "upsample_groups": 8}
    sizes |= {"vector_quantization_hidden_dimension": 4, "num_hidden_layers": 1, "intermediate_size": 8}
    rest = {"sampling_rate": 2400, "codebook_size": C, "num_quantizers": K}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = MimiModel(MimiConfig(**{**sizes, **heads, **rest, **changes})).eval()
    latents = model.encoder(noise().expand(-1, model.config.audio_channels, -1)).latents
    both = model.quantizer
    for part in (both.semantic_residual_vector_quantizer, both.acoustic_residual_vector_quantizer):
        spread = float(part.input_proj(latents).std())
        for k, layer in enumerate(part.layers):
            layer.codebook.embed_sum.normal_(0, spread * 0.7**k)
            layer.codebook._embed = None
    return model


def noise(samples: int = SECOND) -> torch.Tensor:
    """Waveforms `[2, 1, T]`."""
    return 0.3 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(1))


MODELS: dict[str, Callable[..., Any]] = {"encodec": encodec, "dac": dac, "mimi": mimi}


@torch.no_grad()
def saved(kind: str, folder: Path, **changes: Any) -> Any:
    """A model of one class, saved in `folder` as its makers would."""
    torch.manual_seed(0)
    model = MODELS[kind](**changes)
    model.save_pretrained(folder)
    return model
