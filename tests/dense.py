"""The loss' formulas as plain matrices of all pairs, with autograd's gradient: what the tiles are held against."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def permutation(rows: Tensor, bandwidths: Sequence[float], order: Sequence[Tensor], count: int | None = None) -> Tensor:
    """L of rows `[N, K, D]` with codebook k of y_i from row `order[k][i]`; N is `count` in the factors."""
    joint = rows.flatten(1)
    product = torch.stack([rows[permutation, k] for k, permutation in enumerate(order)], dim=1).flatten(1)
    rest = len(rows) if count is None else count

    def mean(kernel: Tensor) -> Tensor:
        return (kernel.sum() - rest * len(bandwidths)) / (rest * (rest - 1))

    across = kernel_of(joint, product, bandwidths).sum() / rest**2
    return mean(kernel_of(joint, joint, bandwidths)) + mean(kernel_of(product, product, bandwidths)) - 2 * across


def closed_form(rows: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """dHSIC of rows `[N, K, D]`, summed over bandwidths."""
    distances = torch.stack([squared_distances(rows[:, k], rows[:, k]) for k in range(rows.shape[1])])
    return sum(checkpoint(_closed_form, distances, a, use_reentrant=False) for a in bandwidths)


def squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """||u_i - v_j||^2 for rows `[N, D]` and `[M, D]` -> `[N, M]`."""
    return (u.square().sum(-1)[:, None] + v.square().sum(-1)[None, :] - 2 * u @ v.T).clamp_min(0)


def kernel_of(u: Tensor, v: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """kappa(u_i, v_j) `[N, M]`, made again for the gradient."""
    return checkpoint(_kernel, u, v, bandwidths, use_reentrant=False)


def _kernel(u: Tensor, v: Tensor, bandwidths: Sequence[float]) -> Tensor:
    distances = squared_distances(u, v)
    return sum(torch.exp(-distances / (2 * a)) for a in bandwidths)


def _closed_form(distances: Tensor, a: float) -> Tensor:
    kernels = torch.exp(-distances / (2 * a))
    means = kernels.mean(-1)
    return kernels.prod(0).mean() + means.mean(-1).prod() - 2 * means.prod(0).mean()
