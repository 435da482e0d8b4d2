"""Codes, latent, losses and gradients against DAC's quantizer of transformers, and which gradient goes where."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.codec.cosine import CosineQuantizer
from pipeline.codec.quantizer import streams

K, C, D, SMALL = 3, 16, 6, 2


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new() -> CosineQuantizer:
    torch.manual_seed(0)
    return CosineQuantizer(K, C, D, SMALL)


def dacs(quantizer: CosineQuantizer) -> Any:
    """DAC's quantizer with the same weights."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import DacConfig
    from transformers.models.dac.modeling_dac import DacResidualVectorQuantizer

    config = DacConfig(n_codebooks=K, codebook_size=C, codebook_dim=SMALL)
    config.hidden_size = D
    other = DacResidualVectorQuantizer(config).eval()
    for k, layer in enumerate(other.quantizers):
        layer.in_proj.load_state_dict(quantizer.project_in[k].state_dict())
        layer.out_proj.load_state_dict(quantizer.project_out[k].state_dict())
        layer.codebook.weight.data.copy_(quantizer.codebooks[k])
    return other


@pytest.mark.slow
def test_codes_latent_losses_and_their_gradients_are_those_of_dac() -> None:
    quantizer, mine, theirs = new(), noise(2, D, 200).requires_grad_(), noise(2, D, 200).requires_grad_()
    other = dacs(quantizer)
    result = quantizer(mine)
    latent, codes, projected, commitment, codebook = other(theirs)
    assert torch.equal(result.codes, codes)
    assert min(len(stream.unique()) for stream in codes.unbind(1)) > C / 2
    torch.testing.assert_close(result.latent, latent)
    torch.testing.assert_close(result.inputs.flatten(1, 2), projected)
    # DAC sums over codebooks, its losses are one number a clip, and here the two are one.
    torch.testing.assert_close(result.commitment, commitment.mean() / K)
    torch.testing.assert_close(result.commitment, codebook.mean() / K)
    upstream = noise(*latent.shape, seed=1)
    (result.latent * upstream).sum().add(result.commitment).backward()
    (latent * upstream).sum().add((commitment + codebook).mean() / K).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    for k, layer in enumerate(other.quantizers):
        torch.testing.assert_close(quantizer.project_in[k].weight.grad, layer.in_proj.weight.grad)
        torch.testing.assert_close(quantizer.project_out[k].weight.grad, layer.out_proj.weight.grad)
        torch.testing.assert_close(quantizer.codebooks.grad[k], layer.codebook.weight.grad)


@pytest.mark.slow
def test_latents_of_codes_are_those_of_dac_also_of_the_first_codebooks() -> None:
    quantizer = new()
    other, codes = dacs(quantizer), quantizer.encode(noise(2, D, 50))
    for kept in range(1, K + 1):
        expected, vectors, _ = other.from_codes(codes[:, :kept])
        torch.testing.assert_close(quantizer.decode(codes[:, :kept]), expected)
        torch.testing.assert_close(quantizer.vectors(codes[:, :kept]).flatten(1, 2), vectors)


def test_the_nearest_code_is_the_one_of_the_smallest_angle() -> None:
    quantizer = new()
    latent = noise(1, D, 30)
    codes = quantizer.encode(latent)[0, 0]
    projected = quantizer.project_in[0](latent)[0].T
    for frame, code in zip(projected, codes, strict=True):
        angles = [torch.cosine_similarity(frame, vector, dim=0).item() for vector in quantizer.codebooks[0]]
        assert max(range(C), key=angles.__getitem__) == int(code)
    with torch.no_grad():
        quantizer.codebooks[0].mul_(torch.rand(C, 1, generator=torch.Generator().manual_seed(3)) + 0.5)
    assert torch.equal(quantizer.encode(latent)[0, 0], codes)


def test_each_segment_is_decoded_from_as_many_codebooks_as_it_keeps() -> None:
    quantizer, latent = new(), noise(3, D, 9)
    whole, kept = quantizer(latent), quantizer(latent, torch.tensor([1, 2, 3]))
    for segment in range(3):
        expected = quantizer.decode(whole.codes[segment : segment + 1, : segment + 1])
        torch.testing.assert_close(kept.latent[segment : segment + 1], expected)
    for name in ("codes", "inputs", "vectors", "commitment"):
        assert torch.equal(getattr(whole, name), getattr(kept, name))


@pytest.mark.parametrize("which", ["quantized", "input", "residual"])
def test_a_stream_trains_what_comes_before_its_codebook_and_neither_codes_nor_projections_out(which: str) -> None:
    """Its gradient to the latent is that of its own projection: V_k, for every codebook."""
    quantizer, latent = new(), noise(2, D, 5).requires_grad_()
    result = quantizer(latent)
    found = streams(result, which)
    values = {"quantized": result.vectors, "input": result.inputs, "residual": result.inputs - result.vectors}
    assert torch.equal(found, values[which])
    upstream = noise(*found.shape, seed=1)
    found.backward(upstream)
    weights = [layer.weight[..., 0] for layer in quantizer.project_in]
    expected = sum(torch.einsum("ed,bet->bdt", weights[k], upstream[:, k]) for k in range(K))
    torch.testing.assert_close(latent.grad, expected)
    assert all(layer.weight.grad.norm() > 0 for layer in quantizer.project_in)
    assert quantizer.codebooks.grad is None
    assert all(layer.weight.grad is None for layer in quantizer.project_out)


def test_bad_codes_are_named() -> None:
    with pytest.raises(ValueError, match=r"codes lie in \[16, 16\], the codebooks in \[0, 15\]"):
        new().decode(torch.full((1, K, 2), C))
