"""Codes against an independent library, gradients that are the identity, moving averages against a slow loop."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.codec.independence import mmd
from pipeline.codec.quantizer import (
    QUANTIZERS,
    GroupedVectorQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
    streams,
)

K, C, D = 3, 16, 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.fixture(params=QUANTIZERS)
def quantizer(request: pytest.FixtureRequest) -> VectorQuantizer:
    result = QUANTIZERS[request.param](K, C, D)
    result.codebooks.copy_(noise(*result.codebooks.shape, seed=5) / torch.arange(1, K + 1)[:, None, None])
    result.sums.copy_(result.codebooks)
    return result


def by_hand(quantizer: VectorQuantizer, frame: Tensor) -> tuple[list[Tensor], list[int]]:
    """What each codebook quantizes of a frame `[D]`, and the code nearest to it."""
    part, left, _ = BY_HAND[type(quantizer)]
    inputs, codes = [], []
    for k, codebook in enumerate(quantizer.codebooks):
        x = part(frame, k)
        codes.append(min(range(len(codebook)), key=lambda code: float((x - codebook[code]).square().sum())))
        inputs.append(x)
        frame = left(frame, codebook[codes[-1]])
    return inputs, codes


# Of each quantizer, what codebook k quantizes of what is left of a frame, what its vector leaves, and the latent. One
# without a reference of its own is not tested by that of another.
BY_HAND: dict[type[VectorQuantizer], tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    ResidualVectorQuantizer: (lambda left, k: left, lambda left, vector: left - vector, lambda vectors: vectors.sum(1)),
    GroupedVectorQuantizer: (
        lambda frame, k: frame[2 * k : 2 * k + 2],
        lambda frame, vector: frame,
        lambda vectors: vectors.flatten(1, 2),
    ),
}


def joined(quantizer: VectorQuantizer, vectors: Tensor) -> Tensor:
    return BY_HAND[type(quantizer)][2](vectors)


def test_every_quantizer_has_a_reference() -> None:
    assert set(BY_HAND) == set(QUANTIZERS.values())


def test_every_field_is_the_one_made_by_hand(quantizer: VectorQuantizer) -> None:
    latent = noise(2, D, 7)
    result = quantizer(latent)
    for b in range(2):
        for t in range(7):
            inputs, codes = by_hand(quantizer, latent[b, :, t])
            assert result.codes[b, :, t].tolist() == codes
            torch.testing.assert_close(result.inputs[b, ..., t], torch.stack(inputs))
            vectors = torch.stack([quantizer.codebooks[k][code] for k, code in enumerate(codes)])
            assert torch.equal(result.vectors[b, ..., t], vectors)
    assert torch.equal(result.codes, quantizer.encode(latent))
    torch.testing.assert_close(result.latent, joined(quantizer, result.vectors))
    torch.testing.assert_close(result.latent, quantizer.decode(result.codes))
    assert float(result.commitment) == pytest.approx(float((result.inputs - result.vectors).square().mean()), rel=1e-5)


def test_codebooks_without_codes_add_0(quantizer: VectorQuantizer) -> None:
    codes = quantizer.encode(noise(2, D, 9))
    vectors = quantizer.vectors(codes)
    for k in range(1, K):
        vectors[:, -k:] = 0
        torch.testing.assert_close(quantizer.decode(codes[:, :-k]), joined(quantizer, vectors))


@pytest.mark.slow
def test_residual_codes_are_those_of_vector_quantize_pytorch() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vector_quantize_pytorch import ResidualVQ

    other = ResidualVQ(dim=D, num_quantizers=K, codebook_size=C).eval()
    assert_same(ResidualVectorQuantizer(K, C, D), other, other.layers)


@pytest.mark.slow
def test_grouped_codes_are_those_of_vector_quantize_pytorch() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vector_quantize_pytorch import GroupedResidualVQ

    other = GroupedResidualVQ(dim=D, num_quantizers=1, groups=K, codebook_size=C).eval()
    assert_same(GroupedVectorQuantizer(K, C, D), other, [group.layers[0] for group in other.rvqs])


def assert_same(quantizer: VectorQuantizer, other: nn.Module, layers: Iterable[Any]) -> None:
    latent = noise(4, D, 200)
    quantizer.initialise(latent, 10, seeded())
    for layer, codebook in zip(layers, quantizer.codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook[None])
        layer._codebook.initted.fill_(True)
    vectors, codes, _ = other(latent.transpose(1, 2))
    codes = codes.movedim(0, -2).flatten(-2) if codes.ndim == 4 else codes  # [K, B, T, 1] where grouped
    assert torch.equal(quantizer.encode(latent), codes.transpose(1, 2))
    assert all(len(stream.unique()) == C for stream in codes.unbind(-1))
    torch.testing.assert_close(quantizer(latent).latent, vectors.transpose(1, 2))


@given(st.integers(1, 3), st.integers(1, 6))
def test_codes_come_back_from_their_own_vectors(clips: int, frames: int) -> None:
    """Codebooks on scales far apart: the sum of the vectors names its codes."""
    quantizer = ResidualVectorQuantizer(K, 4, 2)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    quantizer.codebooks.copy_(torch.stack([corners * 10.0**-k for k in range(K)]))
    codes = torch.randint(4, (clips, K, frames), generator=seeded(frames))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_the_gradient_passes_straight_through(quantizer: VectorQuantizer) -> None:
    latent, upstream = noise(2, D, 5).requires_grad_(), noise(2, D, 5, seed=1)
    quantizer(latent).latent.backward(upstream)
    assert torch.equal(latent.grad, upstream)


def test_the_commitment_pulls_each_input_to_its_code(quantizer: VectorQuantizer) -> None:
    latent = noise(2, D, 5).requires_grad_()
    result = quantizer(latent)
    result.commitment.backward()
    misses = (result.inputs - result.vectors).detach()
    torch.testing.assert_close(latent.grad, 2 * joined(quantizer, misses) / misses.numel())


@pytest.mark.parametrize("which", ["quantized", "input", "residual"])
def test_a_stream_has_its_value_and_the_identity_as_gradient(quantizer: VectorQuantizer, which: str) -> None:
    latent = noise(2, D, 5).requires_grad_()
    result = quantizer(latent)
    assert not result.vectors.requires_grad
    found = streams(result, which)
    values = {"quantized": result.vectors, "input": result.inputs, "residual": result.inputs - result.vectors}
    torch.testing.assert_close(found, values[which])
    upstream = noise(*found.shape, seed=1)
    found.backward(upstream)
    torch.testing.assert_close(latent.grad, joined(quantizer, upstream))


def test_each_segment_is_decoded_from_as_many_codebooks_as_it_keeps(quantizer: VectorQuantizer) -> None:
    latent = noise(3, D, 7).requires_grad_()
    whole, kept = quantizer(latent), quantizer(latent, torch.tensor([1, 2, 3]))
    for segment in range(3):
        expected = quantizer.decode(whole.codes[segment : segment + 1, : segment + 1])
        torch.testing.assert_close(kept.latent[segment : segment + 1], expected)
    for name in ("codes", "inputs", "vectors", "commitment"):
        assert torch.equal(getattr(whole, name), getattr(kept, name))
    upstream = noise(3, D, 7, seed=1)
    kept.latent.backward(upstream)
    assert torch.equal(latent.grad, upstream)


def test_only_residual_codebooks_have_an_order() -> None:
    assert {name: kind.ordered for name, kind in QUANTIZERS.items()} == {"residual": True, "grouped": False}


def nemo_loss(rows: Tensor, bandwidths: list[float], generator: torch.Generator, *, freedom: int = 1) -> float:
    """NVIDIA NeMo's MMDLoss of rows `[N, C, D]`, pair by pair: its variance has N - 1 degrees of freedom."""
    count = len(rows)
    x = (rows - rows.mean(0)) / (rows.var(0, correction=freedom) + 1e-8).sqrt()
    y = torch.stack([x[torch.randperm(count, generator=generator), c] for c in range(rows.shape[1])], 1)
    total = 0.0
    for i in range(count):
        for a in bandwidths:
            within = [((z - z[i]).flatten(1).square().sum(1) / (-2 * a)).exp() for z in (x, y)]
            across = ((y - x[i]).flatten(1).square().sum(1) / (-2 * a)).exp()
            total += float(sum(each.sum() - 1 for each in within)) / (count * (count - 1))
            total -= 2 / count**2 * float(across.sum())
    return max(total, 0.0)


