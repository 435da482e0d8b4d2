"""Scores of systems' audio against held-out music: Fréchet and kernel distances, tag divergence, agreement with texts.

`embed` prepares a system's clips and stores what the embedders say of them, `score` compares that with what they say of
the reference. Every score carries the name of its embedder, for none compares with that of another.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline import audio, fetch, files, job, params, provenance, statistics
from pipeline import manifest as manifests
from pipeline.corpus import user_files
from pipeline.evaluation import embedders, frechet, tagging
from pipeline.evaluation.embedders import Embedder
from pipeline.evaluation.frechet import Gaussian
from pipeline.manifest import evaluation_rows, turns
from pipeline.pretrained import musicnn

# Real music: of the test split, and as many clips of the validation split. Clips that others made: a folder.
REFERENCE, FLOOR, OUTSIDE = "reference", "floor", "outside/"
MAIN = "musicnn-mtt"  # the embedder that is always asked: its tags give KL-MTT and the agreement with texts
PASST = "passt"  # whose tags give KL-PaSST
FAULTS = ("silent", "not_finite", "short", "clipped")
CLIPPED = 1e-3  # share of samples at full scale from which a clip counts as clipped
HALVES = 20  # random halves of the reference
KAD_SCALE = 100  # of the kernel distance, as kadtk prints it
AT_ONCE = 16  # clips that are prepared, embedded and cached together


class Prepared(NamedTuple):
    """A clip as it is scored, and what was wrong with it."""

    waveform: np.ndarray  # [seconds x rate], float32
    faults: tuple[bool, bool, bool, bool]  # as FAULTS


class Clips(NamedTuple):
    """A system's clips, which are read one by one."""

    names: pd.DataFrame  # clip_id, track_id, caption (empty where there is none), turn: the place when fewer are taken
    paired: bool  # clip i was made from the caption of the reference's clip i
    read: Callable[[int], audio.Audio]  # int16 as the corpus has it, or float32


class Embedded(NamedTuple):
    """What one embedder says of the clips that it takes."""

    clip_id: np.ndarray  # [n]
    track_id: np.ndarray  # [n]
    x: np.ndarray  # [n, m, D]

    @property
    def patches(self) -> np.ndarray:
        """Embeddings `[n m, D]`."""
        return self.x.reshape(-1, self.x.shape[-1])

    @property
    def patch_tracks(self) -> np.ndarray:
        """Track of each patch, `[n m]`."""
        return np.repeat(self.track_id, self.x.shape[1])

    def of_tracks(self, tracks: np.ndarray) -> "Embedded":
        """Only the clips of `tracks`."""
        keep = np.isin(self.track_id, tracks)
        return Embedded(*(part[keep] for part in self))


class Stored(NamedTuple):
    """What `embed` writes of a system."""

    clip_id: np.ndarray  # [n]
    track_id: np.ndarray  # [n]
    caption: np.ndarray  # [n]
    turn: np.ndarray  # [n]
    paired: bool
    faults: np.ndarray  # [n, 4], bool
    answers: dict[str, np.ndarray]  # name -> [k, m, D] of the clips whose turn is under k; name/tags, name/text

    def embedded(self, name: str) -> Embedded:
        """What the embedder `name` says of the clips that it took."""
        keep = self.turn < len(self.answers[name])
        return Embedded(self.clip_id[keep], self.track_id[keep], self.answers[name])

    def first(self, clips: int) -> "Stored":
        """The clips whose turn is under `clips`."""
        keep = self.turn < clips
        answers = {}
        for name, values in self.answers.items():
            answers[name] = values[keep[self.turn < len(values)]]
        named = (self.clip_id[keep], self.track_id[keep], self.caption[keep], self.turn[keep])
        return Stored(*named, self.paired, self.faults[keep], answers)

    @property
    def embedders(self) -> list[str]:
        """Names of the embedders that were asked."""
        return [name for name in self.answers if "/" not in name]


