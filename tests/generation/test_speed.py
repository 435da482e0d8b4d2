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
        seen.append((timed.shape.pattern, len(arguments[0]), options["frames"]))
        assert all(torch.equal(a, b) for a, b in zip(timed.parameters(), model.parameters(), strict=True))
        return generate(timed, *arguments, **options)

    monkeypatch.setattr(sampling, "generate", spied)
    settings = params.Speed(batch_sizes=[1, 3], repeats=2)
    rows = speed.measure(model, text, clips, params.Generation(**HOW), settings, clip_seconds=2.0)
    names = ["parallel", "delay", "partial-delay", "flatten", "partial-flatten", "coarse-first"]
    assert [(row["batch_size"], row["pattern"]) for row in rows] == [(size, name) for size in (1, 3) for name in names]
    assert [row["steps"] for row in rows[:6]] == [T, T + K - 1, T + 1, K * T, 2 * T, 2 * T]
    assert seen[1:] == [(name, size, T) for _ in range(2) for size in (1, 3) for name in names]
    for row in rows:
        assert len(row["seconds"]) == len(row["processor_seconds"]) == 2
        assert row["frames_per_second"] == pytest.approx(row["batch_size"] * T / np.median(row["seconds"]))
        assert row["real_time_factor"] == pytest.approx(row["batch_size"] * 2 / np.median(row["seconds"]))
