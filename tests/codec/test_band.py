"""The architecture of bands: its mel scale, that no band knows of another, its start, and the way to a waveform."""

import math
from typing import Any

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from pipeline import params
from pipeline.codec import model as codecs
from pipeline.codec.band import BandPatches, Decoder, Encoder, mel_weights
from pipeline.exchange import encodec

DIMENSION, BANDS, MELS, JOINED = 4, small.K, 6, 4


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def music(clips: int = 4, samples: int = 640) -> Tensor:
    """Noise whose spectrum falls and whose loudness moves, at the level of music."""
    loudness = 0.1 * (1 + torch.linspace(0, 20, samples).sin()) + 0.01
    return F.avg_pool1d(noise(clips, 1, samples + 2), 3, 1)[:, 0] * loudness


def networks(**changes: Any) -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    both = BandPatches(params.Band.model_validate(small.SIZES["band"] | changes), DIMENSION)
    BandPatches.start(both.encoder, both.decoder, music())
    return both.encoder, both.decoder


def codec_of(**changes: Any) -> codecs.Codec:
    torch.manual_seed(0)
    settings = params.Codec.model_validate(small.codec("band", **changes)).of("band")
    codec = codecs.Codec(codecs.configuration(settings, small.RATE, "shared"))
    codec.architecture.start(codec.encoder, codec.decoder, music())
    return codec


