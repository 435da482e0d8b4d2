"""Audio in and out: mono float32 waveforms `[T]`, full scale 1, and the int16 in which corpora are stored."""

import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from pipeline.files import atomic

FULL_SCALE = 32_768  # of int16, as libsndfile has it; its greatest value is one less
CLIP_LEVEL = 32_767 / FULL_SCALE
# Decoded MP3s reach 1.5 and unlimited float mixes 2 or 3; a float file beyond +12 dB is at another scale, mostly that
# of integers, and clipping would make a square wave of it.
GREATEST_PEAK = 4.0

UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's for a file that states no length, such as a piped FLAC
# What libsndfile logs where a file is shorter than its header states.
SHORT = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
# A WAV whose writer could not seek back states about 2^31 or 2^32 bytes; one that counts its header, a few too many.
UNKNOWN_SIZES = range(0x7FFF0000, 2**32)
HEADER_BYTES = 64

OGG_PAGE = re.compile(rb"OggS\0([\0-\7]).{20}(.)", re.DOTALL)  # flags, and the length of the table of segments
OGG_BEGIN, OGG_END = 2, 4
VORBIS_BLOCK = 8192  # samples of the longest one

MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version, Hz
MP3_KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
}
# A first frame without sound that states the number of frames, with the flag that it does.
MP3_COUNT = re.compile(rb"(?:(?:Xing|Info)\0{3}[\1\3\5\7\x09\x0b\x0d\x0f]|VBRI.{10})(.{4})", re.DOTALL)
MP3_HEAD = 64  # bytes of a first frame in which that stands
MP3_JOINED = 8  # whole frames of another rate behind an MP3 are no chance, but a second recording


class Audio(NamedTuple):
    """One decoded file."""

    waveform: np.ndarray  # [T], float32, mono
    rate: int  # Hz


class Mp3Frame(NamedTuple):
    """Where a frame of an MP3 lies, and what its header says."""

    start: int  # byte
    end: int  # byte
    mpeg1: bool
    rate: int  # Hz


def read(source: Path | str | BinaryIO, name: str | None = None, *, finite: bool = True) -> Audio:
    """Decodes a file, or a binary stream called `name` in messages, to mono: the mean of its channels.

    Headers are not believed: what is there is counted, and then compared with what the header states. An MP3 that
    states no length is taken as it is; nothing in it tells a cut one from a shorter one.

    Raises:
        ValueError: `source` is missing, undecodable, truncated or several streams in one, has no samples, lies far
            beyond full scale, or, where it has to be `finite`, holds NaN or infinity.
    """
    name = name or str(source)
    if not isinstance(source, str | Path):
        return _read(source, name, finite)
    if not Path(source).is_file():
        what = "is no file" if Path(source).exists() else "does not exist"
        raise ValueError(f"{name} {what}: give the path of an audio file")
    with Path(source).open("rb") as stream:
        return _read(stream, name, finite)


def _read(stream: BinaryIO, name: str, finite: bool) -> Audio:
    try:
        with _opened(stream, name) as file:
            # Block by block: ten minutes in stereo would take 230 MB at once.
            blocks = [block.mean(axis=1) for block in file.onward()]
            rate, stated, log = file.samplerate, file.frames, file.extra_info
            # Whole Ogg files state a little more where they begin before sample 0 or mark several pages as the last.
            slack = VORBIS_BLOCK if file.format == "OGG" else 0
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{name} cannot be decoded ({error.error_string}): it is not an audio file, or truncated"
        ) from None
    waveform = np.concatenate([np.zeros(0, np.float32), *blocks])
    if len(waveform) + slack < stated < UNKNOWN_FRAMES or _lacks_data(log):
        raise ValueError(f"{name} is truncated: it ends after {len(waveform)} samples")
    if not len(waveform):
        raise ValueError(f"{name} has no samples: it is empty or truncated")
    peak = np.max(np.abs(waveform), where=np.isfinite(waveform), initial=0)
    if peak > GREATEST_PEAK:
        raise ValueError(f"{name} has a peak of {peak:.6g} where full scale is 1: divide its samples by their scale")
    return Audio(checked(waveform, name) if finite else waveform, rate)


