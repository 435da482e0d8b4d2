"""SEANet: lengths of any input, edges and causality, the data-dependent start, and EnCodec's own code."""

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.codec import seanet

RATIOS = [3, 2]
HOP = 6


def shape(lstm_layers: int = 0, **changes: Any) -> seanet.SEANetShape:
    sizes = {
        "filters": 4,
        "ratios": RATIOS,
        "dimension": 5,
        "residual_layers": 2,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 5,
        "dilation_base": 2,
        "causal": False,
        "pad_mode": "reflect",
    }
    return seanet.SEANetShape(**sizes | changes, lstm_layers=lstm_layers)


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def convolutions(network: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]


def network(shape: seanet.SEANetShape) -> nn.Sequential:
    return nn.Sequential(seanet.encoder(shape), seanet.decoder(shape))


EDGES = [(causal, pad_mode) for causal in (False, True) for pad_mode in ("reflect", "constant")]
NETWORKS = {edges: network(shape(1, causal=edges[0], pad_mode=edges[1])) for edges in EDGES}


@torch.no_grad()
@given(edges=st.sampled_from(EDGES), length=st.integers(1, 60))
def test_any_length_comes_back_filled_up_to_whole_frames(edges: tuple[bool, str], length: int) -> None:
    encoder, decoder = NETWORKS[edges]
    latent = encoder(noise(2, 1, length))
    frames = -(-length // HOP)
    assert latent.shape == (2, 5, frames)
    waveform = decoder(latent)
    assert waveform.shape == (2, 1, frames * HOP)
    assert waveform.isfinite().all()


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 7]))
def test_a_convolution_has_one_output_a_stride(length: int, stride: int, dilation: int, kernel: int) -> None:
    layer = seanet.Conv(1, 2, max(kernel, stride), stride=stride, dilation=dilation)
    assert layer(noise(1, 1, length)).shape == (1, 2, -(-length // stride))


def test_a_convolution_reflects_its_edges() -> None:
    layer = seanet.Conv(1, 1, 5, dilation=2)
    x = noise(1, 1, 12)
    indices = [abs(i) if i < 12 else 22 - i for i in range(-4, 16)]
    expected = F.conv1d(x[..., indices], layer.conv.weight, layer.conv.bias, dilation=2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("causal", "left", "right"), [(False, 4, 4), (True, 8, 0)])
def test_a_convolution_fills_its_edges_with_zeros(causal: bool, left: int, right: int) -> None:
    layer = seanet.Conv(1, 1, 5, dilation=2, causal=causal, pad_mode="constant")
    x = noise(1, 1, 12)
    expected = F.conv1d(F.pad(x, (left, right)), layer.conv.weight, layer.conv.bias, dilation=2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize(("left", "right"), [(3, 2), (0, 4), (6, 6), (1, 0)])
def test_the_activation_written_into_its_padding_is_the_activation_padded(pad_mode: str, left: int, right: int) -> None:
    x = noise(2, 3, 7).double().requires_grad_()
    padded = seanet._PaddedELU.apply(x, left, right, pad_mode)
    torch.testing.assert_close(padded, F.pad(F.elu(x), (left, right), mode=pad_mode))
    torch.autograd.gradcheck(lambda x: seanet._PaddedELU.apply(x, left, right, pad_mode), x)


def test_one_output_channel_by_matrix_products_is_the_convolution() -> None:
    layer = seanet.Conv1d(3, 1, 5).double()
    x = noise(2, 3, 9).double().requires_grad_()
    torch.testing.assert_close(layer(x), F.conv1d(x, layer.weight, layer.bias))
    torch.autograd.gradcheck(seanet._OneChannel.apply, (x, layer.weight, layer.bias))
    wide = seanet.Conv1d(3, 1, 5, stride=2).double()
    torch.testing.assert_close(wide(x), F.conv1d(x, wide.weight, wide.bias, stride=2))


@pytest.mark.parametrize(("causal", "reached"), [(False, slice(6, 14)), (True, slice(8, 16))])
def test_a_transposed_convolution_spreads_each_frame_over_two_strides(causal: bool, reached: slice) -> None:
    """With a kernel of ones: half a stride beyond its own to either side, or where causal a whole one to the right."""
    layer = seanet.ConvTranspose(1, 1, 4, causal=causal)
    with torch.no_grad():
        layer.conv.weight = torch.ones(1, 1, 8)
        layer.conv.bias.zero_()
    impulse = torch.zeros(1, 1, 5)
    impulse[..., 2] = 1
    expected = torch.zeros(1, 1, 20)
    expected[..., reached] = 1
    torch.testing.assert_close(layer(impulse), expected)


def test_the_encoder_sees_as_far_as_its_kernels_reach() -> None:
    touched = seen(seanet.encoder(shape()), 600, slice(50, 51))
    assert touched.min() <= 50 * HOP <= touched.max()
    assert touched.min() > 250
    assert touched.max() < 350


@pytest.mark.parametrize("lstm_layers", [0, 1])
@pytest.mark.parametrize(("pad_mode", "first"), [("constant", 0), ("reflect", 6)])
def test_a_causal_output_sees_no_sample_past_its_own_frame(lstm_layers: int, pad_mode: str, first: int) -> None:
    """Reflection shows the first outputs what follows them, of 6 frames where the longest kernel has 7."""
    codec = network(shape(lstm_layers, causal=True, pad_mode=pad_mode))
    last = [int(seen(codec, 12 * HOP, slice(t * HOP, (t + 1) * HOP)).max()) for t in range(12)]
    assert all(last[t] < (t + 1) * HOP for t in range(first, 12))
    assert (last[0] >= HOP) == (pad_mode == "reflect")


def seen(network: nn.Module, length: int, outputs: slice) -> Tensor:
    """Which of the input's samples some outputs depend on."""
    x = noise(1, 1, length).requires_grad_()
    network(x)[..., outputs].abs().sum().backward()
    return x.grad[0, 0].nonzero().flatten()


def test_the_start_gives_every_layer_unit_variance_on_the_data() -> None:
    network, x = seanet.encoder(shape()), 0.01 * noise(4, 1, 600)
    outputs: list[Tensor] = []
    returned = seanet.scale_to_data(network, x, 2.0)
    for layer in convolutions(network):
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
    torch.testing.assert_close(network(x), returned, rtol=1e-3, atol=1e-4)
    assert len(outputs) == 12
    for output, spread in zip(outputs, [1.0] * 11 + [2.0], strict=True):
        torch.testing.assert_close(output.mean((0, 2)), torch.zeros(output.shape[1]), rtol=0, atol=1e-3)
        torch.testing.assert_close(output.std((0, 2)), torch.full(output.shape[1:2], spread), rtol=1e-3, atol=0)


def test_the_start_of_the_decoder_gives_the_datas_own_spread_and_leaves_no_hook() -> None:
    network, latent = seanet.decoder(shape(1)), noise(3, 5, 40)
    returned = seanet.scale_to_data(network, latent, 0.1)
    assert float(returned.std()) == pytest.approx(0.1, rel=1e-2)
    assert not any(layer._forward_hooks for layer in convolutions(network))
    assert all(p.requires_grad for p in network.parameters())
    before = [p.detach().clone() for p in network.parameters()]
    network(latent)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


def test_silence_starts_finite() -> None:
    network = seanet.encoder(shape())
    assert seanet.scale_to_data(network, torch.zeros(2, 1, 60), 1.0).isfinite().all()
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("lstm_layers", [1, 2])
@pytest.mark.parametrize(("causal", "pad_mode"), EDGES)
@pytest.mark.parametrize("length", [1, 5, 60, 101])
def test_encoder_and_decoder_are_those_of_transformers_encodec(
    lstm_layers: int, causal: bool, pad_mode: str, length: int
) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import EncodecConfig
    from transformers.models.encodec.modeling_encodec import EncodecDecoder, EncodecEncoder

    config = EncodecConfig(
        num_filters=4,
        upsampling_ratios=RATIOS,
        hidden_size=5,
        num_residual_layers=3,
        kernel_size=7,
        residual_kernel_size=3,
        last_kernel_size=5,
        dilation_growth_rate=3,
        num_lstm_layers=lstm_layers,
        use_causal_conv=causal,
        use_conv_shortcut=False,
        norm_type="weight_norm",
        pad_mode=pad_mode,
    )
    sizes = shape(lstm_layers, residual_layers=3, dilation_base=3, causal=causal, pad_mode=pad_mode)
    x = noise(2, 1, length)
    for ours, theirs in (
        (seanet.encoder(sizes), EncodecEncoder(config)),
        (seanet.decoder(sizes), EncodecDecoder(config)),
    ):
        for mine, other in zip(convolutions(ours), convolutions(theirs), strict=True):
            nn.utils.parametrize.remove_parametrizations(other, "weight")
            other.load_state_dict({"weight": mine.weight.detach(), "bias": mine.bias.detach()})
        for mine, other in zip(recurrent(ours), recurrent(theirs), strict=True):
            other.load_state_dict(mine.state_dict())
        result = ours(x)
        torch.testing.assert_close(result, theirs(x), rtol=1e-5, atol=1e-5)
        x = result


def recurrent(network: nn.Module) -> list[nn.LSTM]:
    return [layer for layer in network.modules() if isinstance(layer, nn.LSTM)]
