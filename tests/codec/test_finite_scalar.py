"""Codes against an independent library, every level reached, codes to vectors and back, which gradient goes where."""

import itertools
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.codec.finite_scalar import FiniteScalarQuantizer
from pipeline.codec.quantizer import streams

K, D = 3, 6
LEVELS = [5, 4, 3]
C = 60


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new(levels: list[int] = LEVELS, *, scale: float = 4.0) -> FiniteScalarQuantizer:
    """A quantizer whose projection spreads a latent of unit variance over all levels."""
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer(K, torch.Size(levels).numel(), D, levels)
    with torch.no_grad():
        quantizer.project_in.weight.mul_(scale)
    return quantizer


def bare(levels: list[int]) -> FiniteScalarQuantizer:
    """One group whose numbers are the latent's own."""
    quantizer = FiniteScalarQuantizer(1, torch.Size(levels).numel(), len(levels), levels)
    for projection in (quantizer.project_in, quantizer.project_out):
        with torch.no_grad():
            projection.weight.copy_(torch.eye(len(levels))[..., None])
            projection.bias.zero_()
    return quantizer


@pytest.mark.slow
@pytest.mark.parametrize("levels", [[5, 4, 3], [8, 8, 4], [3], [7, 5, 5, 5]])
def test_codes_vectors_and_gradients_are_those_of_vector_quantize_pytorch(levels: list[int]) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vector_quantize_pytorch import FSQ

    other, ours = FSQ(levels), bare(levels)
    mine, theirs = (3 * noise(2, len(levels), 500)).requires_grad_(), (3 * noise(2, len(levels), 500)).requires_grad_()
    # That library widens the range by epsilon; the paper's code narrows it.
    vectors = other.bound(theirs.transpose(1, 2), eps=-1e-3)
    result = ours(mine)
    assert torch.equal(result.codes[:, 0], other.codes_to_indices(vectors).long())
    torch.testing.assert_close(result.vectors[:, 0], vectors.transpose(1, 2))
    upstream = noise(2, len(levels), 500, seed=1)
    result.latent.backward(upstream)
    vectors.transpose(1, 2).backward(upstream)
    torch.testing.assert_close(mine.grad, theirs.grad)


