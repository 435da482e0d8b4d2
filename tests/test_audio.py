import io
import math
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from pipeline import audio

RATE = 16_000  # Hz


def tone(seconds: float = 1.0, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(), -tone(frequency=220)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 44_100, subtype="FLOAT")
    waveform, rate = audio.read(tmp_path / "a.wav")
    assert rate == 44_100
    np.testing.assert_allclose(waveform, (left + right) / 2, atol=1e-7)


def test_streams_longer_than_a_block_are_whole() -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tone(25.3), RATE, format="WAV", subtype="FLOAT")
    stream.seek(0)
    np.testing.assert_array_equal(audio.read(stream, "a stream").waveform, tone(25.3))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "a.wav", tone(), RATE)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav").waveform, tone(), atol=2 / 32767)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@given(st.lists(st.integers(-32767, 32767), min_size=1))
def test_int16_survives_float(samples: list[int]) -> None:
    array = np.array(samples, np.int16)
    np.testing.assert_array_equal(audio.to_int16(audio.to_float(array)), array)


def test_beyond_full_scale_is_clipped() -> None:
    np.testing.assert_array_equal(audio.to_int16(np.array([-2.0, 2.0])), [-32767, 32767])


def test_a_resampled_tone_is_the_same_tone_and_agrees_with_torchaudio() -> None:
    resampled = audio.resample(tone(1.0, 440, 44_100), 44_100, RATE)
    assert len(resampled) == RATE
    inner = slice(800, -800)
    np.testing.assert_allclose(resampled[inner], tone()[inner], atol=1e-4)
    reference = torchaudio.functional.resample(torch.from_numpy(tone(1.0, 440, 44_100)), 44_100, RATE).numpy()
    np.testing.assert_allclose(resampled[inner], reference[: len(resampled)][inner], atol=2e-3)


def test_a_tone_above_the_new_band_is_removed() -> None:
    assert audio.rms_db(audio.resample(tone(1.0, 12_000, 44_100), 44_100, RATE)[800:-800]) < -90


def test_level_of_a_sine_and_of_silence() -> None:
    assert audio.rms_db(tone()) == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=1e-3)
    assert audio.rms_db(np.zeros(10, np.float32)) == -math.inf


@pytest.mark.parametrize("lufs", [-14.0, -30.0])
def test_loudness_becomes_what_was_asked(lufs: float) -> None:
    normalized = audio.loudness_normalize(tone(3.0), RATE, lufs)
    assert pyloudnorm.Meter(RATE).integrated_loudness(normalized.astype(np.float64)) == pytest.approx(lufs, abs=0.01)


@pytest.mark.parametrize(
    ("waveform", "complaint"),
    [
        (tone(0.3), "0.30 s"),
        (np.zeros(RATE, np.float32), "silent"),
        (np.full(RATE, np.nan, np.float32), "NaN"),
        (np.zeros((2, RATE), np.float32), "mono"),
        (np.zeros(0, np.float32), "no samples"),
    ],
)
def test_what_has_no_loudness_is_named(waveform: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        audio.loudness_normalize(waveform, RATE, -14)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.wav does not exist"):
        audio.read(tmp_path / "missing.wav")
    (tmp_path / "text.ogg").write_text("no audio")
    with pytest.raises(ValueError, match=r"text\.ogg cannot be decoded"):
        audio.read(tmp_path / "text.ogg")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="no samples"):
        audio.read(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN"):
        audio.read(tmp_path / "nan.wav")


@pytest.mark.parametrize("kind", ["ogg", "flac", "wav"])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(5.0), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated"):
        audio.read(path)
