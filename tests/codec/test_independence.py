"""The loss against closed forms, an exact mean over permutations, slow references, and every error once."""

import itertools
import math
from collections.abc import Sequence

import dense
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.codec.independence import Dependence, above_floor, joint_rows, median_distance, mmd, standardised

BANDWIDTHS = (0.1, 1.0, 5.0, 10.0)
PAPER = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def streams_of(rows: Tensor) -> Tensor:
    """`[N, K, D]` as one clip, `[1, K, D, N]`."""
    return rows.permute(1, 2, 0)[None]


def closed_form(streams: Tensor, bandwidths: tuple[float, ...] = BANDWIDTHS, *, delay: bool = False) -> float:
    return float(mmd(streams, delay=delay, estimator="closed_form", bandwidths=bandwidths).estimate)


def draws(streams: Tensor, count: int, seed: int = 1) -> Tensor:
    generator = seeded(seed)
    return torch.stack(
        [
            mmd(streams, delay=False, estimator="permutation", bandwidths=BANDWIDTHS, generator=generator).estimate
            for _ in range(count)
        ]
    )


def kernels(rows: Tensor, a: float) -> np.ndarray:
    """K_k[i, j] with Python's loops, `[K, N, N]`."""
    values = rows.numpy()
    count, codebooks = values.shape[:2]
    result = np.empty((codebooks, count, count))
    for k, i, j in itertools.product(range(codebooks), range(count), range(count)):
        result[k, i, j] = math.exp(-sum((values[i, k] - values[j, k]) ** 2) / (2 * a))
    return result


def permutation_mean(rows: Tensor) -> float:
    """Mean of the permutation estimate over all permutations: two rows of y differ in every codebook's row."""
    total = 0.0
    for a in BANDWIDTHS:
        each = kernels(rows, a)
        count = each.shape[-1]
        apart = ~np.eye(count, dtype=bool)
        total += each.prod(0)[apart].mean() + each[:, apart].mean(1).prod() - 2 * each.mean(-1).prod(0).mean()
    return total


def factorial(bits: int) -> Tensor:
    """Every combination of `bits` coins, one a row, `[2^bits, bits]` of -1 and 1."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=bits)), dtype=torch.float64)


def test_all_combinations_of_two_coins_are_independent() -> None:
    assert closed_form(streams_of(factorial(2)[:, :, None])) == pytest.approx(0, abs=1e-7)


def test_a_coin_and_its_copy() -> None:
    """A kernel of 1 where coins agree and q = exp(-4 / (2 a)) elsewhere makes (1 - q)^2 / 4 of every bandwidth."""
    coin = factorial(1)
    expected = sum((1 - math.exp(-2 / a)) ** 2 / 4 for a in BANDWIDTHS)
    assert closed_form(streams_of(torch.stack([coin, coin], 1))) == pytest.approx(expected, rel=1e-6)


def test_one_shared_bit_beside_a_private_one_each() -> None:
    """Private bits thin it by the square of their kernel's mean, ((1 + q) / 2)^2."""
    shared, first, second = factorial(3).T
    rows = torch.stack([torch.stack([shared, first], 1), torch.stack([shared, second], 1)], 1)
    q = [math.exp(-2 / a) for a in BANDWIDTHS]
    expected = sum(((1 + x) / 2) ** 2 * (1 - x) ** 2 / 4 for x in q)
    assert closed_form(streams_of(rows)) == pytest.approx(expected, rel=1e-6)


def test_three_coins_that_are_independent_only_pairwise_depend() -> None:
    """d-variable: the third coin is the product of the others, which no pair of codebooks shows."""
    pair = factorial(2)
    rows = torch.cat([pair, pair.prod(1, keepdim=True)], 1)[:, :, None]
    assert closed_form(streams_of(rows[:, 1:])) == pytest.approx(0, abs=1e-7)
    assert closed_form(streams_of(rows)) > 0.1


