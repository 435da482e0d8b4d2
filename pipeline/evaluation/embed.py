"""Embeddings of a system's clips by every embedder that `evaluation.embedders` asks.

    python -m pipeline.evaluation.embed --system outside/others --audio others --captions others.csv \
        --manifest results/corpus/manifest.parquet --downloads .cache/downloads --out others.npz
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline import fetch, files, job, manifest, params
from pipeline.audio import Audio
from pipeline.evaluation import embedders, embeddings
from pipeline.evaluation.clips import SystemClips, clips_of, prepare_clips
from pipeline.evaluation.embedders import Embedder
from pipeline.evaluation.embeddings import FAULTS, EmbedderOutput, SystemEmbeddings
from pipeline.params import FLOOR, OUTSIDE, REFERENCE

AT_ONCE = 16  # clips that are prepared, embedded and cached together


def embed_system(
    clips: SystemClips, asked: dict[str, Embedder], evaluation: params.Evaluation, cache: Path, progress: job.Progress
) -> SystemEmbeddings:
    """Prepares and embeds a system's clips, a few at a time, with the embedders `asked`."""
    names = clips.names
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    faults: list[tuple[bool, ...]] = []
    for start in range(0, len(names), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        prepared = list(prepare_clips(clips, evaluation, rows))
        faults += [clip.faults for clip in prepared]
        for name, embedder in asked.items():
            given = names["turn"][rows] < evaluation.embedders[name]
            if given.any():
                sounds = [clip.sound for clip, among in zip(prepared, given, strict=True) if among]
                vectors[name].append(embed_clips(embedder, sounds, evaluation.seconds, cache))
        progress.update(min(start + AT_ONCE, len(names)))
    outputs = {}
    for name, embedder in asked.items():
        captions = names["caption"][names["turn"] < evaluation.embedders[name]].tolist()
        outputs[name] = describe(embedder, np.concatenate(vectors[name]), captions)
    clip_id, track_id, caption = (names[column].to_numpy(str) for column in ("clip_id", "track_id", "caption"))
    turn = names["turn"].to_numpy()
    return SystemEmbeddings(clip_id, track_id, caption, turn, clips.paired, np.array(faults), outputs)


def embed_clips(embedder: Embedder, clips: Sequence[Audio], seconds: float, cache: Path) -> np.ndarray:
    """Embeddings `[B, n, D]` of clips of `seconds`, from the cache where the embedder heard these samples before.

    Raises:
        JobError: the clips are too short for the embedder, or its answer is not finite.
    """
    waveforms = np.stack([waveform_for(embedder, clip, seconds) for clip in clips])
    content = hashlib.sha256(f"{embedder.identity} {waveforms.shape} {waveforms.dtype} ".encode() + waveforms.tobytes())
    path = cache / embedder.name / f"{content.hexdigest()}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    try:
        vectors = embedder.embed(torch.from_numpy(waveforms).to(embedder.device)).cpu().numpy()
    except ValueError as error:
        remedy = "raise evaluation.seconds if that is too short"
        raise job.JobError(f"{embedder.name} cannot embed clips of {seconds} s ({error}): {remedy}") from None
    if not np.isfinite(vectors).all():  # which would be kept, and found again
        raise job.JobError(f"{embedder.name} answered with NaN or infinity: its weights may be damaged")
    files.write_array(path, vectors)
    return vectors


def waveform_for(embedder: Embedder, clip: Audio, seconds: float) -> np.ndarray:
    """A clip at the embedder's rate, of round(seconds x rate) samples whatever its own rate.

    Resampled clips of different rates differ by a sample or two; what lacks is silence.
    """
    length = round(seconds * embedder.sample_rate)
    waveform = embedder.resample(clip.waveform, clip.rate, embedder.sample_rate)[:length]
    return np.pad(waveform, (0, length - len(waveform)))


def describe(embedder: Embedder, vectors: np.ndarray, captions: list[str]) -> EmbedderOutput:
    """Embeddings `[k, m, D]` with the tags that the embedder reads from them and their agreement with captions."""
    output = EmbedderOutput(embedder.label, vectors, embedder.fma_pop)
    if embedder.tags:
        tags = embedder.tags(torch.from_numpy(vectors).to(embedder.device)).cpu().numpy()
        output = output._replace(tags=tags, tag_names=np.array(embedder.tag_names, str))
    if embedder.text:
        cosines = np.full(len(vectors), np.nan)
        captioned = np.array([bool(caption.strip()) for caption in captions])
        if captioned.any():
            texts = embedder.text([caption for caption in captions if caption.strip()]).cpu().numpy()
            cosines[captioned] = text_cosines(vectors[captioned], texts)
        output = output._replace(cosines=cosines)
    return output


def text_cosines(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of each clip's mean embedding, `[B, n, D]`, and its text's, `[B, D]` -> `[B]`: the CLAP score."""
    means = vectors.mean(1)
    norms = np.linalg.norm(means, axis=1) * np.linalg.norm(texts, axis=1)
    return (means * texts).sum(1) / norms


def main() -> None:
    """Prepares, embeds and stores a system's clips."""
    parser = job.parser("Embed a system's clips.")
    parser.add_argument(
        "--system", required=True, help=f"{REFERENCE}, {FLOOR}, {OUTSIDE}NAME, or the name of what made the audio"
    )
    parser.add_argument("--audio", type=Path, required=True, help="audio.npy [n, T], or a folder of audio files")
    parser.add_argument("--captions", type=Path, help="CSV of a folder's files: file, caption or clip_id")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    parser.add_argument("--downloads", required=True, help="folder that keeps what was downloaded and embedded")
    parser.add_argument("--checkpoints", default="checkpoints", help="folder of the weights that no package has")
    parser.add_argument("--out", type=Path, required=True, help="embeddings, .npz")
    args = parser.parse_args()
    device = job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    corpus = params.section(args.params, "corpus", params.Corpus)
    wanted = params.section(args.params, "generation", params.Generation).clips
    if evaluation.seconds > corpus.clip_seconds:
        raise ValueError(
            f"evaluation.seconds keeps {evaluation.seconds} s of clips of {corpus.clip_seconds} s: lower it"
        )
    rows = manifest.read(args.manifest)
    clips = clips_of(args.system, args.audio, rows, wanted, corpus.sample_rate, args.captions)
    asked = {
        name: embedders.load(name, args.downloads, args.checkpoints, device)
        for name, count in evaluation.embedders.items()
        if count
    }
    cache = fetch.downloads_folder(args.downloads) / "embeddings"
    with job.Progress(f"embed/{args.system}", len(clips.names), "clip") as progress:
        stored = embed_system(clips, asked, evaluation, cache, progress)
    embeddings.write(args.out, stored)
    counts = ", ".join(f"{count} {fault}" for fault, count in zip(FAULTS, stored.faults.sum(0), strict=True))
    print(f"{args.system}: {len(clips.names)} clips, {counts}")


if __name__ == "__main__":
    job.run(main)
