"""What the product of marginals costs a codec in sound, without a language model: codes shuffled and decoded.

    python -m pipeline.generation.shuffle --codec results/codec/mmd-seed0 --tokens results/codec/tokens/mmd-seed0 \
        --reconstruction results/generation/reconstruction/mmd-seed0/audio.npy \
        --manifest results/corpus/manifest.parquet --out results/generation/shuffled

The codes of a track are pooled over its clips and put in a random order, in one of three ways:

- `equal_time`: whole frames move; the codes of a frame stay together, their order in time is lost;
- `delayed`: whole steps of the delay pattern move, codebook k of frame s - k; those stay together, frames do not;
- `independent`: each codebook moves by itself: the product of its marginals within the track.

All three have the same codes, codebook by codebook, and none keeps their order. So `independent` against `equal_time`
is what the product of marginals costs at equal time, and against `delayed` what it costs along the delay: to a perfect
model that knows which track is playing and nothing else. A language model also knows the frames before, and pays less.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import job, manifest, params
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.codec.spectral import LOG_FLOOR, mel
from pipeline.files import atomic, read_array, write_array
from pipeline.generation.decode import decoded, scored_codes
from pipeline.study import SHUFFLES

WINDOW, BINS = 512, 64  # samples, mels at most: no longer than a frame of the codec, which is what moves


def shuffled(codes: np.ndarray, kind: str, generator: np.random.Generator) -> np.ndarray:
    """Codes `[n, K, T]` of one track's clips in a random order, one of `SHUFFLES`.

    Steps of the delay pattern that lack a codebook, K - 1 at either end of a clip, stay where they are under `delayed`.
    Codebook 1 moves alike under `equal_time` and `independent` for generators of one seed.

    Raises:
        ValueError: there is no such kind, or under `delayed` a clip has fewer than K frames.
    """
    if kind not in SHUFFLES:
        raise ValueError(f"codes cannot be shuffled by {kind!r}; it must be one of {', '.join(SHUFFLES)}")
    clips, codebooks, length = codes.shape
    lead = codebooks - 1 if kind == "delayed" else 0
    if length <= lead:
        raise ValueError(f"clips of {length} frames have no step with all {codebooks} codebooks of the delay pattern")
    result, order = codes.copy(), generator.permutation(clips * (length - lead))
    for k in range(codebooks):
        delay = k if kind == "delayed" else 0
        window = slice(lead - delay, length - delay)
        result[:, k, window] = codes[:, k, window].reshape(-1)[order].reshape(clips, -1)
        if kind == "independent":
            order = generator.permutation(len(order))
    return result


def level_distance(ours: Tensor, theirs: Tensor, *, sample_rate: int) -> float:
    """Log-mel distance of two sets of frames in dB where their order does not count, of waveforms `[n, T]`.

    The mean, over mels, of the 1-Wasserstein distance between the levels of all frames: each side's are sorted, then
    compared as `log_mel_distance` does. No order of the same frames can raise it.
    """
    sides = []
    for waveforms in (ours, theirs):
        levels = 20 * (mel(waveforms, sample_rate=sample_rate, window=WINDOW, bins=BINS) + LOG_FLOOR).log10()
        sides.append(levels.transpose(0, 1).flatten(1).sort(dim=1).values)
    return float((sides[0] - sides[1]).abs().mean())


def main() -> None:
    """Writes each kind's `audio.npy`, int16, and `.npz`: the `level_distance` of each clip's track, by kind."""
    parser = job.parser("Shuffle a codec's codes of the clips that are scored within their tracks, and decode them.")
    parser.add_argument("--codec", type=Path, required=True, help="folder of the codec")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of its tokens")
    parser.add_argument("--reconstruction", type=Path, required=True, help="audio.npy of its reconstructions")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of KIND/CODEC/audio.npy and CODEC.npz")
    args = parser.parse_args()
    device = job.prepare(args)
    settings = params.section(args.params, "generation", params.Generation)
    codec = codecs.load(args.codec, device)
    codes, rows = scored_codes(codec, args.tokens, manifest.read(args.manifest), settings.clips)
    original, track_id = read_array(args.reconstruction), rows["track_id"].to_numpy(str)
    levels = {kind: np.empty(len(codes)) for kind in SHUFFLES}
    tracks = np.unique(track_id)
    for kind in SHUFFLES:
        moved = np.empty_like(codes)
        for track in tracks:
            of_track = track_id == track
            generator = np.random.default_rng([settings.seed, *track.encode()])
            moved[of_track] = shuffled(codes[of_track], kind, generator)
        audio = decoded(codec, moved)
        write_array(args.out / kind / args.codec.name / "audio.npy", audio)
        for track in tracks:
            of_track = track_id == track
            ours, theirs = (torch.from_numpy(to_float(side[of_track])) for side in (audio, original))
            levels[kind][of_track] = level_distance(ours, theirs, sample_rate=codec.sample_rate)
    with atomic(args.out / f"{args.codec.name}.npz") as temporary:
        np.savez(temporary, **levels, track_id=track_id, clip_id=rows["clip_id"].to_numpy(str))


if __name__ == "__main__":
    job.run(main)
