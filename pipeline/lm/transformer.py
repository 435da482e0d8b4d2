"""Decoder-only transformer of MusicGen: pre-norm, GELU, sinusoidal positions, no biases, cross-attention to text.

Layer by layer it is `transformers.MusicgenDecoder`, with the projections of self-attention (query, key, value) and of
cross-attention (key, value) stacked into one matrix each. Given a `Rotation` in place of sinusoids, it has positions on
a grid, as BandTok's language model (arXiv 2605.15831).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STACKED = {"self_qkv": 3, "cross_kv": 2}  # matrices on top of each other in one parameter
FEW_STEPS = 256  # up to which all scores at once cost less than attention by blocks
PROBED = 512  # rows and columns: oneDNN leaves small products as they are
FLOAT32_ERROR = 1e-5  # relative, of a product: float32 has 3e-7, bfloat16 2e-3


class TextCache(NamedTuple):
    """Keys and values of the text in one layer; rows and heads folded into one dimension, B H."""

    keys: Tensor  # [B H, d, L]
    values: Tensor  # [B H, L, d]
    bias: Tensor  # [B H, 1, L]: 0 where there is text, minus infinity elsewhere


class Rotation(NamedTuple):
    """Angles by which queries and keys are turned in self-attention, the same in all heads, as cosine and sine."""

    cosine: Tensor  # [..., S, d]
    sine: Tensor  # [..., S, d]

    def at(self, steps: Tensor | slice | int) -> "Rotation":
        """Those of some of the steps of `[S, d]`."""
        return Rotation(self.cosine[steps], self.sine[steps])

    def turn(self, x: Tensor) -> Tensor:
        """x cos + x' sin, of `[..., S, d]`: each half of x turned by itself, x' being (-b, a) for its halves (a, b)."""
        a, b = x.unflatten(-1, (2, 2, -1)).unbind(-2)
        return x * self.cosine + torch.stack([-b, a], dim=-2).flatten(-3) * self.sine


class LayerCache(NamedTuple):
    """Keys and values of one layer during generation; the first `position` steps hold what has passed.

    Keys are kept as attention reads them: where there is a rotation, turned.

    Of one query both of attention's products are bound by reading it: keys are read fastest with the steps of a number
    side by side in memory, values with the numbers of a step.
    """

    keys: Tensor  # [B H, d, S]
    values: Tensor  # [B H, S, d]
    text: TextCache  # computed once


class Cache(NamedTuple):
    """What generation keeps between steps."""

    positions: Tensor | Rotation  # [S, width] or [S, d]
    layers: list[LayerCache]


class Transformer(nn.Module):
    """Layers of causal self-attention, cross-attention and feed-forward, then a norm."""

    def __init__(self, *, width: int, heads: int, layers: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        stack = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.layers = cast("Sequence[DecoderLayer]", stack)
        self.norm = nn.LayerNorm(width)
        for layer in self.layers:
            for projection in (layer.self_out, layer.cross_out, layer.fc2):
                # Keeps the variance of the residual stream from growing with depth.
                projection.weight.data /= math.sqrt(3 * layers)

    def forward(
        self, inputs: Tensor, text: Tensor, text_mask: Tensor, positions: Tensor | Rotation | None = None
    ) -> Tensor:
        """All steps at once, `[B, S, width]`, with text `[B, L, width]` and its mask `[B, L]` -> `[B, S, width]`.

        `positions` are the steps' sinusoids `[B, S, width]`, or their rotation `[S, d]` or `[B, 1, S, d]`; without
        them, the sinusoids of the steps from 0 on.
        """
        if positions is None:
            positions = sinusoids(inputs.shape[1], self.width)
        hidden, rotation = _placed(inputs, positions)
        hidden = F.dropout(hidden, self.dropout, self.training)
        bias = _bias(text, text_mask)
        for layer in self.layers:
            hidden = layer(hidden, layer.read(text, bias), rotation=rotation)
        return self.norm(hidden)

    def cache(self, text: Tensor, text_mask: Tensor, steps: int, rotation: Rotation | None = None) -> Cache:
        """Room for `steps` steps, with the text's keys and values filled in; `rotation` `[S, d]` as in `forward`."""
        bias = _bias(text, text_mask)
        layers = [layer.cache(layer.read(text, bias), steps) for layer in self.layers]
        return Cache(sinusoids(steps, self.width).to(text) if rotation is None else rotation, layers)

    def prefill(self, inputs: Tensor, cache: Cache) -> None:
        """Writes the first P steps into `cache`, all at once, `[B, P, width]`."""
        hidden, rotation = _placed(inputs, _at(cache.positions, slice(inputs.shape[1])))
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            hidden = layer(hidden, layer_cache.text, layer_cache, rotation)

    def step(self, inputs: Tensor, cache: Cache, position: int) -> Tensor:
        """One step, `[B, width]` -> `[B, width]`; equal to that step of `forward`, and written into `cache`."""
        hidden, rotation = _placed(inputs, _at(cache.positions, position))
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            hidden = layer.step(hidden, layer_cache, position, rotation)
        return self.norm(hidden)


