"""One codebook for all parts of the latent, against a slow loop and the grouped quantizer with equal codebooks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import params
from pipeline.codec.quantizer import GroupedVectorQuantizer, streams
from pipeline.codec.shared import SharedVectorQuantizer

K, C, D = 3, 16, 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.fixture
def quantizer() -> SharedVectorQuantizer:
    result = SharedVectorQuantizer(K, C, D)
    result.codebooks.copy_(noise(1, C, D // K, seed=5))
    result.sums.copy_(result.codebooks)
    return result


def parts(latent: Tensor) -> Tensor:
    """Every part of every frame, `[B, D, T]` -> `[B T K, D / K]`."""
    return latent.transpose(1, 2).reshape(-1, D // K)


def test_the_study_finds_it_by_name() -> None:
    assert params.choice("QUANTIZERS", "shared") is SharedVectorQuantizer


def test_it_has_one_codebook(quantizer: SharedVectorQuantizer) -> None:
    assert {name: tuple(value.shape) for name, value in quantizer.state_dict().items()} == {
        "codebooks": (1, C, 2),
        "hits": (1, C),
        "sums": (1, C, 2),
    }


def test_it_quantizes_as_a_grouped_one_of_equal_codebooks(quantizer: SharedVectorQuantizer) -> None:
    grouped = GroupedVectorQuantizer(K, C, D)
    grouped.codebooks.copy_(quantizer.codebooks.expand(K, -1, -1))
    latent = noise(2, D, 7)
    ours, theirs = quantizer(latent), grouped(latent)
    for name, value in theirs._asdict().items():
        torch.testing.assert_close(getattr(ours, name), value)
    assert torch.equal(quantizer.encode(latent), ours.codes)
    assert torch.equal(quantizer.vectors(ours.codes), ours.vectors)
    torch.testing.assert_close(quantizer.decode(ours.codes), theirs.latent)
    fewer = ours.codes[:, :1]
    assert torch.equal(quantizer.decode(fewer), grouped.decode(fewer))
    assert not quantizer.decode(fewer)[:, D // K :].any()


@given(seed=st.integers(0, 50))
def test_codes_are_the_nearest_and_follow_their_parts(seed: int) -> None:
    quantizer = SharedVectorQuantizer(K, C, D)
    quantizer.codebooks.copy_(noise(1, C, D // K, seed=seed + 100))
    latent = noise(2, D, 5, seed=seed)
    codes = quantizer.encode(latent)
    nearest = torch.cdist(parts(latent), quantizer.codebooks[0]).argmin(-1).view(2, 5, K).transpose(1, 2)
    assert torch.equal(codes, nearest)
    turned = latent.unflatten(1, (K, -1)).roll(1, 1).flatten(1, 2)
    assert torch.equal(quantizer.encode(turned), codes.roll(1, 1))


def test_moving_averages_are_over_all_parts(quantizer: SharedVectorQuantizer) -> None:
    """N <- 0.9 N + 0.1 n / s, m <- 0.9 m + 0.1 sum x / s, e = m / N, s = 2 30 K / C, codes chosen before the move."""
    latent = noise(2, D, 30)
    hits, sums, share = 0.9 * quantizer.hits[0], 0.9 * quantizer.sums[0], 60 * K / C
    for x in parts(latent):
        code = int((quantizer.codebooks[0] - x).square().sum(-1).argmin())
        hits[code] += 0.1 / share
        sums[code] += 0.1 * x / share
    quantizer.update(latent, decay=0.9, dead_share=0.0, generator=seeded())
    torch.testing.assert_close(quantizer.codebooks[0], sums / hits[:, None])


def test_kmeans_finds_what_any_part_holds() -> None:
    """Part k of the latent lies at one of two points of its own: 2 K centres for all."""
    points = 10 * noise(K, 2, D // K)
    side = torch.randint(2, (K, 200), generator=seeded(1))
    latent = torch.cat([points[k][side[k]] for k in range(K)], dim=1).T[None]
    best = torch.inf
    for seed in range(20):  # k-means may stop where two points share a centre
        quantizer = SharedVectorQuantizer(K, 2 * K, D)
        quantizer.initialise(latent, 20, seeded(seed))
        best = min(best, float((quantizer.decode(quantizer.encode(latent)) - latent).abs().max()))
    assert best < 1e-4


def test_a_dead_code_is_put_on_a_part(quantizer: SharedVectorQuantizer) -> None:
    quantizer.codebooks[0, 3] = quantizer.sums[0, 3] = 1000.0
    latent = noise(4, D, 100)
    for _ in range(60):
        quantizer.update(latent, decay=0.9, dead_share=0.05, generator=seeded())
        if quantizer.codebooks[0, 3].abs().max() < 100:
            break
    assert float((parts(latent) - quantizer.codebooks[0, 3]).norm(dim=-1).min()) < 1e-5


@pytest.mark.parametrize("which", ["quantized", "input"])
def test_streams_reach_the_latent_by_the_identity(quantizer: SharedVectorQuantizer, which: str) -> None:
    latent = noise(2, D, 5).requires_grad_()
    found = streams(quantizer(latent), which)
    assert found.shape == (2, K, D // K, 5)
    weights = noise(*found.shape, seed=7)
    (found * weights).sum().backward()
    torch.testing.assert_close(latent.grad, weights.flatten(1, 2))


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (torch.zeros(1, K + 1, 2, dtype=torch.long), r"K up to 3, got \(1, 4, 2\)"),
        (torch.zeros(K, 2, dtype=torch.long), r"\[B, K, T\]"),
        (torch.full((1, K, 2), C), r"codes lie in \[16, 16\], the codebooks in \[0, 15\]"),
    ],
)
def test_bad_codes_are_named(quantizer: SharedVectorQuantizer, codes: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        quantizer.decode(codes)


def test_parts_that_do_not_divide_the_latent_are_named() -> None:
    with pytest.raises(ValueError, match="a latent of 6 dimensions has no 4 parts of equal size"):
        SharedVectorQuantizer(4, C, D)