@pytest.mark.parametrize(
    ("stream", "fold"),
    [
        ("quantized", lambda q: q.permute(0, 3, 1, 2).flatten(0, 1)),  # codebooks of a frame
        ("embedding", lambda q: q.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)[..., None]),  # numbers of a frame
        ("time", lambda q: q.flatten(1, 2).transpose(1, 2)),  # frames of a segment
    ],
)
def test_streams_of_a_grouped_quantizer_are_what_nemos_losses_compare(
    stream: str, fold: Callable[[Tensor], Tensor]
) -> None:
    """Equal but for the degrees of freedom, 0.3 % of the estimate; to rounding where bandwidths make up for them."""
    quantizer, bandwidths = GroupedVectorQuantizer(K, C, D), [1.0, 5.0, 10.0]
    clips, frames = (600, 3) if stream == "time" else (30, 20)
    latent = noise(clips, 1, 1) + noise(clips, D, frames, seed=1)  # what a segment's numbers and frames share, and not
    quantizer.initialise(latent, 10, seeded())
    result = quantizer(latent)
    rows = fold(result.vectors).double()
    assert len(rows) == 600

    def ours(widths: list[float]) -> float:
        tied = streams(result, stream)
        return float(mmd(tied, delay=False, estimator="permutation", bandwidths=widths, generator=seeded(3)).loss)

    theirs = nemo_loss(rows, bandwidths, seeded(3))
    assert theirs > 0.02
    assert ours([a * 600 / 599 for a in bandwidths]) == pytest.approx(theirs, rel=1e-4)
    assert ours(bandwidths) == pytest.approx(theirs, rel=3e-3)
    assert ours(bandwidths) == pytest.approx(nemo_loss(rows, bandwidths, seeded(3), freedom=0), rel=1e-4)


