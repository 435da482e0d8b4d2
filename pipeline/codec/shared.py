"""A vector quantizer of one codebook for all parts of the latent, as BandTok's for all bands (arXiv 2605.15831)."""

import torch
from torch import Tensor

from pipeline.codec.quantizer import GroupedVectorQuantizer, VectorQuantizer, part_size


class SharedVectorQuantizer(GroupedVectorQuantizer):
    """Stream k is numbers k D / K to (k + 1) D / K - 1 of the latent, as in the grouped quantizer, of one codebook.

    It is the grouped quantizer of a single codebook, to which the parts are so many clips more: of `[B, D, T]` it sees
    `[B K, D / K, T]`. So the k-means start and the moving averages are those of the parts of all streams.
    """

    def __init__(self, codebooks: int, codebook_size: int, dimension: int) -> None:
        """K = `codebooks` is the number of streams. Raises ValueError where it does not divide D."""
        super().__init__(1, codebook_size, part_size(dimension, codebooks))
        self.count = codebooks

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, K, T]` of `[B, D, T]`."""
        return super().encode(self._apart(latent)).view(len(latent), self.count, -1)

    @torch.no_grad()
    def initialise(self, latent: Tensor, iterations: int, generator: torch.Generator) -> None:
        """Sets the codebook to k-means centres of all parts of the latents `[B, D, T]`."""
        super().initialise(self._apart(latent), iterations, generator)

    @torch.no_grad()
    def update(self, latent: Tensor, *, decay: float, dead_share: float, generator: torch.Generator) -> None:
        """Moves the codebook towards all parts of the latents `[B, D, T]`, as the grouped quantizer moves each."""
        super().update(self._apart(latent), decay=decay, dead_share=dead_share, generator=generator)

    def _apart(self, latent: Tensor) -> Tensor:
        """The parts as so many clips, `[B, D, T]` -> `[B K, D / K, T]`."""
        return latent.unflatten(1, (self.count, -1)).flatten(0, 1)

    def _chosen(self, codes: Tensor) -> Tensor:
        return super()._chosen(codes.flatten(0, 1)[:, None]).unflatten(0, codes.shape[:2])[:, :, 0]


QUANTIZERS: dict[str, type[VectorQuantizer]] = {"shared": SharedVectorQuantizer}
