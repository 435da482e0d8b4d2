"""Distances between sets of embeddings where they have closed forms, where others fail, and where others agree."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import frechet
from pipeline.evaluation.frechet import Gaussian, frechet_distance

SEEDS = st.integers(0, 2**32 - 1)


def gaussian(seed: int, dimension: int = 6, rank: int = 6) -> Gaussian:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(dimension, rank))
    return Gaussian.of(generator.normal(size=dimension), factor @ factor.T)


@given(SEEDS)
def test_covariances_that_commute_have_a_closed_form(seed: int) -> None:
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    a, b = generator.uniform(0, 4, (2, 6))
    shift = generator.normal(size=6)
    distance = frechet_distance(Gaussian.of(shift, basis * a @ basis.T), Gaussian.of(0 * shift, basis * b @ basis.T))
    assert distance == pytest.approx(shift @ shift + np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-12)


@given(SEEDS, st.integers(1, 6))
def test_equal_gaussians_are_at_no_distance_whatever_their_rank(seed: int, rank: int) -> None:
    same = gaussian(seed, rank=rank)
    assert frechet_distance(same, same) == pytest.approx(0, abs=1e-11)


@given(SEEDS, SEEDS)
def test_it_is_symmetric_and_not_negative(seed: int, other: int) -> None:
    a, b = gaussian(seed), gaussian(other, rank=3)
    assert frechet_distance(a, b) >= 0
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10, abs=1e-10)


def test_lines_at_an_angle_have_a_closed_form() -> None:
    """Two rank-one Gaussians along u and v: tr(a) + tr(b) - 2 sqrt(a b) |u v|."""
    angle = 0.3
    u, v = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
    a, b = Gaussian.of(np.zeros(2), 4 * np.outer(u, u)), Gaussian.of(np.zeros(2), 9 * np.outer(v, v))
    assert frechet_distance(a, b) == pytest.approx(13 - 12 * np.cos(angle), abs=1e-12)


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e12])
def test_near_singular_covariances_keep_their_distance(condition: float) -> None:
    """One covariance and four times it, of 200 dimensions: the distance is its trace."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.normal(size=(200, 200)))
    covariance = basis * np.geomspace(1, 1 / condition, 200) @ basis.T
    distance = frechet_distance(Gaussian.of(np.zeros(200), covariance), Gaussian.of(np.zeros(200), 4 * covariance))
    assert distance == pytest.approx(np.trace(covariance), rel=1e-9)


def test_fewer_samples_than_dimensions_have_the_distance_of_the_space_they_span() -> None:
    """20 embeddings in a plane of 10 dimensions among 200, and others in that plane."""
    generator = np.random.default_rng(0)
    plane, _ = np.linalg.qr(generator.normal(size=(200, 10)))
    x, y = generator.normal(size=(2, 20, 10))
    inside = frechet_distance(Gaussian.fitted(x), Gaussian.fitted(y))
    outside = frechet_distance(Gaussian.fitted(x @ plane.T), Gaussian.fitted(y @ plane.T))
    assert outside == pytest.approx(inside, rel=1e-10)


@pytest.mark.parametrize("n", [5, 40])
def test_a_fit_has_numpys_statistics(n: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    fit = Gaussian.fitted(x)
    np.testing.assert_allclose(fit.mean, x.mean(0, np.float64), atol=1e-12)
    np.testing.assert_allclose(fit.factor.T @ fit.factor, np.cov(x.T, dtype=np.float64), atol=1e-12)


@given(SEEDS)
def test_weights_are_repeated_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, weights = generator.normal(size=(12, 3)), generator.integers(4, size=12)
    weights[:2] = 1
    found, expected = Gaussian.fitted(x, weights), Gaussian.fitted(x.repeat(weights, 0))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-12)
    np.testing.assert_allclose(found.factor.T @ found.factor, expected.factor.T @ expected.factor, atol=1e-12)


def test_each_clip_has_the_distance_of_its_own_embeddings() -> None:
    clips, reference = np.random.default_rng(0).normal(size=(5, 4, 7)), gaussian(1, 7, 7)
    expected = [frechet_distance(Gaussian.of(clip.mean(0), np.cov(clip.T)), reference) for clip in clips]
    np.testing.assert_allclose(frechet.per_clip(clips, reference), expected, rtol=1e-9)


def test_extrapolation_takes_out_most_of_the_bias() -> None:
    generator = np.random.default_rng(0)
    x, reference = generator.normal(size=(2, 800, 40))
    x[:, 0] += 2  # the truth is 4
    biased = frechet_distance(Gaussian.fitted(x), Gaussian.fitted(reference))
    limit = frechet.frechet_infinity(x, reference, generator=generator)
    assert abs(limit.value - 4) < 0.3 * abs(biased - 4)
    assert limit.r2 > 0.9


def test_extrapolation_to_a_known_gaussian_shrinks_one_side() -> None:
    generator = np.random.default_rng(0)
    x, known = generator.normal(size=(800, 40)), Gaussian.of(np.zeros(40), np.eye(40))  # the truth is 0
    biased = frechet_distance(Gaussian.fitted(x), known)
    limit = frechet.frechet_infinity(x, known, generator=generator)
    assert abs(limit.value) < 0.3 * biased
    assert limit.r2 > 0.9