def test_the_closed_form_is_its_sum_over_pairs() -> None:
    streams = noise(1, 3, 2, 12)
    rows = standardised(joint_rows(streams, delay=False))
    expected = 0.0
    for a in BANDWIDTHS:
        each = kernels(rows, a)
        expected += each.prod(0).mean() + each.mean((1, 2)).prod() - 2 * each.mean(-1).prod(0).mean()
    assert closed_form(streams) == pytest.approx(expected, rel=1e-6)


def test_the_permutation_estimate_has_its_exact_mean() -> None:
    streams = noise(1, 3, 2, 16).cumsum(-1)
    found = draws(streams, 300)
    expected = permutation_mean(standardised(joint_rows(streams, delay=False)))
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(len(found))


def test_the_permutation_mean_tends_to_the_closed_form() -> None:
    gaps = []
    for frames in (24, 96, 384):
        first = noise(1, 1, 2, frames)
        streams = torch.cat([first, first + noise(1, 1, 2, frames, seed=2)], 1)
        gaps.append(abs(float(draws(streams, 20).mean()) - closed_form(streams)))
    assert gaps[1] < 0.4 * gaps[0]
    assert gaps[2] < 0.4 * gaps[1]


@pytest.mark.parametrize("frames", [32, 96])
def test_independent_streams_leave_what_shared_rows_cost(frames: int) -> None:
    """x_i is codebook k of y_j once in N: normals, of kernel mean m = (1 + 2 / a)^(-1/2), are that far below 0."""
    found = torch.cat([draws(noise(1, 2, 1, frames, seed=seed), 2, seed) for seed in range(100)])
    expected = 0.0
    for a in BANDWIDTHS:
        m = (1 + 2 / a) ** -0.5
        expected += 2 * (m**2 - (1 / frames + (1 - 1 / frames) * m) ** 2)
    error = float(found.std()) / math.sqrt(len(found))
    # Standardising takes two degrees of freedom of N.
    assert float(found.mean()) == pytest.approx(expected, abs=3 * error + 2 / frames * abs(expected))


def test_independent_streams_mean_vanishes_and_identical_ones_stay() -> None:
    same = noise(1, 1, 4, 512).expand(-1, 2, -1, -1)
    few, many = (abs(float(draws(noise(1, 2, 4, frames), 6).mean())) for frames in (128, 512))
    assert many < 0.5 * few
    assert float(draws(same, 2).min()) > 8 * many


@pytest.mark.parametrize("estimator", ["closed_form", "permutation"])
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("tile", [3, None])
def test_the_gradient_is_that_of_finite_differences(estimator: str, delay: bool, tile: int | None) -> None:
    def estimate(streams: Tensor) -> Tensor:
        return mmd(
            streams, delay=delay, estimator=estimator, bandwidths=BANDWIDTHS, generator=seeded(), tile=tile
        ).estimate

    torch.autograd.gradcheck(estimate, noise(2, 3, 2, 4).requires_grad_())


def test_the_loss_is_the_estimate_clamped() -> None:
    below = [
        mmd(noise(1, 2, 1, 30, seed=s), delay=False, estimator="permutation", bandwidths=BANDWIDTHS) for s in range(5)
    ]
    assert any(result.estimate < 0 for result in below)
    for result in below:
        assert result == Dependence(result.estimate.clamp_min(0), result.estimate, 30)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 6))
def test_the_delay_is_a_shift_of_each_stream(clips: int, codebooks: int, more: int) -> None:
    frames = codebooks + 1 + more
    streams = noise(clips, codebooks, 2, frames)
    expected = [
        torch.stack([streams[b, k, :, step - k] for k in range(codebooks)])
        for b in range(clips)
        for step in range(codebooks - 1, frames)
    ]
    torch.testing.assert_close(joint_rows(streams, delay=True), torch.stack(expected), rtol=0, atol=0)


