"""The bundle's reader against checksums computed bit by bit, and against files that were damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import fetch
from pipeline.pretrained import tensorflow_bundle

FILES = (".index", ".data-00000-of-00001")


@pytest.fixture(scope="module")
def original() -> Path:
    return fetch.musicnn_folder(".cache/downloads") / "MTT_musicnn"


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(original / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    return tmp_path


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_the_checksum_of_the_standards_example() -> None:
    assert tensorflow_bundle.crc32c(b"123456789") == 0xE3069283


@given(st.integers(4, 5000), st.integers(0, 2**32 - 1))
def test_lanes_do_not_change_the_checksum(length: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(length)
    assert tensorflow_bundle.crc32c(data) == slow_crc32c(data)


def test_variables_have_their_names_and_shapes(original: Path) -> None:
    variables = tensorflow_bundle.read(f"{original}/", ending=("/kernel",))
    assert len(variables) == 10
    assert variables["conv2d_1/kernel"].shape == (7, 67, 1, 204)
    assert variables["dense/kernel"].shape == (1506, 200)
    assert all(np.isfinite(value).all() for value in variables.values())


def test_a_scalar_and_other_names_are_read_too(original: Path) -> None:
    assert set(tensorflow_bundle.read(f"{original}/", ending=("power",))) == {"beta1_power", "beta2_power"}


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        (".index", lambda data: data[:-9], "cut short"),
        (".index", lambda data: b"", "not a TensorFlow bundle"),
        (".index", lambda data: data[:100] + b"\xff" + data[101:], "checksum"),
        (".data-00000-of-00001", lambda data: data[: len(data) // 2], "cut short"),
        (".data-00000-of-00001", lambda data: b"\xff" + data[1:], "batch_normalization/beta fails its checksum"),
    ],
)
def test_damage_is_named(bundle: Path, name: str, damage: Callable[[bytes], bytes], complaint: str) -> None:
    path = bundle / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=complaint):
        tensorflow_bundle.read(f"{bundle}/", ending=("/kernel", "/beta"))


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / ".index").unlink()
    with pytest.raises(FileNotFoundError, match="index"):
        tensorflow_bundle.read(f"{bundle}/")