def hearing(encoder: Encoder, mels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the encoder hear a log-mel spectrogram `[B, L, mels]` whatever its waveform."""
    monkeypatch.setattr(encoder, "log_mel", lambda _: mels)


def test_mels_are_those_of_htk() -> None:
    """mel(f) = 2595 log10(1 + f / 700): each bin lies between two mels, in proportion to their distances."""
    weights = mel_weights(321, 64, 28.0).double()
    frequency = torch.arange(321) * 16_000 / 640
    scale = 2595 * torch.log10(1 + frequency.double() / 700)
    torch.testing.assert_close(weights.sum(1), torch.ones(321).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights @ torch.arange(64.0).double(), 63 * scale / scale[-1], rtol=1e-5, atol=1e-4)
    assert int((weights > 0).sum(1).max()) == 2
    assert bool((weights.sum(0) > 0).all())


def test_filters_are_nearly_torchaudios() -> None:
    """Its triangles stand on the same frequencies; they are straight in Hz, ours on the mel scale."""
    theirs = torchaudio.functional.melscale_fbanks(321, 0.0, 8000.0, 62, 16_000, norm=None, mel_scale="htk")
    ours = mel_weights(321, 64, 28.0)[:, 1:-1]
    assert torch.equal(ours > 1e-4, theirs > 1e-4)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


def test_the_log_mel_spectrogram_is_a_mean_of_magnitudes() -> None:
    encoder, _ = networks()
    waveform = music(2, 64)
    spectrum, weights = encoder.spectrum(waveform).abs(), mel_weights(9, MELS, 4.0)
    found = encoder.log_mel(waveform)
    assert found.shape == (2, 16, MELS)
    for m in range(MELS):
        mean = sum(weights[b, m] * spectrum[..., b] for b in range(9)) / weights[:, m].sum()
        torch.testing.assert_close(found[..., m], (mean + 1e-4).log(), rtol=1e-4, atol=1e-4)


def test_a_latent_is_made_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Band k of frame t is rows t J to (t + 1) J - 1 of mels k M / K to (k + 1) M / K - 1, one row after the other."""
    encoder, _ = networks()
    mels = noise(2, 5 * JOINED, MELS)
    hearing(encoder, mels, monkeypatch)
    width = MELS // BANDS
    rows = []
    for k in range(BANDS):
        own = slice(k * width, (k + 1) * width)
        heard = (mels[..., own] - encoder.mean[own]) / encoder.deviation[own]
        patches = torch.stack([heard[:, t * JOINED : (t + 1) * JOINED].flatten(1) for t in range(5)], dim=1)
        part = encoder.last(encoder.blocks(encoder.patch(patches) + encoder.band[k]))
        rows.append(part / part.square().mean(-1, keepdim=True).sqrt())
    expected = torch.cat(rows, dim=-1).transpose(1, 2)
    torch.testing.assert_close(encoder(torch.zeros(2, 1, 5 * small.HOP)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("band", range(BANDS))
@pytest.mark.parametrize("latent_norm", [False, True])
def test_no_band_knows_of_another(band: int, latent_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However loud the others are; within a band, frames do know of those around."""
    codec = codec_of(latent_norm=latent_norm)
    mels, waveform = noise(1, 8 * JOINED, MELS), torch.zeros(1, 8 * small.HOP)
    hearing(codec.encoder, mels, monkeypatch)
    before = codec.latent(waveform).unflatten(1, (BANDS, -1))
    changed = mels.clone()
    changed[:, :JOINED, band * MELS // BANDS : (band + 1) * MELS // BANDS] += 5.0
    hearing(codec.encoder, changed, monkeypatch)
    moved = (codec.latent(waveform).unflatten(1, (BANDS, -1)) - before).abs().amax((0, 2))
    others = [k for k in range(BANDS) if k != band]
    assert float(moved[others].max()) < 1e-6
    assert float(moved[band, :2].min()) > 1e-5
    assert float(moved[band, 3:].max()) < 1e-6  # a kernel of 3 frames, one block


def test_the_norm_of_the_latent_has_nothing_to_scale() -> None:
    """Each band has mean square 1 in each frame, and so has the frame."""
    with_norm, without = codec_of(latent_norm=True), codec_of(latent_norm=False)
    latent = without.latent(music())
    squares = latent.unflatten(1, (BANDS, -1)).square().mean(2)
    torch.testing.assert_close(squares, torch.ones_like(squares), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(with_norm.latent(music()), latent, rtol=1e-5, atol=1e-5)


def test_bands_share_the_encoder_and_an_embedding_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = networks()
    encoder.mean.zero_(), encoder.deviation.fill_(1.0)
    hearing(encoder, noise(1, 4 * JOINED, MELS // BANDS).repeat(1, 1, BANDS), monkeypatch)
    waveform = torch.zeros(1, 1, 4 * small.HOP)
    first, second = encoder(waveform).unflatten(1, (BANDS, -1)).unbind(1)
    assert not torch.allclose(first, second, atol=1e-2)
    encoder.band.data[1] = encoder.band.data[0]
    first, second = encoder(waveform).unflatten(1, (BANDS, -1)).unbind(1)
    torch.testing.assert_close(first, second)


def test_the_start_standardises_what_the_encoder_sees() -> None:
    encoder, decoder = networks()
    seen = (encoder.log_mel(music()).flatten(0, 1) - encoder.mean) / encoder.deviation
    torch.testing.assert_close(seen.mean(0), torch.zeros(MELS), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.std(0), torch.ones(MELS), rtol=1e-4, atol=0)
    assert torch.equal(decoder.mean, encoder.mean)
    assert torch.equal(decoder.deviation, encoder.deviation)
    BandPatches.start(encoder, decoder, torch.zeros(2, 67))
    assert decoder(encoder(music()[:, None])).isfinite().all()


@torch.no_grad()
def test_magnitudes_are_the_log_mel_spectrogram_and_what_the_head_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    _, decoder = networks()
    latent = noise(1, DIMENSION, 3)
    decoder.head.weight.zero_()
    decoder.head.bias[:9] = 0.5  # m
    decoder.head.bias[9:18], decoder.head.bias[18:] = 0.6, 0.8  # a + ib of magnitude 1
    mels = (decoder.log_mel(latent) * decoder.deviation + decoder.mean)[0].numpy()
    assert mels.shape == (3 * JOINED, MELS)
    place = np.log1p(np.arange(9) / 4) / math.log1p(8 / 4) * (MELS - 1)
    expected = [3 * np.exp(np.interp(place, np.arange(MELS), row) + 0.5) for row in mels]
    np.testing.assert_allclose(small.spectrum_made(decoder, latent, monkeypatch).abs()[0], expected, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_makes_nothing_louder_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, decoder = networks()
    decoder.head.weight.zero_()
    decoder.head.bias[:9], decoder.head.bias[9:18], decoder.head.bias[18:] = 1e4, 0.6, 0.8
    spectrum = small.spectrum_made(decoder, noise(1, DIMENSION, 2), monkeypatch)
    torch.testing.assert_close(spectrum.abs(), torch.full((1, 2 * JOINED, 9), 3 * math.exp(5)))


def test_the_last_frame_is_filled_up_with_zeros() -> None:
    encoder, decoder = networks()
    for samples in (1, 15, 33, 47):
        waveform = music(2, samples)[:, None]
        filled = F.pad(waveform, (0, -samples % small.HOP))
        frames = math.ceil(samples / small.HOP)
        assert encoder(waveform).shape == (2, DIMENSION, frames)
        assert torch.equal(encoder(waveform), encoder(filled))
        assert decoder(encoder(waveform)).shape == (2, 1, frames * small.HOP)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_every_weight_has_a_finite_gradient(level: float) -> None:
    encoder, decoder = networks()
    decoder(encoder(level * music()[:, None])).square().mean().backward()
    for name, weight in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert level == 0 or weight.grad.any(), name


def test_bands_that_do_not_divide_the_latent_are_named() -> None:
    with pytest.raises(ValueError, match="a latent of 5 dimensions has no 2 parts of equal size"):
        BandPatches(params.Band.model_validate(small.SIZES["band"]), 5)


def test_no_model_of_transformers_is_one_of_bands() -> None:
    with pytest.raises(ValueError, match="EncodecModel is a SEANet, and this codec's architecture is band"):
        encodec.to_transformers(codec_of())
