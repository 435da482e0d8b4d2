"""The price of factorising that one language model pays (`pipeline.dependence.conditional`), on its held-out steps.

    python -m pipeline.dependence.price --lm results/lm/parallel/mmd-seed0-lm0 --text results/lm/text \
        --tokens results/codec/tokens/mmd-seed0 --manifest results/corpus/manifest.parquet --out price.json
"""

from pathlib import Path

from pipeline import files, job, manifest, params, provenance
from pipeline.dependence.conditional import measure
from pipeline.lm.deepen import full_steps, heads_parser, load
from pipeline.lm.train import subset


def main() -> None:
    """Measures the price of factorising of one language model and writes JSON."""
    parser = heads_parser("Measure what predicting the codebooks of a step independently of each other costs.")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    device = job.prepare(args)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.confidence(args.params)

    given = load(args, device)
    train = subset(given.train, settings.conditional.clips)
    run = f"price/{args.lm.parent.name}/{args.lm.name}"
    with job.Progress(run, len(train), "clip") as progress:
        learned = full_steps(given.model, train, given.text, progress)
    held_out = full_steps(given.model, given.test, given.text)
    tracks = manifest.track_numbers(manifest.of_split(given.clips, "test"))
    with job.Progress(run, settings.conditional.steps) as progress:
        result = measure(given.logits, learned, held_out, tracks, settings, confidence, progress)
    used = {"dependence": settings.model_dump(), "confidence": confidence}
    record = provenance.record(used, seed=settings.seed, device=device.type)
    files.write_json(args.out, {"pattern": given.model.shape.pattern, **result, "provenance": record})


if __name__ == "__main__":
    job.run(main)
