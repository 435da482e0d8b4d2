"""A small corpus and a system's audio, to be embedded and scored as the rules do it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small

from pipeline import audio
from pipeline.evaluation import embed, embeddings, score
from pipeline.evaluation.embeddings import SystemEmbeddings

RATE = 16_000
WORDS = ("Slow guitar", "Fast techno", "Loud rock", "Quiet piano")


class Evaluation:
    """Runs the stages' commands in the current folder, on a corpus of four test and four validation clips."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        _write_corpus()
        self.settings: dict[str, Any] = {
            "embedders": {"musicnn-mtt": 4, "musicnn-msd": 2},
            "systems": {},
            "loudness_lufs": -14,
            "seconds": 9.5,
            "bootstrap": 20,
            "seed": 0,
        }

    @property
    def params(self) -> str:
        """The parameters that both stages take, as JSON."""
        corpus = {**small.CORPUS, "sample_rate": RATE, "clip_seconds": 10}
        generation = {**small.GENERATION, "clips": 4}
        sections = {"evaluation": self.settings, "corpus": corpus, "generation": generation, "confidence": 0.95}
        return json.dumps(sections)

    def embed(self, system: str, source: str, *more: str) -> SystemEmbeddings:
        """Embeds a system's audio."""
        out = f"embeddings/{system}.npz"
        self._argv("--system", system, "--audio", source, "--manifest", "manifest.parquet", "--out", out, *more)
        embed.main()
        return embeddings.read(Path(out))

    def score(self, system: str, *more: str) -> dict[str, Any]:
        """Scores an embedded system against the embedded reference."""
        source, out = f"embeddings/{system}.npz", f"scores/{system}.json"
        reference = "embeddings/reference.npz"
        self._argv("--system", system, "--embeddings", source, "--reference", reference, "--out", out, *more)
        score.main()
        return json.loads(Path(out).read_text())

    def _argv(self, *arguments: str) -> None:
        common = ("--params", self.params, "--downloads", ".cache/downloads")
        self.monkeypatch.setattr("sys.argv", ["evaluation", *common, *arguments])


def _write_corpus() -> None:
    """`audio.npy`, its manifest, and `system.npy`: the test clips, last to first."""
    clips = audio.to_int16(0.1 * np.random.default_rng(0).normal(size=(8, 10 * RATE)))
    np.save("audio.npy", clips)
    np.save("system.npy", clips[:4][::-1])
    manifest = pd.DataFrame({"clip_id": [f"c{i}" for i in range(8)], "row": range(8)})
    manifest["track_id"] = [f"t{i // 2}" for i in range(8)]
    manifest["split"] = ["test"] * 4 + ["validation"] * 4
    manifest["caption_0"] = [f"{WORDS[i % 4]} music." for i in range(8)]
    manifest.to_parquet("manifest.parquet")
