"""A study's codecs and language models in half precision, small enough to be kept beside the code, for others to use.

    python -m pipeline.exchange.release --study . --codec baseline --codec mmd --pattern parallel --out models

Each is loaded as those of the study are, and exported to transformers in the same way. `models.json` says what half
precision changes on held-out music: the share of equal codes, the log-mel distance of reconstructions, bits a frame.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipeline import files, job, manifest, provenance
from pipeline import study as place
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.codec.spectral import log_mel_distance
from pipeline.lm import conditioning
from pipeline.lm import model as language_models
from pipeline.lm import train as learning

CLIPS = 64  # of the test split, on which half precision is compared with single


def halve(source: Path, target: Path) -> None:
    """Copies a model, its floating-point weights in half precision.

    Raises:
        ValueError: a weight is too large for half precision.
    """
    weights = load_file(source / "model.safetensors")
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    for name, value in halves.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{source}: {name} is beyond half precision, whose largest number is 65504")
    with files.atomic(target / "model.safetensors") as temporary:
        save_file(halves, temporary)
    shutil.copyfile(source / "model.json", target / "model.json")


@torch.no_grad()
def codec_cost(single: codecs.Coder, half: codecs.Coder, waveform: torch.Tensor) -> dict[str, float]:
    """What half precision changes in a codec, on waveforms `[B, T]`."""
    codes = [codec.encode(waveform) for codec in (single, half)]
    distances = []
    for codec, each in zip((single, half), codes, strict=True):
        output = codec.decode(each)[:, : waveform.shape[1]]
        distances.append(float(log_mel_distance(output, waveform, sample_rate=codec.sample_rate).mean()))
    return {
        "equal_codes": float((codes[0] == codes[1]).float().mean()),
        "log_mel": distances[0],
        "log_mel_half": distances[1],
    }


def model_cost(
    single: language_models.LanguageModel,
    half: language_models.LanguageModel,
    split: learning.Split,
    text: conditioning.TextStates,
) -> dict[str, float]:
    """What half precision changes in a language model, on held-out tokens."""
    bits = [float(learning.bits(learning.evaluate(model, split, text, 16)).mean()) for model in (single, half)]
    return {"bits_per_frame": bits[0], "bits_per_frame_half": bits[1]}


def main() -> None:
    """Writes the models and `models.json`."""
    parser = job.parser("Keep a study's models in half precision.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--codec", action="append", required=True, help="a codec of the study; may be repeated")
    parser.add_argument("--pattern", required=True, help="codebook pattern of its language model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the models")
    args = parser.parse_args()
    job.prepare(args)
    corpus = args.study / place.CORPUS
    table = manifest.read(corpus / "manifest.parquet")
    rows = manifest.of_split(table, "test")["row"].to_numpy()
    some = rows[np.unique(np.linspace(0, len(rows) - 1, CLIPS).round().astype(int))]
    waveform = torch.from_numpy(to_float(files.read_array(corpus / "audio.npy")[some]))
    text = conditioning.load(args.study / place.TEXT)
    kept: dict[str, Any] = {"commit": provenance.commit(), "clips": len(some), "models": {}}
    for name in args.codec:
        which = {"codec": name, "seed": args.seed, "pattern": args.pattern, "lm": 0}
        sources = {
            kind: args.study / where.format(**which) for kind, where in (("codec", place.CODEC), ("lm", place.LM))
        }
        targets = {kind: args.out / name / kind for kind in sources}
        for kind, source in sources.items():
            halve(source, targets[kind])
        pair = [codecs.load(folder) for folder in (sources["codec"], targets["codec"])]
        cost = codec_cost(pair[0], pair[1], waveform)
        tokens = args.study / place.TOKENS.format(**which)
        models = [language_models.load(folder) for folder in (sources["lm"], targets["lm"])]
        split = learning.subset(learning.load_split(tokens, table, text, "test", models[0].shape), CLIPS)
        kept["models"][name] = cost | model_cost(models[0], models[1], split, text)
        print(f"{name}: {kept['models'][name]}")
    files.write_json(args.out / "models.json", kept)


if __name__ == "__main__":
    job.run(main)
