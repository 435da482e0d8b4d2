"""The STFT architecture against torch's STFT and slow references, its start, and its edges."""

import math
from typing import Any

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import params
from pipeline.codec.stft import LEVELLING, STFT, Block, Decoder, Encoder, Spectrum

SPECTRA = [(16, 4), (16, 8), (24, 2), (640, 160)]  # window, hop
DIMENSION = 4


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def sizes(**changes: Any) -> params.Stft:
    return params.Stft.model_validate(small.SIZES["stft"] | changes)


def networks(**changes: Any) -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    both = STFT(sizes(**changes), DIMENSION)
    return both.encoder, both.decoder


def started(waveform: Tensor, **changes: Any) -> tuple[Encoder, Decoder]:
    encoder, decoder = networks(**changes)
    STFT.start(encoder, decoder, waveform)
    return encoder, decoder


def coloured(clips: int = 8, samples: int = 1600) -> Tensor:
    """Noise whose spectrum falls and whose loudness moves, at the level of music."""
    loudness = 0.1 * (1 + torch.linspace(0, 20, samples).sin()) + 0.01
    return F.avg_pool1d(noise(clips, 1, samples + 2), 3, 1)[:, 0] * loudness


@pytest.mark.parametrize(("window", "hop"), SPECTRA)
@pytest.mark.parametrize("frames", [7, 12])
def test_the_stft_is_torchs(window: int, hop: int, frames: int) -> None:
    """Of a window of unit energy, frame l centred on the middle of hop l, the ends reflected."""
    waveform, spectrum = noise(2, hop * frames), Spectrum(window, hop)
    past = (window - hop) // 2
    theirs = torch.stft(
        F.pad(waveform[:, None], (past, past), mode="reflect")[:, 0],
        window,
        hop,
        window=torch.hann_window(window),
        center=False,
        return_complex=True,
    )
    energy = torch.hann_window(window).square().sum()
    assert spectrum(waveform).shape == (2, frames, window // 2 + 1)
    torch.testing.assert_close(spectrum(waveform), theirs.transpose(1, 2) / energy.sqrt(), rtol=1e-4, atol=1e-5)


def test_white_noise_has_its_power_in_every_bin() -> None:
    power = Spectrum(64, 16)(noise(4, 16 * 2000)).abs().square().mean((0, 1))
    torch.testing.assert_close(power, torch.ones(33), rtol=0.1, atol=0)


@pytest.mark.parametrize(("window", "hop"), SPECTRA)
@given(frames=st.integers(7, 40), seed=st.integers(0, 100))
def test_the_inverse_of_an_stft_is_its_waveform(window: int, hop: int, frames: int, seed: int) -> None:
    spectrum, waveform = Spectrum(window, hop), noise(2, hop * frames, seed=seed)
    torch.testing.assert_close(spectrum.inverse(spectrum(waveform)), waveform, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "hop"), SPECTRA)
