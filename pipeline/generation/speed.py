"""Speed of every codebook pattern: one model, one set of captions, one machine, one run.

A step takes as long with any weights, so one trained model is timed with every pattern in turn; the music that it makes
with patterns other than its own is thrown away.

    python -m pipeline.generation.speed --lm results/lm/delay/mmd-seed0-lm0 --codec results/codec/mmd-seed0 \
        --manifest results/corpus/manifest.parquet --text results/lm/text --out results/generation/patterns.json
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import job, manifest, params, provenance
from pipeline.files import write_json
from pipeline.generation import sampling
from pipeline.lm import conditioning
from pipeline.lm.conditioning import TextStates
from pipeline.lm.model import LanguageModel
from pipeline.study import DEPTH, FACTORISED, without_depth


def measure(
    model: LanguageModel,
    text: TextStates,
    clips: pd.DataFrame,
    how: params.Generation,
    settings: params.Speed,
    rank: int,
    clip_seconds: float,
) -> list[dict[str, Any]]:
    """Steps, seconds and speed of every pattern at every batch size, one row each.

    Factorised patterns are timed with depth heads of this `rank` as well. Patterns take turns, so that a busy minute of
    the machine falls on all of them. Rates are of the median repeat. All have sinusoidal positions, since few patterns
    have any other.
    """
    device, frames = model.heads.device, model.shape.frames
    options: dict[str, Any] = {"guidance_scale": how.guidance_scale, "top_k": how.top_k, "temperature": how.temperature}
    models = {}
    for name in [*distinct(), *(f"{pattern}{DEPTH}" for pattern in FACTORISED)]:
        pattern = without_depth(name)
        depth = rank if name != pattern else 0
        shape = replace(model.shape, pattern=pattern, positions="sinusoidal", depth=depth)
        models[name] = LanguageModel(shape).to(device).eval()
        models[name].load_state_dict(model.state_dict(), strict=False)  # heads take as long untrained
    runs = list(product(range(settings.repeats), settings.batch_sizes, models))
    timings: dict[tuple[int, str], list[list[float]]] = {}
    with job.Progress("generation/patterns", len(runs), "run") as progress:
        for done, (repeat, size, name) in enumerate(runs, start=1):
            chosen = clips.iloc[[i % len(clips) for i in range(size)]]
            states, mask = (x.to(device) for x in text.batch(text.rows(chosen["caption_0"].tolist())))
            names = chosen["clip_id"].astype(str).tolist()
            uniforms = sampling.clip_uniforms(names, repeat, model.shape.codebooks, frames).to(device)
            if done == 1:  # the libraries' own start
                sampling.generate(model, states, mask, frames=1, uniforms=uniforms[:, :, :1], **options)
            with sampling.stopwatch(device) as seconds:
                sampling.generate(models[name], states, mask, frames=frames, uniforms=uniforms, **options)
            timings.setdefault((size, name), []).append(seconds)
            progress.update(done)
    rows = []
    for (size, name), repeats in timings.items():
        clock, processor = np.transpose(repeats)
        row = {"pattern": name, "batch_size": size, "steps": models[name].pattern(frames).steps}
        row |= {"seconds": clock.tolist(), "processor_seconds": processor.tolist()}
        row |= {"frames_per_second": size * frames / np.median(clock)}
        rows.append(row | {"real_time_factor": size * clip_seconds / np.median(clock)})
    return rows


def distinct() -> list[str]:
    """Names of the codebook patterns; where several name the same pattern, the first of them."""
    names: dict[Any, str] = {}
    for name in params.choices("PATTERNS"):
        names.setdefault(params.choice("PATTERNS", name), name)
    return list(names.values())


def main() -> None:
    """Times every codebook pattern."""
    parser = sampling.model_parser("Time generation by every codebook pattern.")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="folder of text states")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = job.prepare(args)
    how = params.section(args.params, "generation", params.Generation)
    settings = params.section(args.params, "speed", params.Speed)
    rank = params.section(args.params, "dependence", params.Dependence).conditional.rank
    model, codec = sampling.load_models(args, device)
    clip_seconds = model.shape.frames / codec.frame_rate
    clips = manifest.evaluation_rows(manifest.read(args.manifest), how.clips)
    used = {"generation": how.model_dump(mode="json"), "speed": settings.model_dump(mode="json")}
    write_json(
        args.out,
        {
            "weights": f"{args.lm.parent.name}/{args.lm.name}",
            "clip_seconds": clip_seconds,
            "threads": torch.get_num_threads(),
            "patterns": measure(model, conditioning.load(args.text), clips, how, settings, rank, clip_seconds),
            "provenance": provenance.record(used, device=device.type),
        },
    )


if __name__ == "__main__":
    job.run(main)
