"""Game soundtracks packaged by Debian: the pinned catalogue of their tracks, and how to read them from the packages.

`soundtracks.csv` has one row per track: digest, title, artist, licence, style and group, from the files' tags, the
packages' copyright files and the albums' own track lists, which replace missing or clearly wrong tags. Tracks are
identified by the SHA-256 of the audio file, so another version of a package with the same tracks works too.
"""

import csv
import functools
import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

from pipeline import audio, fetch, params
from pipeline.audio import Audio
from pipeline.corpus.source import Open, Source, Track, normalized
from pipeline.fetch import Package
from pipeline.job import JobError

CATALOGUE = Path(__file__).with_suffix(".csv")
SUFFIXES = (".ogg", ".opus")
# How tarfile reads a stream of each compression, by the suffix of data.tar.
STREAMS: dict[str, Literal["r|", "r|xz", "r|gz", "r|bz2"]] = {"": "r|", "xz": "r|xz", "gz": "r|gz", "bz2": "r|bz2"}

PACKAGES = {
    package.name: package
    for package in (
        Package(
            "wesnoth-1.16-music",
            "pool/main/w/wesnoth-1.16/wesnoth-1.16-music_1.16.9-1_all.deb",
            "f9bc3cde92b4ab30db5d7b85f89b4bcc3d788dd92602956d0347250850bf59bb",
        ),
        Package(
            "ufoai-music",
            "pool/main/u/ufoai-music/ufoai-music_2.5-2_all.deb",
            "2465d55e9dce75a3a2a1ad1c8ca67da84e251c04e0965d63a8562b2d9f76f9e6",
        ),
        Package(
            "warzone2100-music",
            "pool/main/w/warzone2100/warzone2100-music_4.3.3-3_all.deb",
            "d3b2c9f90ea5438d45d4aff18339a03ec808e1affa9dac91f7dad61cb15ee64e",
        ),
        Package(
            "nexuiz-music",
            "pool/main/n/nexuiz-data/nexuiz-music_2.5.2-12_all.deb",
            "d1a7d6e2c0a5bbe6670dbf73354e38f742597310d425e373250fc71a636f8dda",
        ),
        Package(
            "singularity-music",
            "pool/main/s/singularity-music/singularity-music_007-2_all.deb",
            "139ba1e408eeb0a72f1fff3760ca46558b9f81bed97dc8c0efa108c4007f4845",
        ),
        Package(
            "hyperrogue-music",
            "pool/main/h/hyperrogue/hyperrogue-music_12.0q-1_all.deb",
            "61ab9f4c2169442d85f42c42d26e80c1a18b93c741f3d44f1b9d83015904e7f7",
        ),
        Package(
            "colobot-common-sounds",
            "pool/main/c/colobot/colobot-common-sounds_0.2.0-2_all.deb",
            "819e799542eac69c95b072567b5584eb3e0b2bb900de13efa3684915747b1644",
        ),
        Package(
            "marsshooter-data",
            "pool/main/m/marsshooter/marsshooter-data_0.7.6-7_all.deb",
            "b8d040a9739434f2be96bbf9b38f0743d56d59b853647b2242f9357e38394951",
        ),
    )
}


class Listed(NamedTuple):
    """A track as the catalogue lists it."""

    package: str
    path: str  # in the package; for a file in a .pk3, the .pk3's name comes first
    sha256: str  # of the audio file
    title: str
    artist: str  # empty if unknown
    group: str  # package and artist, or else the common part of the file names; never in two splits
    genre: str  # the tag
    style: str  # the genre in words for captions; empty if it does not describe the music
    licence: str


def wanted(names: Sequence[str]) -> list[Package]:
    """The pinned packages with these names; JobError for a name that is not in the catalogue."""
    if unknown := set(names) - set(PACKAGES):
        raise JobError(f"corpus.soundtracks.packages names {sorted(unknown)}; known are {sorted(PACKAGES)}")
    return [PACKAGES[name] for name in names]


