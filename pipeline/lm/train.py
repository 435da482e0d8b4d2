"""Trains a language model on a codec's tokens, and measures what held-out tokens cost it in bits per frame.

Batches, crops, captions and text dropout are drawn from (seed, step) alone: a killed run continues as if it had not
been, and models of different patterns see the same frames in the same order.

    python -m pipeline.lm.train --pattern delay --codec results/codec/mmd-seed0 --seed 0 \
        --tokens results/codec/tokens/mmd-seed0 --manifest results/corpus/manifest.parquet --text results/lm/text \
        --out results/lm/delay/mmd-seed0-lm0
"""

import argparse
import hashlib
import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline import job, manifest, params, provenance
from pipeline.files import atomic, write_json
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm.conditioning import TextStates
from pipeline.lm.model import LanguageModel, ModelShape, cross_entropy
from pipeline.lm.muon import Muon
from pipeline.lm.transformer import STACKED, set_matmul_precision
from pipeline.training import History, resume_run, save_run

CHECKPOINT_SECONDS = 60.0
VALIDATIONS = 8  # per run, on the same clips: at the end, half-way to it, half-way to that
VALIDATION_CLIPS = 64  # of the validation split, evenly spaced; the end of the run measures the whole test split


@dataclass(frozen=True)
class Split:
    """Tokens of one split with their captions."""

    tokens: np.ndarray  # [n, K, T], uint16
    captions: np.ndarray  # [n, P], rows of the text states
    track_id: np.ndarray  # [n]
    clip_id: np.ndarray  # [n]

    def __len__(self) -> int:
        return len(self.tokens)

    def codes(self, rows: np.ndarray | slice) -> Tensor:
        """Tokens of some clips, `[B, K, T]`, int64."""
        return torch.from_numpy(self.tokens[rows].astype(np.int64))


class Batch(NamedTuple):
    """What a step trains on."""

    codes: Tensor  # [B, K, T], int64, of the whole clips
    window: Tensor  # [B, n], int64, the frames of each that count
    text: Tensor  # [B, L, D]
    mask: Tensor  # [B, L], bool, all False where the text is dropped


class Trained(NamedTuple):
    """What a run leaves."""

    model: LanguageModel  # of averaged weights, as the two below
    snapshots: dict[int, LanguageModel]  # per cent of the steps -> the model then
    history: History


