import csv
import functools
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archives import deb, zipped

from pipeline.corpus import soundtracks
from pipeline.job import JobError


@functools.cache  # an encoder numbers its streams at random
def encoded(seed: int, kind: str = "OGG", subtype: str = "VORBIS", rate: int = 44_100, seconds: float = 1.0) -> bytes:
    """Noise, encoded; every seed another."""
    stream = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(rate * seconds), 2))
    soundfile.write(stream, noise, rate, format=kind, subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_audio_files_come_out_as_they_went_in(tmp_path: Path, compression: str) -> None:
    opus = encoded(1, subtype="OPUS", rate=48_000)
    pk3 = zipped({"music/c.ogg": encoded(2), "music/readme.txt": b"no"})
    files = {"usr/a.ogg": encoded(0), "usr/b.opus": opus, "usr/music.pk3": pk3, "usr/copyright": b"no"}
    found = dict(soundtracks.audio_files(deb(tmp_path / "x.deb", files, compression)))
    assert found == {"usr/a.ogg": encoded(0), "usr/b.opus": opus, "usr/music.pk3/music/c.ogg": encoded(2)}


def test_only_tracks_of_the_catalogue_come_out(tmp_path: Path) -> None:
    digest = hashlib.sha256(encoded(0)).hexdigest()
    track = soundtracks.Listed("p", "old/place.ogg", digest, "Title", "Artist", "p/artist", "", "", "GPL-2.0-or-later")
    path = deb(tmp_path / "x.deb", {"new/place.ogg": encoded(0), "effects/click.ogg": encoded(1)})
    [(found, data)] = soundtracks.tracks(path, {digest: track})
    assert found is track
    assert data.read() == encoded(0)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_a_damaged_package_is_named(tmp_path: Path, cut: float) -> None:
    path = deb(tmp_path / "x.deb", {"a.ogg": encoded(0), "b.ogg": encoded(1)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(JobError, match=r"x\.deb.*(damaged|truncated).*run again"):
        list(soundtracks.audio_files(path))


def test_what_is_no_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"<html>Not found</html>")
    with pytest.raises(JobError, match="not a Debian package"):
        list(soundtracks.audio_files(tmp_path / "x.deb"))
    content = b"!<arch>\n" + f"{'data.tar.zst':<48}{4:<10}`\n".encode() + b"abcd"
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(JobError, match=r"data\.tar\.zst"):
        list(soundtracks.audio_files(tmp_path / "x.deb"))


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(JobError, match=r"\['tuxracer'\]; known are"):
        soundtracks.wanted(["wesnoth-1.16-music", "tuxracer"])


def test_the_catalogue_is_whole() -> None:
    tracks = soundtracks.catalogue(list(soundtracks.PACKAGES)).values()
    with soundtracks.CATALOGUE.open(newline="", encoding="utf-8") as file:
        assert len(tracks) == sum(1 for _ in csv.DictReader(file))  # no digest twice
    assert {track.package for track in tracks} == set(soundtracks.PACKAGES)
    assert all(track.title and track.licence and len(track.sha256) == 64 for track in tracks)
    assert all(track.group.startswith(f"{track.package}/") for track in tracks)
    artists: dict[tuple[str, str], set[str]] = {}
    for track in tracks:
        artists.setdefault((track.package, track.artist or track.path), set()).add(track.group)
    assert all(len(groups) == 1 for groups in artists.values())


def test_packages_are_pinned_by_path_and_digest() -> None:
    for name, package in soundtracks.PACKAGES.items():
        assert package.path.startswith("pool/main/")
        assert Path(package.path).name.startswith(f"{name}_")
        assert len(package.sha256) == 64
