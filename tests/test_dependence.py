"""Closed forms, an independent library, a slow reference, coverage, and every error once."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from pipeline import dependence, params

SETTINGS = params.Dependence(shuffles=3, bootstrap=100, seed=0)


def _noisy_copy(frames: int, size: int, kept: float, seed: int = 0) -> np.ndarray:
    """Codes `[2, M]`: codebook 2 repeats codebook 1 with probability `kept`, else draws anew."""
    generator = np.random.default_rng(seed)
    first = generator.integers(size, size=frames)
    return np.stack([first, np.where(generator.random(frames) < kept, first, generator.integers(size, size=frames))])


def _noisy_copy_truth(size: int, kept: float) -> float:
    """I = log2 C - H(b | a) in bits: b is a with probability kept + (1-kept)/C, else any other code alike."""
    same = kept + (1 - kept) / size
    other = (1 - kept) / size
    return np.log2(size) + same * np.log2(same) + (size - 1) * other * np.log2(other)


def _pairwise(codes: np.ndarray, size: int) -> dependence.Pairwise:
    return dependence.pairwise(codes, [dependence.shuffled(codes, np.random.default_rng(1))], size)


def test_independent_codes_share_nothing_after_the_baseline_is_subtracted() -> None:
    codes = np.random.default_rng(0).integers(128, size=(4, 80_000)).astype(np.uint16)
    found = _pairwise(codes, 128)
    expected_bias = 127**2 / (2 * 80_000 * np.log(2))
    np.testing.assert_allclose(found.plug_in, expected_bias, rtol=0.1)
    np.testing.assert_allclose(found.mutual_information, 0, atol=0.02)


def test_identical_codes_share_their_entropy() -> None:
    codes = np.tile(np.arange(64), 1000)
    found = _pairwise(np.stack([codes, codes]), 64)
    np.testing.assert_allclose(found.entropy, 6)
    assert found.plug_in[0] == pytest.approx(6)
    assert found.normalised_by_minimum[0] == pytest.approx(1, abs=0.02)
    assert found.normalised_by_sum[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_noisy_copy_has_its_known_mutual_information(kept: float) -> None:
    found = _pairwise(_noisy_copy(100_000, 32, kept), 32)
    assert found.mutual_information[0] == pytest.approx(_noisy_copy_truth(32, kept), abs=0.02)


def test_constant_codebook_shares_nothing() -> None:
    found = _pairwise(np.stack([np.zeros(1000, int), np.arange(1000) % 8]), 8)
    assert found.entropy[0] == pytest.approx(0, abs=1e-9)
    assert found.normalised_by_minimum[0] == 0
    assert found.mutual_information[0] == pytest.approx(0, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), codebooks=st.integers(2, 4), size=st.integers(1, 40))
def test_plug_in_agrees_with_scikit_learn(seed: int, codebooks: int, size: int) -> None:
    codes = np.random.default_rng(seed).integers(size, size=(codebooks, 50)).astype(np.uint16)
    theirs = [mutual_info_score(codes[a], codes[b]) / np.log(2) for a, b in dependence.pairs(codebooks)]
    np.testing.assert_allclose(dependence.plug_in(codes, size), theirs, atol=1e-9)


@given(codebooks=st.integers(2, 5), extra=st.integers(0, 6))
def test_delay_shift_agrees_with_a_slow_loop(codebooks: int, extra: int) -> None:
    length = codebooks + extra
    codes = np.random.default_rng(extra).integers(9, size=(3, codebooks, length))
    expected = [
        [[clip[k, s - k] for s in range(length) if s - codebooks + 1 >= 0] for k in range(codebooks)] for clip in codes
    ]
    np.testing.assert_array_equal(dependence.delay_shift(codes), expected)


def test_a_delayed_copy_shows_under_the_delay_shift_only() -> None:
    first = np.random.default_rng(0).integers(16, size=(40, 250))
    codes = np.stack([first, np.roll(first, -1, axis=1)], axis=1)  # codebook 2 of frame s-1 is codebook 1 of frame s
    tracks = np.arange(40) // 4
    now = dependence.measure(codes, tracks, 16, SETTINGS, 0.9)["total"]["mutual_information"]
    shifted = dependence.measure(dependence.delay_shift(codes), tracks, 16, SETTINGS, 0.9)["total"][
        "mutual_information"
    ]
    assert now["value"] == pytest.approx(0, abs=0.02)
    assert shifted["value"] == pytest.approx(4, abs=0.05)


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    """Tracks differ in how often codebook 2 copies codebook 1; the truth is measured on a very large sample."""

    def sample(generator: np.random.Generator, tracks: int, length: int = 100) -> np.ndarray:
        kept = np.repeat(generator.beta(2, 2, tracks), length)
        first, fresh = generator.integers(8, size=(2, tracks * length))
        return np.stack([first, np.where(generator.random(tracks * length) < kept, first, fresh)])

    truth = dependence.plug_in(sample(np.random.default_rng(0), 20_000), 8)[0]
    hits = 0
    for seed in range(1, 61):
        codes = sample(np.random.default_rng(seed), 30).reshape(2, 30, 100).transpose(1, 0, 2)
        total = dependence.measure(codes, np.arange(30), 8, SETTINGS, 0.9)["total"]["mutual_information"]
        hits += total["low"] <= truth <= total["high"]
    assert 48 <= hits <= 60  # of 60, where 54 are due: within 2.6 standard deviations below


def test_controls_tell_dependent_from_independent() -> None:
    codes = np.random.default_rng(0).integers(64, size=(3, 20_000)).astype(np.uint16)
    found = dependence.controls(codes, 64, SETTINGS)
    assert found["positive"]["measured"] == pytest.approx(found["positive"]["truth"], abs=0.2)
    assert found["negative"]["measured"] == pytest.approx(0, abs=0.05)
    assert found["rolled"]["measured"] == pytest.approx(0, abs=0.05)


def test_rolling_shows_the_bias_of_frames_that_repeat() -> None:
    codes = np.repeat(np.random.default_rng(0).integers(64, size=(2, 2_000)), 10, axis=1)
    assert dependence.controls(codes, 64, SETTINGS)["rolled"]["measured"] > 0.5


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (np.zeros((2, 3, 4), int), r"\[K, M\]"),
        (np.zeros((1, 100), int), "at least 2 codebooks"),
        (np.zeros((2, 100)), "integers"),
        (np.zeros((2, 7), int), "7 frames are too few"),
        (np.full((2, 100), 8), r"8\.\.8, outside 0\.\.7"),
    ],
)
def test_bad_codes_are_named(codes: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dependence.pairwise(codes, [codes], 8)


def test_clips_must_match_tracks_and_hold_the_delay() -> None:
    codes = np.zeros((3, 2, 50), int)
    with pytest.raises(ValueError, match="3 clips, but the manifest's test split lists 2"):
        dependence.measure(codes, np.arange(2), 8, SETTINGS, 0.9)
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        dependence.measure(codes, np.zeros(3), 8, SETTINGS, 0.9)
    with pytest.raises(ValueError, match="1 frames have no step with all 2"):
        dependence.delay_shift(codes[..., :1])


def test_main_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    tokens = tmp_path / "mmd-seed0"
    tokens.mkdir()
    np.save(tokens / "test.npy", generator.integers(16, size=(6, 4, 100)).astype(np.uint16))
    split = ["train"] * 3 + ["test"] * 6
    pd.DataFrame({"track_id": [f"t{i // 2}" for i in range(9)], "split": split}).to_parquet(tmp_path / "m.parquet")
    whole = params.load(Path("params.yaml")).model_dump(mode="json")
    whole["codec"]["codebook_size"] = 16
    whole["dependence"]["bootstrap"] = 5
    monkeypatch.chdir(tmp_path)
    argv = ["--params", json.dumps(whole), "--tokens", "mmd-seed0", "--manifest", "m.parquet", "--out", "out.json"]
    monkeypatch.setattr(sys, "argv", ["dependence", *argv])
    dependence.main()
    found = json.loads(Path("out.json").read_text())
    assert found["alignments"]["delayed"]["frames"] == 6 * 97
    assert found["alignments"]["equal_time"]["tracks"] == 4
    assert len(found["alignments"]["delayed"]["total"]["entropy"]["resamples"]) == 5
    again = Path("out.json").read_bytes()
    dependence.main()
    assert Path("out.json").read_bytes() == again
