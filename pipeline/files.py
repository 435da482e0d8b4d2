"""Files that are whole or absent: written under a temporary name, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    The temporary name keeps the suffix, which savers such as `np.save` insist on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as JSON; NaN and infinity are errors (ValueError), for JSON has no name for them."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text)


def read_json(path: Path | str) -> Any:
    """Reads JSON; ValueError names the file that is not."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}): remove it and make it again") from None


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Writes one array as `.npy`."""
    with atomic(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def read_array(path: Path | str) -> np.ndarray:
    """Memory-maps one `.npy` array, read-only; ValueError names the file that is none, or not whole."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a whole .npy file ({error}): remove it and make it again") from None
