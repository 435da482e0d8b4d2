"""Opinion scores follow what was done to a sound."""

import numpy as np

from pipeline.codec import reconstruction

RATE = 16_000


def test_opinions_fall_with_noise_and_are_five_of_the_same() -> None:
    generator = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    target = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 8)).astype(np.float32) / 8
    noise = generator.normal(size=len(time)).astype(np.float32)
    scores = [reconstruction.opinion(target + level * noise, target, RATE) for level in (0, 0.003, 0.03, 0.3)]
    assert scores[0] > 4.9
    assert scores == sorted(scores, reverse=True)
    assert 1 <= scores[-1] < scores[0] - 1
