"""Distances between sets of embeddings: Fréchet's between Gaussians, its limit for infinite samples, and a kernel's.

All in float64. A Gaussian is its mean and a factor of its covariance, so no matrix is ever squared: complex square
roots and ill-conditioned products cannot occur, and fewer samples than dimensions are not a special case.
"""

from typing import NamedTuple

import numpy as np

ROWS = 2048  # of a kernel matrix, at a time


class Gaussian(NamedTuple):
    """A normal distribution."""

    mean: np.ndarray  # [D]
    factor: np.ndarray  # [r, D], the covariance is its transpose times itself

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray) -> "Gaussian":
        """From a mean `[D]` and a covariance `[D, D]` of any rank.

        Raises:
            ValueError: shapes do not fit, a value is NaN or infinite, or the covariance has a negative eigenvalue.
        """
        mean, covariance = (np.asarray(value, np.float64) for value in (mean, covariance))
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            raise ValueError(f"a mean must be [D] and its covariance [D, D], got {mean.shape} and {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("a mean or covariance holds NaN or infinity")
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        # Statistics published in float32 have eigenvalues that rounding made negative.
        if values[0] < -1e-4 * max(values[-1], np.finfo(float).tiny):
            raise ValueError(f"a covariance has the eigenvalue {values[0]:.3g}: a covariance has none below 0")
        # Below this an eigenvalue is rounding; its root would count for 1e-8 of the largest, once a dimension.
        noise = len(mean) * np.finfo(float).eps * values[-1]
        kept = values > noise
        return cls(mean, np.sqrt(values[kept])[:, None] * vectors[:, kept].T)

    @classmethod
    def fitted(cls, x: np.ndarray, weights: np.ndarray | None = None) -> "Gaussian":
        """Mean and unbiased covariance of embeddings `[n, D]`, each row taken `weights` `[n]` times.

        Raises:
            ValueError: not `[n, D]`, fewer than two rows, NaN or infinity.
        """
        x = _checked(x)
        weights = np.ones(len(x)) if weights is None else weights
        # A resample leaves a third of its rows out, and their share of the time.
        x, weights = x[weights > 0], weights[weights > 0]
        count = weights.sum()
        if count < 2:
            raise ValueError(f"embeddings must be [n, D] with n of at least 2, got {count:g} rows")
        mean = weights @ x / count
        factor = np.sqrt(weights / (count - 1))[:, None] * (x - mean)
        return cls(mean, np.asarray(np.linalg.qr(factor, "r")) if len(factor) > x.shape[1] else factor)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2) (Dowson and Landau 1982).

    With S = F^T F, the root's trace is the sum of the singular values of F_a F_b^T.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Gaussians in {len(a.mean)} and {len(b.mean)} dimensions have no distance")
    shift = a.mean - b.mean
    shared = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    spread = np.square(a.factor).sum() + np.square(b.factor).sum() - 2 * shared
    return float(shift @ shift + max(spread, 0.0))


def per_clip(x: np.ndarray, reference: Gaussian) -> np.ndarray:
    """Distance of each clip's own embeddings `[n, m, D]` to the `reference`, `[n]`, as fadtk scores single songs.

    Raises:
        ValueError: a clip has fewer than two embeddings.
    """
    return np.array([frechet_distance(Gaussian.fitted(clip), reference) for clip in x])


class Limit(NamedTuple):
    """A straight line through distances over 1/n, read at 0."""

    value: float
    r2: float  # of the fit


def frechet_infinity(
    x: np.ndarray,
    reference: np.ndarray | Gaussian,
    *,
    generator: np.random.Generator,
    points: int = 12,
    draws: int = 4,
    smallest: float = 0.25,
) -> Limit:
    """Distance of embeddings `[n, D]` to the `reference`'s, extrapolated to infinite n (Chong and Forsyth 2020).

    The bias is proportional to 1/n: mean distances of `draws` random subsets of each of `points` sizes from `smallest`
    n to n, evenly spaced in 1/n, give a line that is read at 0. Differs from Gui et al. 2023 (`fadtk`) in shrinking
    both sides where the reference is embeddings, no more of them than a system has, in spacing by 1/n, and in drawing
    without replacement. A reference that is a Gaussian stays as it is.

    Raises:
        ValueError: there are too few embeddings for a line.
    """
    fixed = isinstance(reference, Gaussian)
    n = len(x) if fixed else min(len(x), len(reference))
    sizes = np.unique((1 / np.linspace(1 / n, 1 / max(smallest * n, 2), points)).round().astype(int))
    if len(sizes) < 3:
        raise ValueError(f"{n} embeddings are too few to extrapolate from: at least 4 are needed")

    def subset(side: np.ndarray | Gaussian, size: int) -> Gaussian:
        if isinstance(side, Gaussian):
            return side
        return Gaussian.fitted(side[generator.choice(len(side), size, replace=False)])

    values = np.array(
        [np.mean([frechet_distance(subset(x, n), subset(reference, n)) for _ in range(draws)]) for n in sizes]
    )
    slope, value = np.polyfit(1 / sizes, values, 1)
    residual, spread = values - (value + slope / sizes), values - values.mean()
    return Limit(float(value), float(1 - residual @ residual / (spread @ spread)) if spread.any() else 1.0)