class DecoderLayer(nn.Module):
    """`x + A(norm x)`, `x + C(norm x, text)`, `x + W2 gelu(W1 norm x)`."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.self_norm = nn.LayerNorm(width)
        self.self_qkv = _linear(width, 3 * width)
        self.self_out = _linear(width, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_q = _linear(width, width)
        self.cross_kv = _linear(width, 2 * width)
        self.cross_out = _linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = _linear(width, feedforward)
        self.fc2 = _linear(feedforward, width)

    def forward(
        self, hidden: Tensor, text: TextCache, cache: LayerCache | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """Hidden states of the first S steps `[B, S, width]` -> `[B, S, width]`, and their keys into `cache`."""
        query, key, value = self._split(self.self_qkv(self.self_norm(hidden)), 3)
        if rotation is not None:
            query, key = rotation.turn(query), rotation.turn(key)
        if cache is not None:
            cache.keys[:, :, : hidden.shape[1]] = key.flatten(0, 1).transpose(1, 2)
            cache.values[:, : hidden.shape[1]] = value.flatten(0, 1)
        attended = _attend_to_the_past(query, key, value)
        hidden = hidden + self._drop(self.self_out(_merge(attended)))
        (query,) = self._split(self.cross_q(self.cross_norm(hidden)), 1)
        # Texts are short: on a CPU plain products take an eighth of scaled_dot_product_attention's time here.
        attended = _attend(query.flatten(0, 1), text.keys, text.values, text.bias).view_as(query)
        hidden = hidden + self._drop(self.cross_out(_merge(attended)))
        return hidden + self._drop(self.fc2(self._drop(F.gelu(self.fc1(self.norm(hidden))))))

    def read(self, text: Tensor, text_bias: Tensor) -> TextCache:
        """Keys and values of text `[B, L, width]`, whose bias is `[B, 1, L]`."""
        key, value = (part.flatten(0, 1) for part in self._split(self.cross_kv(text), 2))
        return TextCache(key.transpose(1, 2), value, text_bias.repeat_interleave(self.heads, dim=0))

    def cache(self, text: TextCache, steps: int) -> LayerCache:
        """Room for `steps` steps of this layer."""
        rows, dimension, _ = text.keys.shape
        keys, values = text.keys.new_empty(rows, dimension, steps), text.values.new_empty(rows, steps, dimension)
        return LayerCache(keys, values, TextCache(text.keys.contiguous(), text.values.contiguous(), text.bias))

    def step(self, hidden: Tensor, cache: LayerCache, position: int, rotation: Rotation | None = None) -> Tensor:
        """One step without dropout, `[B, width]` -> `[B, width]`."""
        query, key, value = self._rows(self.self_qkv(self.self_norm(hidden)), 3)
        if rotation is not None:
            query, key = rotation.turn(query), rotation.turn(key)
        cache.keys[:, :, position] = key[:, 0]
        cache.values[:, position] = value[:, 0]
        with _batched_products():
            attended = _attend(query, cache.keys[:, :, : position + 1], cache.values[:, : position + 1])
        hidden = hidden + self.self_out(attended.view(hidden.shape))
        (query,) = self._rows(self.cross_q(self.cross_norm(hidden)), 1)
        with _batched_products():
            attended = _attend(query, *cache.text)
        hidden = hidden + self.cross_out(attended.view(hidden.shape))
        return hidden + self.fc2(F.gelu(self.fc1(self.norm(hidden))))

    def _split(self, stacked: Tensor, parts: int) -> tuple[Tensor, ...]:
        """`[B, S, parts * width]` -> `parts` times `[B, H, S, d]`."""
        return stacked.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def _rows(self, stacked: Tensor, parts: int) -> tuple[Tensor, ...]:
        """`[B, parts * width]` -> `parts` times `[B H, 1, d]`."""
        return stacked.unflatten(1, (parts, self.heads, 1, -1)).transpose(0, 1).flatten(1, 2).unbind()

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, self.training)


def set_matmul_precision(device: torch.device) -> None:
    """Lets float32 products be as fast as they can be and still be of float32; on a GPU, of TF32.

    With "medium", torch hands them to oneDNN, which on some CPUs with AVX-512 takes half the time, and on those with
    AMX rounds large ones to bfloat16. One product is tried to see which this CPU does; timing it instead would let
    results depend on load.
    """
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else _precision())


@functools.cache
def _precision() -> str:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    left, right = torch.randn(2, PROBED, PROBED, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ right.double()
    error = (left @ right - exact).norm() / exact.norm()
    torch.set_float32_matmul_precision(before)
    return "medium" if error < FLOAT32_ERROR else "highest"


@functools.cache
def sinusoids(length: int, width: int) -> Tensor:
    """Positions `[length, width]`: cos(p w_i), then sin(p w_i), with w_i = 10000^(-i / (width / 2 - 1)).

    Differs from Vaswani et al. (2017) as MusicGen does: cosines and sines stand side by side, and the last frequency is
    1/10000.
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half).double() * (-math.log(10_000) / max(half - 1, 1)))
    angle = torch.arange(length).double()[:, None] * frequency
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, width % 2)).float()


