"""Closed forms, an independent library, a slow reference, coverage, and every error once."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from pipeline import files, params
from pipeline.dependence import pairwise as dependence
from pipeline.dependence.calibration import noisy_copy_information
from pipeline.dependence.information import ESTIMATORS, shuffled

PARAMS = Path(__file__).parents[2] / "params.yaml"
SETTINGS = params.load(PARAMS).dependence.model_copy(
    update={"shuffles": 3, "bootstrap": 100, "far_lags": [0.5, 1.0], "seed": 0}
)
BASELINE = "shuffled_baseline"


def _noisy_copy(frames: int, size: int, kept: float, seed: int = 0) -> np.ndarray:
    """Codes `[2, M]`: codebook 2 repeats codebook 1 with probability `kept`, else draws anew."""
    generator = np.random.default_rng(seed)
    first = generator.integers(size, size=frames)
    return np.stack([first, np.where(generator.random(frames) < kept, first, generator.integers(size, size=frames))])


def _pairwise(codes: np.ndarray, size: int) -> dict[str, dependence.Pairwise]:
    return dependence.pairwise(codes, [shuffled(codes, np.random.default_rng(1))], size)


def _total(codes: np.ndarray, tracks: np.ndarray, size: int, estimator: str) -> dict[str, float]:
    found = dependence.measure(codes, tracks, size, SETTINGS, 0.9)
    return found["estimators"][estimator]["total"]["mutual_information"]


def test_independent_codes_share_nothing_after_the_baseline_is_subtracted() -> None:
    codes = np.random.default_rng(0).integers(128, size=(4, 80_000)).astype(np.uint16)
    found = _pairwise(codes, 128)
    expected_bias = 127**2 / (2 * 80_000 * np.log(2))
    np.testing.assert_allclose(found["plug_in"].mutual_information, expected_bias, rtol=0.1)
    np.testing.assert_allclose(found[BASELINE].mutual_information, 0, atol=0.02)


def test_the_baseline_is_what_all_orders_give_on_average() -> None:
    """Vinh, Epps and Bailey's expected mutual information, in closed form over all permutations, in nats."""
    codes = _noisy_copy(2_000, 12, 0.4)
    orders = [shuffled(codes, np.random.default_rng(i)) for i in range(200)]
    found = dependence.pairwise(codes, orders, 12)
    expected = expected_mutual_information(contingency_matrix(*codes, sparse=True).astype(np.int64), 2_000)
    baseline = found["plug_in"].mutual_information - found[BASELINE].mutual_information
    assert baseline[0] == pytest.approx(expected / np.log(2), rel=0.02)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_identical_codes_share_their_entropy(estimator: str) -> None:
    codes = np.tile(np.arange(64), 1000)
    found = _pairwise(np.stack([codes, codes]), 64)[estimator]
    np.testing.assert_allclose(found.entropy, 6, atol=0.01)
    assert found.mutual_information[0] == pytest.approx(6, abs=0.06)
    assert found.normalised_by_minimum[0] == pytest.approx(1, abs=0.02)
    assert found.normalised_by_sum[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("estimator", ["chao_wang_jost", BASELINE])
def test_noisy_copy_has_its_known_mutual_information(kept: float, estimator: str) -> None:
    found = _pairwise(_noisy_copy(100_000, 32, kept), 32)[estimator]
    truth = noisy_copy_information(np.full(32, 1 / 32), kept)
    assert found.mutual_information[0] == pytest.approx(truth, abs=0.02)


def test_constant_codebook_shares_nothing() -> None:
    found = _pairwise(np.stack([np.zeros(1000, int), np.arange(1000) % 8]), 8)["plug_in"]
    assert found.entropy[0] == pytest.approx(0, abs=1e-9)
    assert found.normalised_by_minimum[0] == 0
    assert found.mutual_information[0] == pytest.approx(0, abs=1e-9)


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
    assert _total(codes, tracks, 16, BASELINE)["value"] == pytest.approx(0, abs=0.02)
    assert _total(dependence.delay_shift(codes), tracks, 16, BASELINE)["value"] == pytest.approx(4, abs=0.05)


def test_dependence_shows_at_its_lag_alone() -> None:
    """Codebook 2 follows codebook 1 by 3 frames; both repeat themselves at no lag."""
    first = np.random.default_rng(0).integers(8, size=(40, 120))
    codes = np.stack([first, np.roll(first, 3, axis=1)], axis=1)
    found = dependence.by_lag(codes, np.arange(40) // 4, 8, 24.0, SETTINGS, 0.9)
    assert found["lags"] == [-24, -12, *range(-8, 9), 12, 24]
    assert found["frames"] == 40 * (120 - 48)
    values = {lag: e["value"] for lag, e in zip(found["lags"], found["estimators"]["chao_wang_jost"], strict=True)}
    assert values.pop(3) == pytest.approx(3, abs=0.02)
    np.testing.assert_allclose(list(values.values()), 0, atol=0.08)


def test_what_a_track_keeps_to_is_far_and_what_a_frame_shares_is_local() -> None:
    """Both codebooks name the track, and share a bit of the frame, codebook 2 a frame later: 3 bits far, 1 local."""
    track = np.arange(40) // 5
    bits = np.random.default_rng(0).integers(2, size=(40, 200))
    codes = np.stack([2 * track[:, None] + bits, 2 * track[:, None] + np.roll(bits, 1, axis=1)], axis=1)
    parts = dependence.by_lag(codes, track, 16, 24.0, SETTINGS, 0.9)["parts"]["chao_wang_jost"]
    assert parts["far"]["value"] == pytest.approx(3, abs=0.05)
    assert parts["equal_time"]["value"] == pytest.approx(3, abs=0.05)
    assert parts["delayed"]["value"] == pytest.approx(3, abs=0.05)
    ahead = dependence.by_lag(codes[:, ::-1], track, 16, 24.0, SETTINGS, 0.9)["parts"]["chao_wang_jost"]
    assert ahead["delayed"]["value"] == pytest.approx(4, abs=0.05)
    assert len(ahead["delayed"]["resamples"]) == SETTINGS.bootstrap


def test_far_lags_are_whole_frames() -> None:
    assert dependence.far_lags([0.34, 1.0], 25) == [-25, -9, 9, 25]
    with pytest.raises(ValueError, match=r"far_lags are \[25, 25\] frames at 25 frames a second; they must differ"):
        dependence.far_lags([0.98, 1.0], 25)


def test_far_lags_may_be_near_where_frames_are_long_and_every_delay_is_there() -> None:
    settings = SETTINGS.model_copy(update={"far_lags": [0.34, 1.0]})
    assert dependence.all_lags(settings, 25, 4) == [-25, -9, *range(-8, 9), 9, 25]
    assert dependence.all_lags(settings, 12.5, 4) == [-13, *range(-8, 9), 13]
    assert dependence.all_lags(settings, 12.5, 12) == [-13, *range(-11, 12), 13]
    codes = np.random.default_rng(0).integers(4, size=(4, 2, 40))
    found = dependence.by_lag(codes, np.arange(4), 4, 12.5, settings, 0.9)
    assert found["far"] == [-13, -5, 5, 13]
    values = dict(zip(found["lags"], found["estimators"][BASELINE], strict=True))
    mean = np.mean([values[lag]["value"] for lag in found["far"]])
    assert found["parts"][BASELINE]["far"]["value"] == pytest.approx(mean)


def test_the_delay_shift_is_a_lag_of_each_pair() -> None:
    codes, reach = np.random.default_rng(0).integers(9, size=(3, 4, 40)), 12
    shifted = dependence.delay_shift(codes)
    for a, b in [(0, 1), (0, 3), (1, 3)]:
        pair = dependence.lagged(codes, a, b, dependence.ALIGNED["delayed"](a, b), reach)
        # Row s of the shift holds codebook a of frame s + K - 1 - a.
        start = reach - (3 - a)
        np.testing.assert_array_equal(pair, shifted[:, [a, b], start : start + 40 - 2 * reach])


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    """Tracks differ in how often codebook 2 copies codebook 1; the truth is measured on a very large sample."""

    def sample(generator: np.random.Generator, tracks: int, length: int = 100) -> np.ndarray:
        kept = np.repeat(generator.beta(2, 2, tracks), length)
        first, fresh = generator.integers(8, size=(2, tracks * length))
        return np.stack([first, np.where(generator.random(tracks * length) < kept, first, fresh)])

    truth = _pairwise(sample(np.random.default_rng(0), 20_000), 8)["plug_in"].mutual_information[0]
    hits = dict.fromkeys(("chao_wang_jost", BASELINE), 0)
    for seed in range(1, 61):
        codes = sample(np.random.default_rng(seed), 30).reshape(2, 30, 100).transpose(1, 0, 2)
        found = dependence.sample(codes, np.arange(30), 8, 1, seed)
        for estimator in hits:
            total = found.intervals(estimator, "totals", {"resamples": 100, "seed": 0, "confidence": 0.9})[0]
            hits[estimator] += total.low <= truth <= total.high
    assert all(48 <= number <= 60 for number in hits.values())  # of 60, where 54 are due: 2.6 standard deviations


def test_a_track_left_out_is_a_sample_without_it() -> None:
    codes, track = np.random.default_rng(0).integers(8, size=(6, 3, 20)), np.array([0, 1, 2, 0, 1, 2])
    found = dependence.sample(codes, track, 8, 1, 0)
    for each in range(3):
        rest = codes[track != each].transpose(1, 0, 2).reshape(3, -1)
        alone = dependence.pairwise(rest, [rest], 8)["chao_wang_jost"]
        np.testing.assert_allclose(found.left_out["chao_wang_jost"][each].mutual_information, alone.mutual_information)


@pytest.mark.parametrize("estimator", ["chao_wang_jost", BASELINE])
def test_controls_tell_dependent_from_independent(estimator: str) -> None:
    codes = np.random.default_rng(0).integers(64, size=(3, 20_000)).astype(np.uint16)
    found = dependence.controls(codes, 64, SETTINGS)
    assert found["positive"]["measured"][estimator] == pytest.approx(found["positive"]["truth"], abs=0.2)
    assert found["negative"]["measured"][estimator] == pytest.approx(0, abs=0.05)
    assert found["rolled"]["measured"][estimator] == pytest.approx(0, abs=0.05)


def test_rolling_shows_the_bias_of_frames_that_repeat() -> None:
    codes = np.repeat(np.random.default_rng(0).integers(64, size=(2, 2_000)), 10, axis=1)
    assert dependence.controls(codes, 64, SETTINGS)["rolled"]["measured"][BASELINE] > 0.5


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (np.zeros(4, int), r"\[K, M\]"),
        (np.zeros((1, 100), int), "at least 2 codebooks"),
        (np.zeros((2, 100)), "integers"),
        (np.full((2, 100), np.nan), "NaN"),
        (np.zeros((2, 7), int), "7 frames are too few"),
        (np.full((2, 100), 8), r"8\.\.8, outside 0\.\.7"),
    ],
)
def test_bad_codes_are_named(codes: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dependence.pairwise(codes, [codes], 8)


def test_clips_must_match_tracks_and_hold_the_delay(tmp_path: Path) -> None:
    codes = np.zeros((3, 2, 50), int)
    with pytest.raises(ValueError, match="3 clips do not go with 2 clips' tracks"):
        dependence.measure(codes, np.arange(2), 8, SETTINGS, 0.9)
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        dependence.measure(codes, np.zeros(3, int), 8, SETTINGS, 0.9)
    with pytest.raises(ValueError, match="1 frames have no step with all 2"):
        dependence.delay_shift(codes[..., :1])
    with pytest.raises(ValueError, match="16 frames hold no lag of 8 frames"):
        dependence.lagged(codes[..., :16], 0, 1, 0, 8)


def test_main_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    tokens = tmp_path / "mmd-seed0"
    tokens.mkdir()
    np.save(tokens / "test.npy", generator.integers(16, size=(6, 4, 100)).astype(np.uint16))
    split = ["train"] * 3 + ["test"] * 6
    pd.DataFrame({"track_id": [f"t{i // 2}" for i in range(9)], "split": split}).to_parquet(tmp_path / "m.parquet")
    whole = params.load(PARAMS).model_dump(mode="json")
    files.write_json(tmp_path / "codec" / "model.json", {"configuration": {"codebooks": 4, "codebook_size": 16}})
    whole["dependence"] |= {"bootstrap": 5, "far_lags": [1.0]}
    monkeypatch.chdir(tmp_path)
    places = ["--codec", "codec", "--tokens", "mmd-seed0", "--manifest", "m.parquet", "--out", "out.json"]
    monkeypatch.setattr(sys, "argv", ["dependence", "--params", json.dumps(whole), *places])
    dependence.main()
    found = json.loads(Path("out.json").read_text())
    assert found["alignments"]["delayed"]["frames"] == 6 * 97
    assert found["alignments"]["equal_time"]["tracks"] == 4
    assert set(found["alignments"]["delayed"]["estimators"]) == set(ESTIMATORS)
    for values in found["alignments"]["delayed"]["estimators"].values():
        assert len(values["total"]["entropy"]["resamples"]) == 5
    assert found["by_lag"]["lags"][0] == -10  # of 1 s: clips of 10 s have 100 frames
    assert found["by_lag"]["frames"] == 6 * (100 - 20)
    again = Path("out.json").read_bytes()
    dependence.main()
    assert Path("out.json").read_bytes() == again


CODES = np.random.default_rng(0).integers(8, size=(6, 3, 100))


def _command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    whole = params.load(PARAMS).model_dump(mode="json")
    whole["dependence"] |= {"bootstrap": 5, "shuffles": 2, "far_lags": [1.0]}
    monkeypatch.setattr(sys, "argv", ["dependence", "--params", json.dumps(whole), *words])
    dependence.main()


def test_any_codes_are_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Codebook 2 copies codebook 1, so what they share is its entropy; by default each clip is a track."""
    monkeypatch.chdir(tmp_path)
    codes = CODES.copy()
    codes[:, 1] = codes[:, 0]
    np.save("codes.npy", codes)
    _command(monkeypatch, "--codes", "codes.npy")
    said = capsys.readouterr().out
    assert "3 codebooks of 8 codes" in said
    assert "600 frames of 6 clips of 6 tracks" in said
    rows = {line.split("|")[1].strip(): line for line in said.splitlines() if line.startswith("| ")}
    assert rows.keys() == {"estimator", *(name.replace("_", " ") for name in ESTIMATORS)}
    assert not Path("out.json").exists()

    names = ["a", "a", "b", "b", "c", "c"]
    pd.DataFrame({"file": range(6), "track_id": names}).to_csv("tracks.csv", index=False)
    np.save("tracks.npy", np.array(names))
    found = []
    for tracks in ("tracks.csv", "tracks.npy"):
        _command(monkeypatch, "--codes", "codes.npy", "--tracks", tracks, "--frame-rate", "10", "--out", "out.json")
        found.append(json.loads(Path("out.json").read_text()))
    assert found[0] == found[1]
    equal = found[0]["alignments"]["equal_time"]
    assert equal["tracks"] == 3
    assert found[0]["by_lag"]["far"] == [-10, 10]
    expected = dependence.measure(codes, np.array([0, 0, 1, 1, 2, 2]), 8, _settings(), 0.95)
    assert equal == json.loads(json.dumps(expected))
    copied = equal["estimators"]["plug_in"]
    assert copied["mutual_information"][0]["value"] == pytest.approx(copied["entropy"][0])
    value = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**copied["total"]["mutual_information"])
    assert value in capsys.readouterr().out


def _settings() -> params.Dependence:
    whole = params.load(PARAMS).dependence.model_dump()
    return params.Dependence.model_validate(whole | {"bootstrap": 5, "shuffles": 2, "far_lags": [1.0]})


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (CODES.astype(float), "numbers of type float64: codes are integers"),
        (np.where(CODES, np.nan, CODES), "numbers of type float64, and NaN among them: codes are integers"),
        (CODES - 1, "holds the code -1: codes count from 0"),
        (CODES[0], r"holds an array of shape \(3, 100\): codes are \[n, K, T\]"),
        (CODES[:0], r"holds an array of shape \(0, 3, 100\)"),
        (CODES[:, :1], "holds codes of one codebook, and dependence is between two or more"),
        (CODES[:1], "holds one clip: an interval needs two or more"),
        (CODES[:2, :, :3], "6 frames are too few to see"),
        (CODES[:, :, :2], "2 frames have no step with all 3"),
        (np.array([{"a": 1}]), "is not a whole .npy file of numbers"),
        (np.array(["a"]), "holds an array of shape"),
    ],
)
def test_codes_that_cannot_be_measured_are_named(
    codes: np.ndarray, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("codes.npy", codes, allow_pickle=True)
    with pytest.raises(ValueError, match=complaint):
        _command(monkeypatch, "--codes", "codes.npy")


def test_files_that_hold_no_codes_or_tracks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"codes.npy does not exist: give the .npy file"):
        _command(monkeypatch, "--codes", "codes.npy")
    np.savez("codes.npz", a=CODES, b=CODES)
    with pytest.raises(ValueError, match=r"codes.npz holds several arrays: save the codes alone"):
        _command(monkeypatch, "--codes", "codes.npz")
    Path("codes.pkl").write_bytes(pickle.dumps(CODES))
    with pytest.raises(ValueError, match=r"codes.pkl is not a whole .npy file of numbers"):
        _command(monkeypatch, "--codes", "codes.pkl")
    np.save("codes.npy", CODES)
    Path("cut.npy").write_bytes(Path("codes.npy").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut.npy is not a whole .npy file"):
        _command(monkeypatch, "--codes", "cut.npy")
    for text, complaint in {
        "track\na": "has no column track_id: its columns are track",
        "track_id,x\na,1\n,2": "must name one track for each clip",
        "track_id\na\nb": "tracks.csv names the tracks of 2 clips, and codes.npy holds 6",
        "track_id\n" + "a\n" * 6: "codes.npy holds one track: an interval needs two or more",
    }.items():
        Path("tracks.csv").write_text(text)
        with pytest.raises(ValueError, match=complaint):
            _command(monkeypatch, "--codes", "codes.npy", "--tracks", "tracks.csv")
    with pytest.raises(SystemExit):
        _command(monkeypatch, "--tokens", "tokens", "--out", "out.json")
    with pytest.raises(ValueError, match=r"codec/model.json is missing: run the codec phase first"):
        dependence.of_study(Path("codec"), Path("tokens"), pd.DataFrame({"split": ["test"]}), 10)