def main() -> None:
    """Trains one language model."""
    parser = job.parser("Train a language model on a codec's tokens.")
    parser.add_argument("--pattern", choices=list(params.choices("PATTERNS")), required=True, help="codebook pattern")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--seed", type=int, required=True)
    for name, what in (("tokens", "folder of train.npy, validation.npy, test.npy"), ("manifest", "manifest.parquet")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    parser.add_argument("--text", type=Path, required=True, help="folder of text states")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = job.prepare(args)
    set_matmul_precision(device)
    sizes = params.section(args.params, "lm", params.LanguageModel)
    codec = manifest.streams(args.codec)
    clip_seconds = params.section(args.params, "corpus", params.Corpus).clip_seconds
    text = conditioning.load(args.text)
    clips = manifest.read(args.manifest)
    train_split, validation, test = (load_split(args.tokens, clips, text, name, codec) for name in manifest.SPLITS)
    shape = ModelShape.of(
        sizes,
        pattern=args.pattern,
        **codec._asdict(),
        frames=train_split.tokens.shape[2],
        text_dimension=text.dimension,
    )
    run = f"lm/{args.pattern}/{args.codec.name}-lm{args.seed}"
    checkpoint = Path("checkpoints") / f"{run}.safetensors"
    started = time.monotonic()
    frames = crop_frames(sizes, shape.frames, clip_seconds)
    trained = train(shape, sizes, frames, train_split, validation, text, args.seed, device, checkpoint)
    nats = evaluate(trained.model, test, text, sizes.micro_batch_size)
    static = static_nats(test, log_shares(train_split, codec.codebook_size))
    language_model.save(trained.model, args.out)
    for percent, snapshot in trained.snapshots.items():
        language_model.save(snapshot, args.out / "snapshots" / str(percent))
    with atomic(args.out / "history.csv") as temporary:
        pd.DataFrame(trained.history).to_csv(temporary, index=False)
    write_held_out(args.out / "held_out.npz", nats, static, test)
    seconds = time.monotonic() - started
    write_json(args.out / "metrics.json", metrics(trained.model, nats, static, sizes, frames, args, seconds))
    checkpoint.unlink(missing_ok=True)


def train(
    shape: ModelShape,
    sizes: params.LanguageModel,
    frames: int,
    split: Split,
    validation: Split,
    text: TextStates,
    seed: int,
    device: torch.device,
    checkpoint: Path,
) -> Trained:
    """The averaged model after `sizes.steps` steps on crops of `frames` frames, its snapshots and its history.

    Starts at the codes' shares in the train split; linear warm-up, then a cosine to zero; the gradient summed over
    micro-batches and its norm clipped; weights averaged with decay `weight_ema`.

    Raises:
        ValueError: the split has fewer clips than a batch.
    """
    if len(split) < sizes.batch_size:
        raise ValueError(f"the train split has {len(split)} clips, lm.batch_size asks for {sizes.batch_size}")
    torch.manual_seed(seed)
    model, shares = LanguageModel(shape), log_shares(split, shape.codebook_size)
    model.start_at(shares)
    average = deepcopy(model.to(device)).eval()
    optimizers = optimizers_of(model, sizes)
    snapshots = {percent: deepcopy(average) for percent in sizes.snapshot_percents}
    digest = digest_of(shape, sizes, frames, (split, validation), text, seed)
    modules = {"model": model, "average": average, **{f"snapshot{k}": kept for k, kept in snapshots.items()}}
    first, history = resume_run(checkpoint, modules, optimizers, digest) or (0, [])
    few = subset(validation, VALIDATION_CLIPS)
    static = bits(static_nats(few, shares)).mean().item()
    validated = {max(sizes.steps >> halved, 1) for halved in range(VALIDATIONS)}
    saved = time.monotonic()
    started = saved - (history[-1]["seconds"] if history else 0.0)
    with job.Progress(str(checkpoint.with_suffix("").relative_to("checkpoints")), sizes.steps, done=first) as progress:
        for step in range(first, sizes.steps):
            for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
                group["lr"] = group["rate"] * schedule(step, sizes.warmup_steps, sizes.steps)
            batch = Batch(*(x.to(device) for x in draw(split, text, sizes, frames, seed, step)))
            torch.manual_seed(seed * 1_000_003 + step)  # of the dropout
            model.zero_grad()
            nats = torch.cat(
                [
                    backward(model, Batch(*part), share=len(part[0]) / sizes.batch_size, precision=sizes.precision)
                    for part in zip(*(x.split(sizes.micro_batch_size) for x in batch), strict=True)
                ]
            )
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), sizes.gradient_clip)
            if not norm.isfinite():
                raise job.JobError(f"the gradient is {norm.item()} at step {step}: lower lm.learning_rate")
            for optimizer in optimizers.values():
                optimizer.step()
            with torch.no_grad():
                # A short average at first, or the random start would linger in it.
                decay = min(sizes.weight_ema, (step + 1) / (step + 10))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            done = step + 1
            for percent, snapshot in snapshots.items():
                if done == sizes.steps * percent // 100:
                    snapshot.load_state_dict(average.state_dict())
            if done in validated:
                held_out = evaluate(average, few, text, sizes.micro_batch_size)
                history.append(
                    {
                        "step": done,
                        **{f"loss_{k}": x for k, x in enumerate(nats.mean(dim=(0, 2)).tolist())},
                        **{f"validation_loss_{k}": x for k, x in enumerate(held_out.mean(axis=0).tolist())},
                        "validation_bits_per_frame": bits(held_out).mean().item(),
                        "validation_static_bits": static,
                        "seconds": time.monotonic() - started,
                    }
                )
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save_run(checkpoint, modules, optimizers, step=done, history=history, digest=digest)
                saved = time.monotonic()
            progress.update(done, loss=nats.mean().item(), gradient=norm.item())
    return Trained(average, snapshots, history)