def prepare(samples: np.ndarray, rate: int, *, start: int, seconds: float, lufs: float) -> Prepared:
    """`seconds` of a clip `[T]` from sample `start` on, at a loudness of `lufs`.

    What cannot be scored as it is stays in the scores as silence, in whole or where it ends too early, and is marked.
    """
    length = round(seconds * rate)
    kept = samples[start : start + length]
    waveform = audio.to_float(kept) if kept.dtype == np.int16 else kept.astype(np.float32)
    not_finite = not np.isfinite(waveform).all()
    short, clipped = len(kept) < length, audio.clipped(waveform) > CLIPPED
    waveform = np.pad(np.zeros_like(waveform) if not_finite else waveform, (0, length - len(kept)))
    try:
        waveform, silent = audio.loudness_normalize(waveform, rate, lufs), False
    except ValueError:  # mono, finite and long enough it is: only silence is left
        waveform, silent = np.zeros_like(waveform), True
    return Prepared(waveform, (silent, bool(not_finite), short, bool(clipped)))


def offsets(clips: int, seed: int) -> np.ndarray:
    """Where in the room that a clip leaves its kept part begins, `[clips]` in [0, 1): the same for every system."""
    return np.random.default_rng(seed).random(clips)


def prepared(
    clips: Clips, evaluation: params.Evaluation, rows: slice
) -> Iterator[tuple[np.ndarray, int, tuple[bool, ...]]]:
    """Waveform, rate in Hz and faults of each clip in `rows`."""
    places = offsets(len(clips.names), evaluation.seed)
    for index in range(*rows.indices(len(clips.names))):
        samples, rate = clips.read(index)
        room = max(len(samples) - round(evaluation.seconds * rate), 0)
        ready = prepare(
            samples,
            rate,
            start=int(places[index] * (room + 1)),
            seconds=evaluation.seconds,
            lufs=evaluation.loudness_lufs,
        )
        yield ready.waveform, rate, ready.faults


def embedded(
    embedder: Embedder, waveforms: list[tuple[np.ndarray, int]], cache: Path, device: torch.device
) -> np.ndarray:
    """Embeddings `[B, n, D]` of waveforms with their rates, from the cache where these samples were embedded before."""
    content = hashlib.sha256(embedder.identity.encode())
    for waveform, rate in waveforms:
        content.update(f"{rate} {len(waveform)} ".encode() + waveform.tobytes())
    path = cache / embedder.name / f"{content.hexdigest()}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    ready = np.stack([embedder.resample(waveform, rate, embedder.sample_rate) for waveform, rate in waveforms])
    answer = embedder.embed(torch.from_numpy(ready).to(device)).cpu().numpy()
    if not np.isfinite(answer).all():  # which would be kept, and found again
        raise job.JobError(f"{embedder.name} answered with NaN or infinity: its checkpoint may be damaged")
    files.write_array(path, answer)
    return answer


def fad(
    system: Embedded, reference: Embedded, evaluation: params.Evaluation, confidence: float
) -> dict[str, float | int | list[float]]:
    """Fréchet distance with its interval over tracks, its limit for infinite samples, and the patches of each side.

    A system that was given the reference's captions has the reference's tracks, and both get the same resample of them.
    """
    value = frechet.frechet_distance(Gaussian.fitted(system.patches), Gaussian.fitted(reference.patches))
    resamples = [
        frechet.frechet_distance(Gaussian.fitted(system.patches, a), Gaussian.fitted(reference.patches, b))
        for a, b in zip(*_resampled(system, reference, evaluation), strict=True)
    ]
    generator = np.random.default_rng(evaluation.seed)
    limit = frechet.frechet_infinity(system.patches, reference.patches, generator=generator)
    estimate = statistics.interval(value, np.array(resamples), confidence).json(resamples=True)
    return {**estimate, "infinity": limit.value, "r2": limit.r2, **_counts(system)}


