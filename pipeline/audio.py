"""Audio in and out: mono float32 waveforms `[T]`, full scale 1, and the int16 in which corpora are stored."""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from pipeline.files import atomic

FULL_SCALE = 32767  # of int16


class Audio(NamedTuple):
    """One decoded file."""

    waveform: np.ndarray  # [T], float32, mono
    rate: int  # Hz


def read(source: Path | str | BinaryIO, name: str | None = None, *, finite: bool = True) -> Audio:
    """Decodes a file, or a binary stream called `name` in messages, to mono: the mean of its channels.

    Raises:
        ValueError: `source` is missing, undecodable or truncated, has no samples, or, where it has to be `finite`,
            holds NaN or infinity.
    """
    name = name or str(source)
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise ValueError(f"{name} does not exist: check the path")
    try:
        with soundfile.SoundFile(source) as file:
            # Block by block: ten minutes in stereo would take 230 MB at once.
            blocks = [
                block.mean(axis=1) for block in file.blocks(10 * file.samplerate, dtype="float32", always_2d=True)
            ]
            rate, frames = file.samplerate, file.frames
            # libsndfile reads what there is of a cut WAV file and mentions it only in its log.
            short = re.search(r"^data : \d+ \(should be", file.extra_info, re.MULTILINE)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{name} cannot be decoded ({error.error_string}): it is no audio file, or truncated"
        ) from None
    if not blocks:
        raise ValueError(f"{name} has no samples: it is empty or truncated")
    waveform = np.concatenate(blocks)
    if short or len(waveform) < frames:
        raise ValueError(f"{name} is truncated: it ends after {len(waveform)} samples")
    return Audio(checked(waveform, name) if finite else waveform, rate)


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
    return np.round(np.clip(waveform, -1, 1) * FULL_SCALE).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Int16 to float32 at full scale 1."""
    return samples.astype(np.float32) / FULL_SCALE


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
