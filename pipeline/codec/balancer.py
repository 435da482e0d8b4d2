"""The gradient balancer (EnCodec, section 3.4, "Balancer")."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

EPSILON = 1e-12  # added to a norm: a loss without gradient gets no share


class Balancer(nn.Module):
    """Weighs the losses of an output by their shares in its gradient, whatever their own scales are.

    With g_i = d l_i / d x^, ||.|| the L2 norm of an item of the batch, averaged over the batch, and <.> the moving
    average over steps (`decay` beta), without the bias of its start:

        g = R sum_i (w_i / sum_j w_j) g_i / <||g_i||>,  R = 1

    So an item's gradient has a norm of at most about R, and 1 + 1 weighs two losses alike at any size of either. A loss
    that is not of the output, as commitment and independence are, has no place here.
    """

    norms: Tensor  # [losses], decayed sums of each gradient's norm
    steps: Tensor  # scalar, the decayed number of steps

    def __init__(self, weights: Mapping[str, float], decay: float) -> None:
        """`weights` above 0, by the names of the losses."""
        super().__init__()
        self.weights, self.decay = dict(weights), decay
        # Both sums decay alike from 0; their ratio is the average. In doubles, as beta is close to 1.
        self.norms = nn.Buffer(torch.zeros(len(weights), dtype=torch.float64))
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.float64))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """A scalar whose gradient with respect to `output` `[B, T]` is g; its value means nothing. Moves the averages.

        Raises:
            ValueError: a loss' gradient holds NaN or infinity; the averages stay as they were.
        """
        # Losses may share a part of the graph, as those of the discriminator do.
        gradients = [torch.autograd.grad(losses[name], output, retain_graph=True)[0] for name in self.weights]
        norms = torch.stack([gradient.flatten(1).norm(dim=1).mean() for gradient in gradients]).double()
        if not norms.isfinite().all():
            wrong = [name for name, finite in zip(self.weights, norms.isfinite().tolist(), strict=True) if not finite]
            raise ValueError(f"training diverged: the gradient of {wrong} holds NaN or infinity")
        self.norms.mul_(self.decay).add_(norms)
        self.steps.mul_(self.decay).add_(1)
        scales = norms.new_tensor(list(self.weights.values())) / sum(self.weights.values())
        scales = (scales / (self.norms / self.steps + EPSILON)).to(output.dtype)
        scaled = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
        return (sum(scaled[1:], scaled[0]) * output).sum()
