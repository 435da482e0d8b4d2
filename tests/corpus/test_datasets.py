"""Small data sets in their published formats: what is read of them, and what is said of a wrong one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

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


def clips_of(folder: Path, source: str, table: Path | None, **changes: Any) -> tuple[pd.DataFrame, np.ndarray, dict]:
    """Builds a corpus of clips of 1 s at `RATE`: its table, its audio `[n, T]` and its summary."""
    settings = params.Corpus(
        source=source,
        sample_rate=RATE,
        silence_db=-60,
        split=params.Split(salt="", validation=0.25, test=0.25),
        max_cosine=1,
        soundtracks=params.Soundtracks(packages=["x"]),
        scores=params.Scores(collections=["bach"], works=1, renditions=1, seconds=1),
        local=params.Local(audio=str(folder), metadata=str(table or "")),
        **{"clip_seconds": 1.0, "clips_per_track": 2, **changes},
    )
    summary = corpus.build(*datasets.open_local(settings, "apt", "downloads"), settings, folder.parent / "out")
    return (
        pd.read_parquet(folder.parent / "out" / "clips.parquet"),
        np.load(folder.parent / "out" / "audio.npy"),
        summary,
    )


def test_a_folder_needs_no_metadata(tmp_path: Path) -> None:
    sound(tmp_path / "a" / "one.wav")
    sound(tmp_path / "two.flac")
    (tmp_path / "notes.txt").write_text("no music")
    (tmp_path / "._two.flac").write_text("of macOS")
    (tmp_path / "album.mp3").mkdir()
    entries = datasets.read("folder", tmp_path, None)
    assert [(entry.name, entry.group, entry.title, entry.captions) for entry in entries] == [
        ("a/one.wav", "a/one.wav", "a/one", ()),
        ("two.flac", "two.flac", "two", ()),
    ]


def test_a_folder_has_its_captions_from_a_table_or_from_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sound(tmp_path / "one.wav")
    table = text(
        tmp_path / "captions.csv", "file,caption,artist,genre", 'one.wav,"A slow, soft song",Ann,Folk', "gone.wav,x,,"
    )
    (entry,) = datasets.read("folder", tmp_path, table)
    assert entry.captions == ("A slow, soft song",)
    assert (entry.group, entry.artist, entry.style) == ("Ann", "Ann", ("folk",))
    assert "1 of 2 rows have no audio" in capsys.readouterr().out
    lines = text(tmp_path / "captions.jsonl", json.dumps({"file": "one.wav", "captions": ["One.", "Two."]}))
    assert datasets.read("folder", tmp_path, lines)[0].captions == ("One.", "Two.")


@pytest.mark.parametrize(
    ("name", "lines", "captions"),
    [
        ("x.csv", ["file,captions", "one.wav,slow piano"], ("slow piano",)),
        ("x.csv", ["file,captions", 'one.wav,"[""One."", ""Two.""]"'], ("One.", "Two.")),
        ("x.csv", ["file,caption,captions", 'one.wav,Zero.,"[""One.""]"'], ("Zero.", "One.")),
        ("x.TSV", ["file\tcaption", "one.wav\tSlow, soft"], ("Slow, soft",)),
        ("x.csv", ["file,caption", "one.wav,1", "./one.wav,2", "one.wav,1", "./one.wav,3"], ("1", "2", "3")),
        ("x.jsonl", ['{"file": "one.wav", "captions": "slow piano"}'], ("slow piano",)),
        ("x.jsonl", ['{"file": "one.wav", "caption": "A"}', '{"file": "one.wav", "captions": ["B", "A"]}'], ("A", "B")),
        ("x.jsonl", ['{"file": "one.wav", "caption": "one\u2028line"}'], ("one\u2028line",)),
        ("x.jsonl", ['{"file": "one.wav", "caption": null}'], ()),
    ],
)
def test_captions_are_texts_never_letters(
    name: str, lines: list[str], captions: tuple[str, ...], tmp_path: Path
) -> None:
    sound(tmp_path / "one.wav")
    (entry,) = datasets.read("folder", tmp_path, text(tmp_path / name, *lines))
    assert entry.captions == captions


def test_rows_of_one_file_are_one_track(tmp_path: Path) -> None:
    """Of everything but captions, what the first row with it says counts."""
    sound(tmp_path / "one.wav")
    rows = ["one.wav,A.,,", "one.wav,B.,Ann,Song", f"{tmp_path}/x/../one.wav,C.,Bob,"]
    (tmp_path / "x").mkdir()
    (entry,) = datasets.read("folder", tmp_path, text(tmp_path / "x.csv", "file,caption,artist,title", *rows))
    assert (entry.name, entry.captions) == ("one.wav", ("A.", "B.", "C."))
    assert (entry.group, entry.artist, entry.title) == ("Ann", "Ann", "Song")


def test_ids_are_unique_whatever_the_names(tmp_path: Path) -> None:
    music = tmp_path / "music"
    names = ["s.wav", "s.flac", "a/b.wav", "a.b.wav", "a_b.wav", "A.b.wav", "x-00.wav", "x.wav", " y .wav"]
    names += ["\u00e9.wav", "e\u0301.wav"]
    for number, name in enumerate(names):
        sound(music / name, seed=number)
    sound(music / "z.wav").rename(music / os.fsdecode(b"\xff.wav"))
    names.append("\\xff.wav")
    clips, *_ = clips_of(music, "folder", None)
    assert clips["clip_id"].is_unique
    assert sorted(clips["track_id"]) == sorted(2 * [f"folder.{name}" for name in names])
    # One title, so one group: what differs by its suffix alone is one piece.
    assert clips[clips["title"] == "s"]["group"].nunique() == 1


def test_copies_of_a_file_are_in_one_split(tmp_path: Path) -> None:
    for number in range(30):
        sound(tmp_path / "music" / f"{number}.wav", seed=number)
    for number in range(0, 30, 3):
        shutil.copy(tmp_path / "music" / f"{number}.wav", tmp_path / "music" / f"copy of {number}.wav")
    clips, _, _ = clips_of(tmp_path / "music", "folder", None)
    assert clips.groupby("source_sha256")["split"].nunique().max() == 1
    assert clips["group"].nunique() == 30


MUSICCAPS = "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset"


def test_musiccaps_is_found_by_the_letters_of_its_clips(tmp_path: Path) -> None:
    table = text(
        tmp_path / "musiccaps-public.csv",
        f"{MUSICCAPS},is_audioset_eval",
        """-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","['low quality', 'sad']","A low quality, sad song.",4,False,True""",
        """-0SdAVK79lg,30,40,/m/0155w,"['guitar']","Guitar, ""live"".",0,False,False""",
        """-0SdAVK79lg,60,70,/m/0155w,"['guitar']",Drums.,0,False,False""",
        """zzzzzzzzzzz,0,10,/m/0155w,"[]",Gone.,0,False,False""",
    )
    sound(tmp_path / "clips" / "-0Gj8-vB1q4.wav")
    sound(tmp_path / "clips" / "[-0SdAVK79lg]-[30-40].flac")
    entries = datasets.read("musiccaps", tmp_path / "clips", table)
    assert [(entry.name, entry.captions, entry.group) for entry in entries] == [
        ("-0Gj8-vB1q4-30", ("A low quality, sad song.",), "-0Gj8-vB1q4"),
        ("-0SdAVK79lg-30", ('Guitar, "live".',), "-0SdAVK79lg"),
    ]


