"""CDPAM, an encoder of what listeners tell apart (Manocha et al. 2021, arXiv 2102.05109), with its published weights.

fadtk's statistics of FMA-Pop hold its acoustic embeddings, so that distances to a public corpus need no model hub.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

SAMPLE_RATE = 22_050  # Hz
LAYERS = 16
SHRINKS = 4  # every fourth layer keeps every second frame
SHORTEST = 256  # samples of a last second that is not whole: 16 frames of the last layer
INT16 = 32_768  # its waveforms have the values of 16-bit samples
SPAN = 64  # frames that a fast convolution transforms at a time
AT_ONCE = {"cpu": 2, "cuda": 64}  # waveforms: transformed weights are 0.8 GB to read, and few fit a CPU's cache


class Cdpam(nn.Module):
    """The acoustic half of the encoder, in evaluation only.

    Differs from cdpam's own code in what it leaves out, frames that the next layer drops and the content half, and in
    how it convolves (`Convolution`).
    """

    def __init__(self, variables: dict[str, Tensor]) -> None:
        """`variables` as the checkpoint names them."""
        super().__init__()
        layers = []
        for layer in range(LAYERS):
            weight, bias = (variables[f"base_encoder.encoder.{layer}.{name}"] for name in ("weight", "bias"))
            gamma, beta, mean, variance = (
                variables[f"base_encoder.ebatch.{layer}.{name}"]
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / (variance + 1e-5).sqrt()
            kept = len(weight) // (2 if layer == LAYERS - 1 else 1)
            folded = (weight * scale[:, None, None])[:kept], ((bias - mean) * scale + beta)[:kept]
            layers.append(Convolution(*folded, stride=2 if (layer + 1) % SHRINKS == 0 else 1))
        self.layers = nn.ModuleList(layers)

    @torch.inference_mode()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Acoustic embeddings of unit length of `waveforms` `[B, T]` at 22.05 kHz, full scale 1 -> `[B, 512]`."""
        x = (waveforms * INT16).round()[:, :, None]
        for layer in self.layers:
            x = F.leaky_relu_(layer(x), 0.1)
        return F.normalize(x.mean(1), dim=1)

    def embed(self, waveforms: Tensor) -> Tensor:
        """`waveforms` `[B, T]` -> `[B, n, 512]`, one embedding a second and one of what is left, as fadtk takes them.

        Raises:
            ValueError: not `[B, T]`, too short, NaN or infinite.
        """
        if waveforms.ndim != 2 or waveforms.shape[1] < SHORTEST:
            raise ValueError(f"waveforms must be [B, T] with T of at least {SHORTEST}, got {tuple(waveforms.shape)}")
        if not waveforms.isfinite().all():
            raise ValueError("waveforms hold NaN or infinity")
        seconds = [part for part in waveforms.split(SAMPLE_RATE, 1) if part.shape[1] >= SHORTEST]
        at_once = AT_ONCE.get(waveforms.device.type, AT_ONCE["cpu"])
        return torch.stack([torch.cat([self(rows) for rows in part.split(at_once)]) for part in seconds], 1)


class Convolution(nn.Module):
    """`F.conv1d` with half a kernel of zeros at both ends, for long kernels and channels last.

    `[B, T, C]` -> `[B, ceil(T / stride), D]`, by overlapping spans of `SPAN` frames: each is Fourier transformed,
    multiplied bin by bin, and transformed back. A complex product is three real ones (Gauss), all of them matrix
    products over channels: for kernels of 15, an eighth of the multiplications. Transforms are matrix products too; so
    short, they cost less than to lay out an FFT's numbers.
    """

    analysis: Tensor  # [M, SPAN]
    synthesis: Tensor  # [hop, M]
    weight: Tensor  # [M, C, D], of each bin
    bias: Tensor  # [D]

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        """Weights `[D, C, kernel]`, of an odd kernel, and bias `[D]`; the stride is 1 or 2."""
        super().__init__()
        self.stride, self.padding = stride, weight.shape[-1] // 2
        if stride == 2:
            # Two frames laid side by side are one of twice the channels, and half as many taps reach as far.
            weight = F.pad(weight, (0, 1)).unflatten(2, (-1, 2)).permute(0, 3, 1, 2).flatten(1, 2)
        self.taps = weight.shape[-1]
        self.hop = SPAN - self.taps + 1
        analysis, filters, synthesis = _transforms(self.taps)
        self.register_buffer("analysis", analysis.float())
        self.register_buffer("synthesis", synthesis[: self.hop].float())
        self.register_buffer("weight", torch.einsum("mk,dck->mcd", filters, weight.double()).float())
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, ceil(T / stride), D]`."""
        batch, length, channels = x.shape
        frames = -(-length // self.stride)
        spans = -(-(frames + self.taps - 1) // self.hop)
        # Spans of all rows in one run of frames, behind each row's last so many zeros that none reaches the next row's.
        room = spans * self.hop * self.stride
        padded = x.new_zeros(batch * room + SPAN * self.stride, channels)
        padded[: batch * room].view(batch, room, channels)[:, self.padding : self.padding + length] = x
        wide = channels * self.stride
        spanned = padded.as_strided((batch * spans, SPAN, wide), (self.hop * wide, wide, 1))
        bins = torch.bmm(self.analysis.expand(len(spanned), -1, -1), spanned)  # [B spans, M, C]
        products = torch.bmm(bins.transpose(0, 1), self.weight)  # [M, B spans, D]
        filtered = torch.bmm(self.synthesis.expand(len(spanned), -1, -1), products.transpose(0, 1))
        return filtered.view(batch, spans * self.hop, -1)[:, :frames] + self.bias


def _transforms(taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices A `[M, SPAN]`, G `[M, taps]`, S `[SPAN, M]`: S ((A x) (G w)) correlates x with w where w lies within x.

    With X = a - ib the transform of x, and V = c + id the conjugate of w's, XV is made of c (a - b), a (d - c) and
    -b (c + d); where a bin is real, of the first alone.
    """
    angle = 2 * torch.pi / SPAN * torch.outer(torch.arange(SPAN // 2 + 1), torch.arange(SPAN)).double()
    cos, sin = angle.cos(), angle.sin()
    inner = slice(1, -1)  # the first and the last bin are real
    analysis = torch.cat([cos - sin, cos[inner], -sin[inner]])
    filters = torch.cat([cos, (sin - cos)[inner], (cos + sin)[inner]])[:, :taps]
    share = torch.full((len(cos), 1), 2 / SPAN, dtype=torch.float64)
    share[[0, -1]] /= 2
    synthesis = torch.cat([share * (cos - sin), -(share * sin)[inner], -(share * cos)[inner]]).T
    return analysis, filters, synthesis


def load(path: Path) -> Cdpam:
    """The encoder with the weights of cdpam's package (`pipeline.fetch.cdpam_checkpoint`)."""
    # An old pickle with optimizer state; nothing but tensors and plain containers may come out of it.
    checkpoint = torch.load(path, "cpu", pickle_module=_TENSORS, weights_only=False)
    return Cdpam(checkpoint["state"]).eval()


def resample(waveform: Any, rate: int, target: int) -> Any:
    """`waveform` `[T]` from `rate` to `target` Hz with fadtk's Kaiser window; soxr's scores differ by up to 3 %."""
    if rate == target:
        return waveform
    return torchaudio.functional.resample(
        torch.from_numpy(waveform),
        rate,
        target,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}, which no checkpoint needs")


_TENSORS = SimpleNamespace(
    __name__="tensors", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)
