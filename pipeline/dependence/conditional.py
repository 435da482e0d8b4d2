"""The price of factorising: bits that a language model pays for predicting the codes of one step apart, from below.

A model whose steps hold all K codebooks predicts a step by prod_k p_k(q_k | h), h being what it makes of the past and
the text. The joint is prod_k p(q_k | h, q_1..q_{k-1}). Where each p_k is right, the first costs more than the second by
the conditional total correlation, sum_k H(q_k | h) - H(q_1..q_K | h): what a loss for independence has to lower.

To measure it, the model is frozen, and codebook k > 1 also sees the codes before it through a gated head of low rank,

    logits_k = LM_k(h) + O_k [(sum_{j<k} E_kj[q_j]) * (1 + W_k h)].

E and W start at 0, so the model is its own baseline. Its held-out bits minus those with heads are the price, in bits a
step. The true one is higher, and heads that train longer find more of it: compare codecs by one recipe and under one
pattern. Heads may also mend a p_k that is off. Controls show how much; their heads train beside the others, alike in
all but what they see. To save time each predicts one codebook, the last, whose head sees the most, or a copy:

- `other_clip`: the last from the codes before it at a random step of another clip. Truth 0.
- `other_frame`: from those at a random step of the same clip, at least a quarter of it away. Such codes tell which
  piece is playing. Truth 0 if h tells it already.
- `copied`: a copy of the first codebook from the first, by LM_1(h) and a head. Truth: LM_1's bits.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import job, params, statistics

OWN = "own"  # the view of a step's own codes, whose bound is the price
FROZEN = "frozen"  # the language model without heads
CURVE = (4, 2)  # the bound is also taken after a quarter and after half of the steps
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

    def __init__(self, seen: int, codebook_size: int, width: int, rank: int, generator: torch.Generator) -> None:
        """`seen` is the number of codebooks that it sees, J."""
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


def views(codes: Tensor, clips: int, seed: int) -> dict[str, View]:
    """The steps' own codes `[K, n S]`, and those of the controls.

    Raises:
        ValueError: a control needs two clips with two steps each.
    """
    steps = codes.shape[1] // clips
    if clips < 2 or steps < 2:
        raise ValueError(f"controls need 2 clips of 2 steps or more, got {clips} of {steps}; take more or longer clips")
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (clips, steps), generator=generator)

    clip, step = torch.arange(clips)[:, None], torch.arange(steps)
    far = max(steps // 4, 1)
    elsewhere = (clip + draw(1, clips)) % clips * steps + draw(0, steps)
    later = clip * steps + (step + draw(far, steps - far + 1)) % steps
    last = {len(codes) - 1: list(range(len(codes) - 1))}
    return {
        OWN: own(codes),
        "other_clip": View(codes[:, elsewhere.flatten().to(codes.device)], last),
        "other_frame": View(codes[:, later.flatten().to(codes.device)], last),
        "copied": View(codes, {0: [0]}),
    }


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


def measure(
    frozen: Frozen,
    train: Steps,
    test: Steps,
    tracks: np.ndarray,
    settings: params.Dependence,
    confidence: float,
    progress: job.Progress | None = None,
) -> dict[str, Any]:
    """The price on the `test` steps, whose clips come from tracks `[n]`, numbered from 0, and the controls; JSON-ready.

    Resample r draws the same tracks whatever the model, so resampled prices of two codecs can be paired.
    """
    seed = settings.seed
    heads, curve = fit(frozen, train, views(train.codes, train.clips, seed), settings.conditional, seed, progress)
    shown = views(test.codes, test.clips, seed)
    early = {f"{step}": own(test.codes) for step in curve}
    with_early = {**heads, **{f"{step}": each for step, each in curve.items()}}
    found = bits(frozen, test, with_early, {**shown, **early})
    saved = {name: found[FROZEN][:, list(view.sees)] - found[name] for name, view in {**shown, **early}.items()}

    def estimate(values: np.ndarray) -> statistics.Estimate:
        return statistics.mean(values, tracks, resamples=settings.bootstrap, seed=seed, confidence=confidence)

    factorised, price = found[FROZEN], saved[OWN]
    truths = {"other_clip": 0.0, "other_frame": 0.0, "copied": float(factorised[:, 0].mean())}
    return {
        "price": estimate(price.sum(axis=1)).json(resamples=True),
        "by_codebook": [estimate(each).json() for each in price.T],
        "bits_factorised": estimate(factorised.sum(axis=1)).json(),
        "bits_with_head": estimate(factorised.sum(axis=1) - price.sum(axis=1)).json(),
        "controls": {
            name: {**estimate(saved[name].sum(axis=1)).json(), "truth": truth} for name, truth in truths.items()
        },
        "curve": [
            *({"steps": step, "value": float(saved[f"{step}"].sum(axis=1).mean())} for step in curve),
            {"steps": settings.conditional.steps, "value": float(price.sum(axis=1).mean())},
        ],
        "clips": test.clips,
        "tracks": int(tracks.max()) + 1,
        "steps": len(test.hidden),
        "train_clips": train.clips,
        "train_steps": len(train.hidden),
    }
