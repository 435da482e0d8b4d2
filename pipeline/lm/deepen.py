"""Gives a trained language model depth heads, with which it models the codebooks of a step jointly.

The model is frozen; its heads (`pipeline.lm.depth`) are those that the price of factorising is measured with, by the
same recipe, `dependence.conditional`. So model and deepened model differ in how they decode a step and in nothing else.

    python -m pipeline.lm.deepen --lm results/lm/parallel/mmd-seed0-lm0 --text results/lm/text \
        --tokens results/codec/tokens/mmd-seed0 --manifest results/corpus/manifest.parquet \
        --out results/lm/parallel-depth/mmd-seed0-lm0
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from pipeline import job, manifest, params, provenance
from pipeline.files import write_json
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm.conditioning import TextStates
from pipeline.lm.depth import OWN, Heads, Steps, fit, own
from pipeline.lm.model import LanguageModel
from pipeline.lm.train import (
    Split,
    evaluate,
    held_out_metrics,
    load_split,
    log_shares,
    static_nats,
    subset,
    write_held_out,
)
from pipeline.lm.transformer import set_matmul_precision

AT_ONCE = 8  # clips through the model


@torch.no_grad()
def full_steps(model: LanguageModel, split: Split, text: TextStates, progress: job.Progress | None = None) -> Steps:
    """The steps of a split's clips that hold all codebooks, under each clip's first caption.

    Raises:
        ValueError: the model's pattern has no such step, or it has one codebook alone.
    """
    shape, device = model.shape, model.heads.device
    layout = model.pattern(split.tokens.shape[2])
    full = layout.mask.all(dim=0)
    if shape.codebooks < 2 or not full.any():
        raise ValueError(
            f"no step of pattern '{shape.pattern}' holds 2 codebooks or more at once and all of the {shape.codebooks}: "
            "there is a price of factorising for patterns such as parallel and delay"
        )
    hidden, codes = [], []
    for start in range(0, len(split), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        states, mask = text.batch(split.captions[rows, 0])
        part = split.codes(rows).to(device)
        hidden.append(model.hidden(part, states.to(device), mask.to(device))[:, full])
        codes.append(layout.lay_out(part, model.special)[:, :, full])
        if progress:
            progress.update(min(start + AT_ONCE, len(split)))
    return Steps(torch.cat(hidden).flatten(0, 1), torch.cat(codes).movedim(1, 0).flatten(1), len(split))


class Inputs(NamedTuple):
    """A trained model, and what heads on it are learnt from and measured on."""

    model: LanguageModel
    text: TextStates
    clips: pd.DataFrame  # the manifest
    train: Split
    test: Split

    def logits(self, hidden: Tensor) -> Tensor:
        """Of all codebooks, `[N, width]` -> `[N, K, C]`."""
        return self.model.logits(hidden, slice(None))


def heads_parser(description: str) -> argparse.ArgumentParser:
    """As `job.parser`, with what `load` reads: `--lm`, `--tokens`, `--manifest`, `--text`."""
    parser = job.parser(description)
    parser.add_argument("--lm", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of its codec's tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet, for captions and tracks")
    parser.add_argument("--text", type=Path, required=True, help="folder of text states")
    return parser


def load(args: argparse.Namespace, device: torch.device) -> Inputs:
    """What the arguments of `heads_parser` name.

    Raises:
        ValueError: a folder lacks what it should hold, or they do not fit each other.
    """
    set_matmul_precision(device)
    model, text = language_model.load(args.lm).to(device), conditioning.load(args.text)
    clips = manifest.read(args.manifest)
    train, test = (load_split(args.tokens, clips, text, name, model.shape) for name in ("train", "test"))
    return Inputs(model, text, clips, train, test)


def deepened(model: LanguageModel, heads: Heads) -> LanguageModel:
    """The model with depth heads for codebooks 1 to K - 1, counted from 0; its own weights are unchanged."""
    rank = heads[0].output.shape[1]
    deep = LanguageModel(replace(model.shape, depth=rank)).to(model.heads.device)
    weights = {f"depth.{k}.{name}": value for k, head in enumerate(heads) for name, value in head.state_dict().items()}
    deep.load_state_dict({**model.state_dict(), **weights})
    return deep.eval()


def main() -> None:
    """Trains the depth heads of one language model and writes the deepened model."""
    parser = heads_parser("Give a language model depth heads, which model the codebooks of a step jointly.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the deepened model")
    args = parser.parse_args()
    device = job.prepare(args)
    settings = params.section(args.params, "dependence", params.Dependence)
    batch_size = params.section(args.params, "lm", params.LanguageModel).micro_batch_size

    given = load(args, device)
    if given.model.shape.depth:
        raise ValueError(f"{args.lm} has depth heads already: give the folder of the model without")
    name = f"lm/{args.out.parent.name}/{args.out.name}"
    with job.Progress(name, settings.conditional.steps) as progress:
        steps = full_steps(given.model, subset(given.train, settings.conditional.clips), given.text)
        shown = {OWN: own(steps.codes)}
        heads, _ = fit(given.logits, steps, shown, settings.conditional, settings.seed, progress)
    model, test = deepened(given.model, heads[OWN]), given.test
    nats = evaluate(model, test, given.text, batch_size)
    static = static_nats(test, log_shares(given.train, model.shape.codebook_size))
    language_model.save(model, args.out)
    write_held_out(args.out / "held_out.npz", nats, static, test)
    record = provenance.record({"dependence": settings.model_dump()}, seed=settings.seed, device=device.type)
    write_json(
        args.out / "metrics.json",
        {
            "test": held_out_metrics(nats, static),
            "parameters": sum(p.numel() for p in model.parameters()),
            "heads": sum(p.numel() for head in model.depth for p in head.parameters()),
            "steps": settings.conditional.steps,
            "provenance": record,
        },
    )


if __name__ == "__main__":
    job.run(main)
