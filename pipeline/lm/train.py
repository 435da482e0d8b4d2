"""Trains a language model on a codec's tokens, and measures what held-out tokens cost it in bits per frame.

Batches, captions and text dropout are drawn from (seed, step) alone: a killed run continues as if it had not been, and
models of different patterns see the same clips in the same order.

    python -m pipeline.lm.train --pattern delay --codec mmd --seed 0 --tokens results/codec/tokens/mmd-seed0 \
        --manifest results/corpus/manifest.parquet --text results/lm/text --out results/lm/delay/mmd-seed0
"""

import argparse
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline import job, manifest, params, provenance
from pipeline.files import atomic, write_json
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm.conditioning import TextStates
from pipeline.lm.model import LanguageModel, ModelShape, cross_entropy
from pipeline.lm.transformer import set_matmul_precision
from pipeline.training import History, resume_run, save_run

CHECKPOINT_SECONDS = 60.0
VALIDATIONS = 5  # per run, on the same clips
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


def main() -> None:
    """Trains one language model."""
    parser = job.parser("Train a language model on a codec's tokens.")
    parser.add_argument("--pattern", choices=list(params.choices("PATTERNS")), required=True, help="codebook pattern")
    parser.add_argument("--codec", required=True, help="name of the codec, for the record")
    parser.add_argument("--seed", type=int, required=True)
    for name, what in (("tokens", "folder of train.npy, validation.npy, test.npy"), ("manifest", "manifest.parquet")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    parser.add_argument("--text", type=Path, required=True, help="folder of text states")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = job.prepare(args)
    set_matmul_precision(device)
    sizes = params.section(args.params, "lm", params.LanguageModel)
    codec = params.section(args.params, "codec", params.Codec)
    text = conditioning.load(args.text)
    clips = manifest.read(args.manifest)
    train_split, validation, test = (load_split(args.tokens, clips, text, name, codec) for name in manifest.SPLITS)
    shape = ModelShape.of(
        sizes,
        pattern=args.pattern,
        codebooks=codec.codebooks,
        codebook_size=codec.codebook_size,
        frames=train_split.tokens.shape[2],
        text_dimension=text.dimension,
    )
    run = f"lm/{args.pattern}/{args.codec}-seed{args.seed}"
    checkpoint = Path("checkpoints") / f"{run}.safetensors"
    started = time.monotonic()
    model, history = train(shape, sizes, train_split, validation, text, args.seed, device, checkpoint)
    nats = evaluate(model, test, text, sizes.micro_batch_size)
    language_model.save(model, args.out)
    with atomic(args.out / "history.csv") as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)
    with atomic(args.out / "held_out.npz") as temporary:
        np.savez(
            temporary,
            nats=nats,
            bits_per_frame=bits(nats),
            track_id=test.track_id.astype(str),
            clip_id=test.clip_id.astype(str),
        )
    write_json(args.out / "metrics.json", metrics(model, nats, sizes, args, time.monotonic() - started))
    checkpoint.unlink(missing_ok=True)


