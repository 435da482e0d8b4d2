"""Discriminators, EnCodec's on complex STFTs and a light one on log-mels, and the losses played with the codec."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pipeline import params
from pipeline.codec.spectral import mel

KERNEL = (3, 9)  # frames, frequencies
DILATIONS = (1, 2, 4)  # over frames
MEL_FLOOR = 1e-3  # added to mel magnitudes before the logarithm, which is then centred and scaled
MEL_CENTRE, MEL_SPREAD = 4.0, 2.0


class Judgement(NamedTuple):
    """One scale's output for waveforms; F frames, W frequencies, which each dilated convolution halves."""

    logits: Tensor  # [B, 1, F, W], D_k(x): above 0 where it takes the audio for real
    features: list[Tensor]  # [B, C, F, W] each, D_k^l(x): outputs of every layer but the last


class StftDiscriminator(nn.Module):
    """MS-STFTD (EnCodec, section 3.4): one network over the complex STFT of each window."""

    def __init__(self, *, windows: Sequence[int], filters: int, slope: float) -> None:
        """`windows` in samples; `slope` of the leaky ReLUs below 0."""
        super().__init__()
        self.scales = nn.ModuleList(StftScale(window, filters, slope) for window in windows)

    def forward(self, waveform: Tensor, scales: Sequence[int]) -> list[Judgement]:
        """A judgement of waveforms `[B, T]` at each of the scales, by their numbers.

        Raises:
            ValueError: T is shorter than a window.
        """
        return [self.scales[i](waveform) for i in scales]


class StftScale(nn.Module):
    """2-D convolutions over real and imaginary part of an STFT, hop a quarter of the window."""

    hann: Tensor  # [window]

    def __init__(self, window: int, filters: int, slope: float) -> None:
        super().__init__()
        self.window, self.slope = window, slope
        self.hann = nn.Buffer(torch.hann_window(window), persistent=False)
        # In EnCodec's code too, the first convolution is the only one without weight norm.
        self.layers = nn.ModuleList([_convolution(2, filters, KERNEL)])
        for dilation in DILATIONS:
            self.layers.append(weight_norm(_convolution(filters, filters, KERNEL, stride=2, dilation=dilation)))
        self.layers.append(weight_norm(_convolution(filters, filters, (3, 3))))
        self.last = weight_norm(_convolution(filters, 1, (3, 3)))

    def forward(self, waveform: Tensor) -> Judgement:
        """The judgement of waveforms `[B, T]`."""
        if waveform.shape[1] < self.window:
            raise ValueError(
                f"waveforms of {waveform.shape[1]} samples are shorter than a window of the discriminator "
                f"({self.window} samples)"
            )
        spectrum = torch.stft(
            waveform, self.window, self.window // 4, window=self.hann, center=False, return_complex=True
        )
        x = torch.view_as_real(spectrum / self.hann.norm()).permute(0, 3, 2, 1)
        return _judged(x, self.layers, self.last, self.slope)


class MelDiscriminator(nn.Module):
    """A light one: a network over the log-mel spectrogram of each window.

    Differs from the paper, whose discriminator sees phases too.
    """

    def __init__(self, *, windows: Sequence[int], filters: int, slope: float, bins: int, sample_rate: int) -> None:
        """`windows` in samples; `slope` of the leaky ReLUs below 0; at most so many mel `bins`."""
        super().__init__()
        self.windows, self.bins, self.sample_rate = list(windows), bins, sample_rate
        self.scales = nn.ModuleList(MelScale(filters, slope) for _ in windows)

    def forward(self, waveform: Tensor, scales: Sequence[int]) -> list[Judgement]:
        """A judgement of waveforms `[B, T]` at each of the scales, by their numbers."""
        return [
            self.scales[i](mel(waveform, sample_rate=self.sample_rate, window=self.windows[i], bins=self.bins))
            for i in scales
        ]


class MelScale(nn.Module):
    """2-D convolutions over mel magnitudes `[B, M, F]`."""

    def __init__(self, filters: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        layers = [
            nn.Conv2d(1, filters, (3, 7), stride=(1, 2), padding=(1, 3)),
            nn.Conv2d(filters, filters, (3, 5), stride=(2, 2), padding=(1, 2)),
            nn.Conv2d(filters, filters, (3, 5), stride=(1, 2), padding=(1, 2)),
            nn.Conv2d(filters, filters, 3, padding=1),
        ]
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.last = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, magnitudes: Tensor) -> Judgement:
        """The judgement of mel magnitudes, on a logarithmic scale between about -1.5 and 3."""
        x = (((magnitudes + MEL_FLOOR).log() + MEL_CENTRE) / MEL_SPREAD).transpose(1, 2)[:, None]
        return _judged(x, self.layers, self.last, self.slope)


def discriminator(settings: params.Discriminator, sample_rate: int) -> StftDiscriminator | MelDiscriminator:
    """A fresh discriminator for audio of `sample_rate` Hz."""
    shared: dict[str, Any] = {"windows": settings.windows, "filters": settings.filters, "slope": settings.slope}
    if settings.kind == "stft":
        return StftDiscriminator(**shared)
    return MelDiscriminator(**shared, bins=settings.mel_bins, sample_rate=sample_rate)


def halves(judgements: list[Judgement]) -> tuple[list[Judgement], list[Judgement]]:
    """Judgements of a batch taken apart into those of its first half, whose features keep no gradient, and the rest."""
    sides: tuple[list[Judgement], list[Judgement]] = ([], [])
    for logits, features in judgements:
        half = len(logits) // 2
        sides[0].append(Judgement(logits[:half], [feature[:half].detach() for feature in features]))
        sides[1].append(Judgement(logits[half:], [feature[half:] for feature in features]))
    return sides


def discriminator_loss(real: list[Judgement], generated: list[Judgement]) -> Tensor:
    """What the discriminator minimises: mean over scales of max(0, 1 - D_k(x)) + max(0, 1 + D_k(x^))."""
    losses = [F.relu(1 - x.logits).mean() + F.relu(1 + y.logits).mean() for x, y in zip(real, generated, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(generated: list[Judgement]) -> Tensor:
    """What the codec minimises to be taken for real: mean over scales of -D_k(x^).

    Differs from EnCodec's equation, max(0, 1 - D_k(x^)), as its authors' configuration (`adv_loss: hinge`) does.
    """
    return -torch.stack([y.logits.mean() for y in generated]).mean()


def feature_loss(real: list[Judgement], generated: list[Judgement], *, relative: bool) -> Tensor:
    """Feature matching: mean over scales and layers of ||D_k^l(x) - D_k^l(x^)||_1 / mean ||D_k^l(x)||_1.

    EnCodec's equation divides by the real features' mean magnitude (`relative`); its authors' code does not.
    """
    losses = []
    for x, y in zip(real, generated, strict=True):
        for a, b in zip(x.features, y.features, strict=True):
            distance = (a - b).abs().mean()
            losses.append(distance / a.abs().mean().clamp_min(1e-8) if relative else distance)
    return torch.stack(losses).mean()


def _judged(x: Tensor, layers: Iterable[nn.Module], last: nn.Module, slope: float) -> Judgement:
    """The judgement of an image `[B, C, F, W]` by layers with leaky ReLUs, and one without."""
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), slope)
        features.append(x)
    return Judgement(last(x), features)


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """`[B, C, F, W]` -> `[B, C', F, ceil(W / stride)]`, dilated over frames, strided over frequencies."""
    padding = (kernel[0] // 2 * dilation, kernel[1] // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride=(1, stride), dilation=(dilation, 1), padding=padding)
