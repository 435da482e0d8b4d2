"""Entropy and mutual information of codes from their histograms, by several estimators, in bits.

The plug-in estimate of mutual information from a C x C histogram is biased upwards, by about (C-1)^2 / (2 M ln 2) bits
on M frames of independent codes that use all C values: 0.47 bits at C = 256 and M = 100,000. Where cells outnumber
frames that formula fails, and the bias is worse: 4.4 bits at C = 2,048 and M = 200,000. Every other estimator here
corrects for it; `pipeline.dependence.calibration` measures the bias that remains. All of them see a histogram only
through its `Fingerprint`: how many cells were hit once, twice, and so on.

All of them assume that frames are independent draws. Frames of music are not: a cell that is hit again only because
the frame before hit it looks well sampled, and some bias remains. Controls on the study's own codes show how much.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

CHUNK = 2**16  # frames at once: what is gathered for one pair of codebooks stays in a core's own cache


class Fingerprint(NamedTuple):
    """The distinct counts in a histogram, and how many cells have each; cells never hit are left out."""

    times: np.ndarray  # [U], ascending, at least 1
    cells: np.ndarray  # [U], f_n for n in `times`

    @property
    def frames(self) -> float:
        """Number of frames counted, M."""
        return float(self.times @ self.cells)

    def hit(self, times: int) -> float:
        """Number of cells that were hit exactly `times` times, f_n."""
        return float(self.cells[self.times == times].sum())


class Histograms(NamedTuple):
    """Counts of codes: of each codebook, and of each pair of them in the order of `pairs`."""

    marginal: np.ndarray  # [K, C]
    joint: np.ndarray  # [P, C * C], uint32; cell a C + b


class Information(NamedTuple):
    """Entropy of each codebook and mutual information of each pair of them, in the order of `pairs`, bits."""

    entropy: np.ndarray  # [K]
    mutual: np.ndarray  # [P]


def pairs(codebooks: int) -> list[tuple[int, int]]:
    """Pairs of codebooks `(a, b)`, a < b, counted from 0."""
    return list(combinations(range(codebooks), 2))


def histograms(codes: np.ndarray, codebook_size: int) -> Histograms:
    """Histograms of all codebooks and pairs of codes `[n, K, T]` or `[K, M]`, in one pass, memory-mapped or not.

    Memory is 4 C^2 bytes a pair, whatever the number of frames: 2 GB for 120 pairs of codebooks of 2,048 codes.

    Raises:
        ValueError: codes are not integers `[n, K, T]` or `[K, M]`, K > 1, hold no frame, or one is out of range.
    """
    if codes.ndim not in (2, 3) or codes.shape[-2] < 2:
        raise ValueError(f"codes must be [K, M] or [n, K, T] with at least 2 codebooks, got shape {codes.shape}")
    if not codes.size:
        raise ValueError(f"codes hold no frame: their shape is {codes.shape}")
    if not np.issubdtype(codes.dtype, np.integer):
        nan = " that hold NaN" if np.issubdtype(codes.dtype, np.floating) and np.isnan(codes).any() else ""
        raise ValueError(f"codes must be integers, got {codes.dtype}{nan}")
    codebooks = codes.shape[-2]
    joint = np.zeros((codebooks * (codebooks - 1) // 2, codebook_size**2), np.uint32)
    marginal = np.zeros((codebooks, codebook_size), np.int64)
    for part in _chunks(codes):
        if part.min() < 0 or part.max() >= codebook_size:
            raise ValueError(f"codes lie in {part.min()}..{part.max()}, outside 0..{codebook_size - 1} of the codebook")
        marginal += [np.bincount(stream, minlength=codebook_size) for stream in part]
        for table, (a, b) in zip(joint, pairs(codebooks), strict=True):
            # In place: `bincount` would make a table of 8 C^2 bytes anew for every chunk and pair.
            np.add.at(table, part[a] * codebook_size + part[b], np.uint32(1))
    return Histograms(marginal, joint)


def fingerprint(counts: np.ndarray) -> Fingerprint:
    """Fingerprint of a histogram's counts."""
    cells = np.bincount(counts.ravel())
    times = np.flatnonzero(cells[1:]) + 1
    return Fingerprint(times.astype(float), cells[times].astype(float))


def plug_in(histogram: Fingerprint) -> float:
    """H = -sum p log2 p with p the relative frequencies; biased downwards."""
    times, cells = histogram
    return float(np.log2(histogram.frames) - cells @ (times * np.log2(times)) / histogram.frames)


def miller_madow(histogram: Fingerprint) -> float:
    """The plug-in value plus (S - 1) / (2 M) nats, S being the number of cells that were hit (Miller 1955)."""
    return float(plug_in(histogram) + (histogram.cells.sum() - 1) / (2 * histogram.frames * np.log(2)))


