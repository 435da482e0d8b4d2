"""The complex multi-scale STFT discriminator, and the losses played between it and the codec (EnCodec, section 3.4)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

KERNEL = (3, 9)  # frames, frequencies
DILATIONS = (1, 2, 4)  # over frames


class Judgement(NamedTuple):
    """One scale's output for waveforms; F frames, W frequencies, which each dilated convolution halves."""

    logits: Tensor  # [B, 1, F, W], D_k(x): above 0 where it takes the audio for real
    features: list[Tensor]  # [B, C, F, W] each, D_k^l(x): outputs of every layer but the last


class Discriminator(nn.Module):
    """MS-STFTD: one network over the complex STFT of each window."""

    def __init__(self, *, windows: Sequence[int], filters: int, slope: float) -> None:
        """`windows` in samples; `slope` of the leaky ReLUs below 0."""
        super().__init__()
        self.scales = nn.ModuleList(Scale(window, filters, slope) for window in windows)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """One judgement a scale of waveforms `[B, T]`.

        Raises:
            ValueError: T is shorter than a window.
        """
        return [scale(waveform) for scale in self.scales]


class Scale(nn.Module):
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
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), self.slope)
            features.append(x)
        return Judgement(self.last(x), features)


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


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """`[B, C, F, W]` -> `[B, C', F, ceil(W / stride)]`, dilated over frames, strided over frequencies."""
    padding = (kernel[0] // 2 * dilation, kernel[1] // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride=(1, stride), dilation=(dilation, 1), padding=padding)
