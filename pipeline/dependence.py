"""Dependence between codebooks, measured on held-out codes: entropies and pairwise mutual information in bits.

The plug-in estimate from a C x C histogram is biased upwards, by about (C-1)^2 / (2 M ln 2) bits on M frames of
independent codes that use all C values: 0.47 bits at C = 256 and M = 100,000. The same estimate after each codebook is
shuffled in time has that bias and no dependence, and is subtracted. Strongly dependent codes fill fewer cells and have
less of that bias, so for them the difference is too low: a lower bound, where the paper's code takes the plug-in value.

Frames are not independent: neighbours are alike, and a track keeps to its own codes. Intervals therefore draw whole
tracks. The baseline, which shuffles single frames, knows nothing of that; `controls` shows what bias it leaves, which
is nearly common to codecs that are compared on the same clips. Dependence beyond pairs is not seen here.
"""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import files, job, params, provenance, statistics

SUMS = ("mutual_information", "normalised_by_sum", "normalised_by_minimum", "entropy")


class Entropies(NamedTuple):
    """Plug-in entropies in bits, of each codebook and of each pair of them in the order of `pairs`."""

    marginal: np.ndarray  # [K]
    joint: np.ndarray  # [K (K-1) / 2]


class Pairwise(NamedTuple):
    """Dependence of each pair of codebooks, in the order of `pairs`; bits, but for the normalised two."""

    entropy: np.ndarray  # [K], of each codebook
    plug_in: np.ndarray  # [P], biased upwards
    baseline: np.ndarray  # [P], the same after shuffling in time
    mutual_information: np.ndarray  # [P], plug-in minus baseline
    normalised_by_sum: np.ndarray  # [P], over H(a) + H(b), as the paper's code does: at most 1/2
    normalised_by_minimum: np.ndarray  # [P], over min(H(a), H(b)): at most 1

    def totals(self) -> np.ndarray:
        """The values named by `SUMS`: summed over pairs or codebooks, the normalised two averaged over pairs."""
        information, by_sum, by_minimum = self.mutual_information, self.normalised_by_sum, self.normalised_by_minimum
        return np.array([information.sum(), by_sum.mean(), by_minimum.mean(), self.entropy.sum()])


def pairs(codebooks: int) -> list[tuple[int, int]]:
    """Pairs of codebooks `(a, b)`, a < b, counted from 0."""
    return list(combinations(range(codebooks), 2))


def entropies(codes: np.ndarray, codebook_size: int) -> Entropies:
    """Plug-in entropies of codes `[K, M]`: H = -sum p log2 p with p the relative frequencies."""
    codes = codes.astype(np.intp)
    marginal = [_entropy(np.bincount(stream, minlength=codebook_size)) for stream in codes]
    joint = [_entropy(np.bincount(codes[a] * codebook_size + codes[b])) for a, b in pairs(len(codes))]
    return Entropies(np.array(marginal), np.array(joint))


