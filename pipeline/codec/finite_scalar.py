"""Grouped finite scalar quantization: a code is a few numbers, each rounded to its levels (Mentzer et al. 2024)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.codec.quantizer import Quantized, Quantizer, first, side_by_side

EPSILON = 1e-3  # the share of its levels' range that a bounded number stays inside, as in the paper's code


class FiniteScalarQuantizer(Quantizer):
    """Group k rounds d numbers of its own, projected from the latent, to L_1, ..., L_d levels (section 3.1).

    A number p is bounded, then rounded with a straight-through gradient, and scaled to [-1, 1]:

        f(p) = h tanh(p + atanh(o / h)) - o,    q = round(f(p)) / floor(L / 2),

    with h = (L - 1) (1 - `EPSILON`) / 2, and o = 1/2 for even L, whose levels are -L/2, ..., L/2 - 1, else 0. The code
    is sum_i (round(f(p_i)) + floor(L_i / 2)) prod_{j<i} L_j: the codebook is implicit, nothing of it is learned, no
    code dies, and no commitment is needed. A second projection makes the latent of all groups' q.

    Differs from the paper in the groups, and in the shift, tan(o / h) in its appendix A.1, so that f(0) = 0. NVIDIA
    NeMo's groups have no projections: the last layer of its encoder and the first of its decoder are what these are.
    """

    settings = ("levels",)

    def __init__(self, codebooks: int, codebook_size: int, dimension: int, levels: Sequence[int]) -> None:
        """`levels` are those of each number of a group; ValueError where they do not make `codebook_size` codes."""
        if math.prod(levels) != codebook_size:
            raise ValueError(f"levels {levels} make {math.prod(levels)} codes, and codebook_size is {codebook_size}")
        super().__init__(codebooks, codebook_size)
        self.levels = tuple(levels)
        self.project_in = nn.Conv1d(dimension, codebooks * len(levels), 1)
        self.project_out = nn.Conv1d(codebooks * len(levels), dimension, 1)

    def forward(self, latent: Tensor, kept: Tensor | None = None) -> Quantized:
        """Quantizes `[B, D, T]`; the gradient passes the rounding, and trains both projections."""
        levels = self._levels(latent)
        bounded = _bounded(self.project_in(latent).unflatten(1, (self.count, -1)), levels)
        rounded = bounded.detach().round()
        half = levels // 2
        inputs, vectors = bounded / half, rounded / half
        codes = ((rounded + half) * self._places(levels)).sum(2).long()
        passed = vectors + (inputs - inputs.detach())
        joined = self._joined(passed if kept is None else first(passed, kept))
        return Quantized(joined, codes, inputs, vectors, latent.new_zeros(()))

    def _chosen(self, codes: Tensor) -> Tensor:
        levels = self._levels(codes)
        digits = codes[:, :, None] // self._places(levels) % levels
        return (digits - levels // 2) / (levels // 2)

    def _joined(self, vectors: Tensor) -> Tensor:
        joined: Tensor = self.project_out(side_by_side(vectors, self.count))
        return joined

    def _levels(self, like: Tensor) -> Tensor:
        """L_i, `[d, 1]`, on the device of `like`."""
        return torch.tensor(self.levels, device=like.device)[:, None]

    def _places(self, levels: Tensor) -> Tensor:
        """prod_{j<i} L_j, what digit i of a code counts, `[d, 1]`."""
        return levels.cumprod(0) // levels


def _bounded(numbers: Tensor, levels: Tensor) -> Tensor:
    """f of numbers `[..., d, T]` with `levels` `[d, 1]`: within half a level of the lowest and the highest."""
    half = (levels - 1) * (1 - EPSILON) / 2
    offset = (1 - levels % 2) / 2
    return half * (numbers + (offset / half).atanh()).tanh() - offset


QUANTIZERS = {"fsq": FiniteScalarQuantizer}
