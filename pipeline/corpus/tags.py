"""Tags and embeddings of every clip: tags are used to write captions, embeddings to find clips that are alike.

python -m pipeline.corpus.tags --downloads .cache/downloads --corpus results/corpus --out results/corpus/tags.npz
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import audio, fetch, files, job, params
from pipeline.pretrained import musicnn

AT_ONCE = 64  # clips that a thread reads, tags and embeds


def middle(clip: np.ndarray, rate: int) -> Tensor:
    """The middle of an int16 clip `[T]` at `rate` Hz, one patch long, resampled to 16 kHz: `[47616]`.

    Raises:
        ValueError: the clip is shorter than one patch.
    """
    wanted = (musicnn.PATCH - 1) * musicnn.HOP
    length = -(-wanted * rate // musicnn.SAMPLE_RATE)
    if len(clip) < length:
        raise ValueError(f"a clip has {len(clip) / rate:.2f} s, a patch takes {wanted / musicnn.SAMPLE_RATE:.2f} s")
    start = (len(clip) - length) // 2
    waveform = audio.resample(audio.to_float(clip[start : start + length]), rate, musicnn.SAMPLE_RATE)
    return torch.from_numpy(waveform[:wanted])


def main() -> None:
    """Tags of MSD_musicnn and embeddings of MTT_musicnn for the middle of each clip of a corpus, as `.npz`."""
    parser = job.parser("Tag and embed the middle three seconds of every clip.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with audio.npy")
    parser.add_argument("--downloads", required=True, help="folder that keeps what was downloaded")
    parser.add_argument("--out", type=Path, required=True, help="tags.npz")
    args = parser.parse_args()
    # Each thread runs its own batches with one torch thread, so results are bit-identical for any number of threads.
    threads, args.threads = args.threads, 1
    device = job.prepare(args)
    rate = params.section(args.params, "corpus", params.Corpus).sample_rate

    folder = fetch.musicnn_folder(args.downloads)
    tagger, embedder = musicnn.load("msd", folder).to(device), musicnn.load("mtt", folder).to(device)
    clips = files.read_array(args.corpus / "audio.npy")
    tags = np.empty((len(clips), len(musicnn.TAGS["msd"])), np.float32)
    embeddings = np.empty((len(clips), 200), np.float32)

    def answer(start: int) -> int:
        rows = slice(start, start + AT_ONCE)
        patches = musicnn.log_mel_patches(torch.stack([middle(clip, rate) for clip in clips[rows]]).to(device))[:, 0]
        tags[rows] = tagger(patches).logits.sigmoid().cpu()
        embeddings[rows] = embedder(patches).penultimate.cpu()
        return min(rows.stop, len(clips))

    with job.Progress("tags", len(clips), "clip") as progress, ThreadPoolExecutor(threads) as pool:
        for done in pool.map(answer, range(0, len(clips), AT_ONCE)):
            progress.update(done)
    with files.atomic(args.out) as temporary:
        np.savez(temporary, msd=tags, mtt_penultimate=embeddings, msd_tags=np.array(musicnn.TAGS["msd"]))


if __name__ == "__main__":
    job.run(main)
