"""Dependence between the codebooks of generated codes, beside that of the real codes of the same captions' clips.

    python -m pipeline.generation.information --generated results/generation/delay/mmd-seed0-lm0/tokens.npy \
        --codec results/codec/mmd-seed0 --tokens results/codec/tokens/mmd-seed0 \
        --manifest results/corpus/manifest.parquet --out information.json

A model that draws the codes of a step independently can lose the dependence within a step. But mutual information of
pooled codes does not show that loss alone: a model that drifts, to a few sounds a clip, makes codes that share more,
because each says which clip it is from. So read it beside the entropies, and take less information as a sign of what
factorising loses, more of it as a sign of drift.
"""

from pathlib import Path

import numpy as np

from pipeline import job, manifest, params, provenance
from pipeline.codec import model as codecs
from pipeline.dependence.pairwise import ALIGNMENTS, measure
from pipeline.files import read_array, write_json
from pipeline.generation.decode import scored_codes


def main() -> None:
    """Measures one language model's codes and the real ones alike, and writes JSON."""
    parser = job.parser("Measure the dependence between codebooks in generated codes.")
    parser.add_argument("--generated", type=Path, required=True, help="tokens.npy of a language model")
    parser.add_argument("--codec", type=Path, required=True, help="folder of its codec")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the codec's tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    job.prepare(args)
    generation = params.section(args.params, "generation", params.Generation)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.confidence(args.params)
    codec = codecs.load(args.codec)
    real, rows = scored_codes(codec, args.tokens, manifest.read(args.manifest), generation.clips)
    generated, tracks = np.array(read_array(args.generated)), manifest.track_numbers(rows)
    if generated.shape != real.shape:
        raise ValueError(f"{args.generated} holds codes {generated.shape}, the clips' own are {real.shape}")
    size = codec.configuration["codebook_size"]
    result = {
        whose: {name: measure(align(codes), tracks, size, settings, confidence) for name, align in ALIGNMENTS.items()}
        for whose, codes in (("generated", generated), ("real", real))
    }
    used = {"generation": generation.model_dump(mode="json"), "dependence": settings.model_dump()}
    write_json(args.out, {**result, "provenance": provenance.record(used, seed=settings.seed)})


if __name__ == "__main__":
    job.run(main)
