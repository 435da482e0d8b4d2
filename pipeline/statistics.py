"""Intervals for numbers that rest on tracks: a bootstrap over whole tracks, paired wherever two systems share them.

Frames and clips of one track are not independent, so a track is what gets drawn. Two measurements that use the same
tracks, number of resamples and seed draw the same tracks in each resample: the difference of their resampled values is
the paired bootstrap of the difference.
"""

from itertools import permutations
from math import factorial
from typing import NamedTuple

import numpy as np
from scipy import stats

EXACT_UP_TO = 8  # points up to which every permutation is tried: 8! is 40,320


class Estimate(NamedTuple):
    """A value, the ends of its interval, and the resampled values that the interval comes from."""

    value: float
    low: float
    high: float
    resamples: np.ndarray  # [R]

    def json(self, *, resamples: bool = False) -> dict[str, float | list[float]]:
        """JSON-ready value and interval, and the resampled values where others will pair with them."""
        stored: dict[str, float | list[float]] = {
            "value": float(self.value),
            "low": float(self.low),
            "high": float(self.high),
        }
        return {**stored, "resamples": self.resamples.tolist()} if resamples else stored


def multiplicities(tracks: int, resamples: int, seed: int) -> np.ndarray:
    """How often each track is drawn in each resample, `[R, tracks]`; every row sums to `tracks`.

    Raises:
        ValueError: there are fewer than two tracks, too few for an interval.
    """
    if tracks < 2:
        raise ValueError(f"an interval over tracks needs at least 2 of them, got {tracks}; enlarge the test split")
    return np.random.default_rng(seed).multinomial(tracks, np.full(tracks, 1 / tracks), size=resamples)


def interval(value: float, resamples: np.ndarray, confidence: float) -> Estimate:
    """Percentile interval of the resampled values, moved so that their mean is `value`.

    A resample holds fewer distinct tracks than the sample, so a measure that is biased in small samples (mutual
    information, the Fréchet distance) is biased once more in every resample; moving takes that second bias out.
    """
    tail = 50 * (1 - confidence)
    low, high = np.percentile(resamples - resamples.mean(), [tail, 100 - tail])
    return Estimate(value, value + low, value + high, resamples)


def mean(values: np.ndarray, tracks: np.ndarray, *, resamples: int, seed: int, confidence: float) -> Estimate:
    """Mean over clips of `values` `[n]`, with an interval over the tracks `[n]` that the clips come from."""
    totals, counts = _by_track(values, tracks)
    drawn = multiplicities(len(counts), resamples, seed)
    return interval(values.mean(), (drawn @ totals) / (drawn @ counts), confidence)


def jackknife(value: float, left_out: np.ndarray, *, resamples: int, seed: int, confidence: float) -> Estimate:
    """Interval over tracks of a measure that was also taken with each track left out, `left_out` `[tracks]`.

    Each track's influence, (n - 1) (mean of left_out - left_out), is drawn as a clip's value is in `mean`. It is meant
    for estimates that rest on cells hit once: a track that a plain resample draws twice hits none of its cells once,
    which shifts such an estimate by more than its spread.
    """
    tracks = len(left_out)
    influence = (tracks - 1) * (left_out.mean() - left_out)
    drawn = multiplicities(tracks, resamples, seed)
    return interval(float(value), value + drawn @ influence / tracks, confidence)


def difference(ours: Estimate, theirs: Estimate, confidence: float) -> Estimate:
    """`ours - theirs`, paired; both must come from the same tracks, number of resamples and seed.

    Raises:
        ValueError: their numbers of resamples differ.
    """
    _paired(ours, theirs)
    return interval(ours.value - theirs.value, ours.resamples - theirs.resamples, confidence)


def ratio(ours: Estimate, theirs: Estimate, confidence: float) -> Estimate:
    """`ours / theirs - 1`, paired as `difference` is."""
    _paired(ours, theirs)
    return interval(ours.value / theirs.value - 1, ours.resamples / theirs.resamples - 1, confidence)


def over_seeds(estimates: list[Estimate], *, seed: int, confidence: float) -> Estimate:
    """Mean over training seeds of measurements on the same tracks; each resample draws seeds as well (Owen 2007).

    All must come from the same tracks, number of resamples and seed, as for `difference`. With two or three seeds such
    an interval is rough: it says whether they agree, not what other seeds would give.
    """
    for estimate in estimates[1:]:
        _paired(estimates[0], estimate)
    centred = np.stack([e.value + e.resamples - e.resamples.mean() for e in estimates], 1)
    drawn = np.random.default_rng(seed).integers(len(estimates), size=centred.shape)
    value = float(np.mean([e.value for e in estimates]))
    return interval(value, np.take_along_axis(centred, drawn, 1).mean(1), confidence)


def ratio_of_medians(ours: np.ndarray, theirs: np.ndarray, *, resamples: int, seed: int, confidence: float) -> Estimate:
    """Median of `ours` `[n]` over that of `theirs` `[m]`, with an interval over their repeats, drawn apart."""
    generator = np.random.default_rng(seed)
    above, below = (
        np.median(generator.choice(times, (resamples, len(times))), axis=1) for times in map(np.asarray, (ours, theirs))
    )
    return interval(float(np.median(ours) / np.median(theirs)), above / below, confidence)


class Correlation(NamedTuple):
    """Spearman's rank correlation and its one-sided p for a positive one."""

    rho: float
    p: float
    points: int


def rank_correlation(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Spearman's rho of `x` and `y` `[n]`; p by trying every permutation, or for more than 8 points from t.

    A constant side has no ranks: rho is 0 and p is 1.
    """
    points = len(x)
    if points < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(0.0, 1.0, points)
    a, b = (stats.zscore(stats.rankdata(side)) for side in (x, y))
    rho = float(a @ b / points)
    if points > EXACT_UP_TO:
        return Correlation(rho, float(stats.spearmanr(x, y, alternative="greater").pvalue), points)
    # With a tolerance, because summing the same products in another order changes the last digit.
    as_high = sum(a @ b[list(order)] / points >= rho - 1e-9 for order in permutations(range(points)))
    return Correlation(rho, as_high / factorial(points), points)


def _paired(ours: Estimate, theirs: Estimate) -> None:
    if ours.resamples.shape != theirs.resamples.shape:
        raise ValueError(
            f"{ours.resamples.size} resamples cannot be paired with {theirs.resamples.size}; "
            "measure both with the same parameters"
        )


def _by_track(values: np.ndarray, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of `values` per track, tracks in sorted order."""
    if len(values) != len(tracks):
        raise ValueError(f"{len(values)} values for {len(tracks)} clips' tracks")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} clips' values are not finite")
    _, index = np.unique(tracks, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index)
