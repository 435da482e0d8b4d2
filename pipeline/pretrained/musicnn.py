"""musicnn, a convolutional music tagger (Pons and Serra 2019, arXiv 1909.06654), with its published weights.

MTT_musicnn (MagnaTagATune) scores audio; MSD_musicnn (Million Song Dataset) writes captions: two sets of training data,
so that a caption's author does not also judge.
"""

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from pipeline.pretrained import tensorflow_bundle

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP, BINS = 512, 256, 96  # samples, samples, mels
PATCH = 187  # frames, 3 s
EPSILON = 1e-3  # of TensorFlow's batch norm
# Patches at a time: on a CPU, what more of them leave behind falls out of the cache.
CHUNK = {"cpu": 1, "cuda": 256}

TAGS: dict[str, tuple[str, ...]] = {
    "mtt": (
        *(
            "guitar",
            "classical",
            "slow",
            "techno",
            "strings",
            "drums",
            "electronic",
            "rock",
            "fast",
            "piano",
            "ambient",
        ),
        *("beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals"),
        *("harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo"),
        *("man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp"),
        *("cello", "no voice", "weird", "country", "metal", "female voice", "choral"),
    ),
    "msd": (
        *("rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock"),
        *("jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow"),
        *("electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock"),
        *("ambient", "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country"),
        *("easy listening", "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb"),
        *("indie pop", "sad", "House", "happy"),
    ),
}


class Answer(NamedTuple):
    """What the network says of each patch; `...` is `P`, or `B, n` where `embed` was asked."""

    logits: Tensor  # [..., 50], of `TAGS`; the tags' probabilities are their sigmoids
    max_pool: Tensor  # [..., 753]
    penultimate: Tensor  # [..., 200]


class Musicnn(nn.Module):
    """The network, with every batch norm as a scale and an offset, in evaluation only.

    Differs from musicnn's own code in the order of batch norm and pooling over frequency: the largest value after a
    negative scale is the smallest before it, so such channels are computed with their sign turned and pooled first.
    """

    def __init__(self, variables: dict[str, Tensor]) -> None:
        """`variables` as the checkpoint names them."""
        super().__init__()
        scale, offset = _batch_norm(variables, 0)
        self.input = nn.Buffer(torch.stack([scale, offset]))
        self.timbral = nn.ModuleList(_Timbral(variables, i) for i in (0, 1))
        self.temporal = nn.ModuleList(_Temporal(variables, i) for i in (2, 3, 4))
        self.middle = nn.ModuleList(_Middle(variables, i) for i in (5, 6, 7))
        scale, offset = _batch_norm(variables, 9)
        weight = variables["dense/kernel"]
        self.dense_weight = nn.Buffer((scale[:, None] * weight).T.contiguous())
        self.dense_bias = nn.Buffer(variables["dense/bias"] + offset @ weight)
        self.dense_norm = nn.Buffer(torch.stack(_batch_norm(variables, 10)))
        self.logits_weight = nn.Buffer(variables["dense_1/kernel"].T.contiguous())
        self.logits_bias = nn.Buffer(variables["dense_1/bias"])

    @torch.inference_mode()
    def forward(self, patches: Tensor) -> Answer:
        """Log-mel `patches` `[P, 187, 96]` -> `Answer` over `P`."""
        if patches.ndim != 3 or patches.shape[1:] != (PATCH, BINS):
            raise ValueError(f"patches must be [P, {PATCH}, {BINS}], got {tuple(patches.shape)}")
        chunks = [self._chunk(chunk) for chunk in patches.split(CHUNK[patches.device.type])]
        return Answer(*(torch.cat(part) for part in zip(*chunks, strict=True)))

    def embed(self, waveforms: Tensor) -> Answer:
        """`waveforms` `[B, T]` at 16 kHz, full scale 1 -> `Answer` over `[B, n]`, n patches of 3 s without overlap.

        Raises:
            ValueError: not `[B, T]`, shorter than a patch (2.98 s), NaN or infinite.
        """
        patches = log_mel_patches(waveforms)
        answer = self(patches.flatten(0, 1))
        return Answer(*(part.unflatten(0, patches.shape[:2]) for part in answer))

    @torch.inference_mode()
    def tags(self, penultimate: Tensor) -> Tensor:
        """Logits `[..., 50]` of embeddings `[..., 200]`."""
        return F.linear(penultimate, self.logits_weight, self.logits_bias)

    def _chunk(self, patches: Tensor) -> Answer:
        x = patches * self.input[0] + self.input[1]
        front = torch.cat([layer(x) for layer in (*self.timbral, *self.temporal)], dim=2)  # [P, 187, 561]
        first = self.middle[0](front)
        second = self.middle[1](first) + first
        third = self.middle[2](second) + second
        features = torch.cat([front, first, second, third], dim=2)  # [P, 187, 753]
        max_pool = features.amax(1)
        pooled = torch.stack([max_pool, features.mean(1)], dim=2).flatten(1)  # alternating, as TensorFlow flattens it
        dense = F.linear(pooled, self.dense_weight, self.dense_bias).relu()
        penultimate = dense * self.dense_norm[0] + self.dense_norm[1]
        return Answer(self.tags(penultimate), max_pool, penultimate)