def digest_of(
    shape: ModelShape, sizes: params.LanguageModel, frames: int, splits: Sequence[Split], text: TextStates, seed: int
) -> str:
    """Digest of all that decides a run: what the model is, how and on what it is trained, and the code."""
    arrays = [array for split in splits for array in (split.tokens, split.captions)]
    arrays += [text.states.numpy(), text.offsets.numpy()]
    data = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    code = provenance.source_digest("pipeline.lm.train", params.choices("PATTERNS")[shape.pattern])
    return provenance.digest([vars(shape), sizes.model_dump(mode="json"), frames, seed, data, code])


def backward(model: LanguageModel, batch: Batch, *, share: float, precision: str) -> Tensor:
    """Nats of every token of a micro-batch, `[B, K, n]`, whose mean times `share` is added to the gradient.

    With `precision` bfloat16, matrix products are of such numbers; weights, their sums and the loss stay float32.
    """
    codes = batch.codes.gather(2, batch.window[:, None].expand(-1, batch.codes.shape[1], -1))
    with torch.autocast(codes.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(batch.codes, batch.text, batch.mask, batch.window)
    nats = cross_entropy(logits.float(), codes)
    (nats.mean() * share).backward()
    return nats.detach()


def crop_frames(sizes: params.LanguageModel, frames: int, clip_seconds: float) -> int:
    """Frames of a crop of clips that have `frames`, one at least."""
    share = sizes.crop_seconds / clip_seconds
    return max(round(frames * share), 1) if 0 < share < 1 else frames


def schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate: linear over `warmup` steps, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def draw(split: Split, text: TextStates, sizes: params.LanguageModel, frames: int, seed: int, step: int) -> Batch:
    """One step's clips, each with a crop of `frames` frames and one of its captions."""
    generator = np.random.default_rng([seed, step])
    rows = generator.choice(len(split), sizes.batch_size, replace=False)
    paraphrase = generator.integers(split.captions.shape[1], size=len(rows))
    states, mask = text.batch(split.captions[rows, paraphrase])
    kept = torch.from_numpy(generator.random(len(rows)) >= sizes.text_dropout)
    starts = generator.integers(split.tokens.shape[2] - frames + 1, size=(len(rows), 1))
    return Batch(split.codes(rows), torch.from_numpy(starts + np.arange(frames)), states, mask & kept[:, None])


@torch.no_grad()
def evaluate(model: LanguageModel, split: Split, text: TextStates, batch_size: int) -> np.ndarray:
    """Mean nats per token of each clip and codebook under its first caption, `[n, K]`."""
    device = model.heads.device
    result = []
    for start in range(0, len(split), batch_size):
        rows = slice(start, start + batch_size)
        states, mask = text.batch(split.captions[rows, 0])
        codes = split.codes(rows).to(device)
        result.append(cross_entropy(model(codes, states.to(device), mask.to(device)), codes).mean(dim=2).cpu())
    return torch.cat(result).double().numpy()


def log_shares(split: Split, codebook_size: int) -> Tensor:
    """log p of every code of each codebook in a split, `[K, C]`; each counts half more, for those that do not occur."""
    counts = [np.bincount(codes.ravel(), minlength=codebook_size) + 0.5 for codes in split.tokens.swapaxes(0, 1)]
    return torch.from_numpy(np.log(counts) - np.log(np.sum(counts, axis=1, keepdims=True))).float()


def static_nats(split: Split, shares: Tensor) -> np.ndarray:
    """As `evaluate`, of a model that knows the log `shares` of the codes and nothing else: their static entropy."""
    streams = zip(shares.double().numpy(), split.tokens.swapaxes(0, 1), strict=True)
    return -np.stack([share[codes].mean(axis=1) for share, codes in streams], axis=1)


def bits(nats: np.ndarray) -> np.ndarray:
    """Bits per frame of each clip, from the mean nats per token of its K codebooks, `[n, K]` -> `[n]`."""
    return nats.sum(axis=1) / math.log(2)


def load_split(
    tokens: Path, clips: pd.DataFrame, text: TextStates, name: str, codec: manifest.Streams | ModelShape
) -> Split:
    """Tokens of a split, in the manifest's order, with the captions of the manifest `clips`.

    Raises:
        ValueError: the tokens are missing or do not fit the codec or the manifest; a caption has no text states.
    """
    rows = manifest.of_split(clips, name)
    codes = manifest.read_tokens(tokens, name, len(rows), codec.codebooks, codec.codebook_size)
    columns = manifest.caption_columns(rows)
    captions = text.rows(rows[columns].to_numpy().ravel().tolist()).reshape(-1, len(columns))
    return Split(codes, captions, rows["track_id"].to_numpy(), rows["clip_id"].to_numpy())


def subset(split: Split, clips: int) -> Split:
    """At most `clips` clips of a split, evenly spaced."""
    rows = np.unique(np.linspace(0, len(split) - 1, clips).round().astype(int))
    return replace(split, **{name: value[rows] for name, value in vars(split).items()})


def optimizers_of(model: LanguageModel, sizes: params.LanguageModel) -> dict[str, Optimizer]:
    """AdamW, and Muon for the layers' matrices where it is asked for; each group has its highest learning `rate`.

    Matrices decay, the gains and biases of norms do not.
    """
    stacks: dict[int, list[nn.Parameter]] = {}
    other: dict[bool, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("transformer.layers.") and parameter.ndim == 2:
            stacks.setdefault(STACKED.get(name.split(".")[-2], 1), []).append(parameter)
        elif name != "embedding.weight":
            other.setdefault(parameter.ndim > 1, []).append(parameter)
    layers = [{"params": stack, "matrices": n, "rate": sizes.learning_rate} for n, stack in stacks.items()]
    rest = [
        {"params": [model.embedding.weight], "rate": sizes.embedding_learning_rate},
        {"params": other[True], "rate": sizes.other_learning_rate},
        {"params": other[False], "rate": sizes.other_learning_rate, "weight_decay": 0.0},
    ]
    adamw = partial(AdamW, betas=sizes.betas, weight_decay=sizes.weight_decay, fused=True)
    if sizes.optimizer == "adamw":
        return {"adamw": adamw(layers + rest)}
    return {"muon": Muon(layers, lr=sizes.learning_rate, weight_decay=sizes.weight_decay), "adamw": adamw(rest)}


def write_held_out(path: Path, nats: np.ndarray, static: np.ndarray, split: Split) -> None:
    """Writes what each clip of a split costs, in mean nats per token `[n, K]` of a model and without one."""
    with atomic(path) as temporary:
        np.savez(
            temporary,
            nats=nats,
            bits_per_frame=bits(nats),
            static_bits=bits(static),
            track_id=split.track_id.astype(str),
            clip_id=split.clip_id.astype(str),
        )


def held_out_metrics(nats: np.ndarray, static: np.ndarray) -> dict[str, object]:
    """Means over clips: cross-entropy per codebook in nats, bits per frame, and the share of the static entropy saved.

    `static` is of a model that knows how often each code occurs in the train split and nothing else; both `[n, K]`.
    """
    modelled, unmodelled = bits(nats).mean().item(), bits(static).mean().item()
    return {
        "clips": len(nats),
        "cross_entropy_nats": nats.mean(axis=0).tolist(),
        "bits_per_frame": modelled,
        "static_bits": unmodelled,
        "gain": 1 - modelled / unmodelled,
    }


def metrics(
    model: LanguageModel,
    nats: np.ndarray,
    static: np.ndarray,
    sizes: params.LanguageModel,
    frames: int,
    args: argparse.Namespace,
    seconds: float,
) -> dict[str, object]:
    """What `metrics.json` holds: `held_out_metrics` of the test split, and what the run was."""
    return {
        "test": held_out_metrics(nats, static),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": sizes.steps,
        "frames_seen": sizes.steps * sizes.batch_size * frames,
        "sequence_length": model.pattern(model.shape.frames).steps,
        "seconds": seconds,
        "codec": args.codec.name,
        "pattern": args.pattern,
        "provenance": provenance.record(
            {"lm": sizes.model_dump(mode="json")}, seed=args.seed, device=model.heads.device.type
        ),
    }


if __name__ == "__main__":
    job.run(main)
