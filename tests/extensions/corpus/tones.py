"""A source of music in one file: tones of random pitch, each a track of an artist of its own."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline import params
from pipeline.audio import Audio
from pipeline.corpus.source import Open, Source, Track

TRACKS, RATE, SECONDS = 40, 16_000, 20  # RATE in Hz


def open_tones(corpus: params.Corpus, archive: str, downloads: str) -> tuple[Source, int]:
    """The tones, and their number."""

    def tracks() -> Iterator[Any]:
        for number in range(TRACKS):
            name = f"tone{number}"
            track = Track(name, name, "tones", name, name, "CC0", f"{name}.wav", name, "", "", '["tone"]')
            yield track, functools.partial(play, number)

    return tracks(), TRACKS


def play(number: int) -> tuple[Audio, dict[str, Any]]:
    """A tone that fades, with a little noise."""
    generator = np.random.default_rng(number)
    time = np.arange(SECONDS * RATE) / RATE
    wave = np.sin(2 * np.pi * generator.uniform(100, 2000) * time) * np.exp(-time % 1)
    return Audio((0.3 * wave + 0.01 * generator.standard_normal(len(time))).astype(np.float32), RATE), {}


SOURCES: dict[str, Open] = {"tones": open_tones}
