"""Files are whole or absent."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files import atomic, read_array, read_json, write_array, write_json


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # or the rename would not be one
        assert temporary.suffix == ".txt"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_block_leaves_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    with atomic(tmp_path / "out.txt") as temporary:
        assert str(os.getpid()) in temporary.name
        temporary.touch()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(), SCALARS | st.lists(SCALARS, max_size=3), max_size=3))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_name_for_is_an_error_and_leaves_the_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": value})
    assert read_json(path) == {"x": 1}


def test_json_is_readable_and_ends_its_last_line(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {"a": [1]})
    text = (tmp_path / "value.json").read_text()
    assert text == json.dumps({"a": [1]}, indent=2) + "\n"


@pytest.mark.parametrize("array", [np.arange(6, dtype=np.uint16).reshape(2, 3), np.zeros((0, 4), np.int16), np.eye(2)])
def test_arrays_come_back_read_only(tmp_path: Path, array: np.ndarray) -> None:
    write_array(tmp_path / "x.npy", array)
    found = read_array(tmp_path / "x.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


def test_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    write_array(tmp_path / "x.npy", np.ones(4))
    assert isinstance(read_array(tmp_path / "x.npy"), np.memmap)


def test_objects_are_not_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_array(tmp_path / "x.npy", np.array([{}], dtype=object))
    assert not list(tmp_path.iterdir())
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"allow_pickle=False|Python objects"):
        read_array(tmp_path / "x.npy")


def test_a_file_that_is_not_whole_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"x\.json is not whole JSON"):
        read_json(tmp_path / "x.json")
    write_array(tmp_path / "x.npy", np.arange(1000))
    whole = (tmp_path / "x.npy").read_bytes()
    for size in (0, 20, len(whole) - 1):
        (tmp_path / "x.npy").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"x\.npy is not a whole \.npy file"):
            read_array(tmp_path / "x.npy")