def test_the_inverse_of_what_is_no_stft_is_a_weighted_sum_of_frames(window: int, hop: int) -> None:
    """sum_l w[t - l h] y_l[t - l h] / sum_l w[t - l h]^2, added up sample by sample."""
    spectrum, frames = Spectrum(window, hop), 5
    values = torch.complex(noise(frames, window // 2 + 1), noise(frames, window // 2 + 1, seed=1))
    hann = np.hanning(window + 1)[:-1]
    hann = hann / np.sqrt((hann**2).sum())
    total, weights = np.zeros((2, (frames - 1) * hop + window))
    for number, frame in enumerate(np.fft.irfft(values.numpy(), window)):
        for i in range(window):
            total[number * hop + i] += hann[i] * frame[i]
            weights[number * hop + i] += hann[i] ** 2
    past = (window - hop) // 2
    inside = slice(past, past + frames * hop)
    expected = total[inside] / weights[inside]
    np.testing.assert_allclose(spectrum.inverse(values[None])[0], expected, rtol=1e-3, atol=1e-5)


def test_a_block_is_conv1d_and_two_linear_layers() -> None:
    torch.manual_seed(0)
    block, x = Block(width=6, kernel_size=5, expansion=3, depth=2), noise(2, 9, 6)
    mixed = F.conv1d(x.transpose(1, 2), block.depthwise.weight[:, :, 0], block.depthwise.bias, padding=2, groups=6)
    y = F.layer_norm(mixed.transpose(1, 2), (6,), block.norm.weight, block.norm.bias)
    y = F.linear(y, block.widen.weight, block.widen.bias)
    y = F.linear(y * torch.sigmoid(y), block.narrow.weight, block.narrow.bias)
    torch.testing.assert_close(block(x), x + y, rtol=1e-5, atol=1e-6)


def test_blocks_in_a_row_start_small() -> None:
    for depth in (1, 4):
        torch.manual_seed(0)
        block = Block(width=64, kernel_size=7, expansion=3, depth=depth)
        assert float(block.narrow.weight.detach().std()) == pytest.approx(0.5 / math.sqrt(3 * 64 * depth), rel=0.05)
        assert not block.narrow.bias.any()


def test_features_are_log_magnitudes_and_levelled_parts() -> None:
    encoder, _ = networks()
    waveform = coloured(2, 64)
    spectrum = encoder.spectrum(waveform)
    found = encoder.features(waveform)
    bins, low = 9, 5
    assert found.shape == (2, 16, bins + 2 * low)
    for clip in range(2):
        for frame in range(16):
            around = spectrum[clip, max(frame - 4, 0) : frame + 5]
            energy = float(around.abs().square().mean())
            level = (energy + 1e-6) ** LEVELLING
            expected = [math.log(float(spectrum[clip, frame, b].abs()) + 1e-4) for b in range(bins)]
            expected += [float(spectrum[clip, frame, b].real) / level for b in range(low)]
            expected += [float(spectrum[clip, frame, b].imag) / level for b in range(low)]
            np.testing.assert_allclose(found[clip, frame], expected, rtol=1e-4, atol=1e-5)


def test_the_start_standardises_what_the_encoder_sees() -> None:
    waveform = coloured()
    encoder, decoder = started(waveform)
    features = encoder.features(waveform).flatten(0, 1)
    seen = (features - encoder.mean) / encoder.deviation
    torch.testing.assert_close(seen.mean(0), torch.zeros(19), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[:, :9].std(0), torch.ones(9), rtol=1e-4, atol=0)
    # The parts keep their levels, so those of quiet bins stay small.
    assert float(encoder.deviation[9:].min()) >= float(features[:, 9:].std()) * (1 - 1e-6)
    assert float(seen[:, 9:].std(0).max()) > 2 * float(seen[:, 9:].std(0).min())
    torch.testing.assert_close(decoder.mean, features[:, :9].mean(0))
    torch.testing.assert_close(decoder.deviation, features[:, :9].std(0))


def test_the_start_takes_whole_hops_and_silence() -> None:
    odd = coloured(2, 67)
    encoder, decoder = started(odd)
    whole, _ = started(odd[:, :64])
    assert torch.equal(encoder.mean, whole.mean)
    encoder, decoder = started(torch.zeros(2, 64))
    assert encoder(coloured()[:, None]).isfinite().all()
    assert decoder(encoder(torch.zeros(1, 1, 64))).isfinite().all()


def test_the_decoder_starts_at_the_mean_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a and b normal of deviation 0.3, log 3 |a + ib| is -0.05 in the mean."""
    _, decoder = started(coloured(), fine_width=64)
    spectrum = small.spectrum_made(decoder, noise(8, DIMENSION, 50), monkeypatch)
    torch.testing.assert_close(spectrum.abs().log().mean((0, 1)), decoder.mean, rtol=0, atol=0.5)
    assert float((spectrum.abs().log().mean((0, 1)) - decoder.mean).mean()) == pytest.approx(-0.05, abs=0.2)


def test_the_decoder_makes_nothing_louder_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, decoder = started(coloured())
    with torch.no_grad():
        decoder.head.bias[:9] = 1e4  # m
        decoder.head.weight[9:] = 0
        decoder.head.bias[9:18], decoder.head.bias[18:] = 0.6, 0.8  # a + ib of magnitude 1
    spectrum = small.spectrum_made(decoder, noise(1, DIMENSION, 2), monkeypatch)
    torch.testing.assert_close(spectrum.abs(), torch.full((1, 8, 9), 3 * math.exp(5)))


def test_the_last_frame_is_filled_up_with_zeros() -> None:
    encoder, _ = started(coloured())
    for samples in (1, 15, 33, 47):
        waveform = coloured(2, samples)[:, None]
        filled = F.pad(waveform, (0, -samples % small.HOP))
        assert encoder(waveform).shape == (2, DIMENSION, math.ceil(samples / small.HOP))
        assert torch.equal(encoder(waveform), encoder(filled))


def test_a_shift_by_a_frame_shifts_the_latent() -> None:
    encoder, _ = started(coloured())
    waveform = coloured(1, 40 * small.HOP)[:, None]
    latent, later = encoder(waveform), encoder(waveform[:, :, small.HOP :])
    torch.testing.assert_close(latent[:, :, 6:34], later[:, :, 5:33], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(latent[:, :, 6:34], later[:, :, 6:34], atol=1e-2)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_every_weight_has_a_finite_gradient(level: float) -> None:
    """Of silence too, whose spectrum has no phase."""
    encoder, decoder = started(coloured())
    decoder(encoder(level * coloured()[:, None])).square().mean().backward()
    for name, weight in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert level == 0 or weight.grad.any(), name


def test_outputs_are_those_of_the_day_they_were_written_down() -> None:
    """Weights and input by formula, so that no generator is behind them."""
    encoder, decoder = networks()
    with torch.no_grad():
        for network in (encoder, decoder):
            for weight in network.parameters():
                numbers = torch.arange(1.0, weight.numel() + 1, dtype=torch.float64).square().sin()
                weight.copy_(numbers.view(weight.shape) / math.sqrt(weight.shape[-1]))
    waveform = torch.arange(48.0).square().mul(0.02).sin()[None, None] / 4
    STFT.start(encoder, decoder, waveform[:, 0])
    with torch.no_grad():
        latent = encoder(waveform)
        sound = decoder(latent)
    expected = [
        [0.8702, 0.8844, 0.8756],
        [-0.5919, -0.6595, -0.7421],
        [0.0591, 0.0811, 0.0313],
        [0.0060, -0.0598, -0.1042],
    ]
    torch.testing.assert_close(latent, torch.tensor([expected]), rtol=0, atol=2e-4)
    samples = [0.0532, -0.0197, -0.0330, -0.0304, -0.0240, -0.0191]
    torch.testing.assert_close(sound[0, 0, :24:4], torch.tensor(samples), rtol=0, atol=2e-4)
