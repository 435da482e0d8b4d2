"""The file between embedders and scores: what is written is read, and parts of it stay together."""

from pathlib import Path

import numpy as np

from pipeline.evaluation import embeddings
from pipeline.evaluation.embeddings import EmbedderOutput, SystemEmbeddings


def system() -> SystemEmbeddings:
    """Five clips of three tracks; one embedder was given the three whose turn comes first."""
    generator = np.random.default_rng(0)
    turn = np.array([3, 0, 4, 2, 1])
    clip_id, track_id = np.array([f"c{i}" for i in range(5)]), np.array(["a", "a", "b", "b", "c"])
    tags, tag_names = generator.normal(size=(5, 2, 4)), np.array(["rock", "pop", "folk", "jazz"])
    outputs = {
        "tagger": EmbedderOutput("Tagger", turn[:, None, None] + np.zeros((5, 2, 6)), tags=tags, tag_names=tag_names),
        "text-er": EmbedderOutput("Text", turn[turn < 3, None, None] + np.zeros((3, 1, 2)), "fadtk-name"),
    }
    outputs["text-er"] = outputs["text-er"]._replace(cosines=np.array([0.1, np.nan, 0.3]))
    captions = np.array(["", "x", "y", "", "z"])
    return SystemEmbeddings(clip_id, track_id, captions, turn, True, np.eye(5, 4, dtype=bool), outputs)


def assert_same(ours: SystemEmbeddings, theirs: SystemEmbeddings) -> None:
    for field in SystemEmbeddings._fields[:-1]:
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    assert ours.outputs.keys() == theirs.outputs.keys()
    for name, output in ours.outputs.items():
        for field in EmbedderOutput._fields:
            np.testing.assert_array_equal(getattr(output, field), getattr(theirs.outputs[name], field))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    embeddings.write(tmp_path / "system.npz", system())
    again = embeddings.read(tmp_path / "system.npz")
    assert_same(again, system())
    assert again.paired is True
    assert again.outputs["text-er"].label == "Text"
    assert again.outputs["text-er"].tags is None


def test_an_embedder_has_the_clips_that_it_was_given() -> None:
    clips = system().of("text-er")
    assert clips.clip_id.tolist() == ["c1", "c3", "c4"]
    assert clips.track_id.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(system().spread("text-er", np.array([7, 8, 9])), [np.nan, 7, np.nan, 8, 9])


def test_the_first_clips_keep_what_is_theirs() -> None:
    """Vectors are filled with the clip's turn, so that each can be told."""
    few = system().first(2)
    assert few.clip_id.tolist() == ["c1", "c4"]
    assert few.caption.tolist() == ["x", "z"]
    for name in ("tagger", "text-er"):
        assert few.outputs[name].vectors[:, 0, 0].tolist() == [0, 1]
    tags, kept, cosines = system().outputs["tagger"].tags, few.outputs["tagger"].tags, few.outputs["text-er"].cosines
    assert tags is not None
    assert kept is not None
    assert cosines is not None
    assert cosines.tolist() == [0.1, 0.3]
    np.testing.assert_array_equal(kept, tags[[1, 4]])
    assert_same(system().first(5), system())


def test_patches_know_their_tracks() -> None:
    clips = system().of("tagger")
    assert clips.patches.shape == (10, 6)
    assert clips.patch_tracks.tolist() == ["a"] * 4 + ["b"] * 4 + ["c"] * 2
    assert clips.of_tracks(np.array(["a", "c"])).clip_id.tolist() == ["c0", "c1", "c4"]
