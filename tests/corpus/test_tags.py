"""Tags of every clip: the same bits on any number of threads."""

import json
from pathlib import Path

import numpy as np
import pytest
import small

from pipeline.corpus import tags
from pipeline.pretrained import musicnn

DOWNLOADS = ".cache/downloads"


def test_the_middle_is_one_patch_at_any_rate() -> None:
    time = np.arange(10 * 32_000) / 32_000
    tone = np.round(8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    for rate in (16_000, 32_000):
        middle = tags.middle(tone, rate)
        assert musicnn.log_mel_patches(middle[None]).shape == (1, 1, 187, 96)
    with pytest.raises(ValueError, match=r"1\.00 s"):
        tags.middle(tone[:32_000], 32_000)


def test_every_clip_of_a_corpus_is_tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clips = np.random.default_rng(0).integers(-3000, 3000, (3, 50_000)).astype(np.int16)
    np.save(tmp_path / "audio.npy", clips)
    corpus = small.CORPUS | {"sample_rate": 16_000, "clip_seconds": 3.125}
    given = ["--params", json.dumps({"corpus": corpus}), "--corpus", ".", "--downloads", DOWNLOADS, "--out", "tags.npz"]
    monkeypatch.setattr(tags, "AT_ONCE", 1)
    found = []
    for threads in ("1", "2"):  # whose number decides how long it takes, and no bit
        monkeypatch.setattr("sys.argv", ["musicnn", *given, "--threads", threads])
        tags.main()
        with np.load("tags.npz") as arrays:
            found.append(dict(arrays))
    first = found[0]
    assert first["msd"].shape == (3, 50)
    assert first["mtt_penultimate"].shape == (3, 200)
    assert tuple(first["msd_tags"]) == musicnn.TAGS["msd"]
    assert ((first["msd"] > 0) & (first["msd"] < 1)).all()
    for name, values in first.items():
        np.testing.assert_array_equal(values, found[1][name])
