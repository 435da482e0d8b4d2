"""The price of factorising that one language model pays (`pipeline.dependence.conditional`), on its held-out steps.

    python -m pipeline.dependence.price --lm results/lm/parallel/mmd-seed0-lm0 --text results/lm/text \
        --tokens results/codec/tokens/mmd-seed0 --manifest results/corpus/manifest.parquet --out price.json
"""

from pathlib import Path

from pipeline import files, job, manifest, params, provenance
from pipeline.dependence.conditional import measure
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm.deepen import full_steps
from pipeline.lm.train import load_split, subset
from pipeline.lm.transformer import set_matmul_precision


def main() -> None:
    """Measures the price of factorising of one language model and writes JSON."""
    parser = job.parser("Measure what predicting the codebooks of a step independently of each other costs.")
    parser.add_argument("--lm", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of its codec's tokens")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet, for captions and tracks")
    parser.add_argument("--text", type=Path, required=True, help="folder of text states")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    device = job.prepare(args)
    set_matmul_precision(device)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.confidence(args.params)

    model = language_model.load(args.lm).to(device)
    text = conditioning.load(args.text)
    clips = manifest.read(args.manifest)
    train, test = (load_split(args.tokens, clips, text, name, model.shape) for name in ("train", "test"))
    train = subset(train, settings.conditional.clips)
    run = f"price/{args.lm.parent.name}/{args.lm.name}"
    with job.Progress(run, len(train), "clip") as progress:
        learned = full_steps(model, train, text, progress)
    held_out = full_steps(model, test, text)
    tracks = manifest.track_numbers(manifest.of_split(clips, "test"))
    with job.Progress(run, settings.conditional.steps) as progress:
        result = measure(
            lambda hidden: model.logits(hidden, slice(None)), learned, held_out, tracks, settings, confidence, progress
        )
    used = {"dependence": settings.model_dump(), "confidence": confidence}
    record = provenance.record(used, seed=settings.seed, device=device.type)
    files.write_json(args.out, {"pattern": model.shape.pattern, **result, "provenance": record})


if __name__ == "__main__":
    job.run(main)
