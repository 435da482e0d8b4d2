"""Every estimator against closed forms, an independent library or a slow reference; one pass against plain counting."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma
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
        found = histograms(codes, 6)
    marginal, joint = np.zeros((shape[1], 6)), np.zeros((len(pairs(shape[1])), 6, 6))
    for clip in codes:
        for frame in clip.T:
            for k, code in enumerate(frame):
                marginal[k, code] += 1
            for pair, (a, b) in enumerate(pairs(shape[1])):
                joint[pair, frame[a], frame[b]] += 1
    np.testing.assert_array_equal(found.marginal, marginal)
    np.testing.assert_array_equal(found.joint.reshape(joint.shape), joint)


def test_memory_mapped_codes_count_alike(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(16, size=(5, 3, 40)).astype(np.uint16)
    np.save(tmp_path / "codes.npy", codes)
    mapped = histograms(np.load(tmp_path / "codes.npy", mmap_mode="r"), 16)
    flat = histograms(codes.transpose(1, 0, 2).reshape(3, -1), 16)
    np.testing.assert_array_equal(mapped.joint, flat.joint)


def test_entropies_of_few_frames_by_hand() -> None:
    """Counts 3, 1, 1: five frames in three cells."""
    found = information.fingerprint(np.array([3, 0, 1, 1]))
    plug_in = -(0.6 * math.log2(0.6) + 0.4 * math.log2(0.2))
    assert found.frames == 5
    assert information.plug_in(found) == pytest.approx(plug_in)
    assert information.miller_madow(found) == pytest.approx(plug_in + 2 / (10 * math.log(2)))
    coverage = 1 - 2 / 5
    terms = [coverage * n / 5 for n in (3, 1, 1)]
    expected = -sum(q * math.log2(q) / (1 - (1 - q) ** 5) for q in terms)
    assert information.chao_shen(found) == pytest.approx(expected)


def test_grassberger_agrees_with_its_recursion() -> None:
    """G(1) = -gamma - ln 2, G(2) = 2 + G(1), G(2n+1) = G(2n), G(2n+2) = G(2n) + 2 / (2n+1)."""
    counts = np.random.default_rng(0).integers(1, 30, size=50)
    values = {1: -np.euler_gamma - math.log(2)}
    values[2] = 2 + values[1]
    for n in range(1, 20):
        values[2 * n + 1] = values[2 * n]
        values[2 * n + 2] = values[2 * n] + 2 / (2 * n + 1)
    total = counts.sum()
    expected = math.log(total) - sum(n * values[n] for n in counts) / total
    assert information.grassberger(information.fingerprint(counts)) == pytest.approx(expected / math.log(2))


@given(counts=st.lists(st.integers(1, 6), min_size=2, max_size=20))
def test_chao_wang_jost_agrees_with_its_sum(counts: list[int]) -> None:
    total, once, twice = sum(counts), counts.count(1), counts.count(2)
    expected = sum(n / total * (digamma(total) - digamma(n)) for n in counts)
    if once:
        a = 2 * twice / ((total - 1) * once + 2 * twice) if twice else 2 / ((total - 1) * (once - 1) + 2)
        tail = -math.log(a) - sum((1 - a) ** r / r for r in range(1, total)) if a < 1 else 0.0
        expected += once / total * (1 - a) ** (1 - total) * tail if a < 1 else 0.0
    found = information.chao_wang_jost(information.fingerprint(np.array(counts)))
    assert found == pytest.approx(expected / math.log(2), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("entropy", ENTROPIES.values(), ids=ENTROPIES)
def test_every_entropy_is_right_where_frames_abound(entropy: Callable[[Fingerprint], float]) -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    codes = np.random.default_rng(0).choice(4, 400_000, p=p)
    assert entropy(_fingerprint(codes)) == pytest.approx(1.75, abs=0.005)
    assert entropy(_fingerprint(np.zeros(100, int))) == pytest.approx(0, abs=1e-4)


def test_one_estimator_stays_sane_where_cells_outnumber_frames() -> None:
    """200,000 frames of independent codes in 2,048 x 2,048 cells share nothing; the plug-in value is 4.4 bits."""
    codes = np.random.default_rng(0).integers(2048, size=(2, 200_000))
    found = information.information(histograms(codes, 2048))
    assert found["plug_in"].mutual[0] == pytest.approx(4.42, abs=0.01)
    assert found["chao_wang_jost"].mutual[0] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (np.zeros(4, int), r"\[K, M\] or \[n, K, T\]"),
        (np.zeros((1, 100), int), "at least 2 codebooks"),
        (np.zeros((2, 100)), "integers, got float64$"),
        (np.full((2, 100), np.nan), "float64 that hold NaN"),
        (np.full((2, 100), 8), r"8\.\.8, outside 0\.\.7"),
        (np.full((2, 100), -1), r"-1\.\.-1, outside 0\.\.7"),
    ],
)
def test_bad_codes_are_named(codes: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        histograms(codes, 8)
