"""Closed forms, coverage and pairing of intervals over tracks; exact rank correlation."""

import numpy as np
import pytest
from scipy import stats

from pipeline import statistics


def _mean(values: np.ndarray, tracks: np.ndarray, seed: int = 0) -> statistics.Estimate:
    return statistics.mean(values, tracks, resamples=500, seed=seed, confidence=0.9)


def test_interval_of_a_mean_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=400)
    estimate = _mean(values, np.arange(400))
    half = 1.645 * values.std() / 20
    assert estimate.value == values.mean()
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_left_out_tracks_give_the_interval_of_a_mean() -> None:
    """The influence of a value on a mean is its distance from it, so both ways must draw the same resamples."""
    values = np.random.default_rng(0).normal(size=40)
    left_out = (values.sum() - values) / 39
    estimate = statistics.jackknife(values.mean(), left_out, resamples=500, seed=0, confidence=0.9)
    expected = _mean(values, np.arange(40))
    np.testing.assert_allclose(estimate.resamples, expected.resamples)
    np.testing.assert_allclose(estimate[:3], expected[:3])


def test_clips_of_one_track_count_once() -> None:
    """Copies of a clip say nothing new: the interval must not shrink."""
    values, tracks = np.random.default_rng(0).normal(size=40), np.arange(40)
    once, copied = _mean(values, tracks), _mean(np.repeat(values, 25), np.repeat(tracks, 25))
    np.testing.assert_allclose(copied[:3], once[:3])


def test_pairing_cancels_what_is_shared() -> None:
    generator = np.random.default_rng(0)
    shared, tracks = generator.normal(scale=10, size=200), np.arange(200) // 5
    ours, theirs = _mean(shared + 1 + 0.1 * generator.normal(size=200), tracks), _mean(shared, tracks)
    estimate = statistics.difference(ours, theirs, 0.9)
    assert estimate.low < 1 < estimate.high
    assert estimate.high - estimate.low < 0.1


def test_seeds_that_agree_narrow_the_interval_and_seeds_that_do_not_span_it() -> None:
    generator = np.random.default_rng(0)
    tracks = np.arange(200)
    shared = generator.normal(size=200)
    alike = [_mean(shared + 0.1 * generator.normal(size=200), tracks) for _ in range(3)]
    estimate = statistics.over_seeds(alike, seed=0, confidence=0.9)
    assert estimate.value == pytest.approx(np.mean([e.value for e in alike]))
    assert estimate.high - estimate.low == pytest.approx(alike[0].high - alike[0].low, rel=0.2)
    apart = [
        statistics.Estimate(e.value + by, e.low + by, e.high + by, e.resamples + by)
        for e, by in zip(alike, (-5, 5, 0), strict=True)
    ]
    wide = statistics.over_seeds(apart, seed=0, confidence=0.9)
    assert wide.value == pytest.approx(estimate.value)
    assert wide.low < -2 < 2 < wide.high
    (one,) = alike[:1]
    assert statistics.over_seeds([one], seed=0, confidence=0.9)[:3] == pytest.approx(one[:3])
    with pytest.raises(ValueError, match="cannot be paired"):
        statistics.over_seeds([one, one._replace(resamples=one.resamples[1:])], seed=0, confidence=0.9)


def test_ratio_of_medians_sees_past_a_slow_repeat() -> None:
    generator = np.random.default_rng(0)
    slow, fast = 8 + 0.1 * generator.normal(size=11), 1 + 0.01 * generator.normal(size=11)
    fast[3] = 30  # something else ran
    estimate = statistics.ratio_of_medians(slow, fast, resamples=500, seed=0, confidence=0.95)
    assert estimate.low < 8 < estimate.high
    assert 0 < estimate.high - estimate.low < 0.5
    alone = statistics.ratio_of_medians(slow[:1], fast[:1], resamples=10, seed=0, confidence=0.95)
    assert alone.low == alone.high == pytest.approx(slow[0] / fast[0])


def test_ratio_is_relative() -> None:
    values, tracks = np.random.default_rng(0).uniform(1, 2, 50), np.arange(50)
    estimate = statistics.ratio(_mean(1.1 * values, tracks), _mean(values, tracks), 0.9)
    np.testing.assert_allclose(estimate[:3], 0.1)


def test_rank_correlation_is_exact_in_small_samples() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    perfect = statistics.rank_correlation(x, x**2)
    assert perfect.rho == pytest.approx(1)
    assert perfect.p == pytest.approx(1 / 120)
    y = np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    swapped = statistics.rank_correlation(x, y)
    assert swapped.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    exact = stats.permutation_test(
        (x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings", alternative="greater"
    )
    assert swapped.p == pytest.approx(exact.pvalue)


def test_rank_correlation_of_many_points_and_of_a_constant() -> None:
    x = np.arange(20.0)
    y = x + np.random.default_rng(0).normal(scale=5, size=20)
    assert statistics.rank_correlation(x, y).p == pytest.approx(stats.spearmanr(x, y, alternative="greater").pvalue)
    assert statistics.rank_correlation(x, np.ones(20)) == (0.0, 1.0, 20)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        _mean(np.ones(5), np.zeros(5))
    with pytest.raises(ValueError, match="3 values for 2 clips"):
        _mean(np.ones(3), np.zeros(2))
    with pytest.raises(ValueError, match="1 of 3 clips' values are not finite"):
        _mean(np.array([1, np.nan, 2]), np.arange(3))
    few = statistics.mean(np.ones(3), np.arange(3), resamples=5, seed=0, confidence=0.9)
    with pytest.raises(ValueError, match="cannot be paired"):
        statistics.difference(few, _mean(np.ones(3), np.arange(3)), 0.9)