def discrepancy(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, sigma: float) -> float:
    """The kernel distance, pair by pair."""

    def mean(u: np.ndarray, v: np.ndarray, s: np.ndarray, t: np.ndarray) -> float:
        pairs = [(i, j) for i in range(len(u)) for j in range(len(v)) if s[i] != t[j]]
        return float(np.mean([np.exp(-np.square(u[i] - v[j]).sum() / (2 * sigma**2)) for i, j in pairs]))

    return mean(x, x, a, a) + mean(y, y, b, b) - 2 * mean(x, y, a, b)


@given(SEEDS)
def test_the_kernel_distance_is_the_sum_over_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(9, 3)), generator.normal(size=(7, 3)) + 1
    a, b = np.array(list("aabbccddd")), np.array(list("aabbeee"))
    sums = frechet.kernel_sums(x, y, a, b, sigma=1.3)
    assert frechet.kernel_distance(sums) == pytest.approx(discrepancy(x, y, a, b, 1.3), abs=1e-12)


@given(SEEDS)
def test_kernel_weights_are_repeated_tracks(seed: int) -> None:
    """A track taken twice is the same pairs, counted twice."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(6, 3)), generator.normal(size=(6, 3))
    a, b = np.array(list("aabbcc")), np.array(list("ddeeff"))
    again = np.array([0, 1, 0, 1, 2, 3, 4, 5])
    weights = (np.array([2, 1, 1]), np.ones(3))
    found = frechet.kernel_distance(frechet.kernel_sums(x, y, a, b, sigma=1), weights)
    repeated = frechet.kernel_sums(x[again], y, a[again], b, sigma=1)
    assert found == pytest.approx(frechet.kernel_distance(repeated), abs=1e-12)


def test_the_kernel_distance_has_no_bias_where_frechets_has() -> None:
    """Both sides from one distribution: means over draws, against their standard errors."""
    generator = np.random.default_rng(0)
    tracks = np.arange(30)
    kernel, gaussians = [], []
    for _ in range(200):
        x, y = generator.normal(size=(2, 30, 10))
        kernel.append(frechet.kernel_distance(frechet.kernel_sums(x, y, tracks, tracks + 30, sigma=4.0)))
        gaussians.append(frechet_distance(Gaussian.fitted(x), Gaussian.fitted(y)))
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / np.sqrt(200)
    assert np.mean(gaussians) > 1


def test_a_shift_of_normals_has_a_closed_form() -> None:
    """MMD^2 of N(0, I), N(m, I): 2 c (1 - exp(-|m|^2 / (2 (sigma^2 + 2)))), c = (sigma^2 / (sigma^2 + 2))^(D/2)."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 4000, 4))
    y[:, 0] += 1.5
    sums = frechet.kernel_sums(x, y, np.arange(4000), np.arange(4000, 8000), sigma=2.0)
    truth = 2 * (4 / 6) ** 2 * (1 - np.exp(-(1.5**2) / 12))
    assert frechet.kernel_distance(sums) == pytest.approx(truth, rel=0.05)


def test_the_bandwidth_is_the_median_distance() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    distances = [np.linalg.norm(x[i] - x[j]) for i in range(50) for j in range(i)]
    assert frechet.bandwidth(x) == pytest.approx(np.median(distances))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Gaussian.fitted(np.zeros(3)), "n of at least 2"),
        (lambda: Gaussian.fitted(np.zeros((1, 3))), "n of at least 2"),
        (lambda: Gaussian.fitted(np.zeros((3, 3)), np.array([1, 0, 0])), "n of at least 2"),
        (lambda: Gaussian.fitted(np.full((3, 3), np.nan)), "NaN"),
        (lambda: Gaussian.of(np.zeros(2), np.eye(3)), "must be"),
        (lambda: Gaussian.of(np.zeros(2), np.full((2, 2), np.inf)), "infinity"),
        (lambda: Gaussian.of(np.zeros(2), -np.eye(2)), "eigenvalue"),
        (lambda: frechet_distance(gaussian(0), gaussian(0, 5)), "6 and 5 dimensions"),
        (
            lambda: frechet.frechet_infinity(np.zeros((2, 3)), np.zeros((2, 3)), generator=np.random.default_rng(0)),
            "too few",
        ),
        (
            lambda: frechet.kernel_distance(
                frechet.kernel_sums(np.eye(2), np.eye(2), np.zeros(2), np.array([1, 2]), sigma=1)
            ),
            "two tracks",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()


@pytest.mark.slow
def test_it_is_frechet_audio_distances_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")  # its imports ask a model hub otherwise
    package = pytest.importorskip("frechet_audio_distance.fad")
    scorer = package.FrechetAudioDistance.__new__(package.FrechetAudioDistance)
    scorer.verbose = False
    x, y = np.random.default_rng(0).normal(size=(2, 500, 20))
    a, b = x, 1.3 * y + 0.2
    theirs = scorer.calculate_frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert frechet_distance(Gaussian.fitted(a), Gaussian.fitted(b)) == pytest.approx(theirs, rel=1e-6)
