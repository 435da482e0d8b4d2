"""Residual vector quantizer with codebooks that are moving averages (EnCodec, section 3.2)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Stream = Literal["quantized", "input", "residual"]


class Quantized(NamedTuple):
    """A latent and its codes."""

    latent: Tensor  # [B, D, T], the sum of the quantized vectors; its gradient to the input is the identity
    codes: Tensor  # [B, K, T], integers
    vectors: Tensor  # [B, K, D, T], q_k, without gradient
    commitment: Tensor  # scalar, mean squared distance of each quantizer's input to its code


class ResidualVectorQuantizer(nn.Module):
    """K codebooks of C vectors; codebook k quantizes what the ones before it left (EnCodec, section 3.2)."""

    codebooks: Tensor  # [K, C, D]
    hits: Tensor  # [K, C], moving average of the frames assigned to each code; 1 is an equal share of a batch
    sums: Tensor  # [K, C, D], moving average of their sum, in the same unit

    def __init__(self, codebooks: int, codebook_size: int, dimension: int) -> None:
        """Codebooks start at 0; `initialise` fills them."""
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(codebooks, codebook_size, dimension))
        self.register_buffer("hits", torch.ones(codebooks, codebook_size))
        self.register_buffer("sums", torch.zeros(codebooks, codebook_size, dimension))

    def forward(self, latent: Tensor) -> Quantized:
        """Quantizes `[B, D, T]`; the codebooks get no gradient, the latent's passes straight through."""
        codes, vectors = self._assign(_frames(latent.detach()))
        vectors = vectors.unflatten(1, (len(latent), -1)).permute(1, 0, 3, 2)  # [B, K, D, T]
        codes = codes.unflatten(1, (len(latent), -1)).transpose(0, 1)
        total = vectors.sum(1)
        inputs = streams(latent, vectors, "input")
        commitment = (inputs - vectors).square().mean()
        return Quantized(latent + (total - latent).detach(), codes, vectors, commitment)

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, K, T]` of `[B, D, T]`."""
        codes, _ = self._assign(_frames(latent))
        return codes.unflatten(1, (len(latent), -1)).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """The latent `[B, D, T]` that codes `[B, K, T]` stand for.

        Raises:
            ValueError: there are more streams than codebooks, or a code outside its codebook.
        """
        if codes.ndim != 3 or not 0 < codes.shape[1] <= len(self.codebooks):
            raise ValueError(f"codes must be [B, K, T] with K up to {len(self.codebooks)}, got {tuple(codes.shape)}")
        size = self.codebooks.shape[1]
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= size):
            raise ValueError(f"codes lie in [{int(codes.min())}, {int(codes.max())}], the codebooks in [0, {size - 1}]")
        return sum(self.codebooks[k][codes[:, k].long()] for k in range(codes.shape[1])).transpose(1, 2)

    @torch.no_grad()
    def initialise(self, latent: Tensor, iterations: int, generator: torch.Generator) -> None:
        """Sets the codebooks to k-means centres of the latents `[B, D, T]`, one after the other on what is left."""
        residual = _frames(latent)
        for k in range(len(self.codebooks)):
            centres = _kmeans(residual, self.codebooks.shape[1], iterations, generator)
            self.codebooks[k] = centres
            self.sums[k] = centres
            residual = residual - centres[_nearest(residual, centres)]
        self.hits.fill_(1)

    @torch.no_grad()
    def update(self, latent: Tensor, *, decay: float, dead_share: float, generator: torch.Generator) -> None:
        """Moves the codebooks towards the latents `[B, D, T]` they were chosen for (EnCodec, section 3.2).

        A code whose moving average falls under `dead_share` of an equal share of the batch is put on a random frame.
        Differs from EnCodec in that share: its fixed threshold of 2 hits a batch would replace every code of a batch
        with fewer than 2 C frames.
        """
        residual = _frames(latent)
        size = self.codebooks.shape[1]
        for k in range(len(self.codebooks)):
            nearest = _nearest(residual, self.codebooks[k])
            left = residual - self.codebooks[k][nearest]
            hits = torch.zeros(size, device=residual.device).index_add_(0, nearest, torch.ones_like(residual[:, 0]))
            sums = torch.zeros_like(self.sums[k]).index_add_(0, nearest, residual)
            share = len(residual) / size
            self.hits[k].lerp_(hits / share, 1 - decay)
            self.sums[k].lerp_(sums / share, 1 - decay)
            dead = self.hits[k] < dead_share
            if dead.any():
                picks = torch.randint(len(residual), (int(dead.sum()),), generator=generator).to(residual.device)
                self.hits[k][dead] = 1
                self.sums[k][dead] = residual[picks]
            self.codebooks[k] = self.sums[k] / self.hits[k].clamp_min(1e-6)[:, None]
            residual = left

    def _assign(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Codes `[K, N]` and vectors `[K, N, D]` of frames `[N, D]`."""
        codes, vectors = [], []
        for codebook in self.codebooks:
            nearest = _nearest(residual, codebook)
            codes.append(nearest)
            vectors.append(codebook[nearest])
            residual = residual - vectors[-1]
        return torch.stack(codes), torch.stack(vectors)


def streams(latent: Tensor, vectors: Tensor, which: Stream) -> Tensor:
    """The K streams `[B, K, D, T]` whose independence the loss asks for, from z `[B, D, T]` and q_k `[B, K, D, T]`.

    `quantized` (algorithm 1): q_k. `input`: z - sum_{j<k} q_j. `residual`: z - sum_{j<=k} q_j. Each has the identity as
    its gradient to the latent, so the loss trains the encoder and never the codebooks.
    """
    if which == "quantized":
        return vectors + (latent - latent.detach())[:, None]
    spent = vectors.cumsum(1)
    if which == "input":
        return latent[:, None] - (spent - vectors)
    if which == "residual":
        return latent[:, None] - spent
    raise ValueError(f"stream is {which!r}; it must be 'quantized', 'input' or 'residual'")


def _frames(latent: Tensor) -> Tensor:
    return latent.transpose(1, 2).flatten(0, 1)


def _nearest(frames: Tensor, codebook: Tensor) -> Tensor:
    # ||x||^2 is the same for every code, and left out.
    return torch.addmm(codebook.square().sum(-1)[None], frames, codebook.T, alpha=-2).argmin(-1)


def _kmeans(frames: Tensor, centres: int, iterations: int, generator: torch.Generator) -> Tensor:
    if len(frames) < centres:
        raise ValueError(
            f"k-means of {centres} codes needs as many frames and has {len(frames)}: "
            "raise codec.training.batch_size or segment_seconds, or lower codec.codebook_size"
        )
    means = frames[torch.randperm(len(frames), generator=generator)[:centres].to(frames.device)]
    for _ in range(iterations):
        nearest = _nearest(frames, means)
        hits = torch.zeros(centres, device=frames.device).index_add_(0, nearest, torch.ones_like(frames[:, 0]))
        sums = torch.zeros_like(means).index_add_(0, nearest, frames)
        means = torch.where(hits[:, None] > 0, sums / hits.clamp_min(1)[:, None], means)
    return means