def bandwidth(reference: np.ndarray, *, rows: int = 2000) -> float:
    """Median distance between rows of the reference `[n, D]`, evenly thinned to `rows`, as KAD sets its kernel."""
    few = _checked(reference)[:: -(-len(reference) // rows)]
    squares = _squared_distances(few, few)[np.triu_indices(len(few), 1)]
    return float(np.sqrt(np.median(squares)))


class KernelSums(NamedTuple):
    """Sums of a kernel over pairs of embeddings, by the tracks that they come from: what any resample needs."""

    counts: tuple[np.ndarray, np.ndarray]  # [t], [s], embeddings of each track of x and of y
    sums: tuple[np.ndarray, np.ndarray, np.ndarray]  # [t, t], [s, s], [t, s], of x with x, y with y, x with y
    same: np.ndarray  # [t, s], whether a track of x is one of y


def kernel_sums(
    x: np.ndarray, y: np.ndarray, x_tracks: np.ndarray, y_tracks: np.ndarray, *, sigma: float
) -> KernelSums:
    """Sums of exp(-|u - v|^2 / (2 sigma^2)) over pairs of `x` `[n, D]` and `y` `[m, D]`, by track in sorted order."""
    (x, x_names, x_starts), (y, y_names, y_starts) = (
        _by_track(_checked(side), tracks) for side, tracks in ((x, x_tracks), (y, y_tracks))
    )

    def sums(u: np.ndarray, v: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        tiles = (np.exp(_squared_distances(u[i : i + ROWS], v) / (-2 * sigma**2)) for i in range(0, len(u), ROWS))
        return np.add.reduceat(np.concatenate([np.add.reduceat(tile, columns, 1) for tile in tiles]), rows, 0)

    counts = np.diff(x_starts, append=len(x)), np.diff(y_starts, append=len(y))
    pairs = (sums(x, x, x_starts, x_starts), sums(y, y, y_starts, y_starts), sums(x, y, x_starts, y_starts))
    return KernelSums(counts, pairs, np.equal.outer(x_names, y_names))


def kernel_distance(kernels: KernelSums, weights: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """Squared maximum mean discrepancy, unbiased at every size (Gretton et al. 2012; KAD is Chung et al. 2025).

    E k(x, x') + E k(y, y') - 2 E k(x, y) over independent draws. What comes from one track is no independent draw, so
    pairs within a track are left out of all three means; where every embedding has a track of its own, this is the
    usual estimator. It can come out below 0. `weights`, `[t]` and `[s]`, take each side's tracks so many times.

    Raises:
        ValueError: a side has fewer than two tracks.
    """
    a, b = weights or tuple(np.ones(len(count)) for count in kernels.counts)
    own = [np.eye(len(count), dtype=bool) for count in kernels.counts]
    means = []
    for index, (left, right, same) in enumerate(((0, 0, own[0]), (1, 1, own[1]), (0, 1, kernels.same))):
        pairs = np.where(same, 0, np.outer((a, b)[left], (a, b)[right]))
        number = kernels.counts[left] @ pairs @ kernels.counts[right]
        if number == 0:
            raise ValueError("a kernel distance needs embeddings of at least two tracks on each side")
        means.append(np.vdot(pairs, kernels.sums[index]) / number)
    return float(means[0] + means[1] - 2 * means[2])


def _by_track(x: np.ndarray, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in the order of their tracks, the tracks' names, and where each begins."""
    order = np.argsort(tracks, kind="stable")
    names, starts = np.unique(tracks[order], return_index=True)
    return x[order], names, starts


def _squared_distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    squares = np.square(u).sum(1)[:, None] + np.square(v).sum(1) - 2 * u @ v.T
    return squares.clip(0, out=squares)


def _checked(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"embeddings must be [n, D] with n of at least 2, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("embeddings hold NaN or infinity")
    return x
