"""A vector quantizer of one codebook for all parts of the latent, as BandTok's for all bands (arXiv 2605.15831)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.codec.quantizer import GroupedVectorQuantizer, VectorQuantizer


class SharedVectorQuantizer(GroupedVectorQuantizer):
    """Stream k is numbers k D / K to (k + 1) D / K - 1 of the latent, as in the grouped quantizer, of one codebook.

    It is the grouped quantizer of a single codebook, to which the parts are so many clips more: of `[B, D, T]` it sees
    `[B K, D / K, T]`. So the k-means start and the moving averages are those of the parts of all streams.
    """

    def __init__(self, codebooks: int, codebook_size: int, dimension: int) -> None:
        """K = `codebooks` is the number of streams. Raises ValueError where it does not divide D."""
        if dimension % codebooks:
            raise ValueError(f"a latent of {dimension} dimensions has no {codebooks} parts of equal size")
        super().__init__(1, codebook_size, dimension // codebooks)
        self.parts = codebooks

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, K, T]` of `[B, D, T]`."""
        return super().encode(self._apart(latent)).view(len(latent), self.parts, -1)

    def vectors(self, codes: Tensor) -> Tensor:
        """q_k `[B, K, D / K, T]` of codes `[B, K, T]`; K may be less than there are streams.

        Raises:
            ValueError: there are more streams than parts, or a code outside the codebook.
        """
        if codes.ndim != 3 or not 0 < codes.shape[1] <= self.parts:
            raise ValueError(f"codes must be [B, K, T] with K up to {self.parts}, got {tuple(codes.shape)}")
        return super().vectors(codes.flatten(0, 1)[:, None]).unflatten(0, codes.shape[:2])[:, :, 0]

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
        return latent.unflatten(1, (self.parts, -1)).flatten(0, 1)

    def _joined(self, vectors: Tensor) -> Tensor:
        missing = (self.parts - vectors.shape[1]) * vectors.shape[2]
        return F.pad(vectors.flatten(1, 2), (0, 0, 0, missing))


QUANTIZERS: dict[str, type[VectorQuantizer]] = {"shared": SharedVectorQuantizer}
