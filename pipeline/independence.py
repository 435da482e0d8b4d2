"""The independence-promoting loss: maximum mean discrepancy of the joint law from the product of its marginals.

Rows x_i of K vectors with D numbers sample the joint; rows y_i, in which codebook k comes from row pi_k(i) with one
independent permutation a codebook, sample the product of the marginals. With the kernel

    kappa(u, v) = sum_a exp(-||u - v||^2 / (2 a))        over variances a

the loss is the unbiased estimate, clamped at 0,

    L = 1/(N(N-1)) sum_{i!=j} kappa(x_i, x_j) + 1/(N(N-1)) sum_{i!=j} kappa(y_i, y_j) - 2/N^2 sum_{ij} kappa(x_i, y_j).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Estimator = Literal["permutation", "closed_form"]
STANDARD_EPSILON = 1e-8  # added to the variance, as the paper's code does


class Dependence(NamedTuple):
    """The loss and what it is the positive part of."""

    loss: Tensor  # scalar, at least 0
    estimate: Tensor  # scalar, before the clamp; its mean over draws of independent streams tends to 0 as N grows
    rows: int  # N


def mmd(
    streams: Tensor,
    *,
    delay: bool,
    estimator: Estimator,
    bandwidths: Sequence[float],
    generator: torch.Generator | None = None,
) -> Dependence:
    """MMD between the joint law of K streams and the product of their marginals (algorithm 1 of the paper).

    `estimator="permutation"` is the paper's. `"closed_form"` is the d-variable Hilbert-Schmidt independence criterion
    (Pfister et al. 2018), what the permutation's V-statistic tends to when it is averaged over permutations: each
    Gaussian factorises over codebooks, so with kernel matrices K_k of every bandwidth

        mean_ij prod_k K_k[i,j] + prod_k mean_ij K_k[i,j] - 2 mean_i prod_k mean_j K_k[i,j].

    Differs from the paper's released code in dividing by the number of rows where that divides by the number of clips,
    and in dropping K - 1 frames for `delay` where that drops K.

    Args:
        streams: `[B, K, D, T]`.
        delay: shift stream k (from 0) right by k frames: a row then holds what the delay-pattern LM predicts at once.
        estimator: `permutation` or `closed_form`.
        bandwidths: variances a of the Gaussians.
        generator: draws the permutations.

    Raises:
        ValueError: `streams` is not `[B, K, D, T]`, holds NaN or infinity, or leaves fewer than two rows.
    """
    rows = standardised(joint_rows(streams, delay=delay))
    if estimator == "closed_form":
        estimate = _closed_form(rows, bandwidths)
    elif estimator == "permutation":
        estimate = _permutation(rows, bandwidths, generator)
    else:
        raise ValueError(f"estimator is {estimator!r}; it must be 'permutation' or 'closed_form'")
    return Dependence(estimate.clamp_min(0), estimate, len(rows))


def joint_rows(streams: Tensor, *, delay: bool) -> Tensor:
    """Folds time into the batch, `[B, K, D, T]` -> `[N, K, D]`; with `delay`, N = B (T - K + 1), else B T."""
    if streams.ndim != 4:
        raise ValueError(f"streams must be [B, K, D, T], got shape {tuple(streams.shape)}")
    if not streams.isfinite().all():
        raise ValueError("streams hold NaN or infinity: the encoder has diverged")
    codebooks, frames = streams.shape[1], streams.shape[3]
    if delay:
        kept = frames - codebooks + 1
        if kept < 1:
            raise ValueError(f"streams have {frames} frames; a delay over {codebooks} codebooks needs that many")
        # Step s of the delay pattern holds codebook k of frame s - k; complete from s = K - 1 on.
        streams = torch.stack([streams[:, k, :, codebooks - 1 - k :][..., :kept] for k in range(codebooks)], dim=1)
    rows = streams.permute(0, 3, 1, 2).flatten(0, 1)
    if len(rows) < 2:
        raise ValueError(f"the loss compares pairs of rows, and the streams hold {len(rows)} row")
    return rows


def standardised(rows: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the N rows of `[N, K, D]`, with gradient through both."""
    centred = rows - rows.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + STANDARD_EPSILON).sqrt()


def squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """||u_i - v_j||^2 for rows `[N, D]` and `[M, D]` -> `[N, M]`, at least 0."""
    squares = u.square().sum(-1)[:, None] + v.square().sum(-1)[None, :]
    return torch.addmm(squares, u, v.T, alpha=-2).clamp_min(0)


def _kernel(distances: Tensor, bandwidths: Sequence[float]) -> Tensor:
    return torch.stack([(distances / (-2 * a)).exp() for a in bandwidths]).sum(0)


def _off_diagonal_mean(matrix: Tensor) -> Tensor:
    count = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1))


def _permutation(rows: Tensor, bandwidths: Sequence[float], generator: torch.Generator | None) -> Tensor:
    count, codebooks = rows.shape[:2]
    order = [torch.randperm(count, generator=generator).to(rows.device) for _ in range(codebooks)]
    joint = rows.flatten(1)
    product = torch.stack([rows[order[k], k] for k in range(codebooks)], dim=1).flatten(1)
    return (
        _off_diagonal_mean(_kernel(squared_distances(joint, joint), bandwidths))
        + _off_diagonal_mean(_kernel(squared_distances(product, product), bandwidths))
        - 2 * _kernel(squared_distances(joint, product), bandwidths).mean()
    )


def _closed_form(rows: Tensor, bandwidths: Sequence[float]) -> Tensor:
    distances = torch.stack([squared_distances(rows[:, k], rows[:, k]) for k in range(rows.shape[1])])  # [K, N, N]
    estimate = rows.new_zeros(())
    for a in bandwidths:
        kernels = (distances / (-2 * a)).exp()
        joint = (distances.sum(0) / (-2 * a)).exp().mean()
        means = kernels.mean(-1)  # [K, N]
        estimate = estimate + joint + means.mean(-1).prod() - 2 * means.prod(0).mean()
    return estimate
