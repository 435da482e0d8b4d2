"""Lower bounds in bits on the dependence among several codebooks, from networks that predict one from the others.

For any model q of codebook k given others, the cross-entropy -E log2 q on frames that it has not seen is at least
H(k | others); so H(k) minus it is at most I(k; others) (difference of entropies, McAllester and Stratos 2020, with
H(k) the plug-in entropy of the same held-out frames: the cross-entropy of the best model of their own marginal, and
too low where it is off). By the chain rule, summed over k with codebooks before k as the others, it bounds the
total correlation sum_k H(k) - H(1..K).

No histogram can give that: K codebooks of C codes have C^K cells, 4.3 billion at K = 4 and C = 256, so nearly every
frame is alone in its cell, whatever the codes share. Nor does a sum over pairs: it is above the total correlation where
codebooks share the same thing, and below where they share what no pair shows.

The networks learn from the training split and stop by the validation split. Its artists are others than the test
split's, and so are their codes: each network's own marginal is therefore replaced by the held-out frames' (Saerens,
Latinne and Decaestecker 2002, with the priors known). Dependence that is specific to a track is not learned, so the
bound is well below the estimates from histograms of few tracks.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from torch import Tensor, nn
from torch.nn import functional

from pipeline import files, job, manifest, params, provenance, statistics
from pipeline.dependence.pairwise import ALIGNMENTS, flattened

CHECKS = 4  # looks at the validation frames in a training run
AT_ONCE = 8192  # frames per batch at evaluation


class Predictor(nn.Module):
    """One hidden layer on one-hot codes: q(codebook | J others) = softmax(b + W relu(h + sum_j E_j[c_j]))."""

    def __init__(
        self, others: int, codebook_size: int, hidden: int, marginal: Tensor, generator: torch.Generator
    ) -> None:
        """`marginal` `[C]`, log-probabilities: what is predicted until anything is learned."""
        super().__init__()
        scale = others**-0.5
        self.embeddings = nn.Parameter(torch.randn(others, codebook_size, hidden, generator=generator) * scale)
        self.hidden = nn.Parameter(torch.zeros(hidden))
        self.output = nn.Parameter(torch.zeros(codebook_size, hidden))
        self.marginal = nn.Parameter(marginal.clone())

    def forward(self, others: Tensor) -> Tensor:
        """Logits `[B, C]` for codes `[J, B]` of the other codebooks."""
        embedded = sum(functional.embedding(codes, table) for codes, table in zip(others, self.embeddings, strict=True))
        return functional.linear(torch.relu(self.hidden + embedded), self.output, self.marginal)


class Splits(NamedTuple):
    """Codes of the three splits, `[K, M]` each."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def of(self, codebooks: list[int]) -> "Splits":
        """Some of the codebooks."""
        return Splits(*(codes[codebooks] for codes in self))


