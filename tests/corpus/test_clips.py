import csv
import functools
import hashlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from archives import deb
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import fetch, params, provenance
from pipeline.audio import Audio
from pipeline.corpus import clips as corpus
from pipeline.corpus import soundtracks
from pipeline.corpus.source import Track, Unusable, normalized
from pipeline.job import JobError
from pipeline.manifest import SPLITS

RATE = 16_000  # Hz


def settings(**changes: Any) -> params.Corpus:
    """The study's parameters, with clips of 1 s."""
    data = yaml.safe_load((provenance.ROOT / "params.yaml").read_text())["corpus"]
    return params.Corpus.model_validate({**data, "clip_seconds": 1.0, "clips_per_track": 5, **changes})


def track(name: str, group: str = "", title: str = "") -> Track:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Track(name, group or name, "tunes", title or name, "", "GPL", f"{name}.ogg", digest, "", "", "")


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> Audio:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return Audio((0.1 * samples).astype(np.float32), rate)


def source(*tracks: tuple[Track, Audio]) -> list[Any]:
    return [(known, functools.partial(lambda heard: (heard, {}), heard)) for known, heard in tracks]


def table(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    known = pd.DataFrame(rows, columns=["group", "source_sha256", "title", "split"])
    return known.assign(source_file=[f"{number}.wav" for number in range(len(rows))])


def merged_slowly(table: pd.DataFrame) -> dict[str, str]:
    """The groups of `clips.merged`, joined one title and one file after the other."""
    name = {group: group for group in table["group"]}
    titles = table["title"].map(lambda title: "" if normalized(title).isnumeric() else normalized(title))
    for column in (titles, table["source_sha256"]):
        for value, groups in table.groupby(column)["group"]:
            together = {name[group] for group in groups} if value else set()
            name = {group: min(together) if own in together else own for group, own in name.items()}
    return name


SPLIT = params.Split(salt="salt", validation=0.1, test=0.1)


@given(samples=st.integers(10, 10_000), length=st.integers(1, 500), most=st.integers(1, 40))
def test_clips_are_spread_without_overlap(samples: int, length: int, most: int) -> None:
    if samples < length:
        return
    starts = corpus.clip_starts(samples, length, most)
    assert len(starts) == min(most, samples // length)
    assert starts[0] == 0
    assert starts[-1] + length <= samples
    assert (np.diff(starts) >= length).all()
    if len(starts) > 1:
        assert starts[-1] + length == samples
        assert np.ptp(np.diff(starts)) <= 1


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 30), min_size=60, max_size=100))
def test_splits_keep_to_their_shares_and_take_no_group_apart(clips: dict[str, int]) -> None:
    splits = corpus.assign_splits(clips, SPLIT)
    assert splits.keys() == clips.keys()
    for name in ("validation", "test"):
        sizes = [clips[group] for group in clips if splits[group] == name]
        share = 0.1 * sum(clips.values())
        assert sum(sizes) <= share
        assert max(sizes) <= share / 2
        # Whatever did not fit is in training because it would have overflown or is too large.
        left = [clips[group] for group in clips if splits[group] == "train" and clips[group] <= share / 2]
        assert all(sum(sizes) + size > share for size in left) or not left
    assert splits == corpus.assign_splits(dict(reversed(clips.items())), SPLIT)


def test_another_salt_is_another_split() -> None:
    clips = {f"artist {index}": 3 for index in range(100)}
    assert corpus.assign_splits(clips, SPLIT) != corpus.assign_splits(clips, SPLIT.model_copy(update={"salt": "x"}))


def test_too_few_groups_are_named() -> None:
    with pytest.raises(JobError, match=r"test and validation \(2 groups, 60 clips\)"):
        corpus.assign_splits({"a": 30, "b": 30}, SPLIT)


def test_groups_that_share_a_title_become_one() -> None:
    rows = [("a", "1", "Frantic", ""), ("b", "2", "FRANTIC!", ""), ("b", "3", "Été", ""), ("c", "4", "ete", "")]
    assert corpus.merged(table([*rows, ("d", "5", "Other", "")])) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_groups_that_share_a_file_become_one() -> None:
    rows = [("c", "1", "One", ""), ("b", "1", "Two", ""), ("a", "2", "Two", ""), ("d", "3", "Three", "")]
    assert corpus.merged(table(rows)) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_titles_without_a_letter_join_nothing() -> None:
    rows = [("a", "1", "?", "train"), ("b", "2", "!", "test"), ("c", "3", "", "validation")]
    assert corpus.merged(table(rows)) == {"a": "a", "b": "b", "c": "c"}
    corpus.check_leakage(table(rows))


