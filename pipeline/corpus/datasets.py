"""The user's own music: a folder with captions, or MusicCaps, MTG-Jamendo or FMA with their published metadata.

The audio is in a local folder; nothing is fetched. Rows without audio are left out and counted, because videos get
deleted and many users have only a subset.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline import audio, params, provenance
from pipeline.audio import Audio
from pipeline.corpus.source import Open, Source, Track, Unusable
from pipeline.corpus.user_files import AUDIO_SUFFIXES, Row, audio_files, json_lines, records, table
from pipeline.job import JobError

# A file at most this much longer than a stretch, in s, is taken to be the stretch: downloads are cut at keyframes.
SLACK = 1.0
JAMENDO = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
FMA = ("track/title", "track/genre_top", "track/license", "artist/id", "artist/name")


class Stretch(NamedTuple):
    """The part of a recording that a caption describes."""

    start: float  # s
    end: float  # s
    alone: bool  # no caption describes another part, so the file may already be just this part


class Entry(NamedTuple):
    """One of the user's tracks with its metadata; a field is empty if the metadata do not give it."""

    path: Path
    name: str  # unique in the data set
    group: str = ""  # all tracks of a group are in one split
    title: str = ""
    artist: str = ""
    licence: str = ""
    genre: str = ""
    style: tuple[str, ...] = ()  # words that fit into a caption
    captions: tuple[str, ...] = ()
    stretch: Stretch | None = None  # without one, the whole file


def read(source: str, folder: Path, metadata: Path | None) -> list[Entry]:
    """The tracks of `source` (`folder`, `musiccaps`, `jamendo` or `fma`) whose audio is in `folder`, sorted by name.

    Raises:
        JobError: the folder or the metadata are missing, the metadata are not as published, or there is no audio.
    """
    if not folder.is_dir():
        raise JobError(f"{folder} is no folder: set corpus.local.audio to the one that holds the audio")
    if metadata is not None and not metadata.is_file():
        raise JobError(f"{metadata} does not exist: set corpus.local.metadata to the metadata file of {source}")
    if metadata is None and source != "folder":
        raise JobError(f"corpus.source is {source}: set corpus.local.metadata to its metadata file")
    rows = list(READERS[source](folder, metadata))
    entries = [entry for entry in rows if entry is not None]
    if not entries:
        what = f"none of the {len(rows)} files that {metadata} names" if metadata else "no audio file"
        raise JobError(f"{folder} has {what} ({', '.join(AUDIO_SUFFIXES)}): check corpus.local.audio")
    if missing := len(rows) - len(entries):
        print(f"{source}: {missing} of {len(rows)} rows have no audio in {folder}", flush=True)
    return sorted(map(_completed, _one_per_name(entries)), key=lambda entry: entry.name)


def _one_per_name(entries: Iterable[Entry]) -> Iterable[Entry]:
    """Merges a track's rows into one entry with all their captions; other fields come from its first row."""
    tracks: dict[str, Entry] = {}
    for entry in entries:
        known = tracks.setdefault(entry.name, entry)
        captions = tuple(dict.fromkeys(known.captions + entry.captions))
        stated: dict[str, Any] = {key: getattr(known, key) or getattr(entry, key) for key in Entry._fields}
        tracks[entry.name] = Entry(**{**stated, "captions": captions})
    return tracks.values()


def _completed(entry: Entry) -> Entry:
    title = entry.title or str(PurePosixPath(entry.name).with_suffix(""))
    return entry._replace(group=entry.group or entry.name, title=title)


