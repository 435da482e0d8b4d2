"""Small data sets in their published formats: what is read of them, and what is said of a wrong one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from pipeline import params
from pipeline.corpus import captions, datasets
from pipeline.corpus import clips as corpus
from pipeline.job import JobError

RATE = 8000


def sound(path: Path, seconds: float = 3.0, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE)), RATE)
    return path


def text(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_folder_needs_no_metadata(tmp_path: Path) -> None:
    sound(tmp_path / "a" / "one.wav")
    sound(tmp_path / "two.flac")
    (tmp_path / "notes.txt").write_text("no music")
    entries = datasets.read("folder", tmp_path, None)
    assert [(entry.name, entry.group, entry.captions) for entry in entries] == [
        ("a/one", "a/one", []),
        ("two", "two", []),
    ]


def test_a_folder_has_its_captions_from_a_table_or_from_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sound(tmp_path / "one.wav")
    table = text(
        tmp_path / "captions.csv", "file,caption,artist,genre", 'one.wav,"A slow, soft song",Ann,Folk', "gone.wav,x,,"
    )
    (entry,) = datasets.read("folder", tmp_path, table)
    assert entry.captions == ["A slow, soft song"]
    assert (entry.group, entry.artist, entry.style) == ("Ann", "Ann", ["folk"])
    assert "1 of 2 rows have no audio" in capsys.readouterr().out
    lines = text(tmp_path / "captions.jsonl", json.dumps({"file": "one.wav", "captions": ["One.", "Two."]}))
    assert datasets.read("folder", tmp_path, lines)[0].captions == ["One.", "Two."]


def test_musiccaps_is_found_by_the_letters_of_its_clips(tmp_path: Path) -> None:
    table = text(
        tmp_path / "musiccaps-public.csv",
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval",
        """-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","['low quality', 'sad']","A low quality, sad song.",4,False,True""",
        """-0SdAVK79lg,30,40,/m/0155w,"['guitar']","Guitar, ""live"".",0,False,False""",
        """zzzzzzzzzzz,0,10,/m/0155w,"[]",Gone.,0,False,False""",
    )
    sound(tmp_path / "clips" / "-0Gj8-vB1q4.wav")
    sound(tmp_path / "clips" / "[-0SdAVK79lg]-[30-40].flac")
    found = datasets.read("musiccaps", tmp_path / "clips", table)
    assert [entry.captions for entry in found] == [["A low quality, sad song."], ['Guitar, "live".']]
    assert [entry.group for entry in found] == ["-0Gj8-vB1q4", "-0SdAVK79lg"]


def test_jamendo_has_a_column_for_every_tag(tmp_path: Path) -> None:
    table = text(
        tmp_path / "autotagging.tsv",
        "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS",
        "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock\tinstrument---guitar",
        "track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tmood/theme---happy",
        "track_0000216\tartist_000015\talbum_000032\t16/216.mp3\t234.9\tgenre---jazz",
    )
    sound(tmp_path / "14" / "214.mp3")
    sound(tmp_path / "15" / "215.low.mp3")
    first, second = datasets.read("jamendo", tmp_path, table)
    assert (first.name, first.group, first.genre, first.style) == (
        "track_0000214",
        "artist_000014",
        "punkrock",
        ["punkrock", "guitar"],
    )
    assert (second.path.name, second.group, second.style) == ("215.low.mp3", "artist_000014", [])


def test_fma_has_two_rows_of_names_and_one_of_its_index(tmp_path: Path) -> None:
    table = text(
        tmp_path / "tracks.csv",
        ",artist,artist,set,track,track,track",
        ",id,name,subset,genre_top,license,title",
        "track_id,,,,,,",
        "2,1,AWOL,small,Hip-Hop,Attribution-NonCommercial,Food",
        "1003,7,Nobody,small,,Public Domain,A walk",
        "1004,7,Nobody,small,Rock,Public Domain,Gone",
    )
    sound(tmp_path / "000" / "000002.mp3")
    sound(tmp_path / "001" / "001003.mp3")
    first, second = datasets.read("fma", tmp_path, table)
    assert (first.name, first.group, first.artist, first.title) == ("000002", "artist 1", "AWOL", "Food")
    assert (first.licence, first.style) == ("Attribution-NonCommercial", ["hip-hop"])
    assert (second.name, second.genre, second.style) == ("001003", "", [])


@pytest.mark.parametrize(
    ("source", "metadata", "complaint"),
    [
        ("folder", "none.csv", r"none\.csv does not exist"),
        ("musiccaps", None, r"set corpus\.local\.metadata"),
        ("musiccaps", "name,caption", "has no column start_s; it has name, caption"),
        ("jamendo", "a\tb", "none of MTG-Jamendo's tables"),
        ("fma", ",a\n,b\n1,2", "has no column track/title"),
        ("folder", '{"caption": "x"}', "every line needs a `file`"),
        ("folder", '{"file": "gone.wav"}', r"holds no audio .* \(1 rows looked for\)"),
    ],
)
def test_wrong_metadata_are_named(source: str, metadata: str | None, complaint: str, tmp_path: Path) -> None:
    path = None if metadata is None else tmp_path / "none.csv"
    if metadata not in (None, "none.csv"):
        path = text(tmp_path / "metadata.txt", metadata)
    with pytest.raises(JobError, match=complaint):
        datasets.read(source, tmp_path, path)
    with pytest.raises(JobError, match="is no folder"):
        datasets.read(source, tmp_path / "gone", path)


def test_a_corpus_is_built_of_it_with_its_own_captions(tmp_path: Path) -> None:
    """Twelve artists, one file that is no audio: splits by artist, captions as they came."""
    rows = ["file,caption,artist"]
    for index in range(12):
        sound(tmp_path / "music" / f"{index}.wav", seed=index)
        rows.append(f"{index}.wav,Piece number {index}.,artist{index}")
    (tmp_path / "music" / "broken.wav").write_text("no audio")
    table = text(tmp_path / "captions.csv", *rows, "broken.wav,Nothing.,nobody")
    settings = params.Corpus(
        source="folder",
        sample_rate=RATE,
        clip_seconds=1.0,
        clips_per_track=2,
        silence_db=-60,
        split=params.Split(salt="", validation=0.25, test=0.25),
        max_cosine=1,
        soundtracks=params.Soundtracks(packages=["x"]),
        scores=params.Scores(collections=["bach"], works=1, renditions=1, seconds=1),
        local=params.Local(audio=str(tmp_path / "music"), metadata=str(table)),
    )
    source, total = datasets.open_local(settings, "apt", "downloads")
    summary = corpus.build(source, total, settings, tmp_path / "out")
    assert (total, summary["tracks"], summary["clips"]) == (13, 12, 24)
    assert "cannot be decoded" in summary["dropped"]["tracks"]["folder.broken"]
    clips = pd.read_parquet(tmp_path / "out" / "clips.parquet")
    assert clips.groupby("artist")["split"].nunique().max() == 1
    told = params.Captions(tag_threshold=0.5, max_tags=3, paraphrases=2, seed=0)
    bands = captions.Bands(np.array([-20, -10]), np.array([500, 900]))
    assert captions.caption(clips.iloc[0], [], bands, told) == ["Piece number 0."] * 2
