"""Tokens of bands: patches of a log-mel spectrogram, each of one band, as BandTok's (Cheng et al. 2026, 2605.15831).

A patch is one band of a few frames. All bands share an encoder, told apart by an embedding, and each fills its own part
of the latent, which the quantizer `shared` turns into one token a band of one codebook: tokens lie on a grid, bands by
time. A decoder makes a log-mel spectrogram of the latent, and a head with an inverse STFT, that of the architecture
`stft`, its waveform.

The encoder sees one band, at the patch and around it in time, and never another band, so that what tokens of a frame
share is what the bands share: the music, and besides the leakage of the window and the half of a mel on either side of
an edge where two filters overlap.

Differs from the paper in the vocoder, which there is BigVGAN, trained by itself; in the adversary, there a multi-scale
discriminator of patches, here the study's, on log-mel spectrograms of the output; and in having no loss on the log-mel
spectrogram inside, which learns from the losses of the waveform. BandTok has 16 bands.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codec.quantizer import part_size
from pipeline.codec.stft import GAIN, HEAD_START, LOG_FLOOR, LOUDEST, Block, Spectrum
from pipeline.params import Band

NORM_EPSILON = 1e-8  # added to the mean square of a band's part of a frame


def mel_weights(bins: int, mels: int, corner: float) -> Tensor:
    """Share that each mel has in each bin of an STFT, `[bins, mels]`, by linear interpolation on the mel scale.

    Bin b lies at log(1 + b / corner), 700 Hz being `corner` bins; mel 0 on bin 0, the last on the last, all at equal
    distances. Differs from the usual filters in being triangles on that scale, not in Hz.
    """
    scale = torch.log1p(torch.arange(bins).double() / corner)
    place = scale / scale[-1] * (mels - 1)
    return (1 - (place[:, None] - torch.arange(mels)).abs()).clamp_min(0).float()


class Encoder(nn.Module):
    """Waveform `[B, 1, T]` -> latent z `[B, D, ceil(T / hop_length)]`, of which band k has numbers k D / K to
    (k + 1) D / K - 1.

    Each band's part of a frame has mean square 1. So `codec.latent_norm`, which scales whole frames, and through a
    frame's loudness would let every band know of the others, finds nothing to scale.
    """

    filters: Tensor  # [bins, mels], whose columns sum to 1
    mean: Tensor  # [mels], of the log-mel spectrogram
    deviation: Tensor  # [mels]

    def __init__(self, sizes: Band, dimension: int) -> None:
        """Raises ValueError where the number of bands does not divide D."""
        super().__init__()
        self.sizes = sizes
        self.spectrum = Spectrum(sizes.window, sizes.hop)
        weights = mel_weights(sizes.bins, sizes.mel_bins, sizes.corner)
        self.filters = nn.Buffer(weights / weights.sum(0), persistent=False)
        self.mean, self.deviation = nn.Buffer(torch.zeros(sizes.mel_bins)), nn.Buffer(torch.ones(sizes.mel_bins))
        self.patch = nn.Linear(sizes.joined * sizes.mel_bins // sizes.bands, sizes.band_width)
        self.band = nn.Parameter(torch.randn(sizes.bands, sizes.band_width))
        self.blocks = nn.Sequential(*_blocks(sizes, sizes.band_width, sizes.band_blocks))
        self.last = nn.Linear(sizes.band_width, part_size(dimension, sizes.bands))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel magnitudes of waveforms `[B, T]`, `[B, T / hop, mels]`."""
        return (self.spectrum(waveform).abs() @ self.filters + LOG_FLOOR).log()

    def forward(self, waveform: Tensor) -> Tensor:
        """The last frame is filled up with zeros."""
        filled = F.pad(waveform[:, 0], (0, -waveform.shape[2] % self.sizes.hop_length))
        x = (self.log_mel(filled) - self.mean) / self.deviation
        x = x.unflatten(2, (self.sizes.bands, -1)).unflatten(1, (-1, self.sizes.joined))
        x = self.patch(x.permute(0, 3, 1, 2, 4).flatten(3)) + self.band[:, None]  # [B, K, T', width]
        x = self.last(self.blocks(x.flatten(0, 1)))
        x = x * (x.square().mean(-1, keepdim=True) + NORM_EPSILON).rsqrt()
        return x.unflatten(0, (-1, self.sizes.bands)).transpose(2, 3).flatten(1, 2)


