"""Innovations against plain least squares, and on made autoregressions whose true innovations are known."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.codec.independence import above_floor, mmd
from pipeline.codec.innovation import best_ridge, innovations

RIDGES = [0.001, 0.01, 0.1, 1.0, 10.0]
BANDWIDTHS = [0.1, 1, 5, 10]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def process(*, past: str, innovation: str, seed: int, shape: tuple[int, ...] = (24, 3, 4, 25)) -> tuple[Tensor, Tensor]:
    """v_t = 0.8 (what it owes to v_{t-1}) + e_t, and e, `[B, K, D, T]` each.

    A codebook owes to its own last vector, or to the mean of all codebooks' last ones where the `past` is shared; its
    e_t is its own, or half of it every codebook's where the `innovation` is shared.
    """
    clips, codebooks, numbers, length = shape
    drawn = noise(length + 50, clips, codebooks, numbers, seed=seed)
    if innovation == "shared":
        drawn = 0.5**0.5 * (drawn + noise(length + 50, clips, 1, numbers, seed=seed + 1000))
    v, kept = torch.zeros_like(drawn[0]), []
    for e in drawn:
        last = v.mean(1, keepdim=True) if past == "shared" else v
        v = 0.8 * last + e
        kept.append(v)
    return torch.stack(kept[50:], -1), drawn[50:].permute(1, 2, 3, 0)


def plain(streams: Tensor, frames: int, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Residuals `[B, K, D, T - n]` and the hat matrix, row by row and by least squares of an enlarged system."""
    clips, codebooks, numbers, length = streams.shape
    x, v, where = [], [], []
    for b in range(clips):
        for t in range(frames, length):
            lags = range(1, frames + 1)
            x.append([float(streams[b, k, d, t - i]) for i in lags for k in range(codebooks) for d in range(numbers)])
            v.append([float(streams[b, k, d, t]) for k in range(codebooks) for d in range(numbers)])
            where.append((b, t - frames))
    x, v = np.array(x), np.array(v)
    mean_diagonal = np.mean(np.sum((x - x.mean(0)) ** 2, axis=0))
    penalty = np.sqrt(ridge * mean_diagonal) * np.eye(x.shape[1])
    wide = np.block([[np.ones((len(x), 1)), x], [np.zeros((x.shape[1], 1)), penalty]])
    padding = np.zeros((x.shape[1], len(x)))
    weights = np.linalg.lstsq(wide, np.concatenate([np.eye(len(x)), padding.reshape(x.shape[1], len(x))]), rcond=None)[
        0
    ]
    hat = wide[: len(x)] @ weights
    left = np.empty((clips, codebooks, numbers, length - frames))
    for (b, t), residual in zip(where, v - hat @ v, strict=True):
        left[b, :, :, t] = residual.reshape(codebooks, numbers)
    return left, hat


def by_default(streams: Tensor, **changes: Any) -> Tensor:
    return innovations(streams, **({"frames": 1, "ridges": RIDGES, "through": True} | changes))


def reading(streams: Tensor) -> float:
    return above_floor(streams, delay=False, bandwidths=BANDWIDTHS)


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("frames", [1, 3])
def test_they_are_the_residuals_of_plain_least_squares(frames: int, ridge: float, through: bool) -> None:
    streams = 3 + noise(3, 2, 2, 12) * torch.tensor([1.0, 0.1]).double()[:, None, None]
    found = innovations(streams, frames=frames, ridges=[ridge], through=through)
    np.testing.assert_allclose(found.numpy(), plain(streams, frames, ridge)[0], atol=1e-10)


def test_the_ridge_is_that_of_the_least_generalised_cross_validation_error() -> None:
    chosen = []
    for seed, past in enumerate(["own", "shared", "none"]):
        shape = (4, 2, 3, 12)
        streams = noise(*shape) if past == "none" else process(past=past, innovation="own", seed=seed, shape=shape)[0]
        errors = {}
        for ridge in RIDGES:
            left, hat = plain(streams, 2, ridge)
            spread = streams[..., 2:].numpy().std(axis=(0, 3), keepdims=True)
            errors[ridge] = np.square(left / spread).sum() / (len(hat) - np.trace(hat)) ** 2
        chosen.append(min(errors, key=errors.__getitem__))
        best = innovations(streams, frames=2, ridges=[chosen[-1]], through=False)
        assert torch.equal(innovations(streams, frames=2, ridges=RIDGES, through=False), best)
    assert len(set(chosen)) > 1


def test_streams_that_share_their_past_alone_read_nothing() -> None:
    """What quantized vectors read then is the past's, and so is none of what their innovations read."""
    found = []
    for seed in range(4):
        streams, true = process(past="shared", innovation="own", seed=seed)
        found.append([reading(each) for each in (streams, by_default(streams), true)])
    quantized, given, truth = np.mean(found, axis=0)
    assert quantized > 20 * np.std(found, axis=0)[2]
    assert abs(given) < 0.02 * quantized
    assert abs(given - truth) < 3 * np.std(found, axis=0)[2]


def test_streams_that_share_their_innovation_alone_read_what_the_innovations_do() -> None:
    found = []
    for seed in range(4):
        streams, true = process(past="own", innovation="shared", seed=seed)
        found.append([reading(each) for each in (by_default(streams), true[..., 1:], streams)])
    given, truth, quantized = np.mean(found, axis=0)
    assert given == pytest.approx(truth, rel=0.1)
    assert abs(quantized - truth) > 2 * abs(given - truth)