def test_without_delay_every_frame_is_a_row() -> None:
    streams = noise(3, 4, 2, 5)
    rows = joint_rows(streams, delay=False)
    assert rows.shape == (15, 4, 2)
    torch.testing.assert_close(rows[5 + 3], streams[1, :, :, 3], rtol=0, atol=0)


def test_the_delayed_loss_sees_what_the_delay_pattern_predicts_at_once() -> None:
    source = noise(1, 1, 1, 301)
    early, late = source[..., :-1], source[..., 1:]
    # Step s of the pattern predicts codebook 0 of frame s with codebook 1 of frame s - 1.
    streams = torch.cat([early, late], 1)
    assert closed_form(streams, delay=True) > 10 * closed_form(streams)


@pytest.mark.parametrize("estimator", ["closed_form", "permutation"])
def test_scale_and_place_of_a_stream_do_not_matter(estimator: str) -> None:
    streams = noise(2, 3, 2, 20)
    moved = 7 + streams * torch.tensor([0.5, 3.0, 40.0])[:, None, None]
    a, b = (
        mmd(x, delay=False, estimator=estimator, bandwidths=BANDWIDTHS, generator=seeded()).estimate
        for x in (streams, moved)
    )
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_order_of_clips_does_not_matter_to_the_closed_form() -> None:
    streams = noise(5, 3, 2, 8)
    assert closed_form(streams) == pytest.approx(closed_form(streams.flip(0)), rel=1e-9)


def test_a_generator_repeats_its_permutations() -> None:
    assert torch.equal(draws(noise(1, 2, 2, 20), 3), draws(noise(1, 2, 2, 20), 3))


@pytest.mark.parametrize("estimator", ["closed_form", "permutation"])
def test_a_constant_dimension_has_a_finite_gradient(estimator: str) -> None:
    streams = noise(2, 2, 3, 10).float()
    streams[:, 0, 1] = 5.0
    streams[:, 1] = streams[:, 1].round()  # rows that are equal
    streams.requires_grad_()
    result = mmd(streams, delay=False, estimator=estimator, bandwidths=BANDWIDTHS, generator=seeded())
    result.estimate.backward()
    assert streams.grad is not None
    assert streams.grad.isfinite().all()


@given(
    st.sampled_from(["closed_form", "permutation"]),
    st.integers(2, 40),
    st.integers(1, 4),
    st.integers(1, 45),
    st.lists(st.sampled_from([0.1, 0.3, 1.0, 2.5, 5.0, 50.0]), min_size=1, max_size=5),
)
def test_tiles_of_any_size_are_the_dense_formula(
    estimator: str, count: int, codebooks: int, tile: int, bandwidths: list[float]
) -> None:
    streams = noise(1, codebooks, 2, count, seed=tile).cumsum(-1).requires_grad_()
    found = mmd(
        streams, delay=False, estimator=estimator, bandwidths=bandwidths, generator=seeded(), tile=tile
    ).estimate
    expected = reference(streams, estimator, bandwidths)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(estimate, streams)[0] for estimate in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("estimator", ["closed_form", "permutation"])
@pytest.mark.parametrize("unit", ["variance", "median"])
def test_single_precision_is_enough_at_the_size_of_the_paper(estimator: str, unit: str) -> None:
    """K D = 512 numbers a row, codes that repeat: the paper's bandwidths see little but equal rows."""
    codes = torch.randint(6, (4, 700), generator=seeded())
    codes[1] = torch.where(torch.rand(700, generator=seeded(1)) < 0.7, codes[0], codes[1])
    codebooks = torch.randn(4, 6, 128, generator=seeded(2))
    single = torch.stack([codebooks[k][codes[k]].T for k in range(4)])[None].requires_grad_()
    double = single.detach().double().requires_grad_()
    bandwidths = PAPER if unit == "variance" else (0.25, 0.5, 1.0)
    a, b = (
        mmd(x, delay=False, estimator=estimator, bandwidths=bandwidths, unit=unit, generator=seeded()).estimate
        for x in (single, double)
    )
    assert float(b.detach()) > 1e-4
    torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=0)
    ours, theirs = (torch.autograd.grad(estimate, x)[0] for estimate, x in ((a, single), (b, double)))
    assert float((ours - theirs).norm()) < 5e-3 * float(theirs.norm())


