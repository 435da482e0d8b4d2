"""Every estimator against closed forms, an independent library or a slow reference; one pass against plain counting."""

import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from pipeline.dependence import information
from pipeline.dependence.information import ENTROPIES, Fingerprint, histograms, pairs


def _fingerprint(codes: np.ndarray) -> Fingerprint:
    return information.fingerprint(np.bincount(codes))


@given(seed=st.integers(0, 2**32 - 1), codebooks=st.integers(2, 4), size=st.integers(1, 40))
def test_plug_in_agrees_with_scikit_learn(seed: int, codebooks: int, size: int) -> None:
    codes = np.random.default_rng(seed).integers(size, size=(codebooks, 50)).astype(np.uint16)
    theirs = [mutual_info_score(codes[a], codes[b]) / np.log(2) for a, b in pairs(codebooks)]
    ours = information.information(histograms(codes, size))["plug_in"].mutual
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 5), st.integers(2, 4), st.integers(1, 30)))
def test_one_pass_in_chunks_counts_as_a_loop_does(seed: int, shape: tuple[int, int, int]) -> None:
    codes = np.random.default_rng(seed).integers(6, size=shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(information, "CHUNK", 7)
        counts = histograms(codes, 6)
    marginal, joint = np.zeros((shape[1], 6)), np.zeros((len(pairs(shape[1])), 6, 6))
    for clip in codes:
        for frame in clip.T:
            for k, code in enumerate(frame):
                marginal[k, code] += 1
            for pair, (a, b) in enumerate(pairs(shape[1])):
                joint[pair, frame[a], frame[b]] += 1
    np.testing.assert_array_equal(counts.marginal, marginal)
    np.testing.assert_array_equal(counts.joint.reshape(joint.shape), joint)


def test_memory_mapped_codes_count_alike(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(16, size=(5, 3, 40)).astype(np.uint16)
    np.save(tmp_path / "codes.npy", codes)
    mapped = histograms(np.load(tmp_path / "codes.npy", mmap_mode="r"), 16)
    flat = histograms(codes.transpose(1, 0, 2).reshape(3, -1), 16)
    np.testing.assert_array_equal(mapped.joint, flat.joint)


def test_entropies_of_few_frames_by_hand() -> None:
    """Counts 3, 1, 1: five frames in three cells."""
    histogram = information.fingerprint(np.array([3, 0, 1, 1]))
    plug_in = -(0.6 * math.log2(0.6) + 0.4 * math.log2(0.2))
    assert histogram.frames == 5
    assert information.plug_in(histogram) == pytest.approx(plug_in)
    assert information.miller_madow(histogram) == pytest.approx(plug_in + 2 / (10 * math.log(2)))
    coverage = 1 - 2 / 5
    terms = [coverage * n / 5 for n in (3, 1, 1)]
    expected = -sum(q * math.log2(q) / (1 - (1 - q) ** 5) for q in terms)
    assert information.chao_shen(histogram) == pytest.approx(expected)


def test_grassberger_agrees_with_its_recursion() -> None:
    """G(1) = -gamma - ln 2, G(2) = 2 + G(1), G(2n+1) = G(2n), G(2n+2) = G(2n) + 2 / (2n+1)."""
    counts = np.random.default_rng(0).integers(1, 30, size=50)
    counts[0] = 1_000_000
    values = {1: -np.euler_gamma - math.log(2)}
    values[2] = 2 + values[1]
    for n in range(1, 500_000):
        values[2 * n + 1] = values[2 * n]
        values[2 * n + 2] = values[2 * n] + 2 / (2 * n + 1)
    total = counts.sum()
    expected = math.log(total) - sum(n * values[n] for n in counts) / total
    assert information.grassberger(information.fingerprint(counts)) == pytest.approx(expected / math.log(2), rel=1e-10)


def _chao_wang_jost(cells: dict[int, int]) -> float:
    """The estimator's formula as its docstring has it, term by term, from how many cells were hit how often."""
    total, once, twice = sum(n * f for n, f in cells.items()), cells.get(1, 0), cells.get(2, 0)
    share = Decimal(1)
    with localcontext() as context:
        context.prec = 50
        if twice:
            share = Decimal(2 * twice) / ((total - 1) * once + 2 * twice)
        elif once:
            share = Decimal(2) / ((total - 1) * (once - 1) + 2)
        seen = 1 - share
        # The tail's two halves agree in as many digits as (1-A)^M has zeros.
        context.prec += math.ceil(-total * math.log10(seen)) if seen else 0
        harmonic = [Decimal(0), *accumulate(1 / Decimal(r) for r in range(1, total))]  # psi(n) + gamma, from n = 1
        entropy = sum((f * n * (harmonic[total - 1] - harmonic[n - 1]) for n, f in cells.items()), Decimal(0)) / total
        if once and seen:
            power, series = Decimal(1), Decimal(0)
            for r in range(1, total):
                power *= seen
                series += power / r
            entropy += Decimal(once) / total * (-share.ln() - series) / power
        return float(entropy / Decimal(2).ln())


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_chao_wang_jost_agrees_with_its_formula(counts: list[int]) -> None:
    estimate = information.chao_wang_jost(information.fingerprint(np.array(counts)))
    assert estimate == pytest.approx(_chao_wang_jost(Counter(counts)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("frames", "once", "twice"),
    [
        (1, 1, 0),
        (2, 2, 0),
        (2, 0, 1),
        (200, 0, 0),
        (200, 1, 0),
        (200, 2, 0),
        (200, 200, 0),
        (200, 198, 1),
        (200, 0, 100),
        (2_000, 1, 900),
        (2_000, 900, 500),
        (20_000, 19_996, 2),
        (20_000, 19_000, 500),
        (20_000, 3_000, 3_000),
        (300_000, 300_000, 0),
        (300_000, 200_000, 0),
    ],
)
def test_chao_wang_jost_is_exact_whatever_was_hit_once_and_twice(frames: int, once: int, twice: int) -> None:
    """M A runs from 7e-6 to 9e2; the other frames are all in one cell."""
    rest = frames - once - 2 * twice
    counts = np.repeat([1, 2, rest], [once, twice, rest > 0])
    estimate = information.chao_wang_jost(information.fingerprint(counts))
    assert estimate == pytest.approx(_chao_wang_jost(Counter(counts.tolist())), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("frames", [20_000, 60_000])
def test_chao_wang_jost_is_exact_where_most_cells_were_hit_once(frames: int) -> None:
    """Independent, even codes of the paper's codebook size: their mutual information by the formula itself."""
    codes = np.random.default_rng(0).integers(2048, size=(2, frames))
    counts = histograms(codes, 2048)
    first, second, joint = (
        _chao_wang_jost(Counter(each[each > 0].tolist())) for each in (*counts.marginal, *counts.joint)
    )
    estimate = information.information(counts)["chao_wang_jost"].mutual[0]
    assert estimate == pytest.approx(first + second - joint, abs=1e-9)


GRASSBERGER_OF_ONE = (np.euler_gamma + math.log(2)) / math.log(2)  # -G(1), bits


@pytest.mark.parametrize(
    ("name", "one_frame", "one_cell", "all_once"),
    [
        ("plug_in", 0, 0, math.log2(200)),
        ("miller_madow", 0, 0, math.log2(200) + 199 / (400 * math.log(2))),
        # G(200) = G(1) + sum of 2 / (2k+1), k < 100.
        (
            "grassberger",
            GRASSBERGER_OF_ONE,
            math.log2(200) + GRASSBERGER_OF_ONE - sum(2 / (2 * k + 1) for k in range(100)) / math.log(2),
            math.log2(200) + GRASSBERGER_OF_ONE,
        ),
        # A coverage of 1 / 200, so q = 1 / 200^2.
        ("chao_shen", 0, 0, 2 * math.log2(200) / 200 / (1 - (1 - 1 / 200**2) ** 200)),
        ("chao_wang_jost", 0, 0, 14.346517937689),
    ],
)
def test_entropies_at_the_extremes(name: str, one_frame: float, one_cell: float, all_once: float) -> None:
    """One frame; 200 frames in one cell; 200 frames in as many cells."""
    estimates = [ENTROPIES[name](information.fingerprint(np.array(each))) for each in ([1], [0, 200], [1] * 200)]
    assert estimates == pytest.approx([one_frame, one_cell, all_once], rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("entropy", ENTROPIES.values(), ids=ENTROPIES)
def test_every_entropy_is_right_where_frames_abound(entropy: Callable[[Fingerprint], float]) -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    codes = np.random.default_rng(0).choice(4, 400_000, p=p)
    assert entropy(_fingerprint(codes)) == pytest.approx(1.75, abs=0.005)
    assert entropy(_fingerprint(np.zeros(100, int))) == pytest.approx(0, abs=1e-4)


def test_one_estimator_stays_sane_where_cells_outnumber_frames() -> None:
    """200,000 frames of independent codes in 2,048 x 2,048 cells share nothing; the plug-in value is 4.4 bits."""
    codes = np.random.default_rng(0).integers(2048, size=(2, 200_000))
    estimates = information.information(histograms(codes, 2048))
    assert estimates["plug_in"].mutual[0] == pytest.approx(4.42, abs=0.01)
    assert estimates["chao_wang_jost"].mutual[0] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (np.zeros(4, int), r"\[K, M\] or \[n, K, T\]"),
        (np.zeros((1, 100), int), "at least 2 codebooks"),
        (np.zeros((2, 0), int), r"no frame: their shape is \(2, 0\)"),
        (np.zeros((0, 2, 100), int), "no frame"),
        (np.zeros((2, 100)), "integers, got float64$"),
        (np.full((2, 100), np.nan), "float64 that hold NaN"),
        (np.full((2, 100), 8), r"8\.\.8, outside 0\.\.7"),
        (np.full((2, 100), -1), r"-1\.\.-1, outside 0\.\.7"),
    ],
)
def test_bad_codes_are_named(codes: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        histograms(codes, 8)
