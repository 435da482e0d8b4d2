"""MMD and mutual information of a codec's snapshots over training (claim C2).

Both are measured on the same held-out clips, at equal time and under the delay shift. Snapshots of one run are not
independent of each other, so their rank correlation is only descriptive and has no p-value.

    python -m pipeline.dependence.snapshots --codec results/codec/mmd-seed0 --corpus results/corpus \
        --out results/dependence/snapshots/mmd-seed0.csv
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from pipeline import job, manifest, params
from pipeline.codec import model as codecs
from pipeline.codec.reconstruction import criterion
from pipeline.codec.tokens import encoded
from pipeline.dependence.information import shuffled
from pipeline.dependence.pairwise import ALIGNMENTS, flattened, pairwise
from pipeline.files import atomic, read_array, read_json

COLUMNS = ("step", "alignment", "estimator", "mmd", "mutual_information", "entropy")


def measure(
    codes: np.ndarray, codec: codecs.Codec, macro: params.IndependenceTraining, settings: params.Dependence
) -> list[dict[str, Any]]:
    """MMD of codes `[n, K, T']`, and mutual information and entropy, summed, by every estimator; bits."""
    mmd = criterion(codec, torch.from_numpy(codes.astype(np.int64)), macro)
    size, rows = codec.configuration["codebook_size"], []
    for name, align in ALIGNMENTS.items():
        streams = flattened(align(codes))
        generator = np.random.default_rng(settings.seed)
        orders = [shuffled(streams, generator) for _ in range(settings.shuffles)]
        for estimator, dependence in pairwise(streams, orders, size).items():
            information, _, _, entropy = dependence.totals()
            measures = {"mmd": mmd[name], "mutual_information": information, "entropy": entropy}
            rows.append({"alignment": name, "estimator": estimator, **measures})
    return rows


def main() -> None:
    """Measures every snapshot of a codec."""
    parser = job.parser("Measure MMD and mutual information of a codec's snapshots.")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    arguments = parser.parse_args()
    device = job.prepare(arguments)
    macro = params.section(arguments.params, "codec", params.Codec).independence
    settings = params.section(arguments.params, "dependence", params.Dependence)
    rows = manifest.of_split(manifest.read(arguments.corpus / "manifest.parquet"), "test")["row"].to_numpy()
    # Evenly spread over the split, and so over its tracks; all codecs' snapshots are measured on the same clips.
    chosen = rows[np.linspace(0, len(rows) - 1, min(settings.snapshot_clips, len(rows))).round().astype(int)]
    audio = read_array(arguments.corpus / "audio.npy")

    snapshots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(arguments.codec / "snapshots.safetensors").items():
        number, weight = name.split(".", 1)
        snapshots.setdefault(int(number), {})[weight] = value
    codec = codecs.Codec(read_json(arguments.codec / "model.json")["configuration"]).to(device).eval()
    measures: list[dict[str, Any]] = []
    for step, weights in sorted(snapshots.items()):
        codec.load_state_dict(weights)
        with job.Progress(f"snapshots/{arguments.codec.name}/{step}", len(chosen), "clip") as progress:
            codes = encoded(codec, audio, chosen, progress)
        measures += [{"step": step, **row} for row in measure(codes, codec, macro, settings)]
    with atomic(arguments.out) as temporary:
        pd.DataFrame(measures, columns=list(COLUMNS)).to_csv(temporary, index=False)


if __name__ == "__main__":
    job.run(main)
