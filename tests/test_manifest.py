"""Which clips there are: turns, tracks, captions, and tokens that have to fit them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import manifest
from pipeline.files import write_json


def listed(*counts: tuple[str, str, int]) -> pd.DataFrame:
    rows = [
        {"clip_id": f"{track}-{i}", "track_id": track, "split": split} for split, track, n in counts for i in range(n)
    ]
    return pd.DataFrame(rows).assign(row=range(len(rows)))


@given(st.integers(1, 30), st.integers(0, 100))
def test_tracks_take_turns(clips: int, seed: int) -> None:
    rows = listed(("test", "long", 40), ("test", "short", 5), ("train", "other", 40))
    shuffled = rows.sample(frac=1, random_state=seed)
    chosen = manifest.evaluation_rows(shuffled, clips)
    assert len(chosen) == clips
    assert set(chosen["split"]) == {"test"}
    assert (chosen["track_id"] == "short").sum() == min(5, clips // 2) or clips % 2
    assert set(chosen["clip_id"]) == set(manifest.evaluation_rows(rows, clips)["clip_id"])


def test_too_few_clips_are_named() -> None:
    with pytest.raises(ValueError, match="validation split has 3 clips, 4 are wanted"):
        manifest.evaluation_rows(listed(("validation", "a", 3)), 4, "validation")


def test_a_split_without_clips_is_named() -> None:
    assert manifest.of_split(listed(("train", "a", 2), ("test", "b", 3)), "test").index.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no clips of the validation split"):
        manifest.of_split(listed(("train", "a", 2)), "validation")


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.parquet is missing: run the corpus phase"):
        manifest.read(tmp_path / "manifest.parquet")


def test_tracks_are_numbered_in_the_clips_order() -> None:
    rows = listed(("test", "b", 2), ("test", "a", 1), ("test", "c", 1))
    assert manifest.track_numbers(rows).tolist() == [1, 1, 0, 2]


def test_caption_columns_come_in_order() -> None:
    clips = pd.DataFrame({"caption_1": ["b"], "clip_id": ["x"], "caption_0": ["a"]})
    assert manifest.caption_columns(clips) == ["caption_0", "caption_1"]
    with pytest.raises(ValueError, match="no column caption_0"):
        manifest.caption_columns(pd.DataFrame({"caption": ["a"]}))


def test_tokens_are_read_as_they_were_written(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(8, size=(5, 2, 6)).astype(np.uint16)
    np.save(tmp_path / "test.npy", codes)
    np.testing.assert_array_equal(manifest.read_tokens(tmp_path, "test", 5, 2, 8), codes)


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        (
            np.zeros((6, 3, 5), np.uint16),
            r"test\.npy must hold integer codes \[n, 2, T\], got uint16 of shape \(6, 3, 5\)",
        ),
        (np.full((6, 2, 5), np.nan), "must hold integer codes .* got float64"),
        (np.zeros((6, 2, 0), np.uint16), "must hold integer codes"),
        (np.zeros((5, 2, 5), np.uint16), "has 5 clips, the manifest's test split 6"),
        (np.full((6, 2, 5), 4, np.uint16), "holds codes 4 to 4, outside 0 to 3"),
        (np.full((6, 2, 5), -1), "holds codes -1 to -1, outside 0 to 3"),
    ],
)
def test_tokens_that_do_not_fit_are_named(tmp_path: Path, tokens: np.ndarray, complaint: str) -> None:
    np.save(tmp_path / "test.npy", tokens)
    with pytest.raises(ValueError, match=complaint):
        manifest.read_tokens(tmp_path, "test", 6, 2, 4)


def test_missing_tokens_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test\.npy is missing: run the codec phase"):
        manifest.read_tokens(tmp_path, "test", 6, 2, 4)


def test_a_codec_tells_what_its_tokens_are(tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", {"configuration": {"codebooks": 4, "codebook_size": 256, "pretrained": "dac"}})
    assert manifest.streams(tmp_path) == (4, 256)
    for told in ({}, {"configuration": {"codebooks": 4}}, {"configuration": None}):
        write_json(tmp_path / "model.json", told)
        with pytest.raises(ValueError, match=r"model.json does not tell a codec's codebooks"):
            manifest.streams(tmp_path)
    with pytest.raises(ValueError, match=r"model.json is missing: run the codec phase first"):
        manifest.streams(tmp_path / "nowhere")
