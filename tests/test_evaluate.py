"""Scores of systems whose distance is known, and whole runs over a small made corpus."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyloudnorm
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import audio, evaluate, params

RATE = 16_000
CONFIDENCE = 0.95
EVALUATION = params.Evaluation(loudness_lufs=-14, seconds=9.5, bootstrap=20, seed=0)
PARAMS: dict[str, Any] = {
    "evaluation": EVALUATION.model_dump(),
    "generation": {
        "clips": 4,
        "guidance_scale": 3,
        "top_k": 10,
        "temperature": 1,
        "batch_size": 1,
        "seed": 0,
    },
    "corpus": {
        "source": "scores",
        "sample_rate": RATE,
        "clip_seconds": 10,
        "clips_per_track": 5,
        "silence_db": -50,
        "split": {"salt": "", "validation": 0.1, "test": 0.1},
        "max_cosine": 0.9,
        "soundtracks": {"packages": ["x"]},
        "scores": {"collections": ["bach"], "works": 1, "renditions": 1, "seconds": 30},
    },
    "report": {"confidence": CONFIDENCE},
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def embeddings(tracks: int = 8, shift: float = 0, seed: int = 0, prefix: str = "t") -> evaluate.Embeddings:
    """Four clips a track, three patches a clip, in eight dimensions."""
    track = np.repeat([f"{prefix}{i}" for i in range(tracks)], 4)
    return evaluate.Embeddings(
        np.array([f"{name}-{i}" for i, name in enumerate(track)]),
        track,
        noise(len(track), 3, 50, seed=seed),
        noise(len(track), 3, 8, seed=seed + 1) + shift,
        np.zeros((len(track), 4), bool),
    )


def prepared(samples: np.ndarray, rate: int = RATE, start: int = 0) -> evaluate.Prepared:
    return evaluate.prepare(samples, rate, start=start, seconds=2.0, lufs=-14)


@pytest.mark.parametrize("rate", [RATE, 32_000])
def test_clips_are_as_loud_as_asked(rate: int) -> None:
    quiet = audio.to_int16(0.01 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate))
    waveform, faults = prepared(quiet, rate, start=100)
    assert waveform.shape == (2 * RATE,)
    assert waveform.dtype == np.float32
    assert not any(faults)
    assert pyloudnorm.Meter(RATE).integrated_loudness(waveform) == pytest.approx(-14, abs=0.5)


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (np.zeros(3 * RATE, np.int16), "silent"),
        (np.full(3 * RATE, np.nan, np.float32), "not_finite"),
        (audio.to_int16(0.1 * noise(RATE)), "short"),
        (np.zeros(0, np.int16), "short"),
        (audio.to_int16(noise(3 * RATE)), "clipped"),
    ],
)
def test_faulty_clips_are_marked_and_stay(samples: np.ndarray, fault: str) -> None:
    waveform, faults = prepared(samples)
    assert dict(zip(evaluate.FAULTS, faults, strict=True))[fault]
    assert waveform.shape == (2 * RATE,)
    assert np.isfinite(waveform).all()


@given(st.integers(1, 20), st.integers(0, 1000))
def test_offsets_keep_the_length_inside_the_clip(clips: int, spare: int) -> None:
    starts = evaluate.offsets(clips, 1000 + spare, 1000, seed=3)
    assert starts.shape == (clips,)
    assert 0 <= starts.min() <= starts.max() <= spare
    np.testing.assert_array_equal(starts, evaluate.offsets(clips, 1000 + spare, 1000, seed=3))


def test_a_longer_cut_than_the_clip_is_named() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.seconds"):
        evaluate.offsets(1, 10, 11, seed=0)


def test_the_divergence_is_that_of_the_mean_posteriors() -> None:
    reference, system = noise(5, 3, 50), noise(5, 3, 50, seed=1)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (reference, system))
    p, q = p.mean(1), q.mean(1)
    np.testing.assert_allclose(evaluate.kl(reference, system), (p * np.log(p / q)).sum(-1), atol=1e-12)
    np.testing.assert_allclose(evaluate.kl(reference, reference), 0, atol=1e-12)
    assert (evaluate.kl(reference, system) > 0).all()
    with pytest.raises(ValueError, match="one shape"):
        evaluate.kl(reference, system[:3])


def test_a_system_is_at_no_distance_from_itself() -> None:
    same = evaluate.fad(embeddings(), embeddings(), EVALUATION, CONFIDENCE)
    assert same["value"] == pytest.approx(0, abs=1e-6)
    assert np.allclose(same["resamples"], 0, atol=1e-6)
    assert same["patches"] == 96


def test_a_shift_is_found_with_its_interval() -> None:
    near = evaluate.fad(embeddings(seed=5), embeddings(), EVALUATION, CONFIDENCE)
    far = evaluate.fad(embeddings(shift=1.0, seed=5), embeddings(), EVALUATION, CONFIDENCE)
    assert far["value"] - near["value"] == pytest.approx(8, abs=2)
    assert far["low"] < far["value"] < far["high"]
    assert near["infinity"] < near["value"]
    assert len(far["resamples"]) == EVALUATION.bootstrap


def test_halves_of_the_reference_are_near_each_other() -> None:
    halves = evaluate.halves(embeddings(), seed=0)
    assert halves["low"] < halves["value"] < halves["high"] < 3
    assert halves["infinity"] < halves["value"]
    assert halves["patches"] == 48


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of four test and four validation clips, two tracks each, and a system's audio."""
    monkeypatch.chdir(tmp_path)
    clips = audio.to_int16(0.1 * noise(8, 10 * RATE))
    np.save("audio.npy", clips)
    np.save("system.npy", clips[:4][::-1])
    rows = [
        {"clip_id": f"c{i}", "row": i, "track_id": f"t{i // 2}", "split": "test" if i < 4 else "validation"}
        for i in range(8)
    ]
    pd.DataFrame(rows).to_parquet("manifest.parquet")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", arguments[0], "--params", json.dumps(PARAMS), *arguments[1:]])
    evaluate.main()


