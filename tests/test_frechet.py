"""The Fréchet distance where it is known in closed form, where others fail, and where they do not."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import frechet

SEEDS = st.integers(0, 2**32 - 1)


def gaussian(seed: int, dimension: int = 6, rank: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(dimension, rank))
    return generator.normal(size=dimension), factor @ factor.T


@given(SEEDS)
def test_covariances_that_commute_have_a_closed_form(seed: int) -> None:
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    a, b = generator.uniform(0, 4, (2, 6))
    shift = generator.normal(size=6)
    distance = frechet.frechet_distance(shift, basis * a @ basis.T, 0 * shift, basis * b @ basis.T)
    assert distance == pytest.approx(shift @ shift + np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-6)


@given(SEEDS, st.integers(1, 6))
def test_equal_gaussians_are_at_no_distance_whatever_their_rank(seed: int, rank: int) -> None:
    mu, sigma = gaussian(seed, rank=rank)
    assert frechet.frechet_distance(mu, sigma, mu, sigma) == pytest.approx(0, abs=1e-5)


@given(SEEDS, SEEDS)
def test_it_is_symmetric_and_not_negative(seed: int, other: int) -> None:
    a, b = gaussian(seed), gaussian(other, rank=3)
    assert frechet.frechet_distance(*a, *b) >= 0
    assert frechet.frechet_distance(*a, *b) == pytest.approx(frechet.frechet_distance(*b, *a), rel=1e-6, abs=1e-6)


def test_lines_at_an_angle_have_a_closed_form() -> None:
    """Two rank-one Gaussians along u and v: tr(a) + tr(b) - 2 sqrt(a b) |u v|."""
    angle = 0.3
    u, v = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
    distance = frechet.frechet_distance(np.zeros(2), 4 * np.outer(u, u), np.zeros(2), 9 * np.outer(v, v))
    assert distance == pytest.approx(13 - 12 * np.cos(angle), abs=1e-6)


def test_fewer_samples_than_dimensions_stay_real() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20, 200))
    distance = frechet.frechet_distance(*frechet.statistics(x), *frechet.statistics(y))
    assert 0 < distance < 800


def test_statistics_are_numpys() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    mu, sigma = frechet.statistics(x)
    np.testing.assert_allclose(mu, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(sigma, np.cov(x.T), atol=1e-6)


@given(SEEDS)
def test_a_resample_has_the_statistics_of_its_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tracks = generator.integers(5, size=40)
    x = generator.normal(size=(40, 3))
    weights = np.array([2, 0, 1, 1, 3])[: len(np.unique(tracks))]
    rows = np.concatenate([x[tracks == t] for t, w in zip(np.unique(tracks), weights, strict=True) for _ in range(w)])
    for found, expected in zip(
        frechet.resampled(frechet.moments(x, tracks), weights), frechet.statistics(rows), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_extrapolation_takes_out_most_of_the_bias() -> None:
    generator = np.random.default_rng(0)
    x, reference = generator.normal(size=(2, 800, 40))
    x[:, 0] += 2  # the truth is 4
    biased = frechet.frechet_distance(*frechet.statistics(x), *frechet.statistics(reference))
    limit = frechet.frechet_infinity(x, reference, generator=generator)
    assert abs(limit.value - 4) < 0.3 * abs(biased - 4)
    assert limit.r2 > 0.9


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: frechet.statistics(np.zeros(3)), "n of at least 2"),
        (lambda: frechet.statistics(np.zeros((1, 3))), "n of at least 2"),
        (lambda: frechet.statistics(np.full((3, 3), np.nan)), "NaN"),
        (lambda: frechet.frechet_distance(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)), "must be"),
        (lambda: frechet.frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.full((2, 2), np.inf)), "infinity"),
        (
            lambda: frechet.frechet_infinity(np.zeros((2, 3)), np.zeros((2, 3)), generator=np.random.default_rng(0)),
            "too few",
        ),
    ],
)
def test_bad_input_is_named(call: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()


@pytest.mark.slow
def test_it_is_frechet_audio_distances_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")  # its imports ask a model hub otherwise
    package = pytest.importorskip("frechet_audio_distance.fad")
    scorer = package.FrechetAudioDistance.__new__(package.FrechetAudioDistance)
    scorer.verbose = False
    x, y = np.random.default_rng(0).normal(size=(2, 500, 20))
    a, b = frechet.statistics(x), frechet.statistics(1.3 * y + 0.2)
    assert frechet.frechet_distance(*a, *b) == pytest.approx(scorer.calculate_frechet_distance(*a, *b), rel=1e-6)