def train(
    shape: ModelShape,
    sizes: params.LanguageModel,
    split: Split,
    validation: Split,
    text: TextStates,
    seed: int,
    device: torch.device,
    checkpoint: Path,
) -> tuple[LanguageModel, History]:
    """The averaged model after `sizes.steps` steps, and its history.

    AdamW; linear warm-up, then a cosine to zero; the gradient summed over micro-batches and its norm clipped; weights
    averaged with decay `weight_ema`.

    Raises:
        ValueError: the split has fewer clips than a batch.
    """
    if len(split) < sizes.batch_size:
        raise ValueError(f"the train split has {len(split)} clips, lm.batch_size asks for {sizes.batch_size}")
    torch.manual_seed(seed)
    model, average = LanguageModel(shape).to(device), LanguageModel(shape).to(device).eval()
    average.load_state_dict(model.state_dict())
    optimizer = adamw(model, sizes)
    digest = digest_of(shape, sizes, (split, validation), text, seed)
    modules, optimizers = {"model": model, "average": average}, {"optimizer": optimizer}
    first, history = resume_run(checkpoint, modules, optimizers, digest) or (0, [])
    few = subset(validation, VALIDATION_CLIPS)
    saved = time.monotonic()
    started = saved - (history[-1]["seconds"] if history else 0.0)
    with job.Progress(str(checkpoint.with_suffix("").relative_to("checkpoints")), sizes.steps, done=first) as progress:
        for step in range(first, sizes.steps):
            for group in optimizer.param_groups:
                group["lr"] = sizes.learning_rate * schedule(step, sizes.warmup_steps, sizes.steps)
            codes, states, mask = (x.to(device) for x in draw(split, text, sizes, seed, step))
            torch.manual_seed(seed * 1_000_003 + step)  # of the dropout
            optimizer.zero_grad()
            nats = torch.cat(
                [
                    backward(model, *part, share=len(part[0]) / len(codes), precision=sizes.precision)
                    for part in zip(*(x.split(sizes.micro_batch_size) for x in (codes, states, mask)), strict=True)
                ]
            )
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), sizes.gradient_clip)
            if not norm.isfinite():
                raise job.JobError(f"the gradient is {norm.item()} at step {step}: lower lm.learning_rate")
            optimizer.step()
            with torch.no_grad():
                # A short average at first, or the random start would linger in it.
                decay = min(sizes.weight_ema, (step + 1) / (step + 10))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            done = step + 1
            if done % max(sizes.steps // VALIDATIONS, 1) == 0 or done == sizes.steps:
                held_out = evaluate(average, few, text, sizes.micro_batch_size)
                history.append(
                    {
                        "step": done,
                        **{f"loss_{k}": x for k, x in enumerate(nats.mean(dim=(0, 2)).tolist())},
                        **{f"validation_loss_{k}": x for k, x in enumerate(held_out.mean(axis=0).tolist())},
                        "validation_bits_per_frame": bits(held_out).mean().item(),
                        "seconds": time.monotonic() - started,
                    }
                )
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save_run(checkpoint, modules, optimizers, step=done, history=history, digest=digest)
                saved = time.monotonic()
            progress.update(done, loss=nats.mean().item(), gradient=norm.item())
    return average, history


def digest_of(
    shape: ModelShape, sizes: params.LanguageModel, splits: Sequence[Split], text: TextStates, seed: int
) -> str:
    """Digest of all that decides a run: what the model is, how and on what it is trained, and the code."""
    arrays = [array for split in splits for array in (split.tokens, split.captions)]
    arrays += [text.states.numpy(), text.offsets.numpy()]
    data = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    code = provenance.source_digest("pipeline.lm.train", params.choices("PATTERNS")[shape.pattern])
    return provenance.digest([vars(shape), sizes.model_dump(mode="json"), seed, data, code])


def backward(
    model: LanguageModel, codes: Tensor, text: Tensor, mask: Tensor, *, share: float, precision: str
) -> Tensor:
    """Nats of every token of a micro-batch, `[B, K, T]`, whose mean times `share` is added to the gradient.

    With `precision` bfloat16, matrix products are of such numbers; weights, their sums and the loss stay float32.
    """
    with torch.autocast(codes.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(codes, text, mask)
    nats = cross_entropy(logits.float(), codes)
    (nats.mean() * share).backward()
    return nats.detach()


def schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate: linear over `warmup` steps, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def draw(
    split: Split, text: TextStates, sizes: params.LanguageModel, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One step's codes `[B, K, T]`, text `[B, L, D]` and its mask `[B, L]`, all False where the text is dropped."""
    generator = np.random.default_rng([seed, step])
    rows = generator.choice(len(split), sizes.batch_size, replace=False)
    paraphrase = generator.integers(split.captions.shape[1], size=len(rows))
    states, mask = text.batch(split.captions[rows, paraphrase])
    kept = torch.from_numpy(generator.random(len(rows)) >= sizes.text_dropout)
    return split.codes(rows), states, mask & kept[:, None]


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


def bits(nats: np.ndarray) -> np.ndarray:
    """Bits per frame of each clip, from the mean nats per token of its K codebooks, `[n, K]` -> `[n]`."""
    return nats.sum(axis=1) / math.log(2)


def load_split(tokens: Path, clips: pd.DataFrame, text: TextStates, name: str, codec: params.Codec) -> Split:
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


def adamw(model: LanguageModel, sizes: params.LanguageModel) -> torch.optim.AdamW:
    """The optimizer; matrices decay, the gains and biases of norms do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": sizes.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=sizes.learning_rate, betas=sizes.betas, fused=True)


def metrics(
    model: LanguageModel,
    nats: np.ndarray,
    sizes: params.LanguageModel,
    args: argparse.Namespace,
    seconds: float,
) -> dict[str, object]:
    """What `metrics.json` holds: of the test split clips, cross-entropy per codebook in nats and bits per frame."""
    frames = model.shape.frames
    return {
        "test": {
            "clips": len(nats),
            "cross_entropy_nats": nats.mean(axis=0).tolist(),
            "bits_per_frame": bits(nats).mean().item(),
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": sizes.steps,
        "frames_seen": sizes.steps * sizes.batch_size * frames,
        "sequence_length": model.pattern(frames).steps,
        "seconds": seconds,
        "codec": args.codec,
        "pattern": args.pattern,
        "provenance": provenance.record(
            {"lm": sizes.model_dump(mode="json")}, seed=args.seed, device=model.heads.device.type
        ),
    }


if __name__ == "__main__":
    job.run(main)