def _folder(folder: Path, metadata: Path | None) -> Iterator[Entry | None]:
    """Any audio; metadata are a table (.csv, .tsv) or JSON lines, one row per file or caption.

    `file` is required; `caption`, `captions`, `title`, `artist`, `licence` and `genre` are optional. `captions` is one
    text or a list of texts; in a table's cell, the list is JSON.
    """
    if metadata is None:
        for path in audio_files(folder):
            yield Entry(path, _readable(path.relative_to(folder)))
        return
    for row in table(metadata, "file") if metadata.suffix.lower() in (".csv", ".tsv") else json_lines(metadata):
        path = folder / _needed(row, "file")
        if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
            raise JobError(
                f"{row.where}: {path} is outside {folder}, whose files alone are watched: move or link it there"
            )
        genre = row.text("genre")
        entry = Entry(
            path,
            _readable(Path(os.path.relpath(path, folder))),
            group=row.text("artist"),
            title=row.text("title"),
            artist=row.text("artist"),
            licence=row.text("licence"),
            genre=genre,
            style=_words(genre),
            captions=tuple(filter(None, [row.text("caption"), *row.texts("captions")])),
        )
        yield entry if path.is_file() else None


def _musiccaps(folder: Path, metadata: Path) -> Iterator[Entry | None]:
    """MusicCaps (Agostinelli et al. 2023): `musiccaps-public.csv`, and audio named by the 11 characters of `ytid`.

    A file is one clip (`[ytid]-[30-40].wav`, `ytid_30_40.wav`, or a `ytid.wav` of about 10 s) or the whole recording
    (`ytid.wav`), from which each row's stretch is cut.
    """
    paths: dict[tuple[str, float | None], Path] = {}
    for file in audio_files(folder):
        stem = file.stem.lstrip("[")
        cut = re.fullmatch(r"\]?[-_ ]*\[?(\d+(?:\.\d+)?)(?:[-_]\d+(?:\.\d+)?)?\]?", stem[11:])
        paths.setdefault((stem[:11], float(cut[1]) if cut else None), file)
    rows = [(row, *_stretch(row)) for row in table(metadata, "ytid", "start_s", "caption")]
    starts: dict[str, set[float]] = {}
    for row, start, _ in rows:
        starts.setdefault(_needed(row, "ytid"), set()).add(start)
    for row, start, end in rows:
        ytid = row.text("ytid")
        clip = paths.get((ytid, start))
        path = clip or paths.get((ytid, None))
        if path is None:
            yield None
            continue
        yield Entry(
            path,
            f"{ytid}-{start:g}",
            group=ytid,
            title=ytid,
            licence="caption CC BY-SA 4.0",
            captions=tuple(filter(None, [row.text("caption")])),
            stretch=None if clip else Stretch(start, end, alone=len(starts[ytid]) == 1),
        )


def _jamendo(folder: Path, metadata: Path) -> Iterator[Entry | None]:
    """MTG-Jamendo (Bogdanov et al. 2019): `autotagging.tsv` and its subsets, one column for each tag of a track."""
    numbered = records(metadata)
    if next(numbered, (1, []))[1] != JAMENDO:
        raise JobError(f"{metadata} is none of MTG-Jamendo's tables: its first line is not {' '.join(JAMENDO)}")
    for line, cells in numbered:
        if len(cells) < len(JAMENDO) - 1 or not (cells[0] and cells[3]):
            raise JobError(f"{metadata}, line {line}: a row needs {', '.join(JAMENDO[:-1])}: take the published file")
        track, artist, _, place, _, *tags = cells
        kinds = [tag.partition("---")[::2] for tag in tags]
        genre = next((name for kind, name in kinds if kind == "genre"), "")
        style = tuple(name for kind, name in kinds if kind in ("genre", "instrument"))[:3]
        paths = [path for path in (folder / place, (folder / place).with_suffix(".low.mp3")) if path.is_file()]
        yield Entry(paths[0], track, artist, track, artist, "Creative Commons", genre, style) if paths else None


