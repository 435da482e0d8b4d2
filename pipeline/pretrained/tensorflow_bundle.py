"""Variables of a TensorFlow checkpoint ("tensor bundle"), read with numpy alone.

`<prefix>.index` is an SSTable of uncompressed blocks: sorted keys that share prefixes, each with a protobuf
`BundleEntryProto` (1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 masked CRC-32C). `<prefix>.data-00000-of-00001` holds
the tensors' bytes, little-endian, row-major.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = 0xDB4775248B80FB57
FLOAT32 = 1  # tensorflow.DataType.DT_FLOAT
LANE = 1024  # bytes that one lane of the checksum takes


def read(prefix: Path | str, *, ending: tuple[str, ...] = ("",)) -> dict[str, np.ndarray]:
    """Float32 variables whose name ends with one of `ending`, checked against their checksums.

    Raises:
        ValueError: the files are no bundle, are cut short, hold another dtype, or fail a checksum.
        FileNotFoundError: one of the two files is missing.
    """
    index, data = Path(f"{prefix}.index").read_bytes(), Path(f"{prefix}.data-00000-of-00001").read_bytes()
    variables = {}
    for key, value in _entries(index, f"{prefix}.index"):
        name = key.decode()
        if name and name.endswith(ending):
            variables[name] = _tensor(name, _message(value), data, f"{prefix}.data-00000-of-00001")
    return variables


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, at least 4 bytes.

    A CRC is linear in the bits and blind to leading zeros, so lanes of the data are taken side by side and then folded
    in pairs: crc(a b) = shift(crc(a), len(b)) ^ crc(b), where shifting by twice the length is the shift's square.
    """
    lanes = 1 << max(0, (-(-len(data) // LANE) - 1).bit_length())
    rows = np.zeros(lanes * LANE, np.uint32)
    rows[-len(data) :] = np.frombuffer(data, np.uint8)
    rows[len(rows) - len(data) : len(rows) - len(data) + 4] ^= 0xFF  # the register starts with ones
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(rows.reshape(lanes, LANE).T):
        state = _step(state ^ column)
    shift = _shift_by_a_lane()
    while len(state) > 1:
        state = _apply(shift, state[0::2]) ^ state[1::2]
        shift = _apply(shift, shift)
    return int(state[0]) ^ 0xFFFFFFFF


def _entries(index: bytes, path: str) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of an SSTable: its footer points to a block that points to the blocks with the entries."""
    if len(index) < 48 or struct.unpack("<Q", index[-8:])[0] != MAGIC:
        raise ValueError(f"{path} is not a TensorFlow bundle's index, or is cut short: fetch it again")
    footer = _varints(index[-48:])
    _, _, offset, size = (next(footer) for _ in range(4))
    for _, handle in _block(index, offset, size, path):
        pointer = _varints(handle)
        yield from _block(index, next(pointer), next(pointer), path)


def _block(index: bytes, offset: int, size: int, path: str) -> Iterator[tuple[bytes, bytes]]:
    block, trailer = index[offset : offset + size], index[offset + size : offset + size + 5]
    if len(trailer) < 5 or trailer[0] != 0:
        raise ValueError(f"{path} is cut short or has compressed blocks, which TensorFlow does not write")
    _verify(block + trailer[:1], struct.unpack("<I", trailer[1:])[0], path)
    (restarts,) = struct.unpack("<I", block[-4:])
    position, end, key = 0, len(block) - 4 - 4 * restarts, b""
    while position < end:
        shared, position = _varint(block, position)
        added, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + added]
        position += added + length
        yield key, block[position - length : position]


def _tensor(name: str, entry: "_Message", data: bytes, path: str) -> np.ndarray:
    if (kind := entry.numbers.get(1)) != FLOAT32:
        raise ValueError(f"{path}: {name} has data type {kind}, only float32 (1) is read")
    shape = [_message(size).numbers.get(1, 0) for size in _message(entry.blobs[2][0]).blobs.get(2, [])]
    offset, size = entry.numbers.get(4, 0), entry.numbers[5]
    if len(data) < offset + size:
        raise ValueError(f"{path} ends before {name} does: it is cut short, fetch it again")
    _verify(data[offset : offset + size], entry.numbers[6], f"{path}, {name}")
    return np.frombuffer(data, "<f4", size // 4, offset).reshape(shape)


class _Message(NamedTuple):
    """Fields of a protobuf message by number."""

    numbers: dict[int, int]
    blobs: dict[int, list[bytes]]  # all that has a length: strings, messages; in order where a field is repeated


def _message(data: bytes) -> _Message:
    numbers: dict[int, int] = {}
    blobs: dict[int, list[bytes]] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            numbers[number], position = _varint(data, position)
        elif kind == 2:
            length, position = _varint(data, position)
            blobs.setdefault(number, []).append(data[position : position + length])
            position += length
        elif kind == 5:
            (numbers[number],) = struct.unpack("<I", data[position : position + 4])
            position += 4
        else:
            raise ValueError(f"a protobuf field of kind {kind} does not occur in a bundle's entries")
    return _Message(numbers, blobs)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position, value, shift = position + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return value, position


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _verify(data: bytes, masked: int, where: str) -> None:
    crc = crc32c(data)
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != masked:
        raise ValueError(f"{where} fails its checksum: fetch it again")


@functools.cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


def _step(state: np.ndarray) -> np.ndarray:
    return _table()[state & 0xFF] ^ state >> 8


@functools.cache
def _shift_by_a_lane() -> np.ndarray:
    """What `LANE` zero bytes make of each bit of the register, `[32]`."""
    shift = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(LANE):
        shift = _step(shift)
    return shift


def _apply(shift: np.ndarray, state: np.ndarray) -> np.ndarray:
    bits = state[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(np.where(bits, shift, np.uint32(0)), axis=1)
