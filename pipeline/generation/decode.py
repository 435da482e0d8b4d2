"""A codec's reconstructions of the clips that every system is scored on: an upper bound for its language models.

    python -m pipeline.generation.decode --codec results/codec/mmd-seed0 --tokens results/codec/tokens/mmd-seed0 \
        --manifest results/corpus/manifest.parquet --out results/generation/reconstruction/mmd-seed0
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import job, manifest, params
from pipeline.audio import to_int16
from pipeline.codec import model as codecs
from pipeline.files import write_array


def scored_codes(codec: codecs.Coder, tokens: Path, rows: pd.DataFrame, clips: int) -> tuple[np.ndarray, pd.DataFrame]:
    """A codec's codes `[n, K, T]` of the clips that are scored, and the manifest's rows of those.

    Raises:
        ValueError: as `manifest.read_tokens` and `manifest.evaluation_rows`.
    """
    test = manifest.of_split(rows, "test")
    sizes = (codec.configuration["codebooks"], codec.configuration["codebook_size"])
    codes = manifest.read_tokens(tokens, "test", len(test), *sizes)
    scored = manifest.evaluation_rows(test, clips)
    return codes[scored.index], scored


def decoded(codec: codecs.Coder, codes: np.ndarray) -> np.ndarray:
    """Int16 clips `[n, T' hop]` of codes `[n, K, T']`; codebooks past the K that are given add nothing."""
    device = next(codec.parameters()).device
    parts = torch.from_numpy(codes.astype(np.int64)).split(codecs.AT_ONCE)
    return to_int16(torch.cat([codec.decode(part.to(device)).cpu() for part in parts]).numpy())


def main() -> None:
    """Decodes a codec's tokens of the scored clips to `audio.npy`, int16."""
    parser = job.parser("Decode a codec's tokens of the clips that are scored.")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of its tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    parser.add_argument("--codebooks", type=int, help="decode so many of the codebooks alone (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of audio.npy")
    args = parser.parse_args()
    device = job.prepare(args)
    clips = params.section(args.params, "generation", params.Generation).clips
    codec = codecs.load(args.codec, device)
    codes, _ = scored_codes(codec, args.tokens, manifest.read(args.manifest), clips)
    write_array(args.out / "audio.npy", decoded(codec, codes[:, : args.codebooks]))


if __name__ == "__main__":
    job.run(main)
