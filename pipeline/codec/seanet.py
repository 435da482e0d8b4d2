"""SEANet: the convolutional encoder and decoder of EnCodec (section 3.1), causal or not."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrizations import weight_norm

from pipeline import params

PadMode = Literal["reflect", "constant"]


class Conv(nn.Module):
    """Weight-normed convolution `[B, C, T]` -> `[B, C', ceil(T / stride)]` with reflected edges or zeros past them.

    With `elu` it takes ELU(x), written straight into the padded input: one pass over memory less each way.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        elu: bool = False,
        causal: bool = False,
        pad_mode: PadMode = "reflect",
    ) -> None:
        super().__init__()
        self.elu, self.causal, self.pad_mode = elu, causal, pad_mode
        self.conv = weight_norm(Conv1d(inputs, outputs, kernel_size, stride=stride, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        """Pads by the kernel's overlap, all of it on the left if causal, and on the right to a whole last stride.

        Causal and reflected, as EnCodec at 24 kHz, the first outputs see as much of what follows as is reflected.
        """
        (kernel,), (stride,), (dilation,) = self.conv.kernel_size, self.conv.stride, self.conv.dilation
        overlap = (kernel - 1) * dilation + 1 - stride
        right = 0 if self.causal else overlap // 2
        left, right = overlap - right, right + -x.shape[-1] % stride
        if self.elu and 0 < max(left, right) < x.shape[-1]:
            return self.conv(_PaddedELU.apply(x, left, right, self.pad_mode))
        pad = _reflect if self.pad_mode == "reflect" else _zeros
        return self.conv(pad(F.elu(x) if self.elu else x, left, right))


class Conv1d(nn.Conv1d):
    """torch's convolution, with a faster path by matrix products for one output channel on a CPU."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.device.type == "cpu" and self.out_channels == self.stride[0] == self.dilation[0] == 1:
            return _OneChannel.apply(x, weight, bias)
        return super()._conv_forward(x, weight, bias)


class ConvTranspose(nn.Module):
    """Weight-normed transposed convolution of ELU(x), `[B, C, T]` -> `[B, C', T stride]`, kernel twice the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.conv = weight_norm(nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride=stride), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Trims the overlap from both ends, or from the right alone if causal."""
        (stride,) = self.conv.stride
        left = 0 if self.causal else stride - stride // 2
        return self.conv(F.elu(x))[..., left : left + x.shape[-1] * stride]


class Residual(nn.Module):
    """x + conv_1(ELU(conv_dilated(ELU(x)))) with half the channels inside."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, conv: Callable[..., Conv] = Conv) -> None:
        super().__init__()
        self.narrow = conv(channels, channels // 2, kernel_size, dilation=dilation, elu=True)
        self.widen = conv(channels // 2, channels, 1, elu=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, C, T]`."""
        return x + self.widen(self.narrow(x))


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

    def scale(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        target = spread if layer is layers[-1] else 1.0
        mean = output.mean(dim=(0, 2))
        deviation = output.std(dim=(0, 2)).clamp_min(1e-6)
        magnitude = layer.get_parameter("parametrizations.weight.original0")
        magnitude.mul_((target / deviation).view_as(magnitude))
        layer.get_parameter("bias").sub_(mean).mul_(target / deviation)
        return (output - mean[:, None]) * (target / deviation)[:, None]

    hooks = [layer.register_forward_hook(scale) for layer in layers]
    try:
        return network(x)
    finally:
        for hook in hooks:
            hook.remove()


class SEANetShape:
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


def encoder(shape: SEANetShape) -> nn.Sequential:
    """Waveform `[B, 1, T]` -> latent z `[B, D, ceil(T / hop)]`; channels double at each downsampling."""
    channels = shape.filters
    layers: list[nn.Module] = [shape.conv(1, channels, shape.kernel_size)]
    for ratio in reversed(shape.ratios):
        layers += shape.residuals(channels)
        layers += [shape.conv(channels, 2 * channels, 2 * ratio, stride=ratio, elu=True)]
        channels *= 2
    last = shape.conv(channels, shape.dimension, shape.last_kernel_size, elu=True)
    return nn.Sequential(*layers, *shape.recurrent(channels), last)


def decoder(shape: SEANetShape) -> nn.Sequential:
    """Latent `[B, D, T']` -> waveform `[B, 1, T' hop]`; channels halve at each upsampling."""
    channels = shape.filters * 2 ** len(shape.ratios)
    layers: list[nn.Module] = [shape.conv(shape.dimension, channels, shape.kernel_size), *shape.recurrent(channels)]
    for ratio in shape.ratios:
        layers += [shape.conv_transpose(channels, channels // 2, ratio), *shape.residuals(channels // 2)]
        channels //= 2
    return nn.Sequential(*layers, shape.conv(channels, 1, shape.last_kernel_size, elu=True))


class SEANet:
    """The architecture `seanet`, the paper's: encoder, decoder and how both start."""

    Sizes = params.Seanet

    def __init__(self, sizes: params.Seanet, dimension: int) -> None:
        shape = SEANetShape(**sizes.model_dump(), dimension=dimension)
        self.encoder, self.decoder = encoder(shape), decoder(shape)

    @staticmethod
    def start(encoder: nn.Sequential, decoder: nn.Sequential, waveform: Tensor) -> None:
        """Scales fresh networks to waveforms `[B, T]` by `scale_to_data`, the latent to unit spread."""
        latent = scale_to_data(encoder, waveform[:, None], 1.0)
        scale_to_data(decoder, latent, float(waveform.std()))


ARCHITECTURES = {"seanet": SEANet}


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


class _PaddedELU(torch.autograd.Function):
    """ELU(x) with `left` and `right` frames past its ends, each fewer than it has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, left: int, right: int, pad_mode: PadMode) -> Tensor:
        end = left + x.shape[-1]
        y = x.new_empty(*x.shape[:-1], end + right)
        torch.ops.aten.elu.out(x, out=y[..., left:end])
        if pad_mode == "reflect":
            y[..., :left] = y[..., left + 1 : 2 * left + 1].flip(-1)
            y[..., end:] = y[..., end - right - 1 : end - 1].flip(-1)
        else:
            y[..., :left], y[..., end:] = 0, 0
        ctx.save_for_backward(y)
        ctx.left, ctx.end, ctx.reflected = left, end, pad_mode == "reflect"
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (y,) = ctx.saved_tensors
        left, end = ctx.left, ctx.end
        right = y.shape[-1] - end

        def of(part: slice) -> Tensor:
            return torch.ops.aten.elu_backward(gradient[..., part], 1, 1, 1, True, y[..., part])

        total = of(slice(left, end))
        if ctx.reflected:
            total[..., 1 : left + 1] += of(slice(0, left)).flip(-1)
            total[..., end - left - 1 - right : end - left - 1] += of(slice(end, None)).flip(-1)
        return total, None, None, None


class _OneChannel(torch.autograd.Function):
    """Convolution `[B, C, T]` -> `[B, 1, T - kernel + 1]` in matrix products: one a tap, and backward one for all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frames = x.shape[-1] - weight.shape[-1] + 1
        y = bias[:, None]
        for k, tap in enumerate(weight.unbind(-1)):
            y = torch.baddbmm(y, tap.expand(len(x), -1, -1), x[..., k : k + frames])
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        taps, frames = weight.shape[-1], gradient.shape[-1]
        moved = x.new_zeros(len(x), taps, x.shape[-1])  # the output's gradient, where each tap read its input
        for k in range(taps):
            moved[:, k, k : k + frames] = gradient[:, 0]
        of_weight = torch.bmm(moved, x.transpose(1, 2)).sum(0).T[None]
        return torch.bmm(weight.expand(len(x), -1, -1), moved), of_weight, gradient.sum((0, 2))
