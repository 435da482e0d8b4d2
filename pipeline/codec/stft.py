"""A codec network at the frame rate: STFT in, inverse STFT out, as Vocos decodes (Siuzdak 2023), blocks as ConvNeXt's.

All its products are large and run at the rate of STFT frames or slower, so that on a CPU a step takes half of SEANet's.
Differs from the paper, whose codec is SEANet (`pipeline.codec.seanet`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.params import Stft

LOG_FLOOR = 1e-4  # added to magnitudes before the logarithm
ENERGY_FLOOR = 1e-6  # added to a frame's mean power
LEVELLING = 0.4  # power of that energy by which the complex features are divided
LEVEL_FRAMES = 9  # over which it is averaged
BLOCK_START, HEAD_START = 0.5, 0.3  # of the last weights of a block and of the decoder
GAIN = 3.0  # of the decoder's magnitudes
LOUDEST = 5.0  # largest logarithm of a magnitude that it makes


class Block(nn.Module):
    """x + W_2 SiLU(W_1 LayerNorm(depthwise convolution of x)) over frames, `[B, L, C]` -> `[B, L, C]`."""

    def __init__(self, width: int, kernel_size: int, expansion: int, depth: int) -> None:
        """`depth` is the number of blocks in a row, whose sum should not outgrow x."""
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, (1, kernel_size), padding=(0, kernel_size // 2), groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        nn.init.normal_(self.narrow.weight, std=BLOCK_START / math.sqrt(expansion * width * depth))
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, C]` -> `[B, L, C]`."""
        # As an image of one row whose channels lie side by side in memory, which takes half of conv1d's time.
        mixed = self.depthwise(x[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, 0]
        return x + self.narrow(F.silu(self.widen(self.norm(mixed))))


class Spectrum(nn.Module):
    """The STFT with a Hann window of unit energy, one frame a hop, and its inverse by overlap and add."""

    window: Tensor  # [n]

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self.size, self.hop = size, hop
        hann = torch.hann_window(size)
        self.window = nn.Buffer(hann / hann.norm(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """`[B, T]`, T a multiple of the hop and longer than the reflected ends -> complex `[B, T / hop, bins]`."""
        past = (self.size - self.hop) // 2
        padded = F.pad(waveform[:, None], (past, past), mode="reflect")[:, 0]
        return torch.fft.rfft(padded.unfold(1, self.size, self.hop) * self.window)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Complex `[B, L, bins]` -> `[B, L hop]`: the waveform whose STFT is nearest, by least squares."""
        past = (self.size - self.hop) // 2
        frames = torch.fft.irfft(spectrum, n=self.size) * self.window
        weights = self.window.square().expand(1, frames.shape[1], -1)
        whole = self._overlapped(frames) / self._overlapped(weights).clamp_min(1e-8)
        return whole[:, past : past + frames.shape[1] * self.hop]

    def _overlapped(self, frames: Tensor) -> Tensor:
        """Sums frames `[B, L, n]` at every hop, `[B, (L - 1) hop + n]`."""
        parts = frames.unflatten(2, (-1, self.hop))
        shifts = parts.shape[2]
        moved = [F.pad(parts[:, :, i], (0, 0, i, shifts - 1 - i)) for i in range(shifts)]
        return sum(moved[1:], moved[0]).flatten(1)


class Encoder(nn.Module):
    """Waveform `[B, 1, T]` -> latent z `[B, D, ceil(T / hop_length)]`.

    Features of an STFT frame: log magnitudes of all bins, and real and imaginary part of the lowest ones, levelled by
    the energy around the frame. `start` standardises them.
    """

    mean: Tensor  # [features]
    deviation: Tensor  # [features]

    def __init__(self, sizes: Stft, dimension: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.spectrum = Spectrum(sizes.window, sizes.hop)
        features = sizes.bins + 2 * sizes.complex_bins
        self.mean, self.deviation = nn.Buffer(torch.zeros(features)), nn.Buffer(torch.ones(features))
        self.fine = nn.Sequential(nn.Linear(features, sizes.fine_width), *blocks(sizes, sizes.fine_width, "fine"))
        joined = sizes.fine_width * sizes.joined
        self.coarse = nn.Sequential(nn.Linear(joined, sizes.width), *blocks(sizes, sizes.width, "coarse"))
        self.last = nn.Linear(sizes.width, dimension)

    def features(self, waveform: Tensor) -> Tensor:
        """What the network sees of waveforms `[B, T]`, before it is standardised: `[B, T / hop, features]`."""
        spectrum = self.spectrum(waveform)
        logarithms = (spectrum.abs() + LOG_FLOOR).log()
        energy = torch.view_as_real(spectrum).square().sum(-1).mean(-1)
        energy = F.avg_pool1d(energy[:, None], LEVEL_FRAMES, 1, LEVEL_FRAMES // 2, count_include_pad=False)[:, 0]
        low = torch.view_as_real(spectrum[..., : self.sizes.complex_bins])
        low = low / (energy + ENERGY_FLOOR)[..., None, None] ** LEVELLING
        return torch.cat([logarithms, low[..., 0], low[..., 1]], dim=-1)

    def forward(self, waveform: Tensor) -> Tensor:
        """The last frame is filled up with zeros."""
        filled = F.pad(waveform[:, 0], (0, -waveform.shape[2] % self.sizes.hop_length))
        x = self.fine((self.features(filled) - self.mean) / self.deviation)
        x = self.coarse(x.unflatten(1, (-1, self.sizes.joined)).flatten(2))
        return self.last(x).transpose(1, 2)


class Decoder(nn.Module):
    """Latent `[B, D, T']` -> waveform `[B, 1, T' hop_length]`.

    Its last layer gives three numbers a bin, m, a and b, of the STFT S = 3 exp(min(m sigma + mu, 5)) (a + i b). Mean mu
    and deviation sigma are those of the data's log magnitudes, so that it starts at the mean spectrum.
    """

    mean: Tensor  # [bins], mu
    deviation: Tensor  # [bins], sigma

    def __init__(self, sizes: Stft, dimension: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.spectrum = Spectrum(sizes.window, sizes.hop)
        self.mean, self.deviation = nn.Buffer(torch.zeros(sizes.bins)), nn.Buffer(torch.ones(sizes.bins))
        joined = sizes.fine_width * sizes.joined
        self.coarse = nn.Sequential(nn.Linear(dimension, sizes.width), *blocks(sizes, sizes.width, "coarse"))
        self.split = nn.Linear(sizes.width, joined)
        self.fine = nn.Sequential(*blocks(sizes, sizes.fine_width, "fine"))
        self.head = nn.Linear(sizes.fine_width, 3 * sizes.bins)
        nn.init.normal_(self.head.weight, std=HEAD_START / math.sqrt(sizes.fine_width))
        nn.init.zeros_(self.head.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """A latent's frame becomes `joined` frames of the STFT."""
        x = self.split(self.coarse(latent.transpose(1, 2)))
        x = self.fine(x.unflatten(2, (self.sizes.joined, -1)).flatten(1, 2))
        m, a, b = self.head(x).chunk(3, dim=-1)
        magnitude = GAIN * (m * self.deviation + self.mean).clamp_max(LOUDEST).exp()
        return self.spectrum.inverse(torch.complex(magnitude * a, magnitude * b))[:, None]


def blocks(sizes: Stft, width: int, rate: str) -> list[nn.Module]:
    """The blocks at one of the two rates, `fine` or `coarse`, and the norm after them."""
    depth = sizes.fine_blocks if rate == "fine" else sizes.blocks
    stack = [Block(width, sizes.kernel_size, sizes.expansion, depth) for _ in range(depth)]
    return [*stack, nn.LayerNorm(width)]


class STFT:
    """The architecture `stft`: encoder, decoder and how both start."""

    Sizes = Stft

    def __init__(self, sizes: Stft, dimension: int) -> None:
        self.encoder, self.decoder = Encoder(sizes, dimension), Decoder(sizes, dimension)

    @staticmethod
    @torch.no_grad()
    def start(encoder: Encoder, decoder: Decoder, waveform: Tensor) -> None:
        """Takes from waveforms `[B, T]` the mean and deviation of each feature, which the decoder's magnitudes share.

        Real and imaginary parts keep their levels: none is divided by less than the deviation of them all.
        """
        features = encoder.features(waveform[:, : waveform.shape[1] // encoder.sizes.hop * encoder.sizes.hop])
        features, bins = features.flatten(0, 1), encoder.sizes.bins
        mean, deviation = features.mean(0), features.std(0).clamp_min(1e-3)
        deviation[bins:].clamp_(min=float(features[:, bins:].std()))
        encoder.mean.copy_(mean)
        encoder.deviation.copy_(deviation)
        decoder.mean.copy_(mean[:bins])
        decoder.deviation.copy_(deviation[:bins])


ARCHITECTURES = {"stft": STFT}
