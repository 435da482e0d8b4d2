"""Packages and archives as the corpus finds them."""

import io
import tarfile
import zipfile
from pathlib import Path


def deb(path: Path, files: dict[str, bytes], compression: str = "xz") -> Path:
    """A Debian package as dpkg lays it out: an `ar` of a version, an empty control archive, and the payload."""
    payload = io.BytesIO()
    with tarfile.open(fileobj=payload, mode=f"w:{compression}") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar.{compression}", payload.getvalue())]
    content = b"!<arch>\n"
    for name, data in members:
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(content)
    return path


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()