def test_the_closed_form_of_one_stream_is_0() -> None:
    assert closed_form(noise(1, 1, 3, 20)) == pytest.approx(0, abs=1e-12)


def test_the_median_unit_multiplies_the_median_distance() -> None:
    streams = noise(2, 3, 2, 40)
    rows = standardised(joint_rows(streams, delay=False))
    apart = torch.cdist(rows.flatten(1), rows.flatten(1)).square()[tuple(torch.triu_indices(80, 80, 1))]
    assert median_distance(rows) == pytest.approx(float(apart.median()))
    scaled = mmd(streams, delay=False, estimator="closed_form", bandwidths=[0.5, 2.0], unit="median")
    a = median_distance(rows)
    assert float(scaled.estimate) == pytest.approx(closed_form(streams, (0.5 * a, 2 * a)), rel=1e-9)


def test_the_released_code_divides_by_clips() -> None:
    """Independent streams of 64 clips and 50 frames read 12 (N - B) / (B (B - 1)) = 8.57 under a delay of K = 4."""
    streams = torch.randn(64, 4, 128, 50, generator=seeded())
    released = mmd(streams, delay=True, estimator="audiocraft", bandwidths=PAPER, generator=seeded())
    assert released.rows == 64 * 46
    assert float(released.loss) == pytest.approx(12 * (64 * 46 - 64) / (64 * 63), rel=1e-2)
    assert float(released.loss) == pytest.approx(8.57, abs=0.02)


