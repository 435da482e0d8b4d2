"""How well a codec reconstructs held-out music.

    python -m pipeline.codec.reconstruction --codec results/codec/mmd-seed0 --corpus results/corpus \
        --out results/codec/mmd-seed0/metrics.json
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from zimtohrli import mos_from_signals

from pipeline import job, manifest, params, provenance
from pipeline.audio import resample, to_float
from pipeline.codec import model as codecs
from pipeline.codec.independence import above_floor, joint_rows
from pipeline.codec.spectral import log_mel_distance, si_sdr
from pipeline.files import atomic, read_array, write_json

MOS_RATE, MOS_CLIPS = 48_000, 32  # Hz; clips, evenly spread, that get an opinion score: 0.2 s of a CPU for each 10 s
MMD_ROWS = 4000  # of the held-out codes, evenly spread, for the closed form, which walks all pairs


class Reconstruction(NamedTuple):
    """Scores of each clip's reconstruction, and its codes."""

    si_sdr: np.ndarray  # [n], dB
    log_mel: np.ndarray  # [n], dB
    mos: np.ndarray  # [n], Zimtohrli's opinion score, 1 to 5; NaN where it was not taken
    codes: np.ndarray  # [n, K, T']


@torch.no_grad()
def reconstruct(codec: codecs.Coder, audio: np.ndarray, rows: np.ndarray) -> Reconstruction:
    """Scores the reconstructions of some rows of int16 clips `[N, T]`; opinion scores of `MOS_CLIPS` of them."""
    some = np.unique(np.linspace(0, len(rows) - 1, MOS_CLIPS).round().astype(int))
    device = next(codec.parameters()).device
    parts: list[tuple[np.ndarray, ...]] = []
    with job.Progress("reconstruction", len(rows), "clip") as progress:
        for start in range(0, len(rows), codecs.AT_ONCE):
            waveform = torch.from_numpy(to_float(audio[rows[start : start + codecs.AT_ONCE]])).to(device)
            codes = codec.encode(waveform)
            output = codec.decode(codes)[:, : waveform.shape[1]]
            distance = log_mel_distance(output, waveform, sample_rate=codec.sample_rate)
            mos = [
                opinion(output[i].cpu().numpy(), waveform[i].cpu().numpy(), codec.sample_rate)
                if start + i in some
                else np.nan
                for i in range(len(waveform))
            ]
            si_sdrs, distances, used = (x.cpu().numpy() for x in (si_sdr(output, waveform), distance, codes))
            parts.append((si_sdrs, distances, np.array(mos), used))
            progress.update(start + len(waveform))
    return Reconstruction(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def opinion(estimate: np.ndarray, target: np.ndarray, rate: int) -> float:
    """Mean opinion score, 1 to 5, that Zimtohrli expects of `estimate` `[T]` beside `target` `[T]` at `rate` Hz."""
    return float(mos_from_signals(*(resample(side, rate, MOS_RATE) for side in (target, estimate))))


def criterion(codec: codecs.Codec, codes: Tensor, macro: params.IndependenceTraining) -> dict[str, float]:
    """The loss' closed form above its floor, of codes' `[n, K, T']` quantized vectors, at equal time and delayed."""
    vectors = codec.quantizer.vectors(codes)
    estimates = {}
    for name, delay in (("equal_time", False), ("delayed", True)):
        rows = joint_rows(vectors, delay=delay)
        few = rows[:: math.ceil(len(rows) / MMD_ROWS), :, :, None]  # each row a clip of one frame
        estimates[name] = above_floor(few, delay=False, bandwidths=macro.bandwidths, unit=macro.unit)
    return estimates


def main() -> None:
    """Measures a codec on the test split: means and perplexities as JSON, and beside it one value a clip as `.npz`."""
    parser = job.parser("Measure a codec's reconstruction of the test split.")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="metrics.json; metrics.npz goes beside it")
    arguments = parser.parse_args()
    device = job.prepare(arguments)
    codec = codecs.load(arguments.codec, device)
    codecs.expect_rate(codec, params.section(arguments.params, "corpus", params.Corpus).sample_rate, arguments.codec)
    test = manifest.of_split(manifest.read(arguments.corpus / "manifest.parquet"), "test")
    audio = read_array(arguments.corpus / "audio.npy")
    result = reconstruct(codec, audio, test["row"].to_numpy())
    used, mmd = {"codec": codec.configuration}, {}
    if isinstance(codec, codecs.Codec):
        settings = params.section(arguments.params, "codec", params.Codec).of(codec.configuration["architecture"])
        used = {"codec": settings.model_dump(mode="json")}
        mmd = {"mmd": criterion(codec, torch.from_numpy(result.codes), settings.independence)}
    size = codec.configuration["codebook_size"]
    shares = [np.bincount(used.ravel(), minlength=size) / used.size for used in result.codes.swapaxes(0, 1)]
    with atomic(arguments.out.with_suffix(".npz")) as temporary:
        np.savez(
            temporary,
            si_sdr=result.si_sdr,
            log_mel=result.log_mel,
            mos=result.mos,
            track_id=test["track_id"].to_numpy(dtype=str),
            clip_id=test["clip_id"].to_numpy(dtype=str),
        )
    write_json(
        arguments.out,
        {
            "si_sdr": float(result.si_sdr.mean()),
            "log_mel": float(result.log_mel.mean()),
            "mos": float(np.nanmean(result.mos)),
            "perplexity": [float(np.exp(-(s[s > 0] * np.log(s[s > 0])).sum())) for s in shares],
            **mmd,
            "clips": len(test),
            "tracks": int(test["track_id"].nunique()),
            "frame_rate": codec.frame_rate,
            "provenance": provenance.record(used),
        },
    )


if __name__ == "__main__":
    job.run(main)
