"""Mel spectrograms, the multi-scale spectral loss, and the distance that evaluation reports."""

import functools
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

SILENCE = 1e-6  # power re full scale
DISTANCE_WINDOWS, DISTANCE_BINS = (64, 128, 256, 512, 1024), 64  # samples, mels; of the distance that is reported
COSINE_FLOOR = 1e-3  # -30 dB
LOG_FLOOR = 1e-5  # added to mel magnitudes before the logarithm, as EnCodec does


def mel_loss(estimate: Tensor, target: Tensor, *, sample_rate: int, windows: Sequence[int], bins: int) -> Tensor:
    """Multi-scale mel loss (EnCodec, section 3.4): mean over windows of L1 of mels plus L2 of log-mels.

    Differs from EnCodec in taking fewer bins where a window has too few frequencies to fill them (`mel`). The paper's
    configuration leaves such filters empty (23, 11 and 2 of 64 for windows of 64, 128 and 256 at 32 kHz), and differs
    besides in mels of powers on the HTK scale from 64 Hz, and in squares, not root mean squares, of log10-mels.

    Args:
        estimate: `[B, T]`, full scale 1.
        target: `[B, T]`.
        sample_rate: Hz.
        windows: samples; the hop is a quarter of each.
        bins: mel bins, at most.
    """
    total = estimate.new_zeros(())
    for window in windows:
        a, b = (mel(x, sample_rate=sample_rate, window=window, bins=bins) for x in (estimate, target))
        logarithms = (a + LOG_FLOOR).log() - (b + LOG_FLOOR).log()
        total = total + F.l1_loss(a, b) + (logarithms.square().mean() + LOG_FLOOR**2).sqrt()
    return total / len(windows)


def log_mel_distance(
    estimate: Tensor,
    target: Tensor,
    *,
    sample_rate: int,
    windows: Sequence[int] = DISTANCE_WINDOWS,
    bins: int = DISTANCE_BINS,
) -> Tensor:
    """Mean absolute difference of log-mel magnitudes in dB, over windows, bins and frames, `[B, T]` -> `[B]`.

    The windows are the same for every codec, whatever its loss was taken on.
    """
    distances = []
    for window in windows:
        a, b = (mel(x, sample_rate=sample_rate, window=window, bins=bins) for x in (estimate, target))
        distances.append(20 * ((a + LOG_FLOOR).log10() - (b + LOG_FLOOR).log10()).abs().mean(dim=(1, 2)))
    return torch.stack(distances).mean(0)


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, `[B, T]` -> `[B]` (Le Roux et al. 2019, by torchmetrics)."""
    # Here and not above: it takes seconds to import, and most jobs that import this module do without.
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    return scale_invariant_signal_distortion_ratio(estimate, target, zero_mean=True)


def soft_si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """SI-SDR in dB, `[B, T]` -> `[B]`, both energies lifted by -60 dB re full scale: silence gives 0 dB, no NaN."""
    floor = SILENCE * target.shape[-1]
    scale = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + floor)
    projected = scale * target
    return 10 * torch.log10((projected.square().sum(-1) + floor) / ((estimate - projected).square().sum(-1) + floor))


def cosine_distance(estimate: Tensor, target: Tensor) -> Tensor:
    """10 log10(1 - cos + 1e-3) in dB, `[B, T]` -> `[B]`, cos being the cosine between the two: a bounded SI-SDR.

    Its gradient stays small where the two are not correlated yet, where that of SI-SDR explodes.
    """
    return 10 * torch.log10(1 - F.cosine_similarity(estimate, target, dim=-1, eps=1e-4) + COSINE_FLOOR)


def mel(waveform: Tensor, *, sample_rate: int, window: int, bins: int) -> Tensor:
    """Mel magnitudes `[B, M, F]` of `[B, T]`, Hann window, normalised by the window's energy.

    M is the largest number, up to `bins` and a quarter of the window, that leaves no filter empty.

    Raises:
        ValueError: the waveforms are no longer than half a window, by which they are reflected at their ends.
    """
    if waveform.shape[1] <= window // 2:
        raise ValueError(f"waveforms of {waveform.shape[1]} samples are too short for a mel window of {window} samples")
    filters, hann = _filters(sample_rate, window, min(bins, window // 4), waveform.device)
    spectrum = torch.stft(waveform, window, window // 4, window=hann, center=True, return_complex=True)
    return filters @ spectrum.abs()


@functools.cache
def _filters(sample_rate: int, window: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    hann = torch.hann_window(window, device=device)
    with warnings.catch_warnings():
        # An empty filter makes torchaudio warn; here it asks for one filter less.
        warnings.simplefilter("ignore")
        filters = torchaudio.functional.melscale_fbanks(
            window // 2 + 1, 0.0, sample_rate / 2, bins, sample_rate, norm="slaney", mel_scale="slaney"
        )
    if not filters.any(0).all():
        return _filters(sample_rate, window, bins - 1, device)
    # Slaney's filters have unit area in Hz; scaled to sum to 1 over the frequencies, a mel reads as a magnitude.
    filters = filters / filters.sum(0).clamp_min(1e-8)
    return filters.T.contiguous().to(device) / hann.square().sum().sqrt(), hann