def fad_to(
    system: Embedded, reference: Gaussian, evaluation: params.Evaluation, confidence: float
) -> dict[str, float | int | list[float]]:
    """Fréchet distance to a published reference, as `fad`."""
    value = frechet.frechet_distance(Gaussian.fitted(system.patches), reference)
    resamples = [
        frechet.frechet_distance(Gaussian.fitted(system.patches, weights), reference)
        for weights in _patch_weights(system, evaluation.bootstrap, evaluation.seed)
    ]
    generator = np.random.default_rng(evaluation.seed)
    limit = frechet.frechet_infinity(system.patches, reference, generator=generator)
    estimate = statistics.interval(value, np.array(resamples), confidence).json(resamples=True)
    return {**estimate, "infinity": limit.value, "r2": limit.r2, **_counts(system)}


def kad(
    system: Embedded, reference: Embedded, evaluation: params.Evaluation, confidence: float
) -> dict[str, float | list[float]]:
    """Kernel distance with its interval over tracks: `KAD_SCALE` times the unbiased squared MMD."""
    sums = frechet.kernel_sums(
        system.patches,
        reference.patches,
        system.patch_tracks,
        reference.patch_tracks,
        sigma=frechet.bandwidth(reference.patches),
    )
    value = KAD_SCALE * frechet.kernel_distance(sums)
    # Of very few tracks a resample may hold one alone, which has no pairs: the sample's own value stands in for it.
    resamples = [
        KAD_SCALE * frechet.kernel_distance(sums, weights)
        if all(np.count_nonzero(drawn) > 1 for drawn in weights)
        else value
        for weights in zip(*_track_weights(system, reference, evaluation), strict=True)
    ]
    return statistics.interval(value, np.array(resamples), confidence).json(resamples=True)


