"""A residual quantizer whose codes are looked up by their angle in a few dimensions (DAC, Kumar et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codec.quantizer import Quantized, Quantizer


class CosineQuantizer(Quantizer):
    """Codebook k projects what is left to D' numbers, takes the code nearest in angle, and projects back (section 3.2).

    With z_k = z - sum_{j<k} (U_j q_j + b_j), e_k = V_k z_k + a_k and the codes c of codebook k,

        q_k = argmax_c <e_k, c> / |c|,    latent = sum_k U_k q_k + b_k,

    the gradient passing straight from q_k to e_k. Projections and codebooks are parameters of the codec, and nothing
    moves them but its optimizer: `commitment` is mean ||e_k - q_k||^2 with gradient to both, to e_k DAC's commitment
    loss and to q_k its codebook loss.

    Differs from DAC in the one weight of both (1 and 0.25 there): a codebook has no other gradient, and Adam's steps
    do not depend on a gradient's scale. Its projections have no weight norm.
    """

    settings = ("codebook_dimension",)
    ordered = True

    def __init__(self, codebooks: int, codebook_size: int, dimension: int, codebook_dimension: int) -> None:
        """`codebook_dimension` is D'."""
        super().__init__(codebooks, codebook_size)
        self.project_in = nn.ModuleList(nn.Conv1d(dimension, codebook_dimension, 1) for _ in range(codebooks))
        self.project_out = nn.ModuleList(nn.Conv1d(codebook_dimension, dimension, 1) for _ in range(codebooks))
        self.codebooks = nn.Parameter(torch.randn(codebooks, codebook_size, codebook_dimension))

    def forward(self, latent: Tensor, kept: Tensor | None = None) -> Quantized:
        """Quantizes `[B, D, T]`; every codebook commits to every segment, also those that `kept` leaves out of one."""
        left, joined = latent, torch.zeros_like(latent)
        codes, inputs, vectors, misses = [], [], [], []
        for k in range(self.count):
            projected = self.project_in[k](left)
            codes.append(self._nearest(projected, k))
            vector = self._of(codes[-1], k)
            misses.append((projected - vector).square().mean())
            # Of the streams, the gradient to the latent does not pass earlier codebooks, whose codes are fixed.
            inputs.append(self.project_in[k](left.detach() + (latent - latent.detach())))
            vectors.append(vector.detach())
            part = self.project_out[k](projected + (vector - projected).detach())
            left = left - part
            joined = joined + (part if kept is None else part * (k < kept)[:, None, None])
        fields = [torch.stack(each, 1) for each in (codes, inputs, vectors)]
        return Quantized(joined, fields[0], fields[1], fields[2], torch.stack(misses).mean())

    def _nearest(self, projected: Tensor, k: int) -> Tensor:
        """Codes `[B, T]` of `[B, D', T]`, whose own norm changes no order."""
        return (F.normalize(self.codebooks[k]) @ projected).argmax(1)

    def _of(self, codes: Tensor, k: int) -> Tensor:
        """The vectors `[B, D', T]` of one codebook's codes `[B, T]`."""
        return F.embedding(codes, self.codebooks[k]).transpose(1, 2)

    def _chosen(self, codes: Tensor) -> Tensor:
        return torch.stack([self._of(used, k) for k, used in enumerate(codes.unbind(1))], 1)

    def _joined(self, vectors: Tensor) -> Tensor:
        parts = [self.project_out[k](vector) for k, vector in enumerate(vectors.unbind(1))]
        return torch.stack(parts).sum(0)


QUANTIZERS = {"cosine": CosineQuantizer}
