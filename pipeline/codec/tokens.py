"""Every clip of a split as codes of one codec.

    python -m pipeline.codec.tokens --codec results/codec/mmd-seed0 --corpus results/corpus --split test \
        --out results/codec/tokens/mmd-seed0/test.npy
"""

from pathlib import Path

import numpy as np
import torch

from pipeline import job, manifest, params
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.files import read_array, write_array


def encoded(codec: codecs.Coder, audio: np.ndarray, rows: np.ndarray, progress: job.Progress) -> np.ndarray:
    """Codes `[n, K, T']` as uint16 of the given rows of int16 clips `[N, T]`."""
    device = next(codec.parameters()).device
    parts = []
    for start in range(0, len(rows), codecs.AT_ONCE):
        waveform = torch.from_numpy(to_float(audio[rows[start : start + codecs.AT_ONCE]])).to(device)
        parts.append(codec.encode(waveform).cpu().numpy().astype(np.uint16))
        progress.update(start + len(waveform))
    return np.concatenate(parts)


def main() -> None:
    """Encodes a split of the corpus with one codec."""
    parser = job.parser("Encode the corpus with a codec.")
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--split", choices=manifest.SPLITS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = job.prepare(arguments)
    corpus = params.section(arguments.params, "corpus", params.Corpus)
    codec = codecs.load(arguments.codec, device)
    codecs.expect_rate(codec, corpus.sample_rate, arguments.codec)
    if codec.configuration["codebook_size"] > 2**16:
        raise ValueError(f"{arguments.codec}: codes beyond {2**16} do not fit the uint16 that tokens are stored as")
    audio = read_array(arguments.corpus / "audio.npy")
    clips = manifest.of_split(manifest.read(arguments.corpus / "manifest.parquet"), arguments.split)
    rows = clips["row"].to_numpy()
    with job.Progress(f"tokens-{arguments.codec.name}-{arguments.split}", len(rows), "clip") as progress:
        write_array(arguments.out, encoded(codec, audio, rows, progress))


if __name__ == "__main__":
    job.run(main)
