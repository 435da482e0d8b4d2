"""Closed forms, coverage and pairing of intervals over tracks; exact rank correlation."""

import numpy as np
import pytest
from scipy import stats

from pipeline import statistics

DRAWN = statistics.multiplicities(30, 200, 0)  # of the tracks in simulated studies


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


def _of_seeds(
    generator: np.random.Generator, seeds: int, spread: float, shared: float = 1.0, own: float = 0.0
) -> list[statistics.Estimate]:
    """Measurements of a true 0: seeds differ by `spread`, tracks add errors of the mean, `shared` by seeds or not."""
    tracks = DRAWN.shape[1]
    common = shared * np.sqrt(tracks) * generator.normal(size=tracks)
    each = spread * generator.normal(size=(seeds, 1)) + own * np.sqrt(tracks) * generator.normal(size=(seeds, tracks))
    values = common + each
    return [
        statistics.Estimate(value, value, value, resamples)
        for value, resamples in zip(values.mean(1), values @ DRAWN.T / tracks, strict=True)
    ]


@pytest.mark.parametrize("spread", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("own", [0.0, 1.0])
def test_an_interval_over_three_seeds_covers_the_truth_as_often_as_it_claims(spread: float, own: float) -> None:
    """Seeds vary one to three times as much as tracks: 95 % within 2, whether tracks act on all seeds alike or not."""
    generator, studies, covered = np.random.default_rng(int(spread)), 1500, 0
    for _ in range(studies):
        estimate = statistics.over_seeds(_of_seeds(generator, 3, spread, own=own), 0.95).estimate
        covered += estimate.low <= 0 <= estimate.high
    assert 0.93 <= covered / studies <= 0.975  # 0.6 % is the simulation's own error


def test_the_interval_over_seeds_that_tracks_do_not_move_is_students() -> None:
    values = [1.0, 2.0, 4.5]
    still = [statistics.Estimate(value, value, value, np.full(50, value)) for value in values]
    found = statistics.over_seeds(still, 0.9)
    low, high = stats.t.interval(0.9, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found.estimate[:3] == pytest.approx((2.5, low, high))
    assert (found.seeds, found.spread, found.track_error) == (3, pytest.approx(np.std(values, ddof=1)), 0)


def test_the_interval_of_seeds_that_agree_is_that_of_their_tracks() -> None:
    estimate = _mean(np.random.default_rng(0).normal(size=200), np.arange(200))
    found = statistics.over_seeds([estimate] * 3, 0.9)
    assert found.spread == 0
    assert found.track_error == pytest.approx(estimate.resamples.std(ddof=1))
    assert found.estimate.high - found.estimate.low == pytest.approx(2 * 1.645 * found.track_error, rel=1e-3)
    one = statistics.over_seeds([estimate], 0.9)
    assert one.estimate[:3] == pytest.approx(estimate[:3])
    assert one.spread is None
    with pytest.raises(ValueError, match="cannot be paired"):
        statistics.over_seeds([estimate, estimate._replace(resamples=estimate.resamples[1:])], 0.9)


def test_what_tracks_add_to_one_seed_alone_counts_once() -> None:
    """Such errors are in the spread over seeds; what they share is near 0."""
    generator = np.random.default_rng(0)
    found = [statistics.over_seeds(_of_seeds(generator, 8, 0, shared=0, own=1), 0.95) for _ in range(50)]
    assert np.mean([each.track_error for each in found]) < 0.2
    assert np.mean([each.spread or 0 for each in found]) == pytest.approx(1, rel=0.1)


def test_a_share_over_seeds_is_that_of_the_means_and_covers_it() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        wholes = [_moved(each, -10) for each in _of_seeds(generator, 3, 1)]
        parts = [
            _moved(each, 0.3 * whole.value)
            for each, whole in zip(_of_seeds(generator, 3, 0.5, 0.3), wholes, strict=True)
        ]
        found = statistics.share_over_seeds(parts, wholes, 0.95).estimate
        assert found.value == pytest.approx(np.mean([p.value for p in parts]) / np.mean([w.value for w in wholes]))
        covered += found.low <= 0.3 <= found.high
    assert covered / 300 > 0.92


def _moved(estimate: statistics.Estimate, by: float) -> statistics.Estimate:
    return statistics.Estimate(estimate.value + by, estimate.low + by, estimate.high + by, estimate.resamples + by)


def test_power_without_an_effect_is_one_tail_and_has_its_closed_forms() -> None:
    assert statistics.power(0, 3, 2.0, 0.0, 0.95) == pytest.approx(0.025)
    assert statistics.power(0, 3, 0.0, 2.0, 0.95) == pytest.approx(0.025)
    # Tracks alone: a normal. Seeds alone: the noncentral t of statsmodels' TTestPower, one-sided at 2.5 %.
    assert statistics.power(2.8016, 5, 0.0, 1.0, 0.95) == pytest.approx(0.8, abs=1e-4)
    assert statistics.smallest_effect(1, 0.0, 1.0, 0.95) == pytest.approx(2.8016, abs=1e-3)
    assert statistics.power(1.0, 10, 1.0, 0.0, 0.95) == pytest.approx(0.8031, abs=1e-3)


@pytest.mark.parametrize(("seeds", "spread"), [(3, 1.0), (6, 2.0), (4, 0.5)])
def test_power_is_how_often_simulated_studies_see_the_effect(seeds: int, spread: float) -> None:
    generator, studies = np.random.default_rng(seeds), 600
    effect = statistics.smallest_effect(seeds, spread, 1.0, 0.95)
    seen = sum(
        statistics.over_seeds([_moved(each, effect) for each in _of_seeds(generator, seeds, spread)], 0.95).estimate.low
        > 0
        for _ in range(studies)
    )
    assert seen / studies == pytest.approx(statistics.POWER, abs=0.06)


def test_enough_seeds_see_what_one_fewer_do_not() -> None:
    number = statistics.seeds_needed(-4.0, 4.3, 0.0, 0.95)
    assert number is not None
    assert (
        statistics.power(4.0, number - 1, 4.3, 0.0, 0.95)
        < statistics.POWER
        <= statistics.power(4.0, number, 4.3, 0.0, 0.95)
    )
    assert statistics.smallest_effect(number, 4.3, 0.0, 0.95) <= 4.0
    assert statistics.seeds_needed(0.1, 4.3, 1.0, 0.95) is None  # the tracks alone hide so little


def test_the_correlation_that_so_many_points_see() -> None:
    """Six points see 0.93 and no less; what twelve see is simulated with Gaussians."""
    assert statistics.smallest_correlation(6, 0.025) > 0.9
    assert statistics.smallest_correlation(3, 0.025) == 1
    rho = statistics.smallest_correlation(12, 0.025)
    assert statistics.points_needed(rho, 0.025) in (12, 13)
    assert statistics.points_needed(0.0, 0.025) is None
    generator = np.random.default_rng(0)
    pearson = 2 * np.sin(np.pi * rho / 6)
    x, noise = generator.normal(size=(2, 500, 12))
    y = pearson * x + np.sqrt(1 - pearson**2) * noise
    seen = np.mean([statistics.rank_correlation(*each).p < 0.025 for each in zip(x, y, strict=True)])
    assert seen == pytest.approx(statistics.POWER, abs=0.08)


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