@given(st.lists(st.integers(3, 9), min_size=1, max_size=4))
def test_every_code_is_a_vector_of_its_own_and_comes_back(levels: list[int]) -> None:
    """All of the implicit codebook, in the order of its digits, the first number's the fastest."""
    quantizer = bare(levels)
    codes = torch.arange(quantizer.size)[None, None]
    vectors = quantizer.vectors(codes)[0, 0].T
    grids = [[(i - size // 2) / (size // 2) for i in range(size)] for size in reversed(levels)]
    expected = [tuple(reversed(each)) for each in itertools.product(*grids)]
    torch.testing.assert_close(vectors, torch.tensor(expected))
    # A latent inside each vector's cell gives the code back.
    half = (torch.tensor(levels) - 1) * (1 - 1e-3) / 2
    offset = (1 - torch.tensor(levels) % 2) / 2
    aim = 0.95 * (vectors * (torch.tensor(levels) // 2) + offset) / half
    latent = aim.atanh() - (offset / half).atanh()
    assert torch.equal(quantizer.encode(latent.T[None]), codes)


@pytest.mark.parametrize("size", [3, 4, 5, 8, 256, 4095])
def test_a_number_reaches_its_lowest_and_highest_level_and_none_beyond(size: int) -> None:
    """Odd levels lie around 0, even ones have one more below; 0 stays 0. Far beyond 1,000 the ends are out of reach."""
    quantizer = bare([size])
    found = quantizer.encode(torch.tensor([[[-1e9, -30.0, 0.0, 30.0, 1e9]]])).flatten()
    reach = 0 if size < 1000 else 2
    assert found[2] == size // 2
    assert 0 <= int(found[0]) == int(found[1]) <= reach
    assert size - 1 - reach <= int(found[3]) == int(found[4]) <= size - 1


def test_every_field_is_the_one_made_by_hand() -> None:
    quantizer, latent = new(), noise(2, D, 50)
    result = quantizer(latent)
    levels = torch.tensor(LEVELS)
    numbers = torch.einsum("nd,bdt->btn", quantizer.project_in.weight[..., 0], latent) + quantizer.project_in.bias
    half, offset = (levels - 1) * 0.999 / 2, torch.tensor([0.0, 0.5, 0.0])
    bounded = half * torch.tanh(numbers.unflatten(2, (K, 3)) + torch.atanh(offset / half)) - offset
    torch.testing.assert_close(result.inputs, (bounded / torch.tensor([2, 2, 1])).permute(0, 2, 3, 1))
    digits = bounded.round() + torch.tensor([2, 2, 1])
    codes = digits[..., 0] + 5 * digits[..., 1] + 20 * digits[..., 2]
    assert torch.equal(result.codes, codes.transpose(1, 2).long())
    assert min(len(stream.unique()) for stream in result.codes.unbind(1)) > C / 2
    torch.testing.assert_close(result.vectors, quantizer.vectors(result.codes))
    torch.testing.assert_close(result.latent, quantizer.decode(result.codes))
    assert torch.equal(quantizer.encode(latent), result.codes)
    assert float(result.commitment) == 0


def test_codebooks_without_codes_add_0() -> None:
    quantizer = new()
    codes = quantizer.encode(noise(2, D, 9))
    vectors = quantizer.vectors(codes)
    vectors[:, 1:] = 0
    torch.testing.assert_close(quantizer.decode(codes[:, :1]), quantizer._joined(vectors))
    kept = quantizer(noise(2, D, 9), torch.tensor([1, 3])).latent
    torch.testing.assert_close(kept[0], quantizer.decode(codes[:, :1])[0])
    torch.testing.assert_close(kept[1], quantizer.decode(codes)[1])


@pytest.mark.parametrize("which", ["quantized", "input", "residual"])
def test_a_streams_gradient_passes_the_rounding_and_trains_the_projection_in_alone(which: str) -> None:
    quantizer, latent = new(scale=1.0), noise(2, D, 5).requires_grad_()
    result = quantizer(latent)
    assert not result.vectors.requires_grad
    values = {"quantized": result.vectors, "input": result.inputs, "residual": result.inputs - result.vectors}
    found = streams(result, which)
    assert torch.equal(found, values[which])
    upstream = noise(*found.shape, seed=1)
    found.backward(upstream, retain_graph=True)
    (expected,) = torch.autograd.grad(result.inputs, latent, upstream)
    torch.testing.assert_close(latent.grad, expected)
    assert float(quantizer.project_in.weight.grad.norm()) > 0
    assert quantizer.project_out.weight.grad is None


def test_nothing_is_kept_but_the_two_projections() -> None:
    quantizer = new()
    names = {"project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias"}
    assert quantizer.state_dict().keys() == {name for name, _ in quantizer.named_parameters()} == names
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.initialise(noise(2, D, 50), 5, torch.Generator())
    quantizer.update(noise(2, D, 50), decay=0.9, dead_share=0.1, generator=torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_bad_levels_and_codes_are_named() -> None:
    with pytest.raises(ValueError, match=r"levels \[5, 4, 3\] make 60 codes, and codebook_size is 64"):
        FiniteScalarQuantizer(K, 64, D, LEVELS)
    with pytest.raises(ValueError, match=r"codes lie in \[60, 60\], the codebooks in \[0, 59\]"):
        new().decode(torch.full((1, K, 2), C))
    with pytest.raises(ValueError, match=r"K up to 3, got \(1, 4, 2\)"):
        new().decode(torch.zeros(1, K + 1, 2, dtype=torch.long))