def catalogue(names: Sequence[str]) -> dict[str, Listed]:
    """The tracks of these packages by the SHA-256 of their audio files, in the catalogue's order."""
    with CATALOGUE.open(newline="", encoding="utf-8") as file:
        tracks = [Listed(**row) for row in csv.DictReader(file)]
    return {track.sha256: track for track in tracks if track.package in names}


def tracks(deb: Path, known: dict[str, Listed]) -> Iterator[tuple[Listed, BinaryIO]]:
    """The known tracks in `deb`, each with its encoded audio; other audio files (sound effects) are skipped."""
    for _, data in audio_files(deb):
        track = known.get(hashlib.sha256(data).hexdigest())
        if track is not None:
            yield track, io.BytesIO(data)


def audio_files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each Vorbis or Opus file in a Debian package, including those in its .pk3 (zip) files.

    Raises:
        JobError: the package is damaged, or the standard library does not support its compression.
    """
    try:
        with deb.open("rb") as file:
            compression = _seek_data(file, deb)
            with tarfile.open(fileobj=file, mode=STREAMS[compression]) as members:
                for member in members:
                    path = member.name.removeprefix("./")
                    if path.endswith(SUFFIXES):
                        yield path, _content(members, member).read()
                    elif path.endswith(".pk3"):
                        yield from _zipped(path, _content(members, member))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise JobError(f"{deb} cannot be unpacked ({error}): it is damaged; remove it and run again") from None


def _seek_data(file: BinaryIO, deb: Path) -> str:
    """Moves to the payload of an `ar` file and returns its compression: `xz`, `gz`, `bz2`."""
    if file.read(8) != b"!<arch>\n":
        raise JobError(f"{deb} is not a Debian package: remove it and run again")
    while len(header := file.read(60)) == 60:
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            compression = name.removeprefix("data.tar").removeprefix(".")
            if compression not in STREAMS:
                raise JobError(f"{deb}: data.tar.{compression} cannot be read by Python; take Debian's own package")
            return compression
        file.seek(size + size % 2, io.SEEK_CUR)
    raise JobError(f"{deb} holds no data.tar: it is truncated; remove it and run again")


def _content(members: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = members.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name} is no file")
    return content


def _zipped(path: str, stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    # A zip file is read from its end, but a tar stream can only be read forwards.
    with tempfile.TemporaryFile() as file:
        while chunk := stream.read(1 << 20):
            file.write(chunk)
        with zipfile.ZipFile(file) as members:
            for member in members.infolist():
                if member.filename.endswith(SUFFIXES):
                    yield f"{path}/{member.filename}", members.read(member)


def open_soundtracks(corpus: params.Corpus, archive: str, downloads: str) -> tuple[Source, int]:
    """The catalogue's tracks in the order of the packages, and how many there are."""
    names = corpus.soundtracks.packages
    debs = fetch.packages(wanted(names), archive, downloads)
    known = catalogue(names)

    def source() -> Source:
        missing = dict(known)
        for deb in debs:
            for track, data in tracks(deb, missing):
                del missing[track.sha256]
                yield _track(track), functools.partial(_decode, data, track.path)
        if missing:
            lost = next(iter(missing.values()))
            raise JobError(
                f"the packages lack {len(missing)} tracks of the catalogue, {lost.path} of {lost.package} for one: "
                "they are of another version; set runtime.archive to a place that has the pinned one"
            )

    return source(), len(known)


def _track(track: Listed) -> Track:
    stem = normalized(Path(track.path).stem)
    return Track(
        track_id=f"{track.package}.{stem}.{track.sha256[:6]}",
        group=track.group,
        collection=track.package,
        title=track.title,
        artist=track.artist,
        licence=track.licence,
        source_file=track.path,
        source_sha256=track.sha256,
        genre=track.genre,
        facts="",
        style=json.dumps([track.style]) if track.style else "",
    )


def _decode(data: BinaryIO, name: str) -> tuple[Audio, dict[str, Any]]:
    return audio.read(data, name), {}


SOURCES: dict[str, Open] = {"soundtracks": open_soundtracks}
