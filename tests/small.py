"""A codec and a corpus that train in seconds: parameters and files in the study's formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline import params
from pipeline.audio import to_int16
from pipeline.files import write_array

RATE, CLIP = 1600, 1024  # Hz, samples
K, C, HOP = 2, 8, 16
TRAINING: dict[str, Any] = {
    "steps": 12,
    "batch_size": 2,
    "segment_seconds": 0.32,
    "learning_rate": 1e-3,
    "betas": [0.5, 0.9],
    "weight_decay": 0.0,
    "warmup": 1 / 6,
    "quantize_from": 0.25,
    "weight_ema": 0.9,
    "l1_weight": 1.0,
    "si_sdr_weight": 0.1,
    "cosine_weight": 0.0,
    "mel_weight": 1.0,
    "mel_windows": [32, 64],
    "mel_windows_a_step": 2,
    "mel_bins": 8,
    "adversarial_weight": 0.0,
    "feature_weight": 0.0,
    "adversary_from": 0.0,
    "adversary_ramp": 0.0,
    "discriminator": {
        "kind": "stft",
        "windows": [64, 32],
        "windows_a_step": 2,
        "filters": 2,
        "mel_bins": 8,
        "slope": 0.2,
        "relative_features": True,
        "learning_rate": 1e-3,
        "betas": [0.5, 0.9],
    },
    "balancer": False,
    "balancer_decay": 0.9,
    "commitment_weight": 0.25,
    "gradient_clip": 10.0,
}
QUANTIZED_FROM = 3  # of these steps
INDEPENDENCE: dict[str, Any] = {
    "start": 0.5,
    "ramp": 0.25,
    "every": 2,
    "checkpointed": False,
    "unit": "variance",
    "bandwidths": [0.1, 1, 5],
    "innovation": {"frames": 2, "ridge": [0.01, 0.1, 1, 10], "through": True},
    "snapshots": 2,
}
SHARED: dict[str, Any] = {
    "dimension": 4,
    "latent_norm": True,
    "codebooks": K,
    "codebook_size": C,
    "codebook_decay": 0.9,
    "kmeans_iterations": 5,
    "dead_code_threshold": 0.2,
    "quantizer_dropout": 0.0,
    "levels": [8],
    "codebook_dimension": 3,
}
SIZES: dict[str, dict[str, Any]] = {
    "seanet": {
        "filters": 2,
        "ratios": [4, 2, 2],
        "residual_layers": 1,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "lstm_layers": 0,
        "causal": False,
        "pad_mode": "reflect",
    },
    "stft": {
        "window": 16,
        "hop": 4,
        "joined": 4,
        "complex_bins": 5,
        "fine_width": 8,
        "fine_blocks": 1,
        "width": 8,
        "blocks": 1,
        "kernel_size": 3,
        "expansion": 2,
    },
    "band": {
        "window": 16,
        "hop": 4,
        "joined": 4,
        "mel_bins": 6,
        "corner": 4.0,
        "bands": K,
        "band_width": 8,
        "band_blocks": 1,
        "width": 8,
        "blocks": 1,
        "fine_width": 8,
        "fine_blocks": 1,
        "kernel_size": 3,
        "expansion": 2,
    },
}
CORPUS: dict[str, Any] = {
    "source": "scores",
    "sample_rate": RATE,
    "clip_seconds": CLIP / RATE,
    "clips_per_track": 2,
    "silence_db": -50,
    "split": {"salt": "", "validation": 0.2, "test": 0.2},
    "max_cosine": 0.9,
    "soundtracks": {"packages": ["x"]},
    "scores": {"collections": ["bach"], "works": 1, "renditions": 1, "seconds": 30},
    "local": {"audio": "", "metadata": ""},
}
GENERATION = {
    "clips": 3,
    "guidance_scale": 3,
    "top_k": 4,
    "temperature": 1,
    "batch_size": 4,
    "seed": 0,
    "decoding": "factorised",
}


def codec(
    architecture: str = "seanet",
    *,
    training: dict[str, Any] | None = None,
    independence: dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    **shared: Any,
) -> dict[str, Any]:
    """The section `codec` of the parameters, with one small architecture, some of it changed."""
    section = SIZES[architecture] | (sizes or {}) | {"training": TRAINING | (training or {})}
    return SHARED | shared | {"independence": INDEPENDENCE | (independence or {}), architecture: section}


CODEC = codec()


def settings(
    training: dict[str, Any] | None = None, architecture: str = "seanet", **independence: Any
) -> params.CodecSettings:
    """The small codec's parameters, some changed."""
    section = codec(architecture, training=training, independence=independence)
    return params.Codec.model_validate(section).of(architecture)


def music(clips: int = 10) -> np.ndarray:
    """Int16 clips `[N, T]`, each of three decaying partials and a little noise."""
    generator = np.random.default_rng(0)
    time = np.arange(CLIP) / RATE
    waves = np.zeros((clips, CLIP))
    for wave in waves:
        for _ in range(3):
            frequency, decay = generator.uniform(50, 600), generator.uniform(0.5, 5)
            wave += 0.2 * np.exp(-decay * time) * np.sin(2 * np.pi * frequency * time + generator.uniform(0, 6))
    return to_int16(waves + 0.005 * generator.standard_normal(waves.shape))


def write_corpus(folder: Path) -> Path:
    """Writes `audio.npy` and `manifest.parquet`; rows 1 and 4 were dropped from the manifest."""
    audio = music()
    write_array(folder / "audio.npy", audio)
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 4
    manifest = pd.DataFrame({"clip_id": [f"clip{i}" for i in range(10)], "row": range(10), "split": splits})
    manifest["track_id"] = [f"track{i // 2}" for i in range(10)]
    manifest.drop(index=[1, 4]).to_parquet(folder / "manifest.parquet")
    return folder


def spectrum_made(decoder: Any, latent: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What a decoder hands to its inverse STFT."""
    made: list[Tensor] = []
    inverse = decoder.spectrum.inverse
    monkeypatch.setattr(decoder.spectrum, "inverse", lambda spectrum: made.append(spectrum) or inverse(spectrum))
    with torch.no_grad():
        decoder(latent)
    (spectrum,) = made
    return spectrum