def plug_in(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """Plug-in mutual information H(a) + H(b) - H(a, b) of every pair of codes `[K, M]`, in bits, `[P]`."""
    marginal, joint = entropies(codes, codebook_size)
    first, second = np.transpose(pairs(len(codes)))
    return marginal[first] + marginal[second] - joint


def shuffled(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Codes `[K, M]` with each codebook in a random order of its own: the product of the marginals."""
    return generator.permuted(codes, axis=1)


def pairwise(codes: np.ndarray, orders: list[np.ndarray], codebook_size: int) -> Pairwise:
    """Dependence of every pair of codes `[K, M]`; the baseline is the mean over `orders`, shuffled codes `[K, M]` each.

    Raises:
        ValueError: `codes` is not integer `[K, M]`, K > 1, has fewer frames than codes, or holds a code out of range.
    """
    marginal, joint = entropies(_checked(codes, codebook_size), codebook_size)
    first, second = np.transpose(pairs(len(codes)))
    information = marginal[first] + marginal[second] - joint
    baseline = np.mean([plug_in(order, codebook_size) for order in orders], axis=0)
    corrected = information - baseline
    return Pairwise(
        marginal,
        information,
        baseline,
        corrected,
        _share(corrected, marginal[first] + marginal[second]),
        _share(corrected, np.minimum(marginal[first], marginal[second])),
    )


def delay_shift(codes: np.ndarray) -> np.ndarray:
    """Codes `[n, K, T]` as the delay-pattern LM predicts them, `[n, K, T-K+1]`: row s holds codebook k of frame s - k.

    Steps at either end of a clip that lack a codebook are dropped; differs from the paper's code, which drops one more.
    """
    count, (_, codebooks, length) = len(codes), codes.shape
    if length < codebooks:
        raise ValueError(f"clips of {length} frames have no step with all {codebooks} codebooks under the delay shift")
    result = np.empty((count, codebooks, length - codebooks + 1), codes.dtype)
    for k in range(codebooks):
        result[:, k] = codes[:, k, codebooks - 1 - k : length - k]
    return result


ALIGNMENTS = {"equal_time": lambda codes: codes, "delayed": delay_shift}


def measure(
    codes: np.ndarray,
    tracks: np.ndarray,
    codebook_size: int,
    settings: params.Dependence,
    confidence: float,
    progress: job.Progress | None = None,
) -> dict[str, Any]:
    """Dependence in aligned codes `[n, K, T]` of clips from tracks `[n]`, with intervals over tracks, JSON-ready.

    Resample r draws the same tracks whatever the codec and the alignment, so resampled values of two can be paired.
    A track drawn twice adds no new frames, which is bias; so the baseline's frames are drawn just as often.
    """
    count, codebooks, length = codes.shape
    if len(tracks) != count:
        raise ValueError(
            f"codes of {count} clips, but the manifest's test split lists {len(tracks)}; make the tokens again"
        )
    flat = np.ascontiguousarray(codes.transpose(1, 0, 2)).reshape(codebooks, -1)
    generator = np.random.default_rng(settings.seed)
    orders = [shuffled(flat, generator) for _ in range(settings.shuffles)]
    found = pairwise(flat, orders, codebook_size)

    names, track = np.unique(tracks, return_inverse=True)
    track_of_frame = np.repeat(track, length)
    drawn = []
    for step, times in enumerate(statistics.multiplicities(len(names), settings.bootstrap, settings.seed), start=1):
        frames = np.repeat(np.arange(count * length), times[track_of_frame])
        drawn.append(pairwise(flat[:, frames], [orders[0][:, frames]], codebook_size))
        if progress:
            progress.update(step)

    def intervals(values: np.ndarray, resamples: np.ndarray) -> list[statistics.Estimate]:
        return [statistics.interval(v, r, confidence) for v, r in zip(values, resamples.T, strict=True)]

    entropy = intervals(found.entropy, np.array([d.entropy for d in drawn]))
    information = intervals(found.mutual_information, np.array([d.mutual_information for d in drawn]))
    totals = intervals(found.totals(), np.array([d.totals() for d in drawn]))
    return {
        "frames": flat.shape[1],
        "clips": count,
        "tracks": len(names),
        "entropy": [estimate.json() for estimate in entropy],
        "perplexity": (2**found.entropy).tolist(),
        "pairs": pairs(codebooks),
        "mutual_information": [estimate.json() for estimate in information],
        "plug_in": found.plug_in.tolist(),
        "baseline": found.baseline.tolist(),
        "normalised_by_sum": found.normalised_by_sum.tolist(),
        "normalised_by_minimum": found.normalised_by_minimum.tolist(),
        "total": {name: estimate.json(resamples=True) for name, estimate in zip(SUMS, totals, strict=True)},
    }


def controls(codes: np.ndarray, codebook_size: int, settings: params.Dependence) -> dict[str, dict[str, float]]:
    """What the measure says where the truth is known, in bits, from codes `[K, M]`.

    Positive: codebook 2 is a copy of codebook 1, so their mutual information is the entropy of codebook 1; the plug-in
    value is right there, and what is missing is the baseline.
    Negative: every codebook is shuffled in time, so mutual information summed over the pairs is 0.
    Rolled: every codebook is moved in time, as a whole, by a random distance. The truth is 0 here too; what is measured
    is the bias that comes from neighbouring frames being alike, which the baseline does not take out.
    """
    generator = np.random.default_rng(settings.seed)

    def information(known: np.ndarray) -> float:
        orders = [shuffled(known, generator) for _ in range(settings.shuffles)]
        return float(pairwise(known, orders, codebook_size).mutual_information.sum())

    distances = generator.integers(codes.shape[1], size=len(codes))
    rolled = np.stack([np.roll(stream, distance) for stream, distance in zip(codes, distances, strict=True)])
    return {
        "positive": {
            "measured": information(codes[[0, 0]]),
            "truth": float(entropies(codes, codebook_size).marginal[0]),
        },
        "negative": {"measured": information(shuffled(codes, generator)), "truth": 0.0},
        "rolled": {"measured": information(rolled), "truth": 0.0},
    }


def _share(information: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Their quotient; a codebook that always says the same shares nothing: 0, not 0 / 0."""
    return np.divide(information, entropy, out=np.zeros_like(information), where=entropy > 1e-9)


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    total = counts.sum()
    return float(np.log2(total) - (counts * np.log2(counts)).sum() / total)


def _checked(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    if codes.ndim != 2 or len(codes) < 2:
        raise ValueError(f"codes must be [K, M] with at least 2 codebooks, got shape {codes.shape}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes must be integers, got {codes.dtype}")
    if codes.shape[1] < codebook_size:
        raise ValueError(
            f"{codes.shape[1]} frames are too few to see {codebook_size} codes; take more clips or a smaller codebook"
        )
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(f"codes lie in {codes.min()}..{codes.max()}, outside 0..{codebook_size - 1} of the codebook")
    return codes


def main() -> None:
    """Measures one codec's held-out test codes and writes JSON."""
    parser = job.parser("Measure the dependence between codebooks on held-out codes.")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of one codec's tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet, for the clips' tracks")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    job.prepare(args)
    codec = params.section(args.params, "codec", params.Codec)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.section(args.params, "report", params.Report).confidence

    manifest = pd.read_parquet(args.manifest, columns=["track_id", "split"])
    tracks = manifest.loc[manifest["split"] == "test", "track_id"].to_numpy(str)
    codes = np.asarray(files.read_array(args.tokens / "test.npy"))
    if codes.ndim != 3 or 0 in codes.shape:
        raise job.JobError(
            f"{args.tokens / 'test.npy'} must hold codes [n, K, T], got shape {codes.shape}; make it again"
        )

    found = {}
    for name, align in ALIGNMENTS.items():
        with job.Progress(f"dependence/{args.tokens.name}/{name}", settings.bootstrap, "resample") as progress:
            found[name] = measure(align(codes), tracks, codec.codebook_size, settings, confidence, progress)
    flat = codes.transpose(1, 0, 2).reshape(codes.shape[1], -1)
    used = {"dependence": settings.model_dump(), "codebook_size": codec.codebook_size, "confidence": confidence}
    result = {
        "codec": args.tokens.name,
        "codebook_size": codec.codebook_size,
        "alignments": found,
        "controls": controls(flat, codec.codebook_size, settings),
        "confidence": confidence,
        "provenance": provenance.record(used, seed=settings.seed),
    }
    files.write_json(args.out, result)


if __name__ == "__main__":
    job.run(main)
