"""SEANet: the convolutional encoder and decoder of EnCodec (section 3.1), causal or not."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PadMode = Literal["reflect", "constant"]


class Conv(nn.Module):
    """Weight-normed convolution `[B, C, T]` -> `[B, C', ceil(T / stride)]` with reflected edges or zeros past them."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = False,
        pad_mode: PadMode = "reflect",
    ) -> None:
        super().__init__()
        self.causal, self.pad_mode = causal, pad_mode
        self.conv = weight_norm(nn.Conv1d(inputs, outputs, kernel_size, stride=stride, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        """Pads what the kernel overlaps, where causal at the left alone, and at the right what fills the last stride.

        Causal and reflected, as EnCodec at 24 kHz, the first outputs see as much of what follows as is reflected.
        """
        (kernel,), (stride,), (dilation,) = self.conv.kernel_size, self.conv.stride, self.conv.dilation
        overlap = (kernel - 1) * dilation + 1 - stride
        right = 0 if self.causal else overlap // 2
        pad = _reflect if self.pad_mode == "reflect" else _zeros
        return self.conv(pad(x, overlap - right, right + -x.shape[-1] % stride))


class ConvTranspose(nn.Module):
    """Weight-normed transposed convolution `[B, C, T]` -> `[B, C', T stride]`, kernel twice the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.conv = weight_norm(nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride=stride), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Cuts the overlap from both ends, where causal from the right alone."""
        (stride,) = self.conv.stride
        left = 0 if self.causal else stride - stride // 2
        return self.conv(x)[..., left : left + x.shape[-1] * stride]


class Residual(nn.Module):
    """x + conv_1(ELU(conv_dilated(ELU(x)))) with half the channels inside."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, conv: Callable[..., Conv] = Conv) -> None:
        super().__init__()
        self.narrow = conv(channels, channels // 2, kernel_size, dilation=dilation)
        self.widen = conv(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, C, T]`."""
        return x + self.widen(F.elu(self.narrow(F.elu(x))))


class LSTM(nn.Module):
    """Recurrent layers over time with a skip connection, `[B, C, T]` -> `[B, C, T]`."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Runs forward in time only, as EnCodec does even where its convolutions are not causal."""
        return x + self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)


@torch.no_grad()
def scale_to_data(network: nn.Sequential, x: Tensor, spread: float) -> Tensor:
    """Scales each layer so that on `x` its outputs have mean 0 and variance 1 per channel, the last one's `spread`.

    The data-dependent start of weight normalisation (Salimans and Kingma 2016, section 3). Differs from EnCodec, whose
    default start shrinks the signal at every layer: at a small budget the latent then stays near 0, and the decoder
    ignores it, for most of the run. Returns the network's output on `x`.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]

    def scale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        target = spread if layer is layers[-1] else 1.0
        mean = output.mean(dim=(0, 2))
        deviation = output.std(dim=(0, 2)).clamp_min(1e-6)
        layer.parametrizations.weight.original0.mul_(
            (target / deviation).view_as(layer.parametrizations.weight.original0)
        )
        layer.bias.sub_(mean).mul_(target / deviation)
        return (output - mean[:, None]) * (target / deviation)[:, None]

    hooks = [layer.register_forward_hook(scale) for layer in layers]
    try:
        return network(x)
    finally:
        for hook in hooks:
            hook.remove()


class Shape:
    """What SEANet is built from; `ratios` in the decoder's order."""

    def __init__(
        self,
        *,
        filters: int,
        ratios: list[int],
        dimension: int,
        residual_layers: int,
        kernel_size: int,
        residual_kernel_size: int,
        last_kernel_size: int,
        dilation_base: int,
        lstm_layers: int,
        causal: bool,
        pad_mode: PadMode,
    ) -> None:
        self.filters, self.ratios, self.dimension = filters, ratios, dimension
        self.residual_layers, self.dilation_base, self.lstm_layers = residual_layers, dilation_base, lstm_layers
        self.kernel_size, self.residual_kernel_size = kernel_size, residual_kernel_size
        self.last_kernel_size = last_kernel_size
        self.conv = partial(Conv, causal=causal, pad_mode=pad_mode)
        self.conv_transpose = partial(ConvTranspose, causal=causal)

    def residuals(self, channels: int) -> list[nn.Module]:
        """The residual units of one stage."""
        return [
            Residual(channels, self.residual_kernel_size, self.dilation_base**layer, self.conv)
            for layer in range(self.residual_layers)
        ]

    def recurrent(self, channels: int) -> list[nn.Module]:
        """The recurrent layers, if any."""
        return [LSTM(channels, self.lstm_layers)] if self.lstm_layers else []


def encoder(shape: Shape) -> nn.Sequential:
    """Waveform `[B, 1, T]` -> latent z `[B, D, ceil(T / hop)]`; channels double at each downsampling."""
    channels = shape.filters
    layers: list[nn.Module] = [shape.conv(1, channels, shape.kernel_size)]
    for ratio in reversed(shape.ratios):
        layers += [*shape.residuals(channels), nn.ELU(), shape.conv(channels, 2 * channels, 2 * ratio, stride=ratio)]
        channels *= 2
    layers += [*shape.recurrent(channels), nn.ELU(), shape.conv(channels, shape.dimension, shape.last_kernel_size)]
    return nn.Sequential(*layers)


def decoder(shape: Shape) -> nn.Sequential:
    """Latent `[B, D, T']` -> waveform `[B, 1, T' hop]`; channels halve at each upsampling."""
    channels = shape.filters * 2 ** len(shape.ratios)
    layers: list[nn.Module] = [shape.conv(shape.dimension, channels, shape.kernel_size), *shape.recurrent(channels)]
    for ratio in shape.ratios:
        layers += [nn.ELU(), shape.conv_transpose(channels, channels // 2, ratio), *shape.residuals(channels // 2)]
        channels //= 2
    return nn.Sequential(*layers, nn.ELU(), shape.conv(channels, 1, shape.last_kernel_size))


def _reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Reflects the edges; an input shorter than the reflection is first filled up with zeros, as EnCodec does."""
    if left == right == 0:
        return x
    missing = max(left, right) + 1 - x.shape[-1]
    if missing <= 0:
        return F.pad(x, (left, right), mode="reflect")
    padded = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]


def _zeros(x: Tensor, left: int, right: int) -> Tensor:
    return F.pad(x, (left, right))
