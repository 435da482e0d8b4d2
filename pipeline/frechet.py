"""Fréchet distance between Gaussians fitted to embeddings, its limit for infinite samples, and its interval."""

from typing import NamedTuple

import numpy as np


class Limit(NamedTuple):
    """A straight line through distances over 1/n, read at 0."""

    value: float
    r2: float  # of the fit


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1^1/2 sigma2 sigma1^1/2)^1/2) in float64 (Dowson and Landau 1982).

    The product is symmetric, so its root's trace is a sum over real eigenvalues and needs no full rank; the usual
    square root of sigma1 sigma2 is complex or fails there.

    Args:
        mu1: mean `[D]`.
        sigma1: covariance `[D, D]`.
        mu2: mean `[D]`.
        sigma2: covariance `[D, D]`.

    Raises:
        ValueError: shapes do not fit, or a value is NaN or infinite.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(value, np.float64) for value in (mu1, sigma1, mu2, sigma2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape or not sigma1.shape == sigma2.shape == 2 * mu1.shape:
        raise ValueError(
            f"means must be [D] and covariances [D, D], got {mu1.shape}, {sigma1.shape}, {mu2.shape}, {sigma2.shape}"
        )
    if not all(np.isfinite(value).all() for value in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("a mean or covariance holds NaN or infinity")
    root = _root(sigma1)
    product = np.linalg.eigvalsh(root @ sigma2 @ root)
    trace = np.trace(sigma1) + np.trace(sigma2) - 2 * np.sqrt(product.clip(0)).sum()
    return float((mu1 - mu2) @ (mu1 - mu2) + max(trace, 0.0))


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[D]` and unbiased covariance `[D, D]` of embeddings `[n, D]`, in float64.

    Raises:
        ValueError: not `[n, D]`, fewer than two rows, NaN or infinity.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"embeddings must be [n, D] with n of at least 2, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("embeddings hold NaN or infinity")
    return x.mean(0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])


def frechet_infinity(
    x: np.ndarray,
    reference: np.ndarray,
    *,
    generator: np.random.Generator,
    points: int = 12,
    draws: int = 4,
    smallest: float = 0.25,
) -> Limit:
    """Distance of embeddings `[n, D]` to the `reference`'s, extrapolated to infinite n (Chong and Forsyth 2020).

    The bias is proportional to 1/n: mean distances of `draws` random subsets of each of `points` sizes from `smallest`
    n to n, evenly spaced in 1/n, give a line that is read at 0. Differs from Gui et al. 2023 (`fadtk`) in shrinking
    both sides, for here the reference is no larger than a system, in spacing by 1/n, and in drawing without
    replacement.

    Raises:
        ValueError: there are too few embeddings for a line.
    """
    n = min(len(x), len(reference))
    sizes = np.unique((1 / np.linspace(1 / n, 1 / max(smallest * n, 2), points)).round().astype(int))
    if len(sizes) < 3:
        raise ValueError(f"{n} embeddings are too few to extrapolate from: at least 4 are needed")

    def subset(side: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        return statistics(side[generator.choice(len(side), size, replace=False)])

    values = np.array(
        [np.mean([frechet_distance(*subset(x, n), *subset(reference, n)) for _ in range(draws)]) for n in sizes]
    )
    slope, value = np.polyfit(1 / sizes, values, 1)
    residual, spread = values - (value + slope / sizes), values - values.mean()
    return Limit(float(value), float(1 - residual @ residual / (spread @ spread)) if spread.any() else 1.0)


class Moments(NamedTuple):
    """Counts, sums and sums of outer products per track, from which any resample's statistics follow."""

    count: np.ndarray  # [tracks]
    total: np.ndarray  # [tracks, D]
    outer: np.ndarray  # [tracks, D, D]


def moments(x: np.ndarray, tracks: np.ndarray) -> Moments:
    """Moments of embeddings `[n, D]` by the `tracks` `[n]` they came from."""
    groups = [x[tracks == track].astype(np.float64) for track in np.unique(tracks)]
    return Moments(
        np.array([len(group) for group in groups]),
        np.stack([group.sum(0) for group in groups]),
        np.stack([group.T @ group for group in groups]),
    )


def resampled(moments: Moments, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a resample that holds each track `weights` `[tracks]` times."""
    n = weights @ moments.count
    mean = weights @ moments.total / n
    outer = np.tensordot(weights, moments.outer, 1)
    return mean, (outer - n * np.outer(mean, mean)) / (n - 1)


def _root(sigma: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