def grassberger(histogram: Fingerprint) -> float:
    """H = ln M - sum n G(n) / M nats, G(n) = psi(n) + (-1)^n (psi((n+1)/2) - psi(n/2)) / 2 (Grassberger 2003)."""
    times, cells = histogram
    alternating = np.where(times % 2, -0.5, 0.5) * (digamma((times + 1) / 2) - digamma(times / 2))
    mean = cells @ (times * (digamma(times) + alternating)) / histogram.frames
    return float((np.log(histogram.frames) - mean) / np.log(2))


def chao_shen(histogram: Fingerprint) -> float:
    """H = -sum q log2 q / (1 - (1-q)^M), q being p times the coverage (Chao and Shen 2003).

    The coverage, the share of the distribution that was seen, is 1 - f_1 / M. Where every cell was hit once it would
    be 0; f_1 = M - 1 is taken instead.
    """
    coverage = max(histogram.frames - histogram.hit(1), 1) / histogram.frames
    q = coverage * histogram.times / histogram.frames
    # Where one cell has all frames, q is 1, whose term is 0 but whose logarithm of 1 - q is not finite.
    seen = -np.expm1(histogram.frames * np.log1p(-np.minimum(q, 1 - 1e-16)))
    return float(-histogram.cells @ (q * np.log2(q) / seen))


def chao_wang_jost(histogram: Fingerprint) -> float:
    """Entropy from the slope of the curve of cells seen, with the tail by Good and Turing (Chao, Wang and Jost 2013).

        H = sum n/M (psi(M) - psi(n)) + f_1/M (1-A)^(1-M) (-ln A - sum_{r<M} (1-A)^r / r)  nats,
        A = 2 f_2 / ((M-1) f_1 + 2 f_2), or 2 / ((M-1) (f_1-1) + 2) where no cell was hit twice

    The second term, the tail, is f_1/M times sum_{j>=0} (1-A)^(j+1) / (M+j): a sum without cancellation, which
    `_tail` takes to 13 digits at every M and A.
    """
    times, cells = histogram
    total, once, twice = histogram.frames, histogram.hit(1), histogram.hit(2)
    entropy = cells @ (times * (digamma(total) - digamma(times))) / total
    if once:
        share = 2 * twice / ((total - 1) * once + 2 * twice) if twice else 2 / ((total - 1) * (once - 1) + 2)
        entropy += once / total * _tail(total, share)
    return float(entropy / np.log(2))


ENTROPIES: dict[str, Callable[[Fingerprint], float]] = {
    "plug_in": plug_in,
    "miller_madow": miller_madow,
    "grassberger": grassberger,
    "chao_shen": chao_shen,
    "chao_wang_jost": chao_wang_jost,
}
# The last one is plug-in less the plug-in value of the same codes, each codebook shuffled in time.
ESTIMATORS = (*ENTROPIES, "shuffled_baseline")


def information(counts: Histograms, names: Iterable[str] = ENTROPIES) -> dict[str, Information]:
    """H(a) and I(a, b) = H(a) + H(b) - H(a, b), by each of `ENTROPIES` or those named."""
    marginal, joint = ([fingerprint(each) for each in tables] for tables in counts)
    first, second = np.transpose(pairs(len(marginal)))
    by_name = {}
    for name in names:
        alone, together = (np.array([ENTROPIES[name](each) for each in side]) for side in (marginal, joint))
        by_name[name] = Information(alone, alone[first] + alone[second] - together)
    return by_name


def shuffled(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Codes `[K, M]` with each codebook in a random order of its own: the product of the marginals."""
    return generator.permuted(codes, axis=1)


def _tail(total: float, share: float) -> float:
    """sum_{j>=0} (1-A)^(j+1) / (M+j), as the integral of e^-t (1-A) / (1 - (1-A) e^(-t/M)) dt / M over t > 0.

    The integrand bends at t = M A, which may be anything from 1e-7 to 1e7, so no rule in t itself fits all of them. In
    ln t the integrand is smooth and vanishes fast at either end, where the trapezoidal rule converges exponentially.
    """
    if share == 1:
        return 0.0
    t, weights = _trapezoids()
    return float(weights @ (1 / -np.expm1(np.log1p(-share) - t / total))) * (1 - share) / total


@cache
def _trapezoids() -> tuple[np.ndarray, np.ndarray]:
    """Nodes t, even in ln t, and weights of integrals over t > 0 of functions that hold the factor e^-t."""
    step = 0.3  # in ln t; the error is about e^(-pi^2 / step)
    t = np.exp(np.arange(-60, 4, step))  # what is left out is below 1e-13 of the whole up to 1e10 frames
    return t, step * t * np.exp(-t)


def _chunks(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Codes `[K, m]` of at most `CHUNK` frames, in order."""
    clips = codes if codes.ndim == 3 else codes[None]
    length = clips.shape[2]
    at_once = max(1, CHUNK // length)
    for first in range(0, len(clips), at_once):
        for start in range(0, length, CHUNK):
            part = clips[first : first + at_once, :, start : start + CHUNK]
            yield part.transpose(1, 0, 2).reshape(part.shape[1], -1).astype(np.intp)
