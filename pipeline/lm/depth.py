"""Heads that predict the codes of one step from each other, on a frozen language model.

A model whose steps hold all K codebooks predicts a step by prod_k p_k(q_k | h), h being what it makes of the past and
the text. With heads, codebook k > 1 also sees the codes before it, through a gate of low rank,

    logits_k = LM_k(h) + O_k [(sum_{j<k} E_kj[q_j]) * (1 + W_k h)],

and the step is predicted jointly, prod_k p(q_k | h, q_1..q_{k-1}). E and W start at 0, so the model is its own
baseline. `pipeline.dependence.conditional` reads from them what factorising costs; `pipeline.lm.deepen` makes a model
of them that can be sampled from.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import job, params

OWN = "own"  # the view of a step's own codes
FROZEN = "frozen"  # the language model without heads
CURVE = (4, 2)  # heads are also kept after a quarter and after half of the steps
AT_ONCE = 4096  # steps at evaluation

Frozen = Callable[[Tensor], Tensor]  # h `[N, width]` -> logits of all codebooks `[N, K, C]`


class Steps(NamedTuple):
    """The S steps of each of n clips that hold all codebooks."""

    hidden: Tensor  # [n S, width], h
    codes: Tensor  # [K, n S], int64
    clips: int  # n


class View(NamedTuple):
    """What heads are shown: codes, and by codebook that is predicted the codebooks that its head sees."""

    codes: Tensor  # [K, n S], int64
    sees: dict[int, list[int]]


class Head(nn.Module):
    """One codebook's correction, O [(sum_j E_j[q_j]) * (1 + W h)]."""

    def __init__(
        self, seen: int, codebook_size: int, width: int, rank: int, generator: torch.Generator | None = None
    ) -> None:
        """`seen` is the number of codebooks that it sees, J; `generator` draws O."""
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(seen, codebook_size, rank))
        self.gate = nn.Parameter(torch.zeros(rank, width))
        self.output = nn.Parameter(torch.randn(codebook_size, rank, generator=generator) * rank**-0.5)

    def forward(self, logits: Tensor, hidden: Tensor, codes: Tensor) -> Tensor:
        """Corrected logits `[N, C]`, from the model's, h `[N, width]` and the codes that are seen `[J, N]`."""
        embedded = sum(F.embedding(each, table) for each, table in zip(codes, self.embedding, strict=True))
        return torch.addmm(logits, embedded * (1 + F.linear(hidden, self.gate)), self.output.T)


Heads = list[Head]  # of a view's predicted codebooks, in its order


def own(codes: Tensor) -> View:
    """The steps' own codes `[K, n S]`: each codebook after the first sees those before it."""
    return View(codes, {k: list(range(k)) for k in range(1, len(codes))})


def fit(
    frozen: Frozen,
    steps: Steps,
    shown: dict[str, View],
    settings: params.Conditional,
    seed: int,
    progress: job.Progress | None = None,
) -> tuple[dict[str, Heads], dict[int, Heads]]:
    """Heads of every view, trained side by side on the same batches, and those of `OWN` as they were after some steps.

    AdamW, linear warm-up, then linear to 0. No head's training depends on another's. The seed decides everything.
    """
    generator = torch.Generator().manual_seed(seed)
    positions, width = steps.hidden.shape
    codebook_size = frozen(steps.hidden[:1]).shape[2]
    heads = {
        name: [Head(len(seen), codebook_size, width, settings.rank, generator) for seen in view.sees.values()]
        for name, view in shown.items()
    }
    for each in heads.values():
        nn.ModuleList(each).to(steps.hidden.device)
    every = [head for each in heads.values() for head in each]
    groups = [
        {"params": [head.embedding for head in every], "lr": settings.embedding_rate},
        {"params": [p for head in every for p in (head.gate, head.output)], "lr": settings.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)
    left = settings.steps - settings.warmup_steps
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / settings.warmup_steps, (settings.steps - step) / left)
    )
    batches = torch.Generator().manual_seed(seed)
    marks = [settings.steps // part for part in CURVE]
    curve: dict[int, Heads] = {}
    for step in range(1, settings.steps + 1):
        rows = torch.randint(positions, (settings.batch_size,), generator=batches).to(steps.hidden.device)
        with torch.no_grad():
            logits = frozen(steps.hidden[rows])
        nats = {name: _nats(logits, steps, rows, heads[name], view) for name, view in shown.items()}
        torch.cat(list(nats.values())).mean(dim=1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
        if step in marks:
            curve[step] = copy.deepcopy(heads[OWN])
        if progress:
            progress.update(step, bits=nats[OWN].sum(dim=0).mean().item() / math.log(2))
    return heads, curve


@torch.no_grad()
def bits(frozen: Frozen, steps: Steps, heads: dict[str, Heads], shown: dict[str, View]) -> dict[str, np.ndarray]:
    """Bits a step of each clip and predicted codebook, `[n, J]`, with every view's heads, and `FROZEN` `[n, K]`."""
    parts: dict[str, list[Tensor]] = {name: [] for name in (FROZEN, *shown)}
    for rows in torch.arange(len(steps.hidden), device=steps.hidden.device).split(AT_ONCE):
        logits, codes = frozen(steps.hidden[rows]), steps.codes[:, rows]
        parts[FROZEN].append(F.cross_entropy(logits.movedim(1, 2), codes.T, reduction="none").T)
        for name, view in shown.items():
            parts[name].append(_nats(logits, steps, rows, heads[name], view))
    return {
        name: torch.cat(each, dim=1).unflatten(1, (steps.clips, -1)).double().mean(dim=2).T.cpu().numpy() / math.log(2)
        for name, each in parts.items()
    }


def _nats(logits: Tensor, steps: Steps, rows: Tensor, heads: Heads, view: View) -> Tensor:
    """Nats of every predicted codebook at some steps, `[J, N]`, whose frozen logits are `[N, K, C]`."""
    hidden, codes, seen = steps.hidden[rows], steps.codes[:, rows], view.codes[:, rows]
    return torch.stack(
        [
            F.cross_entropy(head(logits[:, k], hidden, seen[others]), codes[k], reduction="none")
            for head, (k, others) in zip(heads, view.sees.items(), strict=True)
        ]
    )
