"""A codec architecture in one file: frames of samples through linear layers."""

from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F


class Sizes(BaseModel):
    """Its section of the parameters, `codec.frames`, its training aside."""

    hop_length: int  # samples
    width: int


class Encoder(nn.Sequential):
    """Waveform `[B, 1, T]` -> latent `[B, D, ceil(T / hop)]`."""

    def __init__(self, sizes: Sizes, dimension: int) -> None:
        super().__init__(nn.Linear(sizes.hop_length, sizes.width), nn.ELU(), nn.Linear(sizes.width, dimension))
        self.hop = sizes.hop_length

    def forward(self, waveform: Tensor) -> Tensor:
        """Frame by frame; the last one is filled up with zeros."""
        frames = F.pad(waveform[:, 0], (0, -waveform.shape[2] % self.hop)).unflatten(1, (-1, self.hop))
        latent: Tensor = super().forward(frames)
        return latent.transpose(1, 2)


class Decoder(nn.Sequential):
    """Latent `[B, D, T']` -> waveform `[B, 1, T' hop]`."""

    def __init__(self, sizes: Sizes, dimension: int) -> None:
        super().__init__(nn.Linear(dimension, sizes.width), nn.ELU(), nn.Linear(sizes.width, sizes.hop_length))

    def forward(self, latent: Tensor) -> Tensor:
        """Frame by frame."""
        frames: Tensor = super().forward(latent.transpose(1, 2))
        return frames.flatten(1)[:, None]


class Frames:
    """The architecture `frames`."""

    Sizes = Sizes

    def __init__(self, sizes: Sizes, dimension: int) -> None:
        self.encoder, self.decoder = Encoder(sizes, dimension), Decoder(sizes, dimension)

    @staticmethod
    def start(encoder: Any, decoder: Any, waveform: Tensor) -> None:
        """Brings the latent to unit spread."""
        with torch.no_grad():
            encoder[2].weight /= encoder(waveform[:, None]).std()


ARCHITECTURES = {"frames": Frames}
