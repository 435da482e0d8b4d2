"""The balancer where gradients are known, against a slow reference of its equation, and what it keeps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.codec.balancer import Balancer

B, T = 3, 50


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def linear(gradient: Tensor, output: Tensor) -> Tensor:
    """A loss whose gradient with respect to `output` is `gradient`."""
    return (gradient * output).sum()


def unit(item: int) -> Tensor:
    """A direction `[B, T]` of norm 1 in each item, orthogonal to those of other numbers."""
    direction = torch.zeros(B, T)
    direction[:, item] = 1
    return direction


def gradient_of(balancer: Balancer, gradients: dict[str, Tensor]) -> Tensor:
    """What one step of the balancer makes of losses with these gradients."""
    output = noise(B, T, seed=9).requires_grad_()
    balancer({name: linear(gradient, output) for name, gradient in gradients.items()}, output).backward()
    return output.grad


def reference(weights: dict[str, float], decay: float, steps: list[dict[str, Tensor]]) -> list[Tensor]:
    """EnCodec's equation, item by item, with the moving average as the weighted mean that it is."""
    totals = []
    for now in range(len(steps)):
        total = torch.zeros(B, T, dtype=torch.float64)
        for name, weight in weights.items():
            norms = [sum(float(item.double().norm()) for item in step[name]) / B for step in steps[: now + 1]]
            shares = [decay ** (now - step) for step in range(now + 1)]
            average = sum(s * n for s, n in zip(shares, norms, strict=True)) / sum(shares)
            total += weight / sum(weights.values()) * steps[now][name].double() / average
        totals.append(total)
    return totals


@given(scale=st.floats(1e-6, 1e6), weight=st.floats(0.1, 10))
def test_shares_are_as_the_weights_whatever_the_losses_scales(scale: float, weight: float) -> None:
    balancer = Balancer({"a": weight, "b": 1.0}, 0.999)
    gradient = gradient_of(balancer, {"a": scale * unit(0), "b": 7 * unit(1)})
    torch.testing.assert_close(gradient, weight / (weight + 1) * unit(0) + 1 / (weight + 1) * unit(1))


def test_an_item_gets_a_gradient_of_norm_1() -> None:
    gradient = gradient_of(Balancer({"a": 2.0, "b": 5.0}, 0.999), {"a": 3 * unit(0), "b": 0.1 * unit(0)})
    torch.testing.assert_close(gradient.norm(dim=1), torch.ones(B))


def test_norms_are_means_over_items_and_items_keep_their_differences() -> None:
    loud = unit(0) * torch.tensor([[1.0], [2.0], [6.0]])
    gradient = gradient_of(Balancer({"a": 1.0}, 0.999), {"a": loud})
    torch.testing.assert_close(gradient.norm(dim=1), torch.tensor([1 / 3, 2 / 3, 2.0]))


def test_a_sudden_gradient_is_held_against_the_average_of_those_before() -> None:
    """Norms 1, then 4 with decay 0.5: the average is (0.5 + 4) / 1.5 = 3."""
    balancer = Balancer({"a": 1.0}, 0.5)
    torch.testing.assert_close(gradient_of(balancer, {"a": unit(0)}), unit(0))
    torch.testing.assert_close(gradient_of(balancer, {"a": 4 * unit(0)}), 4 / 3 * unit(0))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_it_is_its_equation(decay: float) -> None:
    weights = {"mel": 2.0, "l1": 0.1, "adversarial": 4.0}
    steps = [
        {name: (i + 1) * (step + 1) * noise(B, T, seed=10 * step + i) for i, name in enumerate(weights)}
        for step in range(5)
    ]
    balancer = Balancer(weights, decay)
    for step, expected in zip(steps, reference(weights, decay, steps), strict=True):
        torch.testing.assert_close(gradient_of(balancer, step).double(), expected, rtol=1e-5, atol=1e-7)


def test_losses_that_share_a_graph_are_each_followed() -> None:
    output = noise(B, T).requires_grad_()
    shared = output.square()
    losses = {"a": shared.sum(), "b": -shared.sum()}
    Balancer({"a": 1.0, "b": 1.0}, 0.999)(losses, output).backward()
    torch.testing.assert_close(output.grad, torch.zeros(B, T))


def test_what_lies_behind_the_output_gets_its_gradient_once() -> None:
    weight = torch.ones(T, requires_grad=True)
    output = noise(B, T) * weight
    Balancer({"a": 3.0}, 0.999)({"a": linear(5 * unit(2), output)}, output).backward()
    torch.testing.assert_close(weight.grad, (noise(B, T) * unit(2)).sum(0))


def test_a_loss_without_gradient_has_no_say() -> None:
    gradient = gradient_of(Balancer({"a": 1.0, "b": 1.0}, 0.999), {"a": unit(0), "b": torch.zeros(B, T)})
    torch.testing.assert_close(gradient, unit(0) / 2)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing(wrong: float) -> None:
    balancer = Balancer({"a": 1.0, "b": 1.0}, 0.999)
    gradient_of(balancer, {"a": unit(0), "b": unit(1)})
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    with pytest.raises(ValueError, match=r"diverged: the gradient of \['b'\] holds NaN or infinity"):
        gradient_of(balancer, {"a": unit(0), "b": wrong * torch.ones(B, T)})
    assert all(torch.equal(value, before[name]) for name, value in balancer.state_dict().items())


def test_its_averages_are_its_state() -> None:
    first = Balancer({"a": 1.0, "b": 2.0}, 0.9)
    for step in range(3):
        gradient_of(first, {"a": (step + 1) * unit(0), "b": unit(1)})
    second = Balancer({"a": 1.0, "b": 2.0}, 0.9)
    second.load_state_dict(first.state_dict())
    gradients = {"a": noise(B, T), "b": noise(B, T, seed=1)}
    assert torch.equal(gradient_of(first, gradients), gradient_of(second, gradients))