def test_musiccaps_takes_each_rows_stretch_of_a_recording(tmp_path: Path) -> None:
    """A recording whose n-th second is at level n; clips named in each manner; starts beyond the end, or silent."""
    music = tmp_path / "music"
    seconds = np.repeat(np.arange(75) / 100, RATE)

    def store(name: str, first: int, last: int) -> None:
        music.mkdir(exist_ok=True)
        soundfile.write(music / name, seconds[first * RATE : last * RATE], RATE, subtype="FLOAT")

    store("recording_A.wav", 0, 75)
    store("recording_B.wav", 30, 40)
    store("recording_C_30_40.wav", 30, 40)
    store("[recording_C]-[50.5-60.5].wav", 50, 60)
    store("recording_D.wav", 0, 10)
    store("recording_E.wav", 20, 29)
    rows = [MUSICCAPS]
    wanted: dict[str, list[float]] = {"A": [10, 33.5, 65, 80], "B": [30], "C": [30, 50.5], "D": [0, 30], "E": [20]}
    for letter, starts in wanted.items():
        rows += [f"recording_{letter},{start},{start + 10},,,{letter} at {start}.,," for start in starts]
    rows += ["recording_A,10,20,,,Another word for it.,,", "recording_A,0.0,1.0,,,Silent.,,"]
    for number in range(30):
        sound(music / f"other_{number:05}.wav", seed=number)
        rows.append(f"other_{number:05},0,10,,,Other.,,")
    clips, audio, summary = clips_of(music, "musiccaps", text(tmp_path / "x.csv", *rows), clips_per_track=99)

    clips["track"] = clips["track_id"].str.removeprefix("musiccaps.recording_")
    named = clips[clips["track_id"] != clips["track"]].groupby("track")
    levels = {track: round(100 * audio[row].mean() / 32767, 1) for track, row in named["row"].first().items()}
    wholes = {"A-10": 10, "A-33.5": 33.5, "A-65": 65, "B-30": 30, "C-30": 30, "C-50.5": 50}
    assert levels == {**wholes, "D-0": 1, "E-20": 20}
    # Of D the first second is silent, E ends after nine.
    assert named.size().to_dict() == {**dict.fromkeys(wholes, 10), "D-0": 9, "E-20": 9}
    facts = clips.drop_duplicates("track_id").set_index("track_id")["facts"].map(json.loads)
    assert facts["musiccaps.recording_A-10"] == {"captions": ["A at 10.", "Another word for it."]}
    assert clips[clips["track_id"].str.contains("_A")]["group"].unique().tolist() == ["recording_A"]
    dropped = summary["dropped"]["tracks"]
    assert dropped.keys() == {"musiccaps.recording_A-80", "musiccaps.recording_A-0", "musiccaps.recording_D-30"}
    assert dropped["musiccaps.recording_A-0"] == "silent"
    assert "begins at 80 s and the file has 75.0 s" in dropped["musiccaps.recording_A-80"]
    assert "begins at 30 s and the file has 10.0 s" in dropped["musiccaps.recording_D-30"]