class _Onward(soundfile.SoundFile):
    """A file read from begin to end without seeks: soundfile makes one after each read, and MP3s lose their state."""

    def seekable(self) -> bool:
        return False

    def onward(self, seconds: int = 10) -> Iterator[np.ndarray]:
        """Blocks `[n, channels]` until nothing comes."""
        # To ask for more than the stated length would make the decoder choke on a tag at the file's end.
        left = self.frames
        while left and len(block := self.read(min(left, seconds * self.samplerate), "float32", always_2d=True)):
            yield block
            left -= len(block)


def checked(waveform: np.ndarray, name: str = "waveform") -> np.ndarray:
    """`waveform`, if it is `[T]` with T > 0 and finite; ValueError otherwise."""
    if waveform.ndim != 1:
        raise ValueError(f"{name} must be mono [T], got shape {waveform.shape}")
    if not len(waveform):
        raise ValueError(f"{name} has no samples")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return waveform


def resample(waveform: np.ndarray, rate: int, target: int) -> np.ndarray:
    """`waveform` `[T]` from `rate` to `target` Hz, `[round(T target / rate)]`, by SoX's resampler at high quality."""
    return waveform if rate == target else soxr.resample(waveform, rate, target)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Full scale 1 to int16; what lies beyond full scale is clipped."""
    return np.clip(np.round(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Int16 to float32 at full scale 1."""
    return samples.astype(np.float32) / FULL_SCALE


def clipped(waveform: np.ndarray) -> float:
    """Share of samples, full scale 1, that 16 bits cannot tell from clipped ones; 0 of none."""
    return float(np.mean(np.abs(waveform) >= CLIP_LEVEL)) if waveform.size else 0.0


def rms_db(waveform: np.ndarray) -> float:
    """Root mean square in dB re full scale; minus infinity for silence."""
    power = np.mean(np.square(waveform, dtype=np.float64))
    return float(10 * np.log10(power)) if power > 0 else -float("inf")


def loudness_normalize(waveform: np.ndarray, rate: int, lufs: float) -> np.ndarray:
    """`waveform` `[T]` at an integrated loudness of `lufs` (ITU-R BS.1770); it may exceed full scale.

    Raises:
        ValueError: it is not mono, not finite, shorter than the 0.4 s of one gating block, or silent.
    """
    import pyloudnorm

    checked(waveform)
    if len(waveform) < 0.4 * rate:
        raise ValueError(f"waveform has {len(waveform) / rate:.2f} s; loudness is defined from 0.4 s")
    loudness = pyloudnorm.Meter(rate).integrated_loudness(waveform.astype(np.float64))
    if not np.isfinite(loudness):
        raise ValueError("waveform is silent (below -70 LUFS): it has no loudness to normalize")
    return (waveform * 10 ** ((lufs - loudness) / 20)).astype(np.float32)


def write_wav(path: Path | str, waveform: np.ndarray, rate: int) -> None:
    """Writes 16-bit PCM; what lies beyond full scale is clipped."""
    with atomic(path) as temporary:
        soundfile.write(temporary, to_int16(checked(waveform)), rate, subtype="PCM_16", format="WAV")


def _opened(stream: BinaryIO, name: str) -> _Onward:
    """`stream`, with its length mended where the header misleads libsndfile."""
    file = _Onward(stream)
    if file.format not in ("MP3", "OGG") and not (file.format in ("WAV", "WAVEX") and file.frames == 0):
        return file
    file.close()
    stream.seek(0)
    encoded = stream.read()
    try:
        mended = {"OGG": whole_ogg, "MP3": mended_mp3}.get(file.format, mended_wav)(encoded)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    return _Onward(io.BytesIO(mended))


def _lacks_data(log: str) -> bool:
    """Whether libsndfile met the end of a file of plain samples before the end that its header states."""
    sizes = [(int(stated), int(there)) for stated, there in SHORT.findall(log)]
    return any(stated > there + HEADER_BYTES and stated not in UNKNOWN_SIZES for stated, there in sizes)


def mended_wav(encoded: bytes) -> bytes:
    """A WAV whose data size is 0, as one piped has it, with that for unknown which libsndfile knows.

    A chunk in its place that ends with the file tells that there is no data indeed.
    """
    start = encoded.find(b"data\0\0\0\0") + 8
    rest = encoded[start:]
    chunk_end = 8 + int.from_bytes(rest[4:8], "little")
    if start < 8 or (re.match(rb"[\w ]{4}", rest) and chunk_end <= len(rest) <= chunk_end + 1):
        return encoded
    return encoded[: start - 4] + b"\xff" * 4 + rest


