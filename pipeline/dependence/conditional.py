"""The price of factorising: bits that a language model pays for predicting the codes of one step apart, from below.

A model whose steps hold all K codebooks predicts a step by prod_k p_k(q_k | h), h being what it makes of the past and
the text. The joint is prod_k p(q_k | h, q_1..q_{k-1}). Where each p_k is right, the first costs more than the second by
the conditional total correlation, sum_k H(q_k | h) - H(q_1..q_K | h): what a loss for independence has to lower.

To measure it, the model is frozen, and codebook k > 1 also sees the codes before it through a head
(`pipeline.lm.depth`). Held-out bits of the model alone minus those with heads are the price, in bits a step. The true
one is higher, and heads that train longer find more of it: compare codecs by one recipe and under one pattern. Heads
may also mend a p_k that is off. Controls show how much; their heads train beside the others, alike in all but what they
see. To save time each predicts one codebook, the last, whose head sees the most, or a copy:

- `other_clip`: the last from the codes before it at a random step of another clip. Truth 0.
- `other_frame`: from those at a random step of the same clip, at least a quarter of it away. Such codes tell which
  piece is playing. Truth 0 if h tells it already.
- `copied`: a copy of the first codebook from the first, by LM_1(h) and a head. Truth: LM_1's bits.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import job, params, statistics
from pipeline.lm.depth import FROZEN, OWN, Frozen, Steps, View, bits, fit, own


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
