import io
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
import torchaudio

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
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav").waveform, tone(), atol=0.5 / 32_768)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_every_int16_survives_float_and_libsndfile_reads_it_alike() -> None:
    every = np.arange(-32_768, 32_768).astype(np.int16)
    np.testing.assert_array_equal(audio.to_int16(audio.to_float(every)), every)
    np.testing.assert_array_equal(audio.read(io.BytesIO(encoded(every, "WAV"))).waveform, audio.to_float(every))


def test_beyond_full_scale_is_clipped() -> None:
    np.testing.assert_array_equal(audio.to_int16(np.array([-2.0, -1, 1, 2])), [-32_768, -32_768, 32_767, 32_767])


def test_clipped_samples_are_the_same_ones_on_every_path() -> None:
    loud = 2 * tone()
    stored = audio.to_int16(1.5 * loud)
    share = np.mean(np.abs(1.5 * loud) >= 32_766.5 / 32_768)
    assert audio.clipped(audio.to_float(stored)) == pytest.approx(share)
    assert audio.clipped(audio.read(io.BytesIO(encoded(stored, "WAV"))).waveform) == pytest.approx(share)
    # Other software's full scale is 32,767.
    assert audio.clipped(audio.to_float(np.maximum(stored, -32_767))) == pytest.approx(share)
    assert audio.clipped(0.9 * loud) == audio.clipped(loud[:0]) == 0


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


# Real lengths and samples of files whose headers are right, absent or wrong.

CODECS = [
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("AIFF", "PCM_16"),
]
MP3_MODES = ["CONSTANT", "AVERAGE", "VARIABLE"]


def music(seconds: float = 12.04, rate: int = 48_000, channels: int = 2) -> np.ndarray:
    """Chirps in noise that swells, `[T, channels]`: a variable bit rate has something to vary with."""
    time = np.arange(round(seconds * rate)) / rate
    swell = 0.1 * (np.sin(2 * np.pi * 0.3 * time) > 0.3) * np.random.default_rng(0).standard_normal(len(time))
    left = 0.25 * np.sin(2 * np.pi * (220 + 30 * time) * time) + swell
    return np.stack([left, np.roll(left, 7)], axis=1)[:, :channels]


def encoded(samples: np.ndarray, form: str, subtype: str | None = None, rate: int = 48_000, **how: Any) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype, **how)
    return stream.getvalue()


def mp3(mode: str, rate: int = 44_100, channels: int = 2) -> bytes:
    """12.04 s, behind a first frame that states the number of frames."""
    return encoded(music(rate=rate, channels=channels), "MP3", rate=rate, bitrate_mode=mode, compression_level=0.5)


def heard(content: bytes) -> np.ndarray:
    return audio.read(io.BytesIO(content), "the file").waveform


def at_once(content: bytes) -> np.ndarray:
    """The file decoded by a single call."""
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(axis=1)


def unstated(content: bytes) -> bytes:
    """An MP3 without the frame that states its length."""
    return content[audio.mp3_frames(content)[0].end :]


def ogg_checksum(page: bytes) -> int:
    """The cyclic redundancy check of RFC 3533, bit by bit."""
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    return register


def with_data_size(content: bytes, size: int, riff: int) -> bytes:
    at = content.index(b"data")
    return content[:4] + struct.pack("<I", riff) + content[8 : at + 4] + struct.pack("<I", size) + content[at + 8 :]


@pytest.mark.parametrize(("form", "subtype"), CODECS)
def test_whole_files_are_read_as_by_one_call(form: str, subtype: str) -> None:
    content = encoded(music(), form, subtype)
    np.testing.assert_array_equal(heard(content), at_once(content))
    assert np.corrcoef(heard(content), music().mean(axis=1))[0, 1] > 0.95


@pytest.mark.parametrize("share", [0.3, 0.67, 0.98])
@pytest.mark.parametrize(("form", "subtype"), CODECS)
def test_a_cut_file_is_named(tmp_path: Path, form: str, subtype: str, share: float) -> None:
    content = encoded(music(), form, subtype)
    (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut .*truncated"):
        audio.read(tmp_path / "cut")


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (22_050, 2), (16_000, 1), (8_000, 1)])
@pytest.mark.parametrize("mode", MP3_MODES)
def test_mp3s_are_read_as_by_one_call_with_and_without_a_stated_length(mode: str, rate: int, channels: int) -> None:
    content = mp3(mode, rate, channels)
    expected = at_once(content)
    assert len(expected) == round(12.04 * rate)
    assert np.corrcoef(expected, music(rate=rate, channels=channels).mean(axis=1))[0, 1] > 0.95
    np.testing.assert_allclose(heard(content), expected, atol=1e-6)
    # Nothing tells how many samples the encoder added: the music begins late and ends early.
    bare, late = heard(unstated(content)), 1105 - 529
    frame = 1152 if rate >= 32_000 else 576
    assert len(bare) == (len(audio.mp3_frames(content)) - 1) * frame - 529
    inner = slice(2 * frame, len(expected))  # what comes first depends on a frame that is missing
    np.testing.assert_allclose(bare[late:][inner], expected[: len(bare) - late][inner], atol=1e-6)