def surprise(splits: Splits, codebook_size: int, settings: params.Learned, seed: int) -> np.ndarray:
    """-log2 q(codebook 1 | the others), in bits, of each test frame `[M]`.

    q is trained on the train split, kept as it was when it predicted the validation split best, and given the marginal
    of the frames that it predicts. The seed decides everything.
    """
    generator = torch.Generator().manual_seed(seed)
    train, others = splits.train[0], splits.train[1:]
    marginal = _log_marginal(train, codebook_size)
    model = Predictor(len(others), codebook_size, settings.hidden, marginal, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    best, kept = torch.inf, {}
    for step in range(settings.steps + 1):
        if step % -(-settings.steps // CHECKS) == 0 or step == settings.steps:
            loss = _surprise(model, splits.validation, marginal).mean().item()
            if loss < best:
                best, kept = loss, {name: value.clone() for name, value in model.state_dict().items()}
        if step == settings.steps:
            break
        rows = torch.randint(len(train), (settings.batch_size,), generator=generator)
        functional.cross_entropy(model(others[:, rows]), train[rows]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay.step()
    model.load_state_dict(kept)
    return _surprise(model, splits.test, marginal).numpy()


def lower_bound(splits: Splits, codebook_size: int, settings: params.Learned, seed: int) -> float:
    """I(codebook 1; the others) of the test frames from below, in bits."""
    return float(
        _entropy(_counts(splits.test[0], codebook_size)) - surprise(splits, codebook_size, settings, seed).mean()
    )


class Bound(NamedTuple):
    """One lower bound by track: what an interval over tracks needs."""

    counts: np.ndarray  # [tracks, C], of the codebook that is predicted
    surprise: np.ndarray  # [tracks], summed over frames, bits

    def drawn(self, times: np.ndarray) -> np.ndarray:
        """The bound in bits with each track taken so often, `[R, tracks]` -> `[R]`."""
        counts = times @ self.counts
        return _entropy(counts) - times @ self.surprise / counts.sum(axis=1)


def measure(
    splits: Splits,
    track: np.ndarray,
    codebook_size: int,
    settings: params.Dependence,
    confidence: float,
    progress: Callable[[], None],
) -> dict[str, Any]:
    """Bounds for aligned codes, the test split's `[K, M]` from tracks `[M]`, numbered from 0; JSON-ready.

    `given_previous` holds I(k; codebooks before k) from below for k > 1, which sum to the total correlation;
    `given_others` I(k; all others) for every k.
    """
    codebooks = len(splits.test)
    bounds_of: dict[tuple[int, ...], Bound] = {}

    def bound(target: int, others: list[int]) -> Bound:
        chosen = (target, *others)
        if chosen not in bounds_of:
            bits = surprise(splits.of(list(chosen)), codebook_size, settings.learned, settings.seed)
            counts = np.zeros((track.max() + 1, codebook_size))
            np.add.at(counts, (track, splits.test[target].numpy()), 1)
            bounds_of[chosen] = Bound(counts, np.bincount(track, weights=bits))
            progress()
        return bounds_of[chosen]

    drawn = statistics.multiplicities(track.max() + 1, settings.bootstrap, settings.seed)
    whole = np.ones((1, track.max() + 1))

    def estimate(bounds: list[Bound]) -> statistics.Estimate:
        value, resamples = (np.sum([each.drawn(times) for each in bounds], axis=0) for times in (whole, drawn))
        return statistics.interval(float(value[0]), resamples, confidence)

    previous = [bound(k, list(range(k))) for k in range(1, codebooks)]
    others = [bound(k, [j for j in range(codebooks) if j != k]) for k in range(codebooks)]
    return {
        "frames": len(track),
        "tracks": int(track.max()) + 1,
        "train_frames": splits.train.shape[1],
        "total_correlation": estimate(previous).json(resamples=True),
        "given_previous": [estimate([each]).json() for each in previous],
        "given_others": [estimate([each]).json() for each in others],
    }


def controls(splits: Splits, codebook_size: int, settings: params.Dependence) -> dict[str, dict[str, float]]:
    """The bound in bits where the truth is known: `pipeline.dependence.pairwise.controls` of codebooks 1 and 2."""
    generator = np.random.default_rng(settings.seed)

    def measured(second: Callable[[np.ndarray], np.ndarray]) -> float:
        known = Splits(*(torch.stack([codes[0], torch.from_numpy(second(codes.numpy()))]) for codes in splits))
        return lower_bound(known, codebook_size, settings.learned, settings.seed)

    def rolled(codes: np.ndarray) -> np.ndarray:
        return np.roll(codes[1], generator.integers(codes.shape[1]))

    return {
        "positive": {
            "measured": measured(lambda codes: codes[0]),
            "truth": float(_entropy(_counts(splits.test[0], codebook_size))),
        },
        "negative": {"measured": measured(lambda codes: generator.permutation(codes[1])), "truth": 0.0},
        "rolled": {"measured": measured(rolled), "truth": 0.0},
    }


@torch.no_grad()
def _surprise(model: Predictor, codes: Tensor, marginal: Tensor) -> Tensor:
    """Bits of codebook 1 of `[K, M]` given the others, the model's `marginal` replaced by these frames' own, `[M]`."""
    shift = _log_marginal(codes[0], len(marginal)) - marginal
    return torch.cat(
        [
            functional.cross_entropy(model(part[1:]) + shift, part[0], reduction="none")
            for part in codes.split(AT_ONCE, dim=1)
        ]
    ) / np.log(2)


def _log_marginal(codes: Tensor, codebook_size: int) -> Tensor:
    """Logarithms of the codes' relative frequencies `[C]`, half a frame added to each (Krichevsky, Trofimov 1981)."""
    counts = torch.bincount(codes, minlength=codebook_size) + 0.5
    return (counts / counts.sum()).log()


def _counts(codes: Tensor, codebook_size: int) -> np.ndarray:
    return np.bincount(codes.numpy(), minlength=codebook_size)


def _entropy(counts: np.ndarray) -> np.ndarray:
    """Plug-in entropy in bits of counts `[..., C]`."""
    p = counts / counts.sum(axis=-1, keepdims=True)
    return entr(p).sum(axis=-1) / np.log(2)


def _read(folder: Path, clips: pd.DataFrame, codec: manifest.Streams) -> dict[str, Splits]:
    """Codes of a folder of tokens under each of `ALIGNMENTS`."""
    codes = {
        split: manifest.read_tokens(folder, split, len(manifest.of_split(clips, split)), *codec)
        for split in manifest.SPLITS
    }
    return {
        name: Splits(*(torch.from_numpy(flattened(align(codes[split])).astype(np.int64)) for split in manifest.SPLITS))
        for name, align in ALIGNMENTS.items()
    }


def main() -> None:
    """Bounds the dependence in one codec's held-out test codes and writes JSON."""
    parser = job.parser("Bound what codebooks share beyond pairs by how well a network predicts one from others.")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of its tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet, for the clips' tracks")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    job.prepare(args)
    codec = manifest.streams(args.codec)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.confidence(args.params)

    size, codebooks = codec.codebook_size, codec.codebooks
    clips = manifest.read(args.manifest)
    aligned, tracks = _read(args.tokens, clips, codec), manifest.track_numbers(manifest.of_split(clips, "test"))
    # The last codebook's others are all that come before it: one network for both.
    networks = len(ALIGNMENTS) * (2 * codebooks - 2)
    alignments = {}
    with job.Progress(f"difference-of-entropies/{args.tokens.name}", networks, "network") as progress:
        done = count(1)
        for name, splits in aligned.items():
            length = splits.test.shape[1] // len(tracks)
            alignments[name] = measure(
                splits, np.repeat(tracks, length), size, settings, confidence, lambda: progress.update(next(done))
            )
    used = {"dependence": settings.model_dump(), "codebook_size": size, "confidence": confidence}
    result = {
        "codec": args.tokens.name,
        "alignments": alignments,
        "controls": controls(aligned["equal_time"], size, settings),
        "confidence": confidence,
        "provenance": provenance.record(used, seed=settings.seed),
    }
    files.write_json(args.out, result)


if __name__ == "__main__":
    job.run(main)
