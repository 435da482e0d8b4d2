"""Spectral losses where the answer is known, and silence, which must stay finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.codec.spectral import LOG_FLOOR, cosine_distance, log_mel_distance, mel, mel_loss, si_sdr, soft_si_sdr

RATE = 16_000
WINDOWS = [64, 256, 1024]
SIZES = {"sample_rate": RATE, "windows": WINDOWS, "bins": 64}


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def with_noise_at(decibel: float, length: int = 4000) -> tuple[Tensor, Tensor]:
    """An estimate whose error is orthogonal to the target and `decibel` below it, and the target."""
    target, error = noise(2, length), noise(2, length, seed=1)
    target = target - target.mean(-1, keepdim=True)
    error = error - error.mean(-1, keepdim=True)
    error = error - (error * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    error = error * target.norm(dim=-1, keepdim=True) / error.norm(dim=-1, keepdim=True)
    return target + 10 ** (-decibel / 20) * error, target


@pytest.mark.parametrize("distance", [si_sdr, soft_si_sdr])
@given(decibel=st.floats(-20, 20), gain=st.floats(0.5, 5))
def test_si_sdr_is_the_ratio_of_target_to_error_at_any_gain(distance: object, decibel: float, gain: float) -> None:
    estimate, target = with_noise_at(decibel)
    torch.testing.assert_close(distance(gain * estimate, target), torch.full((2,), decibel), rtol=0, atol=0.05)


def test_si_sdr_is_its_formula() -> None:
    estimate, target = noise(3, 1000) + 0.3, noise(3, 1000, seed=1)
    estimate = estimate + target
    for soft, found in ((True, soft_si_sdr(estimate, target)), (False, si_sdr(estimate, target))):
        for one, e, t in zip(found, estimate.double(), target.double(), strict=True):
            e, t = (e, t) if soft else (e - e.mean(), t - t.mean())
            projected = (e @ t) / (t @ t) * t
            expected = 10 * math.log10(float(projected @ projected) / float((e - projected) @ (e - projected)))
            assert float(one) == pytest.approx(expected, abs=1e-2)


@given(decibel=st.floats(-20, 20), gain=st.floats(0.5, 5))
def test_the_cosine_distance_is_a_bounded_si_sdr(decibel: float, gain: float) -> None:
    """An error orthogonal to the target makes the cosine (1 + 10^(-SI-SDR / 10))^-1/2, whatever the gain."""
    estimate, target = with_noise_at(decibel)
    expected = 10 * math.log10(1 - (1 + 10 ** (-decibel / 10)) ** -0.5 + 1e-3)
    torch.testing.assert_close(cosine_distance(gain * estimate, target), torch.full((2,), expected), rtol=0, atol=0.02)


def test_the_cosine_distance_lies_between_minus_30_and_3_db() -> None:
    target = noise(1, 1000)
    for gain, linear in ((1, 0.001), (-1, 2.001), (0, 1.001)):
        assert float(cosine_distance(gain * target, target)) == pytest.approx(10 * math.log10(linear), abs=0.01)


def test_the_cosine_distance_of_uncorrelated_noise_has_a_small_gradient() -> None:
    """SI-SDR's is many times as large there, which is why the cosine trains a network from its start."""
    target = noise(1, 4000, seed=1)
    gradients = []
    for distance in (cosine_distance, soft_si_sdr):
        estimate = noise(1, 4000).requires_grad_()
        distance(estimate, target).sum().backward()
        gradients.append(float(estimate.grad.norm()))
    assert gradients[1] > 10 * gradients[0]


