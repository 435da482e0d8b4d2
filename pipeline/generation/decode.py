"""A codec's reconstructions of the clips that every system is scored on: an upper bound for its language models.

    python -m pipeline.generation.decode --codec results/codec/mmd-seed0 --tokens results/codec/tokens/mmd-seed0 \
        --manifest results/corpus/manifest.parquet --out results/generation/reconstruction/mmd-seed0
"""

from pathlib import Path

import numpy as np
import torch

from pipeline import job, manifest, params
from pipeline.audio import to_int16
from pipeline.codec import model as codecs
from pipeline.files import write_array


def main() -> None:
    """Decodes a codec's tokens of the scored clips to `audio.npy`, int16."""
    parser = job.parser("Decode a codec's tokens of the clips that are scored.")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of its tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of audio.npy")
    args = parser.parse_args()
    device = job.prepare(args)
    clips = params.section(args.params, "generation", params.Generation).clips
    codec = codecs.load(args.codec, device)
    test = manifest.of_split(manifest.read(args.manifest), "test")
    sizes = (codec.configuration["codebooks"], codec.configuration["codebook_size"])
    codes = manifest.read_tokens(args.tokens, "test", len(test), *sizes)
    wanted = codes[manifest.evaluation_rows(test, clips).index]
    parts = torch.from_numpy(wanted.astype(np.int64)).split(codecs.AT_ONCE)
    audio = torch.cat([codec.decode(part.to(device)).cpu() for part in parts])
    write_array(args.out / "audio.npy", to_int16(audio.numpy()))


if __name__ == "__main__":
    job.run(main)
