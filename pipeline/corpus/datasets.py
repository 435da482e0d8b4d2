"""Music that a user has: a folder with captions, MusicCaps, MTG-Jamendo or FMA, from their published metadata.

The audio lies in a local folder; nothing is fetched. Rows whose audio is not there are passed over and counted, for
videos vanish and people keep subsets.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline import audio, params, provenance
from pipeline.audio import Audio
from pipeline.corpus.source import Open, Source, Track, Unusable
from pipeline.job import JobError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


class Entry(NamedTuple):
    """A piece of audio and what its metadata say; empty where they say nothing."""

    path: Path
    name: str  # unique
    group: str  # never in two splits: the artist, else the piece itself
    title: str
    artist: str
    licence: str
    genre: str
    style: list[str]  # words that fit into a caption
    captions: list[str]


def read(source: str, folder: Path, metadata: Path | None) -> list[Entry]:
    """The entries of `source` (`folder`, `musiccaps`, `jamendo` or `fma`) whose audio lies in `folder`, by name.

    Raises:
        JobError: the folder or the metadata are missing, have other columns, or have no entry in common.
    """
    if not folder.is_dir():
        raise JobError(f"{folder} is no folder: set corpus.local.audio to the one that holds the audio")
    if metadata is not None and not metadata.is_file():
        raise JobError(f"{metadata} does not exist: set corpus.local.metadata to the file of {source}'s metadata")
    if metadata is None and source != "folder":
        raise JobError(f"corpus.source is {source}: set corpus.local.metadata to the file of its metadata")
    entries, missing = READERS[source](folder, metadata)
    if not entries:
        raise JobError(
            f"{folder} holds no audio that {metadata or 'a folder can have'} names ({missing} rows looked for)"
        )
    if missing:
        print(f"{source}: {missing} of {missing + len(entries)} rows have no audio in {folder}", flush=True)
    return sorted(entries, key=lambda entry: entry.name)


def _folder(folder: Path, metadata: Path | None) -> tuple[list[Entry], int]:
    """Any audio; metadata are a CSV or JSON lines of `file`, `caption` or a list `captions`, and maybe `artist` ..."""
    if metadata is None:
        rows: list[dict[str, Any]] = [{"file": str(path.relative_to(folder))} for path in _audio(folder)]
    elif metadata.suffix == ".csv":
        rows = _table(metadata, ",", {"file"}).to_dict("records")
    else:
        rows = [json.loads(line) for line in metadata.read_text().splitlines() if line.strip()]
        if any("file" not in row for row in rows):
            raise JobError(f"{metadata}: every line needs a `file`")
    entries = []
    for row in rows:
        path, name = folder / row["file"], str(Path(row["file"]).with_suffix(""))
        captions = row.get("captions") or [row[key] for key in ["caption"] if row.get(key)]
        told = {key: str(row.get(key) or "") for key in ("artist", "licence", "genre")}
        if path.is_file():
            title = str(row.get("title") or name)
            style = [told["genre"].lower()] * bool(told["genre"])
            entries.append(Entry(path, name, told["artist"] or name, title, *told.values(), style, list(captions)))
    return entries, len(rows) - len(entries)


def _musiccaps(folder: Path, metadata: Path) -> tuple[list[Entry], int]:
    """MusicCaps (Agostinelli et al. 2023): `musiccaps-public.csv`, clips named by their 11 letters of `ytid`."""
    table = _table(metadata, ",", {"ytid", "start_s", "caption"})
    paths = {path.stem.lstrip("[")[:11]: path for path in _audio(folder)}
    entries = [
        Entry(paths[row.ytid], row.ytid, row.ytid, row.ytid, "", "caption CC BY-SA 4.0", "", [], [row.caption])
        for row in table.itertuples()
        if row.ytid in paths
    ]
    return entries, len(table) - len(entries)


def _jamendo(folder: Path, metadata: Path) -> tuple[list[Entry], int]:
    """MTG-Jamendo (Bogdanov et al. 2019): `autotagging.tsv` and its subsets, with a column for every tag of a track."""
    lines = [line.split("\t") for line in metadata.read_text().splitlines() if line]
    wanted = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
    if not lines or lines[0] != wanted:
        raise JobError(f"{metadata} is none of MTG-Jamendo's tables: its first line is not {' '.join(wanted)}")
    entries = []
    for track, artist, _, place, _, *tags in lines[1:]:
        found = [path for path in (folder / place, (folder / place).with_suffix(".low.mp3")) if path.is_file()]
        if found:
            kinds = [tag.partition("---")[::2] for tag in tags]
            genre = next((name for kind, name in kinds if kind == "genre"), "")
            style = [name for kind, name in kinds if kind in ("genre", "instrument")]
            entries.append(Entry(found[0], track, artist, track, artist, "Creative Commons", genre, style[:3], []))
    return entries, len(lines) - 1 - len(entries)


def _fma(folder: Path, metadata: Path) -> tuple[list[Entry], int]:
    """FMA (Defferrard et al. 2017): `tracks.csv` with its two rows of names; audio in `000/000002.mp3`."""
    table = pd.read_csv(metadata, index_col=0, header=[0, 1], low_memory=False)
    columns = [("track", "title"), ("track", "genre_top"), ("track", "license"), ("artist", "id"), ("artist", "name")]
    if lacking := [column for column in columns if column not in table]:
        raise JobError(f"{metadata} is not FMA's tracks.csv: it has no column {'/'.join(lacking[0])}")
    entries = []
    for track, row in table[columns].fillna("").iterrows():
        path = folder / f"{track // 1000:03d}" / f"{track:06d}.mp3"
        if path.is_file():
            title, genre, licence, artist, name = (str(value) for value in row)
            style = [genre.lower()] * bool(genre)
            entries.append(Entry(path, f"{track:06d}", f"artist {artist}", title, name, licence, genre, style, []))
    return entries, len(table) - len(entries)


READERS: dict[str, Callable[[Path, Any], tuple[list[Entry], int]]] = {
    "folder": _folder,
    "musiccaps": _musiccaps,
    "jamendo": _jamendo,
    "fma": _fma,
}


def _table(path: Path, separator: str, wanted: set[str]) -> pd.DataFrame:
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    if lacking := sorted(wanted - set(table)):
        raise JobError(f"{path} has no column {lacking[0]}; it has {', '.join(table)}")
    return table


def _audio(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def open_local(corpus: params.Corpus, archive: str, downloads: str) -> tuple[Source, int]:
    """The user's own music, and its number of files."""
    metadata = Path(corpus.local.metadata) if corpus.local.metadata else None
    entries = read(corpus.source, Path(corpus.local.audio), metadata)

    def source() -> Source:
        for entry in entries:
            yield _piece(entry, corpus.source), functools.partial(_open, entry)

    return source(), len(entries)


def _piece(entry: Entry, collection: str) -> Track:
    return Track(
        track_id=f"{collection}.{entry.name.replace('/', '.')}",
        group=entry.group,
        collection=collection,
        title=entry.title,
        artist=entry.artist,
        licence=entry.licence,
        source_file=str(entry.path),
        source_sha256=provenance.file_digest(entry.path),
        genre=entry.genre,
        facts="",
        style=json.dumps(entry.style) if entry.style else "",
    )


def _open(entry: Entry) -> tuple[Audio, dict[str, Any]]:
    try:
        return audio.read(entry.path), {"captions": entry.captions} if entry.captions else {}
    except ValueError as error:
        raise Unusable(str(error)) from None


SOURCES: dict[str, Open] = {"folder": open_local, "musiccaps": open_local, "jamendo": open_local, "fma": open_local}