@pytest.mark.parametrize("which", ["embedding", "time"])
def test_a_stream_of_numbers_or_frames_has_the_gradient_of_the_quantized_one(
    quantizer: VectorQuantizer, which: str
) -> None:
    latent = noise(2, D, 5).requires_grad_()
    result = quantizer(latent)
    found, plain = streams(result, which), streams(result, "quantized")
    b, k, d, t = plain.shape
    upstream = noise(*found.shape, seed=1)
    folded = torch.zeros_like(plain)
    for i, j in [(i, j) for i in range(k) for j in range(d)]:
        folded[:, i, j] = upstream[:, i * d + j, 0] if which == "embedding" else upstream[:, :, i * d + j, 0]
        value = found[:, i * d + j, 0] if which == "embedding" else found[:, :, i * d + j, 0]
        assert torch.equal(value, plain[:, i, j])
    assert found.numel() == b * k * d * t
    found.backward(upstream, retain_graph=True)
    (expected,) = torch.autograd.grad(plain, latent, folded)
    torch.testing.assert_close(latent.grad, expected)


def test_the_quantized_stream_is_exactly_its_code(quantizer: VectorQuantizer) -> None:
    """Equal codes must stay equal rows: a kernel of bandwidth 0.1 would tell rounding apart."""
    result = quantizer(100 * noise(2, D, 5))
    assert torch.equal(streams(result, "quantized"), result.vectors)


def test_an_unknown_stream_is_named(quantizer: VectorQuantizer) -> None:
    with pytest.raises(ValueError, match="stream is 'codes'"):
        streams(quantizer(noise(1, D, 2)), "codes")