class _Frontend(nn.Module):
    """Convolution, ReLU, batch norm, maximum over frequency: `[P, 187, 96]` -> `[P, 187, C]`."""

    def __init__(self, variables: dict[str, Tensor], index: int) -> None:
        super().__init__()
        scale, offset = _batch_norm(variables, index + 1)
        kernel, bias = _convolution(variables, index)
        sign = torch.where(scale < 0, -1.0, 1.0)
        self.affine = nn.Buffer(torch.stack([sign, scale, offset])[:, None, None])
        self.set_kernel(kernel * sign[:, None, None, None], bias * sign)

    def forward(self, x: Tensor) -> Tensor:
        sign, scale, offset = self.affine
        return (self.largest(x) * sign).relu() * scale + offset

    def set_kernel(self, kernel: Tensor, bias: Tensor) -> None:
        """Keeps `[C, 1, frames, mels]` and `[C]` as `largest` wants them."""
        raise NotImplementedError

    def largest(self, x: Tensor) -> Tensor:
        """Largest value over frequency of the convolution, `[P, 187, 96]` -> `[P, 187, C]`."""
        raise NotImplementedError


class _Timbral(_Frontend):
    """7 frames by 38 or 67 mels: the mels under the kernel are a convolution's channels, one band after another."""

    at_once = 4  # bands, whose result stays in the cache

    def set_kernel(self, kernel: Tensor, bias: Tensor) -> None:
        kernel = kernel.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)  # [C, mels, 1, 7]
        self.kernel, self.bias = nn.Buffer(kernel), nn.Buffer(bias)

    def largest(self, x: Tensor) -> Tensor:
        mels, size = self.kernel.shape[1], self.kernel.shape[3]
        bands = F.pad(x, (0, 0, size // 2, size // 2)).transpose(1, 2).unfold(1, mels, 1)  # [P, bands, 193, mels]
        largest = x.new_full((), -torch.inf)
        for some in bands.split(self.at_once, 1):
            image = some.flatten(0, 1).transpose(1, 2)[:, :, None].contiguous(memory_format=torch.channels_last)
            convolved = F.conv2d(image, self.kernel, self.bias)[:, :, 0].unflatten(0, (len(x), -1)).amax(1)
            largest = torch.maximum(largest, convolved)
        return largest.transpose(1, 2)


class _Temporal(_Frontend):
    """128, 64 or 32 frames of one mel: a product with the kernels of `phases` neighbouring frames side by side."""

    phases = 16

    def set_kernel(self, kernel: Tensor, bias: Tensor) -> None:
        channels, length = len(kernel), kernel.shape[2]
        matrix = kernel.new_zeros(length + self.phases - 1, self.phases, channels)
        for phase in range(self.phases):
            matrix[phase : phase + length, phase] = kernel[:, 0, :, 0].T
        self.length, self.matrix, self.bias = length, nn.Buffer(matrix.flatten(1)), nn.Buffer(bias.repeat(self.phases))

    def largest(self, x: Tensor) -> Tensor:
        # TensorFlow's "same" padding puts the odd frame at the end.
        before, after = (self.length - 1) // 2, self.length // 2 + -PATCH % self.phases
        rows = F.pad(x.transpose(1, 2), (before, after)).unfold(2, len(self.matrix), self.phases)  # [P, 96, 12, width]
        product = torch.addmm(self.bias, rows.reshape(-1, len(self.matrix)), self.matrix)
        largest = product.view(len(x), BINS, -1).amax(1)
        return largest.view(len(x), -1, len(self.bias) // self.phases)[:, :PATCH]


class _Middle(nn.Module):
    """Convolution over time and all channels, ReLU, batch norm: `[P, 187, C]` -> `[P, 187, 64]`."""

    def __init__(self, variables: dict[str, Tensor], index: int) -> None:
        super().__init__()
        kernel, bias = _convolution(variables, index)  # [64, 1, 7, C]
        kernel = kernel.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        self.kernel, self.bias = nn.Buffer(kernel), nn.Buffer(bias)
        self.affine = nn.Buffer(torch.stack(_batch_norm(variables, index + 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x.transpose(1, 2)[:, :, None], self.kernel, self.bias, padding=(0, 3))[:, :, 0].transpose(1, 2)
        return x.relu() * self.affine[0] + self.affine[1]


def load(which: Literal["mtt", "msd"], folder: Path | str) -> Musicnn:
    """The network with the weights in `folder`, musicnn's package (`pipeline.fetch.musicnn_folder`)."""
    prefix = f"{Path(folder) / f'{which.upper()}_musicnn'}/"
    wanted = ("/kernel", "/bias", "/gamma", "/beta", "/moving_mean", "/moving_variance")
    variables = tensorflow_bundle.read(prefix, ending=wanted)
    return Musicnn({name: torch.from_numpy(value.copy()) for name, value in variables.items()}).eval()


def log_mel(waveforms: Tensor) -> Tensor:
    """log10(10000 mel + 1) of the power spectrum, `[B, T]` -> `[B, T // 256 + 1, 96]`.

    Differs from musicnn's code, which rounds mels to float16 first and overflows, in staying with float32.
    """
    if waveforms.ndim != 2:
        raise ValueError(f"waveforms must be [B, T], got {tuple(waveforms.shape)}")
    if not waveforms.isfinite().all():
        raise ValueError("waveforms hold NaN or infinity")
    window, filters = _filters(waveforms.device)
    spectrum = torch.stft(waveforms, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    return torch.log10(10_000 * (power.transpose(1, 2) @ filters) + 1)


def log_mel_patches(waveforms: Tensor) -> Tensor:
    """Log-mel patches without overlap, `[B, T]` -> `[B, n, 187, 96]`; the rest is left out."""
    if waveforms.ndim == 2 and (count := (waveforms.shape[1] // HOP + 1) // PATCH) == 0:
        raise ValueError(f"waveforms have {waveforms.shape[1]} samples, one patch of 3 s needs {(PATCH - 1) * HOP}")
    return log_mel(waveforms)[:, : count * PATCH].unflatten(1, (count, PATCH))


@functools.cache
def _filters(device: torch.device) -> tuple[Tensor, Tensor]:
    filters = torchaudio.functional.melscale_fbanks(
        WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, BINS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(WINDOW, device=device), filters.to(device)


def _convolution(variables: dict[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
    """Kernel `[out, in, time, frequency]` and bias `[out]` of TensorFlow's `[time, frequency, in, out]`."""
    name = f"conv2d_{index}" if index else "conv2d"
    return variables[f"{name}/kernel"].permute(3, 2, 0, 1).contiguous(), variables[f"{name}/bias"]


def _batch_norm(variables: dict[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
    """Scale and offset of a batch norm with its moving statistics."""
    name = f"batch_normalization_{index}" if index else "batch_normalization"
    gamma, beta, mean, variance = (
        variables[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / (variance + EPSILON).sqrt()
    return scale, beta - mean * scale
