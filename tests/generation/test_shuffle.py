"""Shuffled codes: what each kind keeps, what it breaks, and a whole run; levels whose distance is known."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files, manifest, params
from pipeline.codec import model as codecs
from pipeline.dependence.pairwise import delay_shift
from pipeline.generation import decode, shuffle
from pipeline.generation.shuffle import level_distance, shuffled
from pipeline.study import SHUFFLES

KINDS = st.sampled_from(SHUFFLES)
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(4, 9))


def codes_of(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, size=shape)


def columns(codes: np.ndarray) -> list[tuple[int, ...]]:
    """Every column of codes `[n, K, T]`, sorted."""
    return sorted(map(tuple, codes.transpose(0, 2, 1).reshape(-1, codes.shape[1]).tolist()))


@given(SEEDS, SHAPES, KINDS)
def test_every_codebook_keeps_its_codes(seed: int, shape: tuple[int, int, int], kind: str) -> None:
    codes = codes_of(seed, shape)
    moved = shuffled(codes, kind, np.random.default_rng(seed))
    for before, after in zip(codes.swapaxes(0, 1), moved.swapaxes(0, 1), strict=True):
        assert sorted(before.ravel()) == sorted(after.ravel())


@given(SEEDS, SHAPES)
def test_frames_that_move_together_keep_the_joint_histogram(seed: int, shape: tuple[int, int, int]) -> None:
    codes = codes_of(seed, shape)
    assert columns(shuffled(codes, "equal_time", np.random.default_rng(seed))) == columns(codes)


@given(SEEDS, SHAPES)
def test_steps_that_move_together_keep_the_joint_histogram_of_steps(seed: int, shape: tuple[int, int, int]) -> None:
    codes = codes_of(seed, shape)
    moved = shuffled(codes, "delayed", np.random.default_rng(seed))
    assert columns(delay_shift(moved)) == columns(delay_shift(codes))


def test_each_kind_breaks_what_it_does_not_keep() -> None:
    """Codes that name their frame, or their step: kept together they agree, apart by chance, once in 1,000."""
    frames = np.arange(1000).reshape(2, 1, 500).repeat(3, axis=1)
    steps = frames + np.arange(3)[:, None]
    agreeing = {}
    for kind in SHUFFLES:
        of_frames, of_steps = (shuffled(codes, kind, np.random.default_rng(0)) for codes in (frames, steps))
        rows = (of_frames, delay_shift(of_steps))
        agreeing[kind] = [float((codes == codes[:, :1]).all(axis=1).mean()) for codes in rows]
        assert (of_frames == frames).mean() < 0.02
    assert agreeing["equal_time"] == [1, pytest.approx(0, abs=0.01)]
    assert agreeing["delayed"] == [pytest.approx(0, abs=0.01), 1]
    assert agreeing["independent"] == [pytest.approx(0, abs=0.01)] * 2


def test_the_first_codebook_moves_alike_whether_the_others_follow_or_not() -> None:
    codes = codes_of(0, (3, 4, 50))
    together, apart = (shuffled(codes, kind, np.random.default_rng(7)) for kind in ("equal_time", "independent"))
    np.testing.assert_array_equal(together[:, 0], apart[:, 0])
    assert (together[:, 1] != apart[:, 1]).any()


def test_bad_codes_are_named() -> None:
    with pytest.raises(ValueError, match="'sideways'; it must be one of equal_time, delayed, independent"):
        shuffled(codes_of(0, (1, 2, 3)), "sideways", np.random.default_rng(0))
    with pytest.raises(ValueError, match="clips of 3 frames have no step with all 4 codebooks"):
        shuffled(codes_of(0, (1, 4, 3)), "delayed", np.random.default_rng(0))


def test_the_order_of_clips_costs_no_level_and_a_gain_costs_itself() -> None:
    waveforms = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    assert level_distance(waveforms[[2, 0, 1]], waveforms, sample_rate=16_000) == pytest.approx(0, abs=1e-5)
    assert level_distance(2 * waveforms, waveforms, sample_rate=16_000) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_a_codec_is_shuffled_within_its_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = small.write_corpus(tmp_path / "corpus")
    torch.manual_seed(0)
    codec = codecs.Codec(codecs.configuration(params.Codec.model_validate(small.CODEC), small.RATE, "residual"))
    torch.nn.init.normal_(codec.quantizer.codebooks)
    codecs.save(codec, tmp_path / "plain-seed0")
    rows = manifest.read(corpus / "manifest.parquet")
    frames = small.CLIP // small.HOP
    codes = np.random.default_rng(0).integers(small.C, size=(4, small.K, frames), dtype=np.uint16)
    files.write_array(tmp_path / "tokens" / "test.npy", codes)
    settings = params.checked(params.Generation, small.GENERATION | {"clips": 4}, "")
    argv = ["", "--params", json.dumps({"generation": settings.model_dump()})]
    argv += ["--codec", str(tmp_path / "plain-seed0")]
    argv += ["--tokens", str(tmp_path / "tokens"), "--manifest", str(corpus / "manifest.parquet")]
    monkeypatch.setattr(sys, "argv", [*argv, "--out", str(tmp_path / "reconstruction")])
    decode.main()
    audio = str(tmp_path / "reconstruction" / "audio.npy")
    monkeypatch.setattr(sys, "argv", [*argv, "--reconstruction", audio, "--out", str(tmp_path / "shuffled")])
    shuffle.main()
    tracks = rows[rows["split"] == "test"]["track_id"].to_numpy()
    generators = {track: np.random.default_rng([settings.seed, *track.encode()]) for track in np.unique(tracks)}
    expected = np.concatenate(
        [shuffled(codes[tracks == track], "equal_time", each) for track, each in generators.items()]
    )
    made = files.read_array(tmp_path / "shuffled" / "equal_time" / "plain-seed0" / "audio.npy")
    np.testing.assert_array_equal(made, decode.decoded(codecs.load(tmp_path / "plain-seed0"), expected))
    with np.load(tmp_path / "shuffled" / "plain-seed0.npz") as levels:
        assert levels["track_id"].tolist() == tracks.tolist()
        for kind in SHUFFLES:
            assert (levels[kind] > 0).all()
            assert len(np.unique(levels[kind])) == len(np.unique(tracks))