def halves(reference: Embedded, seed: int) -> dict[str, float | int]:
    """Fréchet distance between random halves of the reference's tracks: what real music scores against real music."""
    tracks = np.unique(reference.track_id)
    generator = np.random.default_rng(seed)
    values, limits = [], []
    for _ in range(HALVES):
        order = generator.permutation(tracks)
        a, b = (reference.of_tracks(side).patches for side in (order[: len(order) // 2], order[len(order) // 2 :]))
        values.append(frechet.frechet_distance(Gaussian.fitted(a), Gaussian.fitted(b)))
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


def _counts(system: Embedded) -> dict[str, int]:
    return {"clips": len(system.x), "tracks": len(np.unique(system.track_id)), "patches": len(system.patches)}


def _track_weights(
    system: Embedded, reference: Embedded, evaluation: params.Evaluation
) -> tuple[np.ndarray, np.ndarray]:
    """How often each track of each side is drawn in each resample; the same draws where both have the same tracks."""
    ours, theirs = np.unique(system.track_id), np.unique(reference.track_id)
    seed = evaluation.seed + (not np.array_equal(ours, theirs))
    return (
        statistics.multiplicities(len(ours), evaluation.bootstrap, seed),
        statistics.multiplicities(len(theirs), evaluation.bootstrap, evaluation.seed),
    )


def _resampled(system: Embedded, reference: Embedded, evaluation: params.Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """The same for patches, `[R, n m]` a side."""
    sides = zip((system, reference), _track_weights(system, reference, evaluation), strict=True)
    ours, theirs = (drawn[:, np.unique(side.patch_tracks, return_inverse=True)[1]] for side, drawn in sides)
    return ours, theirs


def _patch_weights(system: Embedded, resamples: int, seed: int) -> np.ndarray:
    names, places = np.unique(system.patch_tracks, return_inverse=True)
    return statistics.multiplicities(len(names), resamples, seed)[:, places]


def read(path: Path) -> Stored:
    """Reads what `embed` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        fixed = {name: arrays[name] for name in Stored._fields[:-1]}
        answers = {name: arrays[name] for name in arrays.files if name not in fixed}
    return Stored(**{**fixed, "paired": bool(fixed["paired"])}, answers=answers)


def clips_of(system: str, source: Path, manifest: pd.DataFrame, clips: int, rate: int, table: Path | None) -> Clips:
    """The clips of a system.

    The reference and the floor are rows of the corpus; a system of the study has one clip for each caption of the test
    split's `manifest.evaluation_rows`, in their order. A system from outside is a folder of audio files, and maybe a
    `table` of them.
    """
    rows = evaluation_rows(manifest, clips, "validation" if system == FLOOR else "test")
    if system.startswith(OUTSIDE):
        return _outside(source, table, rows)
    samples = files.read_array(source)
    if system not in (REFERENCE, FLOOR) and len(samples) != clips:
        raise ValueError(f"{source} has {len(samples)} clips, generation.clips asks for {clips}: make it again")
    places = rows["row"].to_numpy() if system in (REFERENCE, FLOOR) else np.arange(clips)
    return Clips(_named(rows), system != FLOOR, lambda index: audio.Audio(samples[places[index]], rate))


def _outside(folder: Path, table: Path | None, rows: pd.DataFrame) -> Clips:
    """The audio files of a folder, as many as the reference has at most.

    `table` is a CSV with a column `file`, and `caption`, the text that the clip was made from, or `clip_id`, the clip
    of the test split whose caption that was; with the latter, for all of the reference's clips, clips are paired.
    """
    paths = user_files.audio_files(folder)
    if not paths:
        raise ValueError(f"{folder} has no audio file ({', '.join(user_files.AUDIO_SUFFIXES)}): see evaluation.systems")
    names = pd.DataFrame({"file": [str(path.relative_to(folder)) for path in paths], "caption": ""})
    if table is not None:
        listed = list(user_files.table(table, "file"))
        columns = [name for name in ("file", "caption", "clip_id") if name in listed[0].values]
        if len(columns) == 1:
            raise ValueError(f"{table} needs a column `caption` or `clip_id`; it has {', '.join(listed[0].values)}")
        names = pd.DataFrame([{name: row.text(name) for name in columns} for row in listed]).drop_duplicates("file")
        if missing := sorted(set(names["file"]) - {str(path.relative_to(folder)) for path in paths}):
            raise ValueError(f"{table} names {len(missing)} files that {folder} lacks, {missing[0]!r} for one")
    paired = "clip_id" in names
    if paired:
        if unknown := sorted(set(names["clip_id"]) - set(rows["clip_id"])):
            raise ValueError(f"{table} names {len(unknown)} clips that are not scored, {unknown[0]} for one")
        if lacking := len(set(rows["clip_id"]) - set(names["clip_id"])):
            raise ValueError(f"{table} lacks {lacking} of the {len(rows)} clips that are scored: pairs need them all")
        names = _named(rows).merge(names[["clip_id", "file"]].drop_duplicates("clip_id"), on="clip_id")
    else:
        # In the order of a hash, so that fewer of them are no particular ones; each is a track of its own.
        order = names["file"].map(lambda name: hashlib.sha256(name.encode()).hexdigest()).rank(method="first")
        names = names.assign(clip_id=names["file"], track_id=names["file"], turn=order.astype(int) - 1)
        names = names[names["turn"] < len(rows)].reset_index(drop=True)
    found = [folder / name for name in names["file"]]
    return Clips(names, paired, lambda index: audio.read(found[index], finite=False))


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    columns = {"clip_id": rows["clip_id"], "track_id": rows["track_id"], "caption": rows["caption_0"]}
    return pd.DataFrame({**columns, "turn": turns(rows)}).reset_index(drop=True)


def embed(args: argparse.Namespace) -> None:
    """Prepares, embeds and stores a system's clips, a few at a time."""
    device = job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    corpus = params.section(args.params, "corpus", params.Corpus)
    wanted = params.section(args.params, "generation", params.Generation).clips
    if evaluation.seconds > corpus.clip_seconds:
        raise ValueError(
            f"evaluation.seconds keeps {evaluation.seconds} s of clips of {corpus.clip_seconds} s: lower it"
        )
    clips = clips_of(args.system, args.audio, manifests.read(args.manifest), wanted, corpus.sample_rate, args.captions)
    names = clips.names
    asked = {
        name: embedders.load(name, args.downloads, args.checkpoints, device)
        for name, count in evaluation.embedders.items()
        if count
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    faults: list[tuple[bool, ...]] = []
    cache = fetch.downloads_folder(args.downloads) / "embeddings"
    with job.Progress(f"embed/{args.system}", len(names), "clip") as progress:
        for start in range(0, len(names), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            ready = list(prepared(clips, evaluation, rows))
            faults += [found for *_, found in ready]
            for name, embedder in asked.items():
                taken = [
                    (waveform, rate)
                    for (waveform, rate, _), turn in zip(ready, names["turn"][rows], strict=True)
                    if turn < evaluation.embedders[name]
                ]
                if taken:
                    parts[name].append(embedded(embedder, taken, cache, device))
            progress.update(min(start + AT_ONCE, len(names)))
    answers = {name: np.concatenate(each) for name, each in parts.items()}
    for name, embedder in asked.items():
        if embedder.tags:
            answers[f"{name}/tags"] = embedder.tags(torch.from_numpy(answers[name]).to(device)).cpu().numpy()
        texts = names["caption"][names["turn"] < evaluation.embedders[name]].tolist()
        if embedder.text and all(texts):
            answers[f"{name}/text"] = _cosines(answers[name], embedder.text(texts).cpu().numpy())
    with files.atomic(args.out) as temporary:
        np.savez(
            temporary,
            **{name: names[name].to_numpy(str) for name in ("clip_id", "track_id", "caption")},
            turn=names["turn"].to_numpy(),
            paired=clips.paired,
            faults=np.array(faults),
            **answers,
        )
    found = ", ".join(f"{name} {count}" for name, count in zip(FAULTS, np.sum(faults, 0), strict=True))
    print(f"{args.system}: {len(names)} clips, of which {found}")


def score(args: argparse.Namespace) -> None:
    """Scores a system's embeddings against the reference's; beside the JSON go each clip's scores, as `.npz`."""
    job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    confidence = params.section(args.params, "report", params.Report).confidence
    reference, system = read(args.reference), read(args.embeddings)
    if args.system.startswith(OUTSIDE):
        reference = reference.first(len(system.clip_id))
    if len(reference.clip_id) != len(system.clip_id):
        raise ValueError(
            f"{args.embeddings} has {len(system.clip_id)} clips, {args.reference} {len(reference.clip_id)}: "
            "only equal counts can be compared"
        )
    result: dict[str, Any] = {
        "system": args.system,
        "fad": {},
        "kad": {},
        "fma_pop": {},
        "clips": len(system.clip_id),
        "tracks": len(np.unique(system.track_id)),
        **dict(zip(FAULTS, system.faults.sum(0).tolist(), strict=True)),
        "provenance": provenance.record({"evaluation": evaluation.model_dump()}, seed=evaluation.seed),
    }
    for name in system.embedders:
        ours, theirs = system.embedded(name), reference.embedded(name)
        if len(ours.x) != len(theirs.x):
            raise ValueError(f"{name} embedded {len(ours.x)} clips of {args.system}, {len(theirs.x)} of the reference")
        result["fad"][name] = fad(ours, theirs, evaluation, confidence)
        result["kad"][name] = kad(ours, theirs, evaluation, confidence)
        if name in embedders.FMA_POP:
            published = embedders.fma_pop(name, args.downloads)
            result["fma_pop"][name] = fad_to(ours, published, evaluation, confidence)
    values = {"kl": _kl(system, reference, MAIN), **_texts(system)}
    if PASST in system.embedders:
        values["kl_passt"] = _kl(system, reference, PASST)
    for name, found in values.items():
        # Clips of which nothing can be said stay out of the mean, and are counted.
        known = np.isfinite(found)
        result[name] = None
        if len(np.unique(system.track_id[known])) > 1:
            mean = statistics.mean(
                found[known],
                system.track_id[known],
                resamples=evaluation.bootstrap,
                seed=evaluation.seed,
                confidence=confidence,
            )
            result[name] = {**mean.json(), "clips": int(known.sum())}
    for name in ("kl", "kl_passt"):
        if result.get(name):
            result[name]["paired"] = system.paired
    if args.system == FLOOR:
        result["halves"] = halves(reference.embedded(MAIN), evaluation.seed)
    each, whole = system.embedded(MAIN), Gaussian.fitted(reference.embedded(MAIN).patches)
    values["fad"] = np.full(len(system.clip_id), np.nan)
    if each.x.shape[1] > 1:  # one patch has no spread
        values["fad"][system.turn < len(each.x)] = frechet.per_clip(each.x, whole)
    with files.atomic(args.out.with_suffix(".npz")) as temporary:
        np.savez(temporary, **values, clip_id=system.clip_id, track_id=system.track_id)
    files.write_json(args.out, result)


def _kl(system: Stored, reference: Stored, tagger: str) -> np.ndarray:
    """Divergence of each clip's tags by `tagger` from the reference's, `[n]`; NaN where it was not tagged.

    Clips that are not paired are held against the reference's in their order: what two that have nothing in common get.
    """
    found = np.full(len(system.clip_id), np.nan)
    tags = system.answers[f"{tagger}/tags"]
    found[system.turn < len(tags)] = tagging.kl(reference.answers[f"{tagger}/tags"], tags)
    return found


def _texts(system: Stored) -> dict[str, np.ndarray]:
    """How each clip agrees with its caption, `[n]`, NaN where unknown: by its tags, and by CLAP where it was asked."""
    found = {"text": np.full(len(system.clip_id), np.nan)}
    if (system.caption != "").all():
        tags = system.answers[f"{MAIN}/tags"]
        keep = system.turn < len(tags)
        found["text"][keep] = tagging.agreement(tags, system.caption[keep].tolist(), musicnn.TAGS["mtt"])
    for name in system.embedders:
        if f"{name}/text" in system.answers:
            cosines = system.answers[f"{name}/text"]
            found["clap"] = np.full(len(system.clip_id), np.nan)
            found["clap"][system.turn < len(cosines)] = cosines
    return found


def _cosines(clips: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of each clip's mean embedding, `[B, n, D]`, and its text's, `[B, D]` -> `[B]`: the CLAP score."""
    means = clips.mean(1)
    norms = np.linalg.norm(means, axis=1) * np.linalg.norm(texts, axis=1)
    return (means * texts).sum(1) / norms


def main() -> None:
    """`embed` and `score`."""
    parser = argparse.ArgumentParser(description="Score a system's audio against held-out music.")
    commands = parser.add_subparsers(required=True)

    common = {"parents": [job.parser("")], "add_help": False}
    command = commands.add_parser("embed", help="embeddings of a system's clips", **common)
    command.add_argument(
        "--system", required=True, help=f"{REFERENCE}, {FLOOR}, {OUTSIDE}NAME, or the name of what made the audio"
    )
    command.add_argument("--audio", type=Path, required=True, help="audio.npy [n, T], or a folder of audio files")
    command.add_argument("--captions", type=Path, help="CSV of a folder's files: file, caption or clip_id")
    command.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    command.add_argument("--downloads", required=True, help="folder that keeps what was downloaded and embedded")
    command.add_argument("--checkpoints", default="checkpoints", help="folder of the models that no package has")
    command.add_argument("--out", type=Path, required=True, help="embeddings, .npz")
    command.set_defaults(run=embed)

    command = commands.add_parser("score", help="scores of a system's embeddings", **common)
    command.add_argument("--system", required=True, help="name that the result carries")
    command.add_argument("--embeddings", type=Path, required=True, help="the system's, .npz")
    command.add_argument("--reference", type=Path, required=True, help="the reference's, .npz")
    command.add_argument("--downloads", required=True, help="folder that keeps what was downloaded")
    command.add_argument("--out", type=Path, required=True, help="scores, .json; each clip's go beside it as .npz")
    command.set_defaults(run=score)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    job.run(main)