def rotary_2d(places: Tensor, dimension: int) -> Rotation:
    """Rotation `[S, d]` of heads of d = `dimension` numbers for steps at (time, codebook) places `[S, 2]`.

    Half of a head's pairs of numbers is turned by time, half by codebook, pair i of each half of n pairs by p w_i, with
    w_i = 10000^(-i / n) (Su et al. 2021): the score of a query and a key depends on the difference of their places.

    Raises:
        ValueError: d is not a multiple of 4, so that its pairs have no halves.
    """
    if dimension % 4:
        raise ValueError(f"rotary_2d needs heads of a multiple of 4 numbers, and lm.width / lm.heads is {dimension}")
    count = dimension // 4
    frequency = 10_000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    angle = (places.double()[..., None] * frequency).repeat(1, 1, 2).flatten(1)  # [S, 2, d / 4] -> [S, d]
    return Rotation(angle.cos().float(), angle.sin().float())


def _placed(inputs: Tensor, positions: Tensor | Rotation) -> tuple[Tensor, Rotation | None]:
    """What enters the first layer, and the rotation in every layer."""
    if isinstance(positions, Rotation):
        return inputs, positions
    return inputs + positions.to(inputs), None


def _at(positions: Tensor | Rotation, steps: slice | int) -> Tensor | Rotation:
    return positions.at(steps) if isinstance(positions, Rotation) else positions[steps]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    return linear


def _merge(attended: Tensor) -> Tensor:
    """`[B, H, S, d]` -> `[B, S, H d]`."""
    return attended.transpose(1, 2).flatten(2)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of queries `[B H, Q, d]` to keys `[B H, d, S]` and values `[B H, S, d]` -> `[B H, Q, d]`.

    Two batched products: on a CPU, of one query, twice as fast as `scaled_dot_product_attention`, whose blocks want
    many queries.
    """
    query = query * query.shape[2] ** -0.5
    scores = torch.bmm(query, keys) if bias is None else torch.baddbmm(bias, query, keys)
    return torch.bmm(scores.softmax(dim=-1), values)


def _attend_to_the_past(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of each step to itself and all before it, of three `[B, H, S, d]`, to `[B, H, S, d]`.

    On a CPU plain products take a quarter of the time of `scaled_dot_product_attention` and its gradient at 65 steps,
    and half at 250.
    """
    steps = query.shape[2]
    if query.device.type != "cpu" or steps > FEW_STEPS:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    future = torch.full((steps, steps), -torch.inf, dtype=query.dtype).triu(1)
    attended = _attend(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1), future)
    return attended.view_as(query)


@contextmanager
def _batched_products() -> Iterator[None]:
    """Keeps from oneDNN the many small products of one row each, for which it takes five times as long."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _bias(text: Tensor, text_mask: Tensor) -> Tensor:
    """What is added to scores: 0 where there is text, minus infinity elsewhere, `[B, L]` -> `[B, 1, L]`."""
    return torch.zeros_like(text_mask, dtype=text.dtype).masked_fill(~text_mask, -torch.inf)[:, None]
