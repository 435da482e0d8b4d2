"""The iteration against its closed form on singular values, the step against torch's, stacks against their matrices."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.lm.muon import COEFFICIENTS, ITERATIONS, Muon, newton_schulz


def matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 12, 12), (3, 12, 5), (1, 5, 12)])
def test_the_iteration_is_its_polynomial_of_the_singular_values(shape: tuple[int, ...]) -> None:
    given = matrices(*shape)
    left, values, right = torch.linalg.svd(given.double(), full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(ITERATIONS):
        values = sum(c * values**power for c, power in zip(COEFFICIENTS, (1, 3, 5), strict=True))
    torch.testing.assert_close(newton_schulz(given).double(), left * values[:, None] @ right, atol=1e-4, rtol=1e-4)


def test_singular_values_end_near_1() -> None:
    values = torch.linalg.svdvals(newton_schulz(matrices(4, 32, 96)))
    assert ((values > 0.6) & (values < 1.3)).all()


def test_no_gradient_moves_nothing() -> None:
    assert newton_schulz(torch.zeros(1, 4, 6)).count_nonzero() == 0


@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32)])
def test_steps_are_torchs_up_to_the_rounding_of_bfloat16(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(matrices(*shape)) for _ in range(2))
    optimizers = [
        Muon([{"params": [ours]}], lr=0.1, weight_decay=0.3),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, momentum=0.95, nesterov=True, ns_steps=5),
    ]
    for step in range(1, 4):
        ours.grad, theirs.grad = (matrices(*shape, seed=step) for _ in range(2))
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - matrices(*shape)).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_stack_moves_as_its_matrices_do() -> None:
    stack, alone = nn.Parameter(matrices(24, 8)), [nn.Parameter(part.clone()) for part in matrices(24, 8).chunk(3)]
    groups = ([{"params": [stack], "matrices": 3}], [{"params": alone}])
    optimizers = [Muon(group, lr=0.1, weight_decay=0.1) for group in groups]
    for step in range(1, 3):
        stack.grad = matrices(24, 8, seed=step)
        for parameter, gradient in zip(alone, stack.grad.chunk(3), strict=True):
            parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack.data, torch.cat([p.data for p in alone]))


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = nn.Parameter(matrices(4, 4))
    Muon([{"params": [parameter]}], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(parameter.data, matrices(4, 4))