def embed(monkeypatch: pytest.MonkeyPatch, system: str, source: str) -> evaluate.Embeddings:
    out = f"embeddings/{system}.npz"
    common = ["--manifest", "manifest.parquet", "--downloads", ".cache/downloads", "--out", out]
    command(monkeypatch, "embed", "--system", system, "--audio", source, *common)
    return evaluate.read(Path(out))


def score(monkeypatch: pytest.MonkeyPatch, system: str) -> dict[str, Any]:
    source, out = f"embeddings/{system}.npz", f"scores/{system}.json"
    given = ["--embeddings", source, "--reference", "embeddings/reference.npz", "--out", out]
    command(monkeypatch, "score", "--system", system, *given)
    return json.loads(Path(out).read_text())


@pytest.mark.usefixtures("study")
def test_systems_are_embedded_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = embed(monkeypatch, "reference", "audio.npy")
    floor = embed(monkeypatch, "floor", "audio.npy")
    embed(monkeypatch, "generation/delay/x-seed0", "system.npy")
    assert reference.logits.shape == (4, 3, 50)
    assert reference.penultimate.shape == (4, 3, 200)
    assert reference.clip_id.tolist() == ["c0", "c1", "c2", "c3"]
    assert floor.clip_id.tolist() == ["c4", "c5", "c6", "c7"]

    generated = score(monkeypatch, "generation/delay/x-seed0")
    assert generated["clips"] == 4
    assert generated["tracks"] == 2
    assert generated["kl"]["paired"]
    assert generated["silent"] == generated["clipped"] == generated["short"] == generated["not_finite"] == 0
    assert generated["provenance"]["seed"] == 0
    with np.load("scores/generation/delay/x-seed0.npz") as arrays:
        assert arrays["kl"].mean() == pytest.approx(generated["kl"]["value"])
        assert arrays["track_id"].tolist() == ["t0", "t0", "t1", "t1"]

    real = score(monkeypatch, "floor")
    assert not real["kl"]["paired"]
    assert real["halves"]["draws"] == evaluate.HALVES


@pytest.mark.usefixtures("study")
def test_a_wrong_number_of_clips_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"8 clips, generation\.clips asks for 4"):
        embed(monkeypatch, "generation/x", "audio.npy")


@pytest.mark.usefixtures("study")
def test_unequal_counts_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("embeddings").mkdir()
    np.savez("embeddings/reference.npz", **embeddings(8)._asdict())
    np.savez("embeddings/few.npz", **embeddings(7)._asdict())
    with pytest.raises(ValueError, match="equal counts"):
        score(monkeypatch, "few")
