"""Clips prepared for scoring: loudness, faults, offsets, and folders of files that others made."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyloudnorm
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline import audio, job
from pipeline.audio import Audio
from pipeline.evaluation.clips import PreparedClip, SystemClips, clips_of, offsets, prepare_clip
from pipeline.evaluation.embeddings import FAULTS

RATE = 16_000


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def prepare(samples: np.ndarray, rate: int = RATE, start: int = 0) -> PreparedClip:
    return prepare_clip(Audio(samples, rate), start=start, seconds=2.0, lufs=-14)


@pytest.mark.parametrize("rate", [RATE, 32_000])
def test_clips_are_as_loud_as_asked(rate: int) -> None:
    quiet = audio.to_int16(0.01 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate))
    (waveform, same_rate), faults = prepare(quiet, rate, start=100)
    assert same_rate == rate
    assert waveform.shape == (2 * rate,)
    assert waveform.dtype == np.float32
    assert not any(faults)
    assert pyloudnorm.Meter(rate).integrated_loudness(waveform) == pytest.approx(-14, abs=0.5)
    expected = quiet[100 : 100 + 2 * rate] / np.abs(quiet[100 : 100 + 2 * rate]).max()
    np.testing.assert_allclose(waveform / np.abs(waveform).max(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (np.zeros(3 * RATE, np.int16), "silent"),
        (np.full(3 * RATE, np.nan, np.float32), "not_finite"),
        (audio.to_int16(0.1 * noise(RATE)), "short"),
        (audio.to_int16(0.1 * noise(RATE // 5)), "short"),
        (np.zeros(0, np.int16), "short"),
        (audio.to_int16(noise(3 * RATE)), "clipped"),
    ],
)
def test_faulty_clips_are_marked_and_stay(samples: np.ndarray, fault: str) -> None:
    (waveform, _), faults = prepare(samples)
    assert dict(zip(FAULTS, faults, strict=True))[fault]
    assert waveform.shape == (2 * RATE,)
    assert np.isfinite(waveform).all()
    assert not waveform[len(samples) :].any()


@given(st.integers(1, 20))
def test_offsets_lie_in_the_room_and_stay(clips: int) -> None:
    places = offsets(clips, seed=3)
    assert places.shape == (clips,)
    assert 0 <= places.min() <= places.max() < 1
    np.testing.assert_array_equal(places, offsets(clips, seed=3))


@pytest.mark.usefixtures("evaluation")
def test_a_table_of_captions_is_read_and_checked() -> None:
    manifest = pd.read_parquet("manifest.parquet")
    Path("others").mkdir()
    with pytest.raises(ValueError, match="no audio file"):
        clips_of("outside/x", Path("others"), manifest, 4, RATE, None)
    soundfile.write("others/a.wav", 0.1 * noise(RATE), RATE)
    table = Path("captions.csv")

    def clips(text: str) -> SystemClips:
        table.write_text(text)
        return clips_of("outside/x", Path("others"), manifest, 4, RATE, table)

    Path("others/folder.wav").mkdir()
    Path("others/._a.wav").write_text("of macOS")
    captioned = clips("\ufefffile,caption\na.wav,Slow guitar\n")
    assert captioned.names["caption"].tolist() == ["Slow guitar"]
    assert not captioned.paired
    for text, complaint in (
        ("name,caption\na.wav,x\n", "has no column file"),
        ("file,text\na.wav,x\n", "needs a column `caption` or `clip_id`; it has file, text"),
        ("file,caption\nb.wav,x\n", r"names 1 files .* 'b\.wav'"),
        ("file,clip_id\na.wav,c9\n", "1 clips that are not scored, c9"),
    ):
        with pytest.raises((ValueError, job.JobError), match=complaint):
            clips(text)


@pytest.mark.usefixtures("evaluation")
@pytest.mark.parametrize("content", [b"", b"no audio at all", b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(content: bytes) -> None:
    Path("others").mkdir()
    Path("others/a.wav").write_bytes(content)
    clips = clips_of("outside/x", Path("others"), pd.read_parquet("manifest.parquet"), 4, RATE, None)
    with pytest.raises(ValueError, match=r"^others/a\.wav .*; replace the file, or leave it out of the folder"):
        clips.read(0)