def test_silence_scores_0_db_and_noise_against_silence_less() -> None:
    silence = torch.zeros(1, 4000)
    assert float(soft_si_sdr(silence, silence)) == 0
    assert float(soft_si_sdr(0.1 * noise(1, 4000), silence)) == pytest.approx(-40, abs=0.5)
    assert float(soft_si_sdr(silence, 0.1 * noise(1, 4000))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("estimate", [0.0, 0.1])
@pytest.mark.parametrize("target", [0.0, 0.1])
def test_silence_has_finite_gradients(estimate: float, target: float) -> None:
    x, y = (estimate * noise(2, 2048)).requires_grad_(), target * noise(2, 2048)
    losses = mel_loss(x, y, **SIZES) - soft_si_sdr(x, y).mean() + cosine_distance(x, y).mean()
    (losses + log_mel_distance(x, y, **SIZES).mean()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_equal_waveforms_are_at_no_distance() -> None:
    x = noise(2, 4096)
    assert log_mel_distance(x, x, **SIZES).tolist() == [0, 0]
    assert float(mel_loss(x, x, **SIZES)) == pytest.approx(LOG_FLOOR)


@pytest.mark.parametrize("gain", [0.1, 0.5, 4.0])
def test_a_gain_is_its_distance_in_db(gain: float) -> None:
    x = noise(2, 4096)
    expected = torch.full((2,), abs(20 * math.log10(gain)))
    torch.testing.assert_close(log_mel_distance(gain * x, x, **SIZES), expected, rtol=0.01, atol=0)


def test_the_loss_of_a_gain_is_its_two_terms() -> None:
    """|1 - g| of the mean magnitude and |ln g| of the logarithms, mean over windows."""
    x = noise(2, 8192)
    magnitude = sum(float(mel(x, sample_rate=RATE, window=w, bins=min(64, w // 4)).mean()) for w in WINDOWS) / 3
    expected = 0.5 * magnitude + math.log(2)
    assert float(mel_loss(0.5 * x, x, **SIZES)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("window", [64, 128, 256, 512, 1024])
def test_white_noise_has_the_mean_of_a_rayleigh_variable_in_every_bin(window: int) -> None:
    """|X| of noise of deviation 1, over the window's energy, has the mean sqrt(pi) / 2; no filter is empty."""
    found = mel(noise(4, 64 * window), sample_rate=RATE, window=window, bins=64)
    assert found.shape[1] == min(64, window // 4)
    # The lowest bin may lean on DC alone, which is a half-normal variable.
    expected = torch.full((found.shape[1] - 1,), math.sqrt(math.pi) / 2)
    torch.testing.assert_close(found.mean((0, 2))[1:], expected, rtol=0.12, atol=0)
    assert found[:, 0].mean() > 0.4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("window", [4, 32, 64, 128, 256, 512, 1024, 2048])
def test_no_filter_is_empty_at_any_rate(rate: int, window: int) -> None:
    found = mel(noise(1, 4 * window), sample_rate=rate, window=window, bins=64)
    assert 1 <= found.shape[1] <= min(64, window // 4)
    assert found.mean((0, 2)).min() > 0.05


def test_bins_at_the_papers_rate_are_as_many_as_a_window_fills() -> None:
    windows = [64, 128, 256, 512, 1024]
    bins = [mel(noise(1, 2048), sample_rate=32_000, window=w, bins=64).shape[1] for w in windows]
    assert bins == [13, 28, 58, 64, 64]


def test_a_tone_shows_in_the_bin_of_its_frequency_alone() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(8192) / RATE)[None]
    found = mel(tone, sample_rate=RATE, window=1024, bins=64)[0, :, 5:-5].mean(-1)
    # 1 kHz is mel 15 of Slaney's 45.2 at 8 kHz.
    assert int(found.argmax()) in (20, 21)
    assert float(found.sort().values[-5:].sum() / found.sum()) > 0.95


def test_a_window_longer_than_the_waveform_is_named() -> None:
    short = torch.zeros(1, 512)
    assert mel(torch.zeros(1, 513), sample_rate=16_000, window=1024, bins=8).isfinite().all()
    with pytest.raises(ValueError, match="512 samples are too short for a mel window of 1024 samples"):
        mel(short, sample_rate=16_000, window=1024, bins=8)
    with pytest.raises(ValueError, match="too short for a mel window"):
        mel_loss(short, short, sample_rate=16_000, windows=[256, 1024], bins=8)
