"""Muon (Jordan et al. 2024): descends along momentum whose matrices are first made nearly orthogonal."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; steep at 0, so singular values end in about 0.7 to 1.2


class Muon(Optimizer):
    """Momentum m <- m + 0.05 (g - m); W <- (1 - r d) W - r max(1, rows / columns)^1/2 NS(g + 0.95 (m - g)).

    r is the learning rate, d the decay, NS the iteration below. Differs from torch.optim.Muon in two things. NS is in
    float32: processors differ in how they multiply bfloat16, and the same seed must give the same bits. And a parameter
    may be several matrices on top of each other, each of which has an iteration of its own.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        """Groups of parameters `[n rows, columns]`, each of n = `matrices` matrices on top of each other."""
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "matrices": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                nesterov = parameter.grad.lerp(state["momentum"], MOMENTUM)
                for weight, update in zip(*(x.chunk(group["matrices"]) for x in (parameter, nesterov)), strict=True):
                    shapes[weight.shape][0].append(weight)
                    shapes[weight.shape][1].append(update)
            for (rows, columns), (weights, updates) in shapes.items():
                orthogonal = newton_schulz(torch.stack(updates))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * math.sqrt(max(1, rows / columns))
                torch._foreach_add_(weights, orthogonal.unbind(), alpha=-rate)


def newton_schulz(matrices: Tensor) -> Tensor:
    """The quintic a s + b s^3 + c s^5, five times over, of the singular values s of `[N, rows, columns]`.

    They are first divided by their matrix's Frobenius norm, so that none is above 1.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