class Decoder(nn.Module):
    """Latent `[B, D, T']` -> waveform `[B, 1, T' hop_length]`, by way of a log-mel spectrogram M.

    The STFT is S = 3 exp(min(M spread over the bins + m, 5)) (a + i b), the head's m, a and b being three numbers a bin
    that a network makes of M. The log-mel spectrogram starts near the data's mean.
    """

    spread: Tensor  # [mels, bins]
    mean: Tensor  # [mels], of the data's log-mel spectrogram
    deviation: Tensor  # [mels]

    def __init__(self, sizes: Band, dimension: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.spectrum = Spectrum(sizes.window, sizes.hop)
        self.spread = nn.Buffer(mel_weights(sizes.bins, sizes.mel_bins, sizes.corner).T, persistent=False)
        self.mean, self.deviation = nn.Buffer(torch.zeros(sizes.mel_bins)), nn.Buffer(torch.ones(sizes.mel_bins))
        self.coarse = nn.Sequential(nn.Linear(dimension, sizes.width), *_blocks(sizes, sizes.width, sizes.blocks))
        self.split = nn.Linear(sizes.width, sizes.joined * sizes.mel_bins)
        self.fine = nn.Sequential(
            nn.Linear(sizes.mel_bins, sizes.fine_width), *_blocks(sizes, sizes.fine_width, sizes.fine_blocks)
        )
        self.head = nn.Linear(sizes.fine_width, 3 * sizes.bins)
        nn.init.normal_(self.head.weight, std=HEAD_START / math.sqrt(sizes.fine_width))
        nn.init.zeros_(self.head.bias)

    def log_mel(self, latent: Tensor) -> Tensor:
        """Standardised log-mel spectrogram of `[B, D, T']`, `[B, T' joined, mels]`."""
        return self.split(self.coarse(latent.transpose(1, 2))).unflatten(2, (self.sizes.joined, -1)).flatten(1, 2)

    def forward(self, latent: Tensor) -> Tensor:
        """A latent's frame becomes `joined` frames of the spectrograms."""
        mel = self.log_mel(latent)
        m, a, b = self.head(self.fine(mel)).chunk(3, dim=-1)
        logarithm = (mel * self.deviation + self.mean) @ self.spread + m
        magnitude = GAIN * logarithm.clamp_max(LOUDEST).exp()
        return self.spectrum.inverse(torch.complex(magnitude * a, magnitude * b))[:, None]


class BandPatches:
    """The architecture `band`: encoder, decoder and how both start."""

    Sizes = Band

    def __init__(self, sizes: Band, dimension: int) -> None:
        self.encoder, self.decoder = Encoder(sizes, dimension), Decoder(sizes, dimension)

    @staticmethod
    @torch.no_grad()
    def start(encoder: Encoder, decoder: Decoder, waveform: Tensor) -> None:
        """Takes from waveforms `[B, T]` the mean and deviation of each mel, which both spectrograms share."""
        mels = encoder.log_mel(waveform[:, : waveform.shape[1] // encoder.sizes.hop * encoder.sizes.hop]).flatten(0, 1)
        for network in (encoder, decoder):
            network.mean.copy_(mels.mean(0))
            network.deviation.copy_(mels.std(0).clamp_min(1e-3))


ARCHITECTURES = {"band": BandPatches}


def _blocks(sizes: Band, width: int, depth: int) -> list[nn.Module]:
    """So many blocks in a row, and the norm after them."""
    return [*(Block(width, sizes.kernel_size, sizes.expansion, depth) for _ in range(depth)), nn.LayerNorm(width)]