@pytest.mark.parametrize("mode", MP3_MODES)
def test_cut_mp3s_are_named_where_a_length_is_stated_and_short_where_not(mode: str) -> None:
    content = mp3(mode)
    with pytest.raises(ValueError, match="the file is truncated"):
        heard(content[: len(content) * 2 // 3])
    bare = unstated(content)
    cut = heard(bare[: len(bare) * 2 // 3])
    assert len(cut) == len(audio.mp3_frames(bare[: len(bare) * 2 // 3])) * 1152 - 529
    np.testing.assert_array_equal(cut, heard(bare)[: len(cut)])
    assert len(heard(content[:-20])) == 530_964 - 1152  # of the last frame nearly all is padding


def test_recordings_of_two_rates_in_one_mp3_are_named() -> None:
    with pytest.raises(ValueError, match="holds two recordings, at 44100 Hz and then 48000 Hz"):
        heard(mp3("CONSTANT", 44_100, 1) + mp3("CONSTANT", 48_000, 1))


@pytest.mark.parametrize("mode", MP3_MODES)
@pytest.mark.parametrize("told", [True, False])
def test_tags_around_an_mp3_are_no_music(mode: str, told: bool) -> None:
    content = mp3(mode) if told else unstated(mp3(mode))
    junk = np.random.default_rng(0).bytes(20_000)
    for tail in (b"TAG" + bytes(125), b"APETAGEX" + junk, bytes(5000)):
        np.testing.assert_array_equal(heard(content + tail), heard(content))
    before = b"ID3\4\0\0\0\0\x10\0" + junk[: 16 << 7]
    np.testing.assert_array_equal(heard(before + content), heard(content))


def test_an_mp3_with_more_frames_than_it_states_is_read_whole() -> None:
    content = mp3("VARIABLE")
    count = len(audio.mp3_frames(content)) - 1
    for stated in (count // 2, count, count + 1):
        lying = content.replace(count.to_bytes(4), stated.to_bytes(4), 1)
        np.testing.assert_array_equal(heard(lying), heard(content))
    twice = heard(content + content)
    assert len(twice) == 2 * 530_964 + (
        1152 + 1105 + 155
    )  # the second one's first frame, delay and the first's padding
    np.testing.assert_array_equal(twice[:520_000], heard(content)[:520_000])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("riff", [0, 8, 36, 0xFFFFFFFF])
def test_piped_wavs_are_read_whole(subtype: str, riff: int) -> None:
    content = encoded(music(1.0), "WAV", subtype)
    there = len(content) - content.index(b"data") - 8
    for size in (0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF, there + 16):
        np.testing.assert_array_equal(heard(with_data_size(content, size, riff)), at_once(content))


def test_a_wav_without_data_is_empty_even_before_another_chunk() -> None:
    content = encoded(np.zeros(0), "WAV", "PCM_16") + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(ValueError, match="the file has no samples"):
        heard(content)


def test_a_piped_flac_states_no_length() -> None:
    content = bytearray(encoded(music(), "FLAC", "PCM_16"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    np.testing.assert_allclose(heard(bytes(content)), music().mean(axis=1), atol=1 / 32_768)


def test_a_flac_before_a_tag_is_whole() -> None:
    content = encoded(music(), "FLAC", "PCM_16")
    np.testing.assert_array_equal(heard(content + b"TAG" + bytes(125)), heard(content))


def test_a_vorbis_file_that_begins_before_sample_0_is_whole() -> None:
    """Of such a one, whose first page with sound has a negative position, libsndfile states too great a length."""
    original = encoded(music(), "OGG", "VORBIS")
    content, pages = bytearray(original), list(audio.OGG_PAGE.finditer(original))
    positions = [struct.unpack_from("<q", original, page.start() + 6)[0] for page in pages]
    shift = next(position for position in positions if position > 0) + 104
    for page, position in zip(pages, positions, strict=True):
        start, table = page.start(), slice(page.end(), page.end() + page[2][0])
        struct.pack_into("<q", content, start + 6, position - shift if position > 0 else position)
        struct.pack_into("<I", content, start + 22, 0)
        checksum = ogg_checksum(content[start : table.stop + sum(content[table])])
        struct.pack_into("<I", content, start + 22, checksum)
    whole = heard(bytes(content))
    assert len(whole) < soundfile.info(io.BytesIO(content)).frames
    np.testing.assert_array_equal(whole[-400_000:], heard(original)[-400_000:])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_cut_between_pages_or_with_a_second_stream_is_named(subtype: str) -> None:
    content = encoded(music(), "OGG", subtype)
    with pytest.raises(ValueError, match="the file is truncated"):
        heard(content[: content.rindex(b"OggS")])
    with pytest.raises(ValueError, match="the file holds several streams"):
        heard(content + content)


@pytest.mark.parametrize("finite", [True, False])
def test_floats_at_the_scale_of_integers_are_refused(finite: bool) -> None:
    content = encoded(32_768 * music(1.0), "WAV", "FLOAT")
    with pytest.raises(ValueError, match=r"the file has a peak of \d+.* where full scale is 1"):
        audio.read(io.BytesIO(content), "the file", finite=finite)
    over = encoded(6 * tone(), "WAV", "FLOAT")
    assert np.abs(heard(over)).max() == pytest.approx(3, rel=0.01)


def test_a_piped_extensible_wav_is_read_whole() -> None:
    samples = (0.5 * np.sin(np.arange(8000) / 5)).astype(np.float32)
    stream = io.BytesIO()
    soundfile.write(stream, samples, 8000, format="WAVEX", subtype="PCM_16")
    content = stream.getvalue()
    size = (2 * len(samples)).to_bytes(4, "little")
    assert b"data" + size in content
    np.testing.assert_array_equal(heard(content.replace(b"data" + size, b"data\0\0\0\0")), heard(content))
