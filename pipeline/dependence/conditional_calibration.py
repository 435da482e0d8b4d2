"""The price of factorising of made processes whose conditional total correlation is known.

The C codes of a codebook are G groups of neighbours. A frame's regime r is the group of the first codebook one frame
before, so the past tells it. Codebook k draws a d_k from uneven masses p `[G]`, which gives the group (r + d_k) mod G,
and a code of that group evenly. In a share s of the frames whose regime is even, all codebooks have one d; in all other
frames each has its own. The chain of regimes moves by d whatever its place, so all regimes are equally frequent.

Codes share what their groups share. In an even regime that is, with a_d = s p_d + (1 - s) p_d^K, in nats,

    K H(p) + sum_d a_d log a_d + sum_{d_1..d_K not all equal} b log b,    b = (1 - s) prod_k p_{d_k}.

The model is exact: h is the regime, and logits are the codes' log-probabilities. What the heads miss of the truth is
their own bias, at the study's number of clips. A study's codes may be easier or harder to learn than these.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import entr, xlogy
from torch import Tensor
from torch.nn import functional as F

from pipeline import files, job, manifest, params, provenance, statistics
from pipeline.lm.depth import FROZEN, OWN, Steps, bits, fit, own

GROUPS = 32  # at most
FLATNESS = 4  # p_d ~ 1 / (d + G / FLATNESS), d from 0


def masses(groups: int) -> np.ndarray:
    """p `[G]`."""
    p = 1 / (np.arange(groups) + groups / FLATNESS)
    return p / p.sum()


def total_correlation(p: np.ndarray, shared: float, codebooks: int) -> float:
    """Of K draws from p `[G]` that are one draw in a share s of the frames, in bits."""
    rest, alike = 1 - shared, p**codebooks
    joint = -entr(shared * p + rest * alike).sum()
    joint += xlogy(rest, rest) * (1 - alike.sum()) + rest * codebooks * (xlogy(p, p).sum() - (alike * np.log(p)).sum())
    return float((codebooks * entr(p).sum() + joint) / np.log(2))


def truth(groups: int, shared: float, codebooks: int) -> float:
    """Conditional total correlation of a frame given the past, in bits: the mean over regimes, half of which share."""
    return total_correlation(masses(groups), shared, codebooks) * -(-groups // 2) / groups


def draw(
    clips: int, frames: int, codebooks: int, codebook_size: int, shared: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[n, K, T]` of a process, and the regime of each frame `[n, T]`."""
    groups = min(GROUPS, codebook_size)
    offset = generator.choice(groups, (clips, codebooks, frames), p=masses(groups))
    started = generator.integers(groups, size=(clips, 1))
    regime = np.concatenate([started, started + offset[:, 0].cumsum(axis=1)], axis=1)[:, :-1] % groups
    one = (regime % 2 == 0) & (generator.random(regime.shape) < shared)
    group = (regime[:, None] + np.where(one[:, None], offset[:, :1], offset)) % groups
    size = codebook_size // groups
    return group * size + generator.integers(size, size=group.shape), regime


def exact(codebooks: int, codebook_size: int) -> Tensor:
    """Logits of every code by regime, `[G, K, C]`; codes beyond the groups do not occur."""
    groups = min(GROUPS, codebook_size)
    size = codebook_size // groups
    regime, group = np.arange(groups)[:, None], np.arange(groups * size) // size
    p = masses(groups)[(group - regime) % groups] / size
    logits = F.pad(torch.from_numpy(np.log(p)).float(), (0, codebook_size - groups * size), value=-torch.inf)
    return logits[:, None].expand(-1, codebooks, -1).contiguous()


def calibrate(
    clips: dict[str, int],
    frames: int,
    codebooks: int,
    codebook_size: int,
    settings: params.Dependence,
    confidence: float,
) -> dict[str, Any]:
    """The price of every process, its truth and the bias, by the study's own recipe; JSON-ready.

    Args:
        clips: to learn from (`train`) and to measure on (`test`); the interval is over them.
        frames: T of each.
        codebooks: K.
        codebook_size: C.
        settings: the study's own, and the processes' `shared`.
        confidence: level of the intervals.
    """
    table = exact(codebooks, codebook_size)

    def model(hidden: Tensor) -> Tensor:
        return F.linear(hidden, table.flatten(1).T).unflatten(1, table.shape[1:])

    processes = []
    for index, shared in enumerate(settings.conditional.shared):
        generator = np.random.default_rng([settings.seed, index])
        train, test = (
            _steps(*draw(clips[split], frames, codebooks, codebook_size, shared, generator), len(table))
            for split in ("train", "test")
        )
        with job.Progress(f"price/calibration-{shared:g}", settings.conditional.steps) as progress:
            shown = {OWN: own(train.codes)}
            heads, _ = fit(model, train, shown, settings.conditional, settings.seed, progress)
        found = bits(model, test, heads, {OWN: own(test.codes)})
        price = (found[FROZEN][:, 1:] - found[OWN]).sum(axis=1)
        measured = statistics.mean(
            price, np.arange(len(price)), resamples=settings.bootstrap, seed=settings.seed, confidence=confidence
        )
        known = truth(len(table), shared, codebooks)
        processes.append(
            {"shared": shared, "truth": known, "measured": measured.json(), "bias": float(measured.value) - known}
        )
    return {"clips": clips, "frames": frames, "processes": processes}


def _steps(codes: np.ndarray, regime: np.ndarray, regimes: int) -> Steps:
    """Codes `[n, K, T]` and regimes `[n, T]` as the steps of a model that knows the regime."""
    hidden = F.one_hot(torch.from_numpy(regime).flatten(), regimes).float()
    return Steps(hidden, torch.from_numpy(codes).movedim(1, 0).flatten(1), len(codes))


def main() -> None:
    """Calibrates the price of factorising for one study and writes JSON."""
    parser = job.parser("Measure the price of factorising of made processes whose price is known.")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet, for the number of clips")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    job.prepare(args)
    codec = params.section(args.params, "codec", params.Codec)
    corpus = params.section(args.params, "corpus", params.Corpus)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.confidence(args.params)
    rows = manifest.read(args.manifest, ["split"])
    clips = {split: len(manifest.of_split(rows, split)) for split in ("train", "test")}
    clips["train"] = min(clips["train"], settings.conditional.clips)
    length = corpus.clip_samples // codec.hop_length
    result = calibrate(clips, length, codec.codebooks, codec.codebook_size, settings, confidence)
    used = {"dependence": settings.model_dump(), "clips": clips, "confidence": confidence}
    files.write_json(args.out, result | {"provenance": provenance.record(used, seed=settings.seed)})


if __name__ == "__main__":
    job.run(main)
