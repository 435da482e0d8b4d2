"""Timing of every codebook pattern: which are timed, with what, and what the rates say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import params
from pipeline.generation import sampling, speed
from pipeline.lm.conditioning import TextStates
from pipeline.lm.model import LanguageModel, ModelShape
from pipeline.study import DEPTH

K, C, T, D = 3, 11, 6, 8
HOW: dict[str, Any] = {
    "clips": 2,
    "decoding": "factorised",
    "guidance_scale": 2.0,
    "top_k": 4,
    "temperature": 1.0,
    "batch_size": 2,
    "seed": 0,
}


def test_every_pattern_is_timed_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    shape = ModelShape("delay", K, C, T, D, width=16, heads=2, layers=1, feedforward=32, dropout=0.0)
    model = LanguageModel(shape).eval()
    text = TextStates(torch.randn(5, D).half(), torch.tensor([0, 2, 5]), ["a", "b"])
    clips = pd.DataFrame({"clip_id": ["x", "y"], "caption_0": ["a", "b"]})
    seen = []
    generate = sampling.generate

    def spied(timed: LanguageModel, *arguments: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((timed.shape.pattern + DEPTH * (timed.shape.depth == 4), len(arguments[0]), options["frames"]))
        weights = timed.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        return generate(timed, *arguments, **options)

    monkeypatch.setattr(sampling, "generate", spied)
    settings = params.Speed(batch_sizes=[1, 3], repeats=2)
    rows = speed.measure(model, text, clips, params.Generation(**HOW), settings, rank=4, clip_seconds=2.0)
    names = ["parallel", "delay", "partial-delay", "flatten", "partial-flatten", "coarse-first"]
    names += ["parallel-depth", "delay-depth"]
    assert [(row["batch_size"], row["pattern"]) for row in rows] == [(size, name) for size in (1, 3) for name in names]
    assert [row["steps"] for row in rows[:8]] == [T, T + K - 1, T + 1, K * T, 2 * T, 2 * T, T, T + K - 1]
    assert seen[1:] == [(name, size, T) for _ in range(2) for size in (1, 3) for name in names]
    for row in rows:
        assert len(row["seconds"]) == len(row["processor_seconds"]) == 2
        assert row["frames_per_second"] == pytest.approx(row["batch_size"] * T / np.median(row["seconds"]))
        assert row["real_time_factor"] == pytest.approx(row["batch_size"] * 2 / np.median(row["seconds"]))