def test_residuals_of_the_chosen_ridge_come_nearest_to_the_true_innovations() -> None:
    """Nearer than those of other ridges, but for neighbours, and than those of clips that the regression left out."""
    streams, true = process(past="shared", innovation="own", seed=0, shape=(16, 3, 8, 25))

    def miss(left: Tensor) -> float:
        return float((left - true[..., 2:]).square().mean())

    missed = {ridge: miss(by_default(streams, frames=2, ridges=[ridge])) for ridge in RIDGES}
    found = miss(by_default(streams, frames=2))
    assert found < 1.1 * min(missed.values())
    assert found < 0.5 * max(missed.values())
    out = []
    for clip in range(16):
        others = torch.cat([streams[:clip], streams[clip + 1 :]])
        x, v = (rows(others, 2), rows(streams[clip : clip + 1], 2))
        out.append(left_out(x, v).unflatten(1, (3, 8)).permute(1, 2, 0))
    assert found < miss(torch.stack(out))


def rows(streams: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """The past `[N, n K D]` and the present `[N, K D]`."""
    flat, length = streams.permute(0, 3, 1, 2).flatten(2), streams.shape[3]
    past = torch.cat([flat[:, frames - lag : length - lag] for lag in range(1, frames + 1)], 2)
    return past.flatten(0, 1), flat[:, frames:].flatten(0, 1)


def left_out(learnt: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> Tensor:
    """What a regression on some clips, by the ridge that they choose, leaves of another's present, `[T - n, K D]`."""
    x, v = (part - part.mean(0) for part in learnt)
    gram = x.T @ x
    weight = best_ridge(x, v, RIDGES) * gram.diagonal().mean()
    coefficients = torch.linalg.solve(gram + weight * torch.eye(len(gram)).double(), x.T @ v)
    return held[1] - learnt[1].mean(0) - (held[0] - learnt[0].mean(0)) @ coefficients


def test_the_gradient_through_the_regression_is_that_of_the_innovations() -> None:
    streams = noise(3, 2, 1, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: by_default(v, ridges=[0.1]), streams)
    assert torch.autograd.gradcheck(lambda v: by_default(v, frames=2, ridges=[1.0]), streams)


def test_without_it_the_gradient_is_that_of_a_fixed_regression() -> None:
    streams, upstream = noise(4, 2, 2, 9).requires_grad_(), noise(4, 2, 2, 8, seed=1)
    x, v = (part - part.mean(0) for part in rows(streams, 1))
    gram = (x.T @ x).detach()
    ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(gram)).double()
    fixed = torch.linalg.solve(gram + ridge, (x.T @ v).detach())
    left = (v - x @ fixed).unflatten(0, (4, 8)).unflatten(2, (2, 2)).permute(0, 2, 3, 1)
    gradients = []
    for each in (by_default(streams, ridges=[0.1], through=False), left, by_default(streams, ridges=[0.1])):
        gradients += torch.autograd.grad(each, streams, upstream, retain_graph=True)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


@given(order=st.permutations(range(5)), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_clips_are_a_set_and_units_do_not_matter(order: list[int], scale: float, shift: float) -> None:
    streams = noise(5, 2, 2, 8)
    found = by_default(streams)
    torch.testing.assert_close(by_default(streams[list(order)]), found[list(order)])
    torch.testing.assert_close(by_default(scale * streams + shift), scale * found)


def test_no_past_reaches_from_one_clip_into_the_next() -> None:
    """Clips that each begin where the last one ended are no longer predicted at their borders."""
    line = noise(1, 2, 2, 40).cumsum(3)
    clips = line.unflatten(3, (8, 5)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    assert by_default(clips, frames=2).shape == (8, 2, 2, 3)
    np.testing.assert_allclose(by_default(clips, frames=2, ridges=[0.1]).numpy(), plain(clips, 2, 0.1)[0], atol=1e-10)


def test_vectors_that_never_change_have_no_innovations() -> None:
    assert torch.equal(by_default(torch.ones(2, 2, 3, 5)), torch.zeros(2, 2, 3, 4))


def test_a_delay_shifts_the_innovations() -> None:
    """By the rule of the loss: a codebook that repeats another's innovation a frame earlier is seen under the delay."""
    _, true = process(past="own", innovation="own", seed=0, shape=(24, 2, 4, 25))
    true[:, 1, :, :-1] = true[:, 0, :, 1:]
    given = by_default(true)
    undelayed, delayed = (above_floor(given, delay=delay, bandwidths=BANDWIDTHS) for delay in (False, True))
    assert delayed > 5 * abs(undelayed)


@pytest.mark.parametrize("through", [False, True])
def test_training_lowers_what_innovations_share(through: bool) -> None:
    """A mix of streams that share their innovation learns to tell them apart, through the regression or not."""
    streams, _ = process(past="shared", innovation="shared", seed=0, shape=(12, 2, 2, 15))
    mix = torch.eye(4).double().requires_grad_()
    optimizer, found = torch.optim.Adam([mix], 0.1), []
    for _ in range(12):
        mixed = torch.einsum("bxt,xy->byt", streams.flatten(1, 2), mix).unflatten(1, (2, 2))
        given = by_default(mixed, through=through)
        loss = mmd(given, delay=False, estimator="closed_form", bandwidths=BANDWIDTHS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(reading(given.detach()))
    assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize(
    ("streams", "complaint"),
    [
        (torch.zeros(2, 3, 4), r"streams must be \[B, K, D, T\], got shape \(2, 3, 4\)"),
        (torch.zeros(2, 3, 4, 1), "streams have 1 frames and their past 1: lengthen segment_seconds"),
    ],
)
def test_bad_input_is_named(streams: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        by_default(streams)