def test_the_released_code_on_few_numbers_a_row_has_its_full_floor() -> None:
    """K D = 2 normals, whose kernels have the mean m^2, m = (1 + 2 / a)^(-1/2): the second term is most of it."""
    clips, rows = 16, 320
    streams = [noise(clips, 2, 1, rows // clips, seed=seed) for seed in range(40)]
    options = {"delay": False, "estimator": "audiocraft", "bandwidths": BANDWIDTHS}
    found = np.mean([float(mmd(each, generator=seeded(i), **options).estimate) for i, each in enumerate(streams)])
    means = [(1 + 2 / a) ** -0.5 for a in BANDWIDTHS]
    first = 2 * len(BANDWIDTHS) * (rows - clips) / (clips * (clips - 1))
    second = 2 * sum(m**2 for m in means) * rows * (rows - clips) / (clips**2 * (clips - 1))
    # x_i is codebook k of y_j once in N, as in the test of independent streams above.
    shared = 2 * (rows / clips) ** 2 * sum((1 / rows + (1 - 1 / rows) * m) ** 2 - m**2 for m in means)
    assert second > 5 * first
    assert found == pytest.approx(first + second - shared, rel=0.01)


def test_the_floor_is_the_mean_over_all_permutations() -> None:
    rows = noise(1, 3, 2, 4).cumsum(-1)
    orders = list(itertools.product(itertools.permutations(range(4)), repeat=2))  # of all codebooks but the first
    mean = np.mean(
        [
            closed_form(torch.stack([rows[:, 0], *(rows[:, k, :, list(order)] for k, order in enumerate(each, 1))], 1))
            for each in orders
        ]
    )
    found = above_floor(rows, delay=False, bandwidths=BANDWIDTHS)
    assert found == pytest.approx(closed_form(rows) - mean, abs=1e-9)


def test_without_its_floor_the_criterion_of_independent_streams_is_0() -> None:
    """At the paper's bandwidths and K D = 128 the closed form reads little but its floor, nearly A / N."""
    floors, rests = [], []
    for seed in range(20):
        streams = noise(1, 4, 32, 200, seed=seed)
        floors.append(closed_form(streams, PAPER))
        rests.append(above_floor(streams, delay=False, bandwidths=PAPER))
    assert np.mean(floors) == pytest.approx(len(PAPER) / 200, rel=0.2)
    assert abs(np.mean(rests)) < 0.02 * np.mean(floors)
    copied = noise(1, 1, 32, 200).expand(-1, 4, -1, -1)
    assert above_floor(copied, delay=False, bandwidths=PAPER) > 100 * np.std(rests)


def test_the_denominator_counts_clips_or_rows() -> None:
    streams = noise(6, 3, 2, 5)
    clips = mmd(
        streams, delay=False, estimator="permutation", bandwidths=PAPER, denominator="clips", generator=seeded()
    )
    assert float(clips.estimate) == pytest.approx(float(reference(streams, "permutation", PAPER, count=6)), rel=1e-9)
    first = streams[..., :1]  # one frame a clip: both count the same
    single = mmd(first, delay=False, estimator="permutation", bandwidths=PAPER, denominator="clips", generator=seeded())
    assert float(single.estimate) == pytest.approx(float(reference(first, "permutation", PAPER)), rel=1e-9)


@pytest.mark.parametrize(
    ("streams", "delay", "estimator", "complaint"),
    [
        (torch.zeros(2, 3, 4), False, "closed_form", r"\[B, K, D, T\], got shape \(2, 3, 4\)"),
        (torch.full((1, 2, 1, 4), torch.nan), False, "closed_form", "NaN or infinity"),
        (torch.full((1, 2, 1, 4), torch.inf), True, "permutation", "NaN or infinity"),
        (torch.zeros(1, 2, 1, 1), False, "closed_form", "the streams hold 1 row"),
        (torch.zeros(1, 3, 1, 3), True, "permutation", "the streams hold 1 row"),
        (torch.zeros(0, 3, 1, 3), False, "permutation", "the streams hold 0 row"),
        (torch.zeros(1, 4, 1, 3), True, "permutation", "3 frames; a delay over 4 codebooks needs 4"),
        (torch.zeros(2, 4, 1, 4), True, "audiocraft", "4 frames; a delay over 4 codebooks needs 5"),
        (torch.zeros(0, 3, 1, 5), True, "audiocraft", "the streams hold 0 row"),
        (torch.zeros(1, 2, 1, 4), False, "exact", "estimator is 'exact'"),
    ],
)
def test_bad_input_is_named(streams: Tensor, delay: bool, estimator: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mmd(streams, delay=delay, estimator=estimator, bandwidths=BANDWIDTHS)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"unit": "metre"}, "unit is 'metre'; it must be 'variance' or 'median'"),
        ({"denominator": "frames"}, "denominator is 'frames' over 2 clips"),
        ({"denominator": "clips"}, "denominator 'clips' goes with 'permutation' alone"),
        ({"estimator": "encodec"}, "estimator is 'encodec'"),
    ],
)
def test_options_that_do_not_go_together_are_named(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mmd(noise(2, 2, 1, 4), **{"delay": False, "estimator": "closed_form", "bandwidths": BANDWIDTHS, **options})


def test_rows_that_are_mostly_equal_have_no_median_distance() -> None:
    with pytest.raises(ValueError, match="the median distance of the rows is 0"):
        mmd(torch.zeros(1, 2, 1, 4), delay=False, estimator="closed_form", bandwidths=[1.0], unit="median")


def reference(streams: Tensor, estimator: str, bandwidths: Sequence[float], count: int | None = None) -> Tensor:
    """The dense formula, with the permutations that `seeded()` draws."""
    rows = standardised(joint_rows(streams, delay=False))
    if estimator == "closed_form":
        return dense.closed_form(rows, bandwidths)
    generator = seeded()
    order = [torch.randperm(len(rows), generator=generator) for _ in range(rows.shape[1])]
    return dense.permutation(rows, bandwidths, order, count)