def _fma(folder: Path, metadata: Path) -> Iterator[Entry | None]:
    """FMA (Defferrard et al. 2017): `tracks.csv` with its two header rows; audio in `000/000002.mp3`."""
    for row in table(metadata, *FMA, header_lines=2):
        number = row.values[""]
        if number == "track_id":  # the index's name has its own line
            continue
        if not number.isdecimal():
            raise JobError(f"{row.where}: {number!r} is no track number: take FMA's own tracks.csv")
        path = folder / f"{int(number) // 1000:03d}" / f"{int(number):06d}.mp3"
        title, genre, licence, artist, name = (row.values[column].strip() for column in FMA)
        group = f"artist {artist}" if artist else ""
        entry = Entry(path, path.stem, group, title, name, licence, genre, _words(genre))
        yield entry if path.is_file() else None


READERS: dict[str, Callable[[Path, Any], Iterator[Entry | None]]] = {
    "folder": _folder,
    "musiccaps": _musiccaps,
    "jamendo": _jamendo,
    "fma": _fma,
}


def _needed(row: Row, key: str) -> str:
    if not (text := row.text(key)):
        raise JobError(f"{row.where}: `{key}` is missing: every row needs one")
    return text


def _stretch(row: Row) -> tuple[float, float]:
    """Start and end in s; MusicCaps clips are 10 s long."""
    start = _seconds(row, "start_s")
    end = _seconds(row, "end_s") if row.text("end_s") else start + 10
    if end <= start:
        raise JobError(f"{row.where}: `end_s` is {end:g} and `start_s` is {start:g}: the clip has no length")
    return start, end


def _seconds(row: Row, key: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?", text := row.text(key)):
        raise JobError(f"{row.where}: `{key}` is {text!r} where seconds from the recording's start are expected")
    return float(text)


def _words(genre: str) -> tuple[str, ...]:
    return (genre.lower(),) if genre else ()


def _readable(path: Path) -> str:
    """A path as text that can be written, even if the file's name is not UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def open_local(corpus: params.Corpus, archive: str, downloads: str) -> tuple[Source, int]:
    """The user's own music, and the number of its tracks."""
    metadata = Path(corpus.local.metadata) if corpus.local.metadata else None
    entries = read(corpus.source, Path(corpus.local.audio), metadata)
    digest = functools.cache(provenance.file_digest)  # a recording may hold many tracks

    def source() -> Source:
        for entry in entries:
            yield _track(entry, corpus.source, digest(entry.path)), functools.partial(_open, entry)

    return source(), len(entries)


def _track(entry: Entry, collection: str, digest: str) -> Track:
    return Track(
        track_id=f"{collection}.{entry.name}",
        group=entry.group,
        collection=collection,
        title=entry.title,
        artist=entry.artist,
        licence=entry.licence,
        source_file=_readable(entry.path),
        source_sha256=digest,
        genre=entry.genre,
        facts="",
        style=json.dumps(entry.style) if entry.style else "",
    )


def _open(entry: Entry) -> tuple[Audio, dict[str, Any]]:
    try:
        sound = audio.read(entry.path, _readable(entry.path))
    except ValueError as error:
        raise Unusable(str(error)) from None
    if entry.stretch:
        sound = _cut_out(sound, entry.stretch)
    return sound, {"captions": entry.captions} if entry.captions else {}


def _cut_out(sound: Audio, stretch: Stretch) -> Audio:
    """The stretch of a recording, or the whole file if it is already the stretch."""
    seconds = len(sound.waveform) / sound.rate
    if stretch.alone and seconds <= stretch.end - stretch.start + SLACK:
        return sound
    if stretch.start >= seconds:
        raise Unusable(
            f"its stretch begins at {stretch.start:g} s and the file has {seconds:.1f} s: it is another recording, or "
            "a clip that is not named [ytid]-[start-end]"
        )
    return Audio(sound.waveform[round(stretch.start * sound.rate) : round(stretch.end * sound.rate)], sound.rate)


SOURCES: dict[str, Open] = {"folder": open_local, "musiccaps": open_local, "jamendo": open_local, "fma": open_local}