def whole_ogg(encoded: bytes) -> bytes:
    """An Ogg file as it is (RFC 3533).

    Raises:
        ValueError: it was cut, or a second stream follows the first; libsndfile tells neither.
    """
    pages = list(OGG_PAGE.finditer(encoded))
    flags = [page[1][0] for page in pages]
    # A cut file ends within a page, or after one that is not marked as the last.
    table = pages[-1].end(), pages[-1].end() + pages[-1][2][0]
    if not flags[-1] & OGG_END or table[1] + sum(encoded[slice(*table)]) > len(encoded):
        raise ValueError("is truncated: its last page is missing")
    first_end = next(index for index, flag in enumerate(flags) if flag & OGG_END)
    if any(flag & OGG_BEGIN for flag in flags[first_end:]):
        raise ValueError("holds several streams one after another, and only the first would be read: make one of them")
    return encoded


def mended_mp3(encoded: bytes) -> bytes:
    """An MP3's frames alone, behind a first frame that states how many there are.

    Without that number libsndfile makes the length of the file's size and the first frame's bit rate. Where a number
    is stated and two or more frames are missing, it stays.
    """
    frames = mp3_frames(encoded)
    if not frames:
        return encoded  # layer I or II, or free format
    if len(others := mp3_frames(encoded[frames[-1].end :])) >= MP3_JOINED:
        rates = f"{frames[0].rate} Hz and then {others[0].rate} Hz"
        raise ValueError(f"holds two recordings, at {rates}, and only the first would be read: make one of them")
    sound = b"".join(encoded[frame.start : frame.end] for frame in frames)
    if told := MP3_COUNT.search(sound, 0, MP3_HEAD):
        # Some encoders count the first frame too.
        stated, there = int.from_bytes(told[1]), len(frames) - 1
        count = stated if there < stated - 1 else there
        return sound[: told.start(1)] + count.to_bytes(4) + sound[told.end(1) :]
    return _mp3_count_frame(sound[:4], frames[0], len(frames)) + sound


def _mp3_count_frame(header: bytes, like: Mp3Frame, count: int) -> bytes:
    """A frame of 64 kbit/s without sound, which states `count`, for a stream whose frames have such a `header`."""
    index = MP3_KBPS[like.mpeg1].index(64) + 1
    mono = header[3] >> 6 == 3
    side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[like.mpeg1, mono]
    head = bytes([0xFF, header[1] | 1, index << 4 | header[2] & 0b1100, header[3]])
    return (head + bytes(side) + b"Info\0\0\0\1" + count.to_bytes(4)).ljust(
        _mp3_bytes(like.mpeg1, 64, like.rate), b"\0"
    )


def mp3_frames(encoded: bytes) -> list[Mp3Frame]:
    """The whole frames of an MP3 (layer III, no free format), without the tags and whatever else lies between them."""
    frames: list[Mp3Frame] = []
    at = 0
    while encoded[at : at + 3] == b"ID3":
        size = functools.reduce(lambda size, byte: size << 7 | byte, encoded[at + 6 : at + 10], 0)
        at += 10 + size
    while at >= 0:
        frame = _mp3_frame(encoded, at, frames)
        # Where no frame ends, another one has to follow, or the file's end: two bytes alone look like a header often.
        if frame and (
            (frames and at == frames[-1].end) or frame.end == len(encoded) or _mp3_frame(encoded, frame.end, [frame])
        ):
            frames.append(frame)
            at = frame.end
        else:
            at = encoded.find(b"\xff", at + 1)
    return frames


def _mp3_frame(encoded: bytes, at: int, others: list[Mp3Frame]) -> Mp3Frame | None:
    """The frame at `at`, if there is a whole one of the rate of the `others` (ISO 11172-3, 2.4.2.3)."""
    header = encoded[at : at + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0b1110_0110 != 0b1110_0010:
        return None
    version, index, rate_index = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or index in (0, 15) or rate_index == 3:
        return None
    mpeg1, rate = version == 3, MP3_RATES[version][rate_index]
    end = at + _mp3_bytes(mpeg1, MP3_KBPS[mpeg1][index - 1], rate) + (header[2] >> 1 & 1)
    return Mp3Frame(at, end, mpeg1, rate) if end <= len(encoded) and all(rate == f.rate for f in others[:1]) else None


def _mp3_bytes(mpeg1: bool, kbps: int, rate: int) -> int:
    return (144_000 if mpeg1 else 72_000) * kbps // rate