@pytest.mark.parametrize("which", ["quantized", "input"])
def test_parts_of_noise_are_independent_and_repeated_parts_are_not(which: str) -> None:
    """A grouped quantizer's streams are what its groups hold, and nothing that quantizing added."""
    quantizer = GroupedVectorQuantizer(2, C, D)
    found = {}
    for name, latent in {"apart": noise(1, D, 1000), "repeated": noise(1, D // 2, 1000).repeat(1, 2, 1)}.items():
        quantizer.initialise(latent, 10, seeded())
        tied = streams(quantizer(latent), which)
        found[name] = float(mmd(tied, delay=False, estimator="closed_form", bandwidths=[1, 5]).estimate)
    assert found["apart"] < 0.02 * found["repeated"]


def test_groups_that_do_not_divide_the_latent_are_named() -> None:
    with pytest.raises(ValueError, match="a latent of 6 dimensions has no 4 parts of equal size"):
        GroupedVectorQuantizer(4, C, D)


def test_using_the_quantizer_leaves_it_as_it_is(quantizer: VectorQuantizer) -> None:
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(noise(2, D, 5).requires_grad_()).latent.sum().backward()
    quantizer.encode(noise(2, D, 5))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    assert not list(quantizer.parameters())


def test_moving_averages_follow_their_equation(quantizer: VectorQuantizer) -> None:
    """N <- 0.9 N + 0.1 n / s, m <- 0.9 m + 0.1 sum x / s, e = m / N, s = 60 / C, codes chosen before the move."""
    latent = noise(2, D, 30)
    hits, sums = 0.9 * quantizer.hits, 0.9 * quantizer.sums
    for frame in latent.transpose(1, 2).reshape(-1, D):
        for k, (x, code) in enumerate(zip(*by_hand(quantizer, frame), strict=True)):
            hits[k, code] += 0.1 * C / 60
            sums[k, code] += 0.1 * C / 60 * x
    quantizer.update(latent, decay=0.9, dead_share=0.0, generator=seeded())
    torch.testing.assert_close(quantizer.codebooks, sums / hits[:, :, None])


def test_moving_averages_come_to_rest_on_the_mean_of_their_frames() -> None:
    quantizer = ResidualVectorQuantizer(1, 1, D)
    latent = 3 + noise(2, D, 30)
    for _ in range(200):
        quantizer.update(latent, decay=0.9, dead_share=0.0, generator=seeded())
    torch.testing.assert_close(quantizer.codebooks[0, 0], latent.mean((0, 2)))


def test_kmeans_finds_clusters_and_then_what_they_leave() -> None:
    coarse = 100 * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    fine = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    frames = (coarse[:, None] + fine).reshape(-1, 2).repeat(20, 1)
    quantizer = ResidualVectorQuantizer(2, 4, 2)
    found = []
    for seed in range(20):  # k-means may stop where two clusters share a centre
        quantizer.initialise(frames.T[None], 50, seeded(seed))
        found.append(float((quantizer.decode(quantizer.encode(frames.T[None])) - frames.T[None]).abs().max()))
        if found[-1] < 1e-3:
            break
    assert found[-1] < 1e-3
    torch.testing.assert_close(
        quantizer.codebooks[0][quantizer.codebooks[0, :, 0].argmax()], coarse[0], rtol=0, atol=1e-3
    )


def test_kmeans_lowers_the_distance_with_every_iteration(quantizer: VectorQuantizer) -> None:
    latent = noise(4, D, 100)
    misses = []
    for iterations in (1, 3, 10):
        quantizer.initialise(latent, iterations, seeded())
        misses.append(float((latent - quantizer.decode(quantizer.encode(latent))).square().mean()))
    assert misses[0] > misses[1] > misses[2]


def test_the_first_update_keeps_what_kmeans_found(quantizer: VectorQuantizer) -> None:
    latent = noise(4, D, 10)  # fewer frames than the start is fitted on, as in training
    quantizer.initialise(noise(4, D, 200), 20, seeded())
    before = quantizer.codebooks.clone()
    quantizer.update(latent, decay=0.99, dead_share=0.2, generator=seeded())
    assert float((quantizer.codebooks - before).norm() / before.norm()) < 0.1


def test_a_dead_code_is_put_on_a_frame(quantizer: VectorQuantizer) -> None:
    quantizer.codebooks[0, 3] = quantizer.sums[0, 3] = 1000.0
    latent = noise(4, D, 100)
    frames = quantizer(latent).inputs[:, 0].transpose(1, 2).flatten(0, 1)
    for _ in range(60):
        quantizer.update(latent, decay=0.9, dead_share=0.05, generator=seeded())
        if quantizer.codebooks[0, 3].abs().max() < 100:
            break
    revived = quantizer.codebooks[0, 3]
    assert float((frames - revived).norm(dim=-1).min()) < 1e-5
    assert torch.bincount(quantizer.encode(latent)[:, 0].flatten(), minlength=C)[3] > 0


def test_a_dead_codebook_has_one_code_for_everything_and_comes_to_life(quantizer: VectorQuantizer) -> None:
    """All of its codes are one vector, as before k-means or after silence: the first of them is taken."""
    latent = noise(4, D, 100)
    quantizer.codebooks[1] = quantizer.sums[1] = 0.0
    result = quantizer(latent)
    assert not result.codes[:, 1].any()
    assert not result.vectors[:, 1].any()
    assert result.latent.isfinite().all()
    for _ in range(60):
        quantizer.update(latent, decay=0.9, dead_share=0.05, generator=seeded())
    assert len(quantizer.encode(latent)[:, 1].unique()) > C // 2


def test_silence_leaves_codebooks_finite(quantizer: VectorQuantizer) -> None:
    silence = torch.zeros(2, D, 20)
    quantizer.initialise(silence, 3, seeded())
    for _ in range(20):
        quantizer.update(silence, decay=0.9, dead_share=0.2, generator=seeded())
    assert quantizer.codebooks.isfinite().all()
    result = quantizer(silence.requires_grad_())
    assert float(result.latent.detach().abs().max()) == 0
    (result.latent.sum() + result.commitment).backward()
    assert silence.grad.isfinite().all()


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (torch.zeros(1, K + 1, 2, dtype=torch.long), r"K up to 3, got \(1, 4, 2\)"),
        (torch.zeros(K, 2, dtype=torch.long), r"\[B, K, T\]"),
        (torch.full((1, K, 2), C), r"codes lie in \[16, 16\], the codebooks in \[0, 15\]"),
        (torch.full((1, K, 2), -1), r"codes lie in \[-1, -1\]"),
    ],
)
def test_bad_codes_are_named(quantizer: VectorQuantizer, codes: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        quantizer.decode(codes)


def test_kmeans_of_too_few_frames_says_what_to_raise(quantizer: VectorQuantizer) -> None:
    with pytest.raises(ValueError, match="k-means of 16 codes needs as many frames and has 5: raise"):
        quantizer.initialise(noise(1, D, 5), 3, seeded())
