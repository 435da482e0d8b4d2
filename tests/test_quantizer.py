"""Codes against an independent library, gradients that are the identity, moving averages against a slow loop."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.quantizer import ResidualVectorQuantizer, streams

K, C, D = 3, 16, 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.fixture
def quantizer() -> ResidualVectorQuantizer:
    result = ResidualVectorQuantizer(K, C, D)
    result.codebooks.copy_(noise(K, C, D, seed=5) / torch.arange(1, K + 1)[:, None, None])
    result.sums.copy_(result.codebooks)
    return result


def nearest_by_hand(quantizer: ResidualVectorQuantizer, frame: Tensor) -> list[int]:
    codes = []
    for codebook in quantizer.codebooks:
        codes.append(min(range(len(codebook)), key=lambda code: float((frame - codebook[code]).square().sum())))
        frame = frame - codebook[codes[-1]]
    return codes


def test_codes_are_the_nearest_one_codebook_after_the_other(quantizer: ResidualVectorQuantizer) -> None:
    latent = noise(2, D, 7)
    codes = quantizer.encode(latent)
    assert codes.shape == (2, K, 7)
    for b in range(2):
        for t in range(7):
            assert codes[b, :, t].tolist() == nearest_by_hand(quantizer, latent[b, :, t])


@pytest.mark.slow
def test_codes_are_those_of_vector_quantize_pytorch(quantizer: ResidualVectorQuantizer) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vector_quantize_pytorch import ResidualVQ

    other = ResidualVQ(dim=D, num_quantizers=K, codebook_size=C).eval()
    for layer, codebook in zip(other.layers, quantizer.codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook[None])
        layer._codebook.initted.fill_(True)
    latent = noise(4, D, 50)
    vectors, codes, _ = other(latent.transpose(1, 2))
    torch.testing.assert_close(quantizer.encode(latent), codes.transpose(1, 2), rtol=0, atol=0)
    torch.testing.assert_close(quantizer(latent).latent, vectors.transpose(1, 2))


def test_forward_says_the_same_in_every_field(quantizer: ResidualVectorQuantizer) -> None:
    latent = noise(2, D, 9)
    result = quantizer(latent)
    assert torch.equal(result.codes, quantizer.encode(latent))
    torch.testing.assert_close(result.latent, quantizer.decode(result.codes))
    torch.testing.assert_close(result.vectors.sum(1), quantizer.decode(result.codes))
    for k in range(K):
        torch.testing.assert_close(result.vectors[:, : k + 1].sum(1), quantizer.decode(result.codes[:, : k + 1]))
    left = latent[:, None] - result.vectors.cumsum(1)  # what remains after each codebook is what each missed by
    assert float(result.commitment) == pytest.approx(float(left.square().mean()), rel=1e-5)


@given(st.integers(1, 3), st.integers(1, 6))
def test_codes_come_back_from_their_own_vectors(clips: int, frames: int) -> None:
    """Codebooks on scales far apart: the sum of the vectors names its codes."""
    quantizer = ResidualVectorQuantizer(K, 4, 2)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    quantizer.codebooks.copy_(torch.stack([corners * 10.0**-k for k in range(K)]))
    codes = torch.randint(4, (clips, K, frames), generator=seeded(frames))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_the_gradient_passes_straight_through(quantizer: ResidualVectorQuantizer) -> None:
    latent, upstream = noise(2, D, 5).requires_grad_(), noise(2, D, 5, seed=1)
    quantizer(latent).latent.backward(upstream)
    assert torch.equal(latent.grad, upstream)


def test_the_commitment_pulls_each_input_to_its_code(quantizer: ResidualVectorQuantizer) -> None:
    latent = noise(2, D, 5).requires_grad_()
    result = quantizer(latent)
    result.commitment.backward()
    misses = latent.detach()[:, None] - result.vectors.cumsum(1)
    torch.testing.assert_close(latent.grad, 2 * misses.sum(1) / misses.numel())


@pytest.mark.parametrize("which", ["quantized", "input", "residual"])
def test_a_stream_has_its_value_and_the_identity_as_gradient(quantizer: ResidualVectorQuantizer, which: str) -> None:
    latent = noise(2, D, 5).requires_grad_()
    vectors = quantizer(latent).vectors
    assert not vectors.requires_grad
    found = streams(latent, vectors, which)
    for k in range(K):
        spent = vectors[:, :k].sum(1)
        expected = {"quantized": vectors[:, k], "input": latent - spent, "residual": latent - spent - vectors[:, k]}
        torch.testing.assert_close(found[:, k], expected[which])
    upstream = noise(2, K, D, 5, seed=1)
    found.backward(upstream)
    torch.testing.assert_close(latent.grad, upstream.sum(1))


def test_the_quantized_stream_is_exactly_its_code(quantizer: ResidualVectorQuantizer) -> None:
    """Equal codes must stay equal rows: a kernel of bandwidth 0.1 would tell rounding apart."""
    latent = 100 * noise(2, D, 5)
    vectors = quantizer(latent).vectors
    assert torch.equal(streams(latent, vectors, "quantized"), vectors)


def test_an_unknown_stream_is_named() -> None:
    with pytest.raises(ValueError, match="stream is 'codes'"):
        streams(noise(1, D, 2), noise(1, K, D, 2), "codes")


def test_using_the_quantizer_leaves_it_as_it_is(quantizer: ResidualVectorQuantizer) -> None:
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(noise(2, D, 5).requires_grad_()).latent.sum().backward()
    quantizer.encode(noise(2, D, 5))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    assert not list(quantizer.parameters())


def test_moving_averages_follow_their_equation(quantizer: ResidualVectorQuantizer) -> None:
    """N <- 0.9 N + 0.1 n / s, m <- 0.9 m + 0.1 sum x / s, e = m / N, s = 60 / C, codes chosen before the move."""
    latent = noise(2, D, 30)
    frames = latent.transpose(1, 2).reshape(-1, D)
    codes = quantizer.encode(latent).transpose(1, 2).reshape(-1, K)
    hits, sums = 0.9 * quantizer.hits, 0.9 * quantizer.sums
    for frame, chosen in zip(frames, codes.tolist(), strict=True):
        for k, code in enumerate(chosen):
            hits[k, code] += 0.1 * C / 60
            sums[k, code] += 0.1 * C / 60 * frame
            frame = frame - quantizer.codebooks[k, code]
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


def test_kmeans_lowers_the_distance_with_every_iteration() -> None:
    latent = noise(4, D, 100)
    misses = []
    for iterations in (1, 3, 10):
        quantizer = ResidualVectorQuantizer(K, C, D)
        quantizer.initialise(latent, iterations, seeded())
        misses.append(float((latent - quantizer.decode(quantizer.encode(latent))).square().mean()))
    assert misses[0] > misses[1] > misses[2]


def test_the_first_update_keeps_what_kmeans_found() -> None:
    latent = noise(4, D, 10)  # fewer frames than the start is fitted on, as in training
    quantizer = ResidualVectorQuantizer(K, C, D)
    quantizer.initialise(noise(4, D, 200), 20, seeded())
    before = quantizer.codebooks.clone()
    quantizer.update(latent, decay=0.99, dead_share=0.2, generator=seeded())
    assert float((quantizer.codebooks - before).norm() / before.norm()) < 0.1


def test_a_dead_code_is_put_on_a_frame(quantizer: ResidualVectorQuantizer) -> None:
    quantizer.codebooks[0, 3] = quantizer.sums[0, 3] = 1000.0
    latent = noise(4, D, 100)
    frames = latent.transpose(1, 2).reshape(-1, D)
    for _ in range(60):
        quantizer.update(latent, decay=0.9, dead_share=0.05, generator=seeded())
        if quantizer.codebooks[0, 3].abs().max() < 100:
            break
    revived = quantizer.codebooks[0, 3]
    assert float((frames - revived).norm(dim=-1).min()) < 1e-5
    assert torch.bincount(quantizer.encode(latent)[:, 0].flatten(), minlength=C)[3] > 0


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (torch.zeros(1, K + 1, 2, dtype=torch.long), r"K up to 3, got \(1, 4, 2\)"),
        (torch.zeros(K, 2, dtype=torch.long), r"\[B, K, T\]"),
        (torch.full((1, K, 2), C), r"codes lie in \[16, 16\], the codebooks in \[0, 15\]"),
        (torch.full((1, K, 2), -1), r"codes lie in \[-1, -1\]"),
    ],
)
def test_bad_codes_are_named(quantizer: ResidualVectorQuantizer, codes: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        quantizer.decode(codes)


def test_kmeans_of_too_few_frames_says_what_to_raise(quantizer: ResidualVectorQuantizer) -> None:
    with pytest.raises(ValueError, match="k-means of 16 codes needs as many frames and has 5: raise"):
        quantizer.initialise(noise(1, D, 5), 3, seeded())