def test_jamendo_has_a_column_for_every_tag(tmp_path: Path) -> None:
    table = text(
        tmp_path / "autotagging.tsv",
        "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS",
        "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock\tinstrument---guitar",
        "track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tmood/theme---happy",
        "track_0000216\tartist_000015\talbum_000032\t16/216.mp3\t234.9\tgenre---jazz",
        "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock",
    )
    sound(tmp_path / "14" / "214.mp3")
    sound(tmp_path / "15" / "215.low.mp3")
    first, second = datasets.read("jamendo", tmp_path, table)
    assert (first.name, first.group, first.genre, first.style) == (
        "track_0000214",
        "artist_000014",
        "punkrock",
        ("punkrock", "guitar"),
    )
    assert (second.path.name, second.group, second.style) == ("215.low.mp3", "artist_000014", ())


FMA = ",artist,artist,track,track,track\n,id,name,genre_top,license,title\n"


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
    assert (first.licence, first.style) == ("Attribution-NonCommercial", ("hip-hop",))
    assert (second.name, second.genre, second.style) == ("001003", "", ())


@pytest.mark.parametrize(
    ("source", "metadata", "complaint"),
    [
        ("folder", "none.csv", r"none\.csv does not exist"),
        ("musiccaps", None, r"set corpus\.local\.metadata"),
        ("musiccaps", "name,caption\na,b", "has no column ytid and no column start_s; it has name, caption"),
        ("musiccaps", "ytid,start_s,caption\na,x,b", "txt, line 2: `start_s` is 'x' where seconds"),
        ("musiccaps", "ytid,start_s,caption\na,1,b\na,NaN,b", "line 3: `start_s` is NaN, a missing number"),
        ("musiccaps", "ytid,start_s,caption\na,-1,b", "line 2: `start_s` is '-1'"),
        ("musiccaps", "ytid,start_s,caption\na", "line 2: `start_s` is ''"),
        ("musiccaps", "ytid,start_s,end_s,caption\na,9,5,b", "line 2: `end_s` is 5 and `start_s` is 9"),
        ("jamendo", "a\tb", "none of MTG-Jamendo's tables"),
        ("jamendo", "\t".join(datasets.JAMENDO) + "\n\na\tb\n", "line 3: a row needs TRACK_ID, .* DURATION: "),
        ("fma", ",a\n,b\n1,2", "has no column track/title and no column track/genre_top"),
        ("fma", FMA + "2,1,x,y,z,a\nx,1,x,y,z,a", "line 4: 'x' is no track number"),
        ("folder", '{"caption": "x"}', "line 1: `file` is missing"),
        ("folder", '{"file": "x"}\n{"file": 5.5}', r"line 2: `file` holds 5\.5 where a text is expected"),
        ("folder", '{"file": "x", "captions": {"en": "x"}}', r"line 1: `captions` holds {.*} where a text is expected"),
        ("folder", '{"file": "gone.wav"}', r"has none of the 1 files that .*metadata\.txt names"),
        ("folder", None, r"has no audio file \(\.wav, "),
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
    clips, _, summary = clips_of(tmp_path / "music", "folder", table)
    assert (summary["tracks"], summary["clips"]) == (12, 24)
    assert "cannot be decoded" in summary["dropped"]["tracks"]["folder.broken.wav"]
    assert clips.groupby("artist")["split"].nunique().max() == 1
    told = params.Captions(tag_threshold=0.5, max_tags=3, paraphrases=2, seed=0)
    bands = captions.Bands(np.array([-20, -10]), np.array([500, 900]))
    assert captions.caption(clips.iloc[0], [], bands, told) == ["Piece number 0."] * 2


def test_a_file_outside_the_folder_is_named(tmp_path: Path) -> None:
    """Results are made again when the folder's files change, and so no others may be used."""
    sound(tmp_path / "elsewhere.wav")
    sound(tmp_path / "music" / "a.wav")
    for name in ("../elsewhere.wav", str(tmp_path / "elsewhere.wav")):
        with pytest.raises(JobError, match=r"x\.csv, line 2: .*elsewhere\.wav is outside .*music"):
            datasets.read("folder", tmp_path / "music", text(tmp_path / "x.csv", "file", name))