@example(rows=[("a", "0", "0", ""), ("A", "1", "0", "")])
@given(
    st.lists(
        st.tuples(
            st.sampled_from("aAbcdefé\U0001f3b5\uffee") | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.integers(0, 12).map(str),
            st.sampled_from(["One", "one!", "Two", "Thrée", "three", "?", ""]) | st.text(max_size=2),
            st.just(""),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_groups_are_those_of_the_slow_way(rows: list[tuple[str, str, str, str]]) -> None:
    assert corpus.merged(table(rows)) == merged_slowly(table(rows))


def test_the_catalogues_groups_are_those_of_the_slow_way() -> None:
    tracks = pd.DataFrame(soundtracks.catalogue(list(soundtracks.PACKAGES)).values())
    tracks = tracks.rename(columns={"sha256": "source_sha256"})
    assert tracks["title"].map(normalized).all()
    assert corpus.merged(tracks) == merged_slowly(tracks)


def test_many_groups_are_merged_in_a_moment() -> None:
    """100,000 files of 50,000 artists in chains of ten, as slow as any: the quadratic way took hours."""
    count = 100_000
    rows = [
        (f"artist {i // 2:06}", str(i), f"title {(i + 1) // 2 if (i + 1) % 20 else i + count}", "")
        for i in range(count)
    ]
    start = time.process_time()
    groups = corpus.merged(table(rows))
    assert time.process_time() - start < 30
    assert groups == {f"artist {i:06}": f"artist {i - i % 10:06}" for i in range(count // 2)}


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (("a", "2", "two", "test"), "1 groups.*'a'"),
        (("b", "1", "two", "test"), "1 audio files.*'1'"),
        (("b", "2", "O. n.e", "test"), "1 titles.*'one'"),
    ],
)
def test_leakage_raises(second: tuple[str, str, str, str], what: str) -> None:
    with pytest.raises(JobError, match=what + r".* 0\.wav \(train\) and 1\.wav \(test\).* one artist in the metadata"):
        corpus.check_leakage(table([("a", "1", "One", "train"), second]))


def test_no_leakage_passes() -> None:
    corpus.check_leakage(table([("a", "1", "One", "train"), ("a", "2", "Two", "train"), ("b", "3", "Three", "test")]))


def test_what_gives_no_clip_says_why() -> None:
    def reason(heard: Audio) -> str:
        [item] = source((track("t"), heard))
        return corpus.cut(*item, settings()).dropped

    assert reason(noise(2)) == ""
    assert reason(noise(0.98)) == "shorter than a clip"
    assert reason(noise(2, rate=11_025)) == "its 11025 Hz are under corpus.sample_rate"
    assert reason(Audio(np.zeros(2 * RATE, np.float32), RATE)) == "silent"

    def unusable() -> Any:
        raise Unusable("names a publisher")

    assert corpus.cut(track("t"), unusable, settings()).dropped == "names a publisher"


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_track_a_little_shorter_than_a_clip_ends_in_silence(rate: int) -> None:
    [item] = source((track("t"), noise(9.98, rate=rate)))
    clips = corpus.cut(*item, settings(clip_seconds=10.0))
    assert clips.samples.shape == (1, 10 * RATE)
    assert clips.starts.tolist() == [0]
    heard = round(9.98 * RATE)
    assert clips.samples[0, heard - 10 : heard].any()
    assert not clips.samples[0, heard:].any()


def test_a_track_beyond_full_scale_is_scaled_down_and_not_clipped() -> None:
    loud = noise(3).waveform * 15
    [item] = source((track("t"), Audio(loud, RATE)))
    expected = (loud / np.abs(loud).max()).reshape(3, RATE) * 32_768
    np.testing.assert_allclose(corpus.cut(*item, settings()).samples, expected.clip(max=32_767), atol=0.51)


def test_silent_clips_are_left_out_and_counted() -> None:
    waveform = noise(3).waveform.copy()
    waveform[RATE : 2 * RATE] *= 1e-4
    [item] = source((track("t"), Audio(waveform, RATE)))
    clips = corpus.cut(*item, settings())
    assert clips.starts.tolist() == [0.0, 2.0]
    assert clips.silent == 1
    np.testing.assert_allclose(clips.rms_db, [-20, -20], atol=0.2)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_corpus_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.chdir(tmp_path)
    tracks = [(track(f"t{index}", f"g{index // 2}"), noise(3.5, index)) for index in range(60)]
    tracks.append((track("short"), noise(0.5)))
    summary = corpus.build(source(*tracks), len(tracks), settings(), tmp_path, threads)
    audio, clips = np.load(tmp_path / "audio.npy", mmap_mode="r"), pd.read_parquet(tmp_path / "clips.parquet")
    assert audio.shape == (180, RATE)
    assert audio.dtype == np.int16
    assert clips["row"].tolist() == list(range(180))
    assert clips["clip_id"].is_unique
    assert clips.groupby("group")["split"].nunique().max() == 1
    assert {split: figures["clips"] for split, figures in summary["splits"].items()} == (
        clips["split"].value_counts().to_dict()
    )
    assert summary["dropped"] == {
        "tracks": {"short": "shorter than a clip"},
        "reasons": {"shorter than a clip": 1},
        "silent_clips": 0,
    }
    for row in (0, 100, 179):
        clip = clips.iloc[row]
        start = round(clip["start_s"] * RATE)
        heard = noise(3.5, int(clip["track_id"][1:])).waveform[start : start + RATE]
        np.testing.assert_allclose(audio[row] / 32_768, heard, atol=0.51 / 32_768)
    credits = pd.read_csv(tmp_path / "credits.csv")
    assert credits["track_id"].tolist() == [f"t{index}" for index in range(60)]
    assert "| t59 " in (tmp_path / "credits.md").read_text()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match="no group of tracks fits"):
        corpus.build(source((track("a"), noise(3))), 1, settings(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_clip_at_all_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    silence = Audio(np.zeros(2 * RATE, np.float32), RATE)
    tracks = source((track("a"), noise(0.5)), (track("b"), noise(0.75)), (track("c"), silence))
    reasons = r"\(2 times 'shorter than a clip', 1 times 'silent', tracks of 0\.50 to 2\.00 s\)"
    with pytest.raises(JobError, match=f"no track gave a clip {reasons}"):
        corpus.build(tracks, 3, settings(), tmp_path / "out")


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one package of 40 tracks, and a catalogue that knows them."""
    files, rows = {}, []
    for index in range(40):
        stream = io.BytesIO()
        soundfile.write(stream, noise(2.5, index).waveform, RATE, format="OGG", subtype="VORBIS")
        files[f"music/{index}.ogg"] = stream.getvalue()
        digest = hashlib.sha256(stream.getvalue()).hexdigest()
        path = f"music/{index}.ogg"
        rows.append(("tunes", path, digest, f"Title {index}", f"A{index}", f"tunes/{index}", "Metal", "metal", "GPL"))
    deb(tmp_path / "tunes_1.0_all.deb", files)
    with (tmp_path / "catalogue.csv").open("w", newline="") as file:
        csv.writer(file).writerows([soundtracks.Listed._fields, *rows])
    monkeypatch.setattr(soundtracks, "CATALOGUE", tmp_path / "catalogue.csv")
    monkeypatch.setattr(soundtracks, "PACKAGES", {"tunes": fetch.Package("tunes", "tunes_1.0_all.deb", "0" * 64)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, archive: Path, **changes: Any) -> None:
    text = json.dumps({"corpus": settings(**changes).model_dump(mode="json")})
    arguments = ["--params", text, "--archive", str(archive), "--downloads", str(archive), "--out", "out"]
    monkeypatch.setattr(sys, "argv", ["corpus", *arguments])
    corpus.main()


def test_packages_become_a_corpus(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, packaged, soundtracks={"packages": ["tunes"]})
    clips = pd.read_parquet("out/clips.parquet")
    assert len(clips) == 80
    assert set(clips["split"]) == set(SPLITS)
    assert set(clips["style"]) == {'["metal"]'}
    assert set(clips["facts"]) == {""}


def test_packages_that_lack_tracks_are_named(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb(packaged / "tunes_1.0_all.deb", {"music/other.ogg": b"another version"})
    with pytest.raises(JobError, match=r"lack 40 tracks of the catalogue, music/0\.ogg of tunes"):
        run(monkeypatch, packaged, soundtracks={"packages": ["tunes"]})


@pytest.mark.slow
def test_scores_become_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"collections": ["ryansMammoth"], "works": 24, "renditions": 2, "seconds": 4.0}
    run(monkeypatch, tmp_path, source="scores", scores=small)
    clips = pd.read_parquet("out/clips.parquet")
    assert clips["track_id"].nunique() == 48
    assert clips.groupby("title")["split"].nunique().max() == 1
    assert {"instruments", "key", "metre", "tempo"} == set(json.loads(clips["facts"][0]))


def test_titles_that_are_numbers_join_nothing() -> None:
    """As file names give them: 1_11 and 11_1 are no one piece."""
    rows = [("a", "x", "1_11", ""), ("b", "y", "11_1", ""), ("c", "z", "Song 2", ""), ("d", "w", "song-2", "")]
    groups = corpus.merged(pd.DataFrame(rows, columns=["group", "source_sha256", "title", "split"]))
    assert groups == {"a": "a", "b": "b", "c": "c", "d": "c"}
