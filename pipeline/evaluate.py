"""Scores of a system's audio against held-out music: FAD-MTT and KL-MTT.

`embed` turns a system's clips into MTT_musicnn's logits and embeddings, `score` compares them with the reference's.
Both scores carry the name of their model, for neither compares with a FAD on VGGish or a KL on PaSST.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax

from pipeline import audio, captions, fetch, files, frechet, job, musicnn, params, provenance, statistics

REFERENCE, FLOOR = "reference", "floor"  # real music: of the test split, and as many clips of the validation split
FAULTS = ("silent", "not_finite", "short", "clipped")
CLIPPED = 1e-3  # share of samples at full scale from which a clip counts as clipped
HALVES = 20  # random halves of the reference


class Prepared(NamedTuple):
    """A clip as it is scored, and what was wrong with it."""

    waveform: np.ndarray  # [seconds x 16 kHz], float32
    faults: tuple[bool, bool, bool, bool]  # as FAULTS


class Embeddings(NamedTuple):
    """What `embed` stores of n clips with m patches each."""

    clip_id: np.ndarray  # [n]
    track_id: np.ndarray  # [n]
    logits: np.ndarray  # [n, m, 50]
    penultimate: np.ndarray  # [n, m, 200]
    faults: np.ndarray  # [n, 4], bool

    @property
    def patches(self) -> np.ndarray:
        """Embeddings `[n m, 200]`."""
        return self.penultimate.reshape(-1, self.penultimate.shape[-1])

    @property
    def patch_tracks(self) -> np.ndarray:
        """Track of each patch, `[n m]`."""
        return np.repeat(self.track_id, self.penultimate.shape[1])

    def of_tracks(self, tracks: np.ndarray) -> "Embeddings":
        """Only the clips of `tracks`."""
        keep = np.isin(self.track_id, tracks)
        return Embeddings(*(part[keep] for part in self))


def prepare(samples: np.ndarray, rate: int, *, start: int, seconds: float, lufs: float) -> Prepared:
    """`seconds` of a clip `[T]` from sample `start` on, at 16 kHz and a loudness of `lufs`.

    What cannot be scored as it is stays in the scores as silence, in whole or where it ends too early, and is marked.
    """
    length = round(seconds * rate)
    kept = samples[start : start + length]
    waveform = audio.to_float(kept) if kept.dtype == np.int16 else kept.astype(np.float32)
    not_finite = not np.isfinite(waveform).all()
    short, clipped = len(kept) < length, np.mean(np.abs(waveform) >= 1) > CLIPPED if len(kept) else False
    waveform = np.pad(np.zeros_like(waveform) if not_finite else waveform, (0, length - len(kept)))
    try:
        waveform, silent = audio.loudness_normalize(waveform, rate, lufs), False
    except ValueError:  # mono, finite and long enough it is: only silence is left
        waveform, silent = np.zeros_like(waveform), True
    return Prepared(
        audio.resample(waveform, rate, musicnn.SAMPLE_RATE), (silent, bool(not_finite), short, bool(clipped))
    )


def offsets(clips: int, samples: int, length: int, seed: int) -> np.ndarray:
    """Start of what is kept of each clip, `[clips]` in samples: the same for every system."""
    if length > samples:
        raise ValueError(f"evaluation.seconds keeps {length} samples of a clip that has {samples}: lower it")
    return np.random.default_rng(seed).integers(samples - length + 1, size=clips)


def kl(reference: np.ndarray, system: np.ndarray) -> np.ndarray:
    """KL(reference || system) in nats of each clip's tags: logits `[n, m, 50]`, both -> `[n]`.

    A clip's posterior is the mean over its patches of the softmax over tags, as MusicGen's KL takes PaSST's. Differs
    from there in the tagger, whose tags do not exclude each other: the softmax says how it ranks them.
    """
    if reference.shape != system.shape:
        raise ValueError(f"logits of paired clips must have one shape, got {reference.shape} and {system.shape}")
    p, q = (np.logaddexp.reduce(log_softmax(side.astype(np.float64), -1), 1) for side in (reference, system))
    patches = np.log(reference.shape[1])
    return (np.exp(p - patches) * (p - q)).sum(-1)


def fad(
    system: Embeddings, reference: Embeddings, evaluation: params.Evaluation, confidence: float
) -> dict[str, float | int | list[float]]:
    """FAD-MTT with its interval over tracks, its limit for infinite samples, and the patches of each side.

    A system that was given the reference's captions has the reference's tracks, and both get the same resample of them.
    """
    ours, theirs = (frechet.moments(side.patches, side.patch_tracks) for side in (system, reference))
    value = frechet.frechet_distance(*frechet.statistics(system.patches), *frechet.statistics(reference.patches))
    paired = np.array_equal(np.unique(system.track_id), np.unique(reference.track_id))
    seeds = [evaluation.seed, evaluation.seed + (not paired)]
    resamples = [
        frechet.frechet_distance(*frechet.resampled(ours, a), *frechet.resampled(theirs, b))
        for a, b in zip(
            statistics.multiplicities(len(ours.count), evaluation.bootstrap, seeds[1]),
            statistics.multiplicities(len(theirs.count), evaluation.bootstrap, seeds[0]),
            strict=True,
        )
    ]
    generator = np.random.default_rng(evaluation.seed)
    limit = frechet.frechet_infinity(system.patches, reference.patches, generator=generator)
    estimate = statistics.interval(value, np.array(resamples), confidence).json(resamples=True)
    return {**estimate, "infinity": limit.value, "r2": limit.r2, "patches": len(system.patches)}


def halves(reference: Embeddings, seed: int) -> dict[str, float | int]:
    """FAD-MTT between random halves of the reference's tracks: what real music scores against real music."""
    tracks = np.unique(reference.track_id)
    generator = np.random.default_rng(seed)
    values, limits = [], []
    for _ in range(HALVES):
        order = generator.permutation(tracks)
        a, b = (reference.of_tracks(side).patches for side in (order[: len(order) // 2], order[len(order) // 2 :]))
        values.append(frechet.frechet_distance(*frechet.statistics(a), *frechet.statistics(b)))
        limits.append(frechet.frechet_infinity(a, b, generator=generator).value)
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "value": float(np.mean(values)),
        "low": float(low),
        "high": float(high),
        "infinity": float(np.mean(limits)),
        "patches": len(reference.patches) // 2,
        "draws": HALVES,
    }


def read(path: Path) -> Embeddings:
    """Reads what `embed` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Embeddings(*(arrays[name] for name in Embeddings._fields))


def clips_of(system: str, source: Path, manifest: pd.DataFrame, clips: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Audio `[n, T]` of a system and the manifest's rows that it belongs to.

    The reference and the floor are rows of the corpus; every other system has one clip for each caption of the test
    split's `captions.evaluation_rows`, in their order.
    """
    samples = files.read_array(source)
    rows = captions.evaluation_rows(manifest, clips, "validation" if system == FLOOR else "test")
    if system in (REFERENCE, FLOOR):
        return samples[rows["row"].to_numpy()], rows
    if len(samples) != clips:
        raise ValueError(f"{source} has {len(samples)} clips, generation.clips asks for {clips}: make it again")
    return samples, rows


def embed(args: argparse.Namespace) -> None:
    """Prepares, embeds and stores a system's clips."""
    device = job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    corpus = params.section(args.params, "corpus", params.Corpus)
    clips = params.section(args.params, "generation", params.Generation).clips
    rate = corpus.sample_rate

    samples, rows = clips_of(args.system, args.audio, pd.read_parquet(args.manifest), clips)
    network = musicnn.load("mtt", fetch.musicnn_folder(args.downloads)).to(device)
    starts = offsets(clips, round(corpus.clip_seconds * rate), round(evaluation.seconds * rate), evaluation.seed)
    answers, faults = [], []
    with job.Progress(f"embed/{args.system}", clips, "clip") as progress:
        for index, (clip, start) in enumerate(zip(samples, starts, strict=True)):
            waveform, faulty = prepare(
                clip, rate, start=start, seconds=evaluation.seconds, lufs=evaluation.loudness_lufs
            )
            answers.append(network.embed(torch.from_numpy(waveform)[None].to(device)))
            faults.append(faulty)
            progress.update(index + 1)
    stored = Embeddings(
        rows["clip_id"].to_numpy(str),
        rows["track_id"].to_numpy(str),
        torch.cat([answer.logits for answer in answers]).cpu().numpy(),
        torch.cat([answer.penultimate for answer in answers]).cpu().numpy(),
        np.array(faults),
    )
    with files.atomic(args.out) as temporary:
        np.savez(temporary, **stored._asdict())
    found = ", ".join(f"{name} {count}" for name, count in zip(FAULTS, stored.faults.sum(0), strict=True))
    print(f"{args.system}: {clips} clips, of which {found}")


def score(args: argparse.Namespace) -> None:
    """Scores a system's embeddings against the reference's; beside the JSON goes each clip's KL, as `.npz`."""
    job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    confidence = params.section(args.params, "report", params.Report).confidence
    reference, system = read(args.reference), read(args.embeddings)
    if len(reference.clip_id) != len(system.clip_id):
        raise ValueError(
            f"{args.embeddings} has {len(system.clip_id)} clips, {args.reference} {len(reference.clip_id)}: "
            "only equal counts can be compared"
        )
    paired = np.array_equal(reference.clip_id, system.clip_id)
    distances = kl(reference.logits, system.logits)
    mean = statistics.mean(
        distances,
        system.track_id,
        resamples=evaluation.bootstrap,
        seed=evaluation.seed,
        confidence=confidence,
    )
    result = {
        "system": args.system,
        "fad": fad(system, reference, evaluation, confidence),
        "kl": {**mean.json(), "paired": paired},
        "clips": len(system.clip_id),
        "tracks": len(np.unique(system.track_id)),
        **dict(zip(FAULTS, system.faults.sum(0).tolist(), strict=True)),
        "provenance": provenance.record({"evaluation": evaluation.model_dump()}, seed=evaluation.seed),
    }
    if args.system == FLOOR:
        result["halves"] = halves(reference, evaluation.seed)
    with files.atomic(args.out.with_suffix(".npz")) as temporary:
        np.savez(temporary, kl=distances, clip_id=system.clip_id, track_id=system.track_id)
    files.write_json(args.out, result)


def main() -> None:
    """`embed` and `score`."""
    parser = argparse.ArgumentParser(description="Score a system's audio against held-out music.")
    commands = parser.add_subparsers(required=True)

    common = {"parents": [job.parser("")], "add_help": False}
    command = commands.add_parser("embed", help="embeddings of a system's clips", **common)
    command.add_argument("--system", required=True, help=f"{REFERENCE}, {FLOOR}, or the name of what made the audio")
    command.add_argument("--audio", type=Path, required=True, help="audio.npy [n, T] of the system or the corpus")
    command.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    command.add_argument("--downloads", required=True, help="folder that keeps what was downloaded")
    command.add_argument("--out", type=Path, required=True, help="embeddings, .npz")
    command.set_defaults(run=embed)

    command = commands.add_parser("score", help="FAD-MTT and KL-MTT of a system's embeddings", **common)
    command.add_argument("--system", required=True, help="name that the result carries")
    command.add_argument("--embeddings", type=Path, required=True, help="the system's, .npz")
    command.add_argument("--reference", type=Path, required=True, help="the reference's, .npz")
    command.add_argument("--out", type=Path, required=True, help="scores, .json; each clip's go beside it as .npz")
    command.set_defaults(run=score)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    job.run(main)
