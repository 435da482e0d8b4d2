"""Dependence between codebooks, measured on held-out codes: entropies and pairwise mutual information in bits.

Every pair of codebooks is measured at equal time, under the delay shift and by lag, with each estimator of
`pipeline.dependence.information`; the report uses the one that `pipeline.dependence.calibration` chooses. Histograms
of this size cannot measure dependence beyond pairs; `pipeline.dependence.learned` bounds it.

Most of what codebooks share at equal time is still there a second later: it says which piece is playing. So dependence
is also read as two numbers, *far*, its mean over lags of a third of a second and more, and the *local excess* above it.

Frames are not independent: neighbours are alike, and a track keeps to its own codes. So a value belongs to its set of
tracks and falls as tracks are added: in the default study's first baseline, the first two codebooks share 0.9 bits in
29 held-out tracks and 0.4 bits in the 154 of the training split. Compare codecs on the same tracks only. Intervals are
over whole tracks. No estimator here accounts for frames that are alike; `controls` measures the bias that remains.
Where the true value is 0, the estimator that calibration chose gives 0.24 bits on that baseline, which has 2.9 bits
summed over pairs, and 0.14 bits with the loss, where the sum is 1.8.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import repeat, starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import files, job, manifest, params, provenance, statistics
from pipeline.dependence.information import (
    ESTIMATORS,
    Histograms,
    Information,
    histograms,
    information,
    pairs,
    shuffled,
)

SUMS = ("mutual_information", "normalised_by_sum", "normalised_by_minimum", "entropy")
NEAR = 8  # frames to either side: every lag up to here at least, for the figure
ALIGNED = {"equal_time": lambda a, b: 0, "delayed": lambda a, b: a - b}  # lag of codebook b behind a


class Pairwise(NamedTuple):
    """Dependence of each pair of codebooks by one estimator, in the order of `pairs`; bits, or shares of entropy."""

    entropy: np.ndarray  # [K], of each codebook
    mutual_information: np.ndarray  # [P]
    normalised_by_sum: np.ndarray  # [P], over H(a) + H(b), as the paper's code does: at most 1/2
    normalised_by_minimum: np.ndarray  # [P], over min(H(a), H(b)): at most 1

    @classmethod
    def of(cls, estimates: Information) -> "Pairwise":
        """Adds both normalised values; they are 0, not 0 / 0, for a codebook that uses only one code."""
        first, second = estimates.entropy[np.transpose(pairs(len(estimates.entropy)))]
        return cls(
            estimates.entropy,
            estimates.mutual,
            *(
                np.divide(estimates.mutual, entropy, out=np.zeros_like(entropy), where=entropy > 1e-9)
                for entropy in (first + second, np.minimum(first, second))
            ),
        )

    def totals(self) -> np.ndarray:
        """The values named by `SUMS`: summed over pairs or codebooks, the normalised two averaged over pairs."""
        information, by_sum, by_minimum = self.mutual_information, self.normalised_by_sum, self.normalised_by_minimum
        return np.array([information.sum(), by_sum.mean(), by_minimum.mean(), self.entropy.sum()])


class Sample(NamedTuple):
    """Each estimator's values, on all tracks and with each track left out."""

    whole: dict[str, Pairwise]
    left_out: dict[str, list[Pairwise]]
    baseline: np.ndarray  # [P], plug-in mutual information of shuffled codes

    def intervals(self, estimator: str, measure: str, draw: dict[str, Any]) -> list[statistics.Estimate]:
        """Estimates of each number of a field of `Pairwise`, or of `totals`; `draw` is how the tracks are drawn."""
        value, *left_out = (
            estimates.totals() if measure == "totals" else getattr(estimates, measure)
            for estimates in (self.whole[estimator], *self.left_out[estimator])
        )
        return [statistics.jackknife(v, each, **draw) for v, each in zip(value, np.transpose(left_out), strict=True)]


def pairwise(codes: np.ndarray, orders: list[np.ndarray], codebook_size: int) -> dict[str, Pairwise]:
    """Dependence of every pair of codes `[K, M]` by each of `ESTIMATORS`.

    The shuffled baseline is the mean of the plug-in value over `orders`, shuffled codes `[K, M]` each.

    Raises:
        ValueError: `codes` is not integer `[K, M]`, K > 1, has fewer frames than codes, or holds a code out of range.
    """
    estimates = information(_histograms(codes, codebook_size))
    return _with_baseline(estimates, _baseline(orders, codebook_size))


def delay_shift(codes: np.ndarray) -> np.ndarray:
    """Codes `[n, K, T]` as the delay-pattern LM predicts them, `[n, K, T-K+1]`: row s holds codebook k of frame s - k.

    Steps at either end of a clip that lack a codebook are dropped; differs from the paper's code, which drops one more.
    """
    count, (_, codebooks, length) = len(codes), codes.shape
    if length < codebooks:
        raise ValueError(f"clips of {length} frames have no step with all {codebooks} codebooks under the delay shift")
    result = np.empty((count, codebooks, length - codebooks + 1), codes.dtype)
    for k in range(codebooks):
        result[:, k] = codes[:, k, codebooks - 1 - k : length - k]
    return result


ALIGNMENTS = {"equal_time": lambda codes: codes, "delayed": delay_shift}


def far_lags(seconds: Sequence[float], frame_rate: float) -> list[int]:
    """Lags in frames, to both sides, of those in `seconds`, rounded up.

    Raises:
        ValueError: two are the same frame.
    """
    lags = [math.ceil(each * frame_rate - 1e-9) for each in seconds]
    if len(set(lags)) < len(lags):
        raise ValueError(f"dependence.far_lags are {lags} frames at {frame_rate:g} frames a second; they must differ")
    return sorted([-lag for lag in lags] + lags)


def all_lags(settings: params.Dependence, frame_rate: float, codebooks: int) -> list[int]:
    """Lags in frames that are measured: the far ones, and all near 0, where every pair has that of its delay."""
    near = max(NEAR, codebooks - 1)
    return sorted({*far_lags(settings.far_lags, frame_rate), *range(-near, near + 1)})


def lagged(codes: np.ndarray, first: int, second: int, lag: int, reach: int) -> np.ndarray:
    """Codebook `first` at frame t beside `second` at t + `lag`, `[n, 2, T-2R]`, of codes `[n, K, T]`.

    Frames within `reach` R, the greatest lag, of a clip's ends are dropped, so that all lags see the same frames of
    `first`. Codebooks a < b under the delay shift are those at lag a - b.
    """
    length = codes.shape[2]
    if length <= 2 * reach:
        raise ValueError(f"clips of {length} frames hold no lag of {reach} frames to either side; take longer clips")
    return np.stack([codes[:, first, reach:-reach], codes[:, second, reach + lag : length - reach + lag]], axis=1)


def sample(codes: np.ndarray, track: np.ndarray, codebook_size: int, shuffles: int, seed: int) -> Sample:
    """All estimators on aligned codes `[n, K, T]` of clips from tracks `[n]`, numbered from 0: whole, and less a track.

    With a track left out, the baseline is that of one order alone.

    Raises:
        ValueError: as `pairwise`, or there are not as many tracks as clips.
    """
    if len(track) != len(codes):
        raise ValueError(f"codes of {len(codes)} clips do not go with {len(track)} clips' tracks")
    if track.max() < 1:
        raise ValueError("an interval over tracks needs at least 2 of them, got 1; enlarge the test split")
    flat = flattened(codes)
    generator = np.random.default_rng(seed)
    orders = [shuffled(flat, generator) for _ in range(shuffles)]
    counts, order_counts = (_histograms(streams, codebook_size) for streams in (flat, orders[0]))
    baseline = _baseline(orders, codebook_size)
    left_out: dict[str, list[Pairwise]] = {name: [] for name in ESTIMATORS}
    of_frame = np.repeat(track, codes.shape[2])
    for each in range(track.max() + 1):
        frames = of_frame == each
        rest, order_rest = (
            type(total)(
                *(
                    whole - part
                    for whole, part in zip(total, histograms(streams[:, frames], codebook_size), strict=True)
                )
            )
            for total, streams in ((counts, flat), (order_counts, orders[0]))
        )
        estimates = _with_baseline(information(rest), information(order_rest, ["plug_in"])["plug_in"].mutual)
        for name, values in estimates.items():
            left_out[name].append(values)
    return Sample(_with_baseline(information(counts), baseline), left_out, baseline)


def measure(
    codes: np.ndarray, tracks: np.ndarray, codebook_size: int, settings: params.Dependence, confidence: float
) -> dict[str, Any]:
    """Dependence in aligned codes `[n, K, T]` of clips from tracks `[n]`, numbered from 0, with intervals over tracks.

    Resample r draws the same tracks whatever the codec and the alignment, so resampled values of two can be paired.
    """
    sampled = sample(codes, tracks, codebook_size, settings.shuffles, settings.seed)
    draw: dict[str, Any] = {"resamples": settings.bootstrap, "seed": settings.seed, "confidence": confidence}
    estimators = {}
    for name in ESTIMATORS:
        whole, totals = sampled.whole[name], sampled.intervals(name, "totals", draw)
        estimators[name] = {
            "entropy": whole.entropy.tolist(),
            "mutual_information": [e.json() for e in sampled.intervals(name, "mutual_information", draw)],
            "normalised_by_sum": whole.normalised_by_sum.tolist(),
            "normalised_by_minimum": whole.normalised_by_minimum.tolist(),
            "total": {measure: e.json(resamples=True) for measure, e in zip(SUMS, totals, strict=True)},
        }
    return {
        "frames": codes.shape[0] * codes.shape[2],
        "clips": len(codes),
        "tracks": int(tracks.max()) + 1,
        "perplexity": (2 ** sampled.whole["plug_in"].entropy).tolist(),
        "pairs": pairs(codes.shape[1]),
        "baseline": sampled.baseline.tolist(),
        "estimators": estimators,
    }


def by_lag(
    codes: np.ndarray,
    tracks: np.ndarray,
    codebook_size: int,
    frame_rate: float,
    settings: params.Dependence,
    confidence: float,
    progress: job.Progress | None = None,
) -> dict[str, Any]:
    """Mutual information in codes `[n, K, T]` by lag, summed over pairs, by each estimator; JSON-ready.

    Beside the value at each lag, three `parts`, of the same frames and with resamples: `far`, the mean over the far
    lags, and what it is to be subtracted from for the local excess, at `equal_time` and `delayed`.
    """
    draw: dict[str, Any] = {"resamples": settings.bootstrap, "seed": settings.seed, "confidence": confidence}
    far = far_lags(settings.far_lags, frame_rate)
    lags = all_lags(settings, frame_rate, codes.shape[1])
    # Of every pair and lag, mutual information of all tracks, then with each left out.
    values: dict[str, dict[tuple[int, int, int], np.ndarray]] = {name: {} for name in ESTIMATORS}
    for step, lag in enumerate(lags, start=1):
        for a, b in pairs(codes.shape[1]):
            shifted = lagged(codes, a, b, lag, max(lags))
            sampled = sample(shifted, tracks, codebook_size, 1, settings.seed)
            for name, of_lags in values.items():
                each = (sampled.whole[name], *sampled.left_out[name])
                of_lags[a, b, lag] = np.array([estimates.mutual_information[0] for estimates in each])
        if progress:
            progress.update(step)

    def total(name: str, lags: Iterable[int]) -> np.ndarray:
        """Over all pairs, each at its own of `lags`."""
        each = zip(pairs(codes.shape[1]), lags, strict=False)
        return np.sum([values[name][a, b, lag] for (a, b), lag in each], axis=0)

    def estimate(sums: np.ndarray) -> statistics.Estimate:
        return statistics.jackknife(sums[0], sums[1:], **draw)

    at = {name: {lag: total(name, repeat(lag)) for lag in lags} for name in ESTIMATORS}
    return {
        "lags": lags,
        "far": far,
        "frame_rate": frame_rate,
        "frames": shifted.shape[0] * shifted.shape[2],
        "estimators": {name: [estimate(at[name][lag]).json() for lag in lags] for name in ESTIMATORS},
        "parts": {
            name: {
                "far": estimate(np.mean([at[name][lag] for lag in far], axis=0)).json(resamples=True),
                **{
                    part: estimate(total(name, starmap(lag_of, pairs(codes.shape[1])))).json(resamples=True)
                    for part, lag_of in ALIGNED.items()
                },
            }
            for name in ESTIMATORS
        },
    }


def controls(codes: np.ndarray, codebook_size: int, settings: params.Dependence) -> dict[str, dict[str, Any]]:
    """Each estimator's value in bits on codes `[K, M]` changed so that the true value is known.

    Positive: codebook 2 is a copy of codebook 1, so their mutual information is the entropy of codebook 1. Estimators
    that add entropies up are right by construction; what the other lacks is its baseline.
    Negative: every codebook is shuffled in time, so the true mutual information, summed over pairs, is 0.
    Rolled: every codebook is shifted in time by a random distance of its own. The true value is 0 here too; what
    remains is the bias due to neighbouring frames being alike, which no estimator removes.
    """
    generator = np.random.default_rng(settings.seed)

    def total(known: np.ndarray) -> dict[str, float]:
        orders = [shuffled(known, generator) for _ in range(settings.shuffles)]
        estimates = pairwise(known, orders, codebook_size)
        return {name: float(values.mutual_information.sum()) for name, values in estimates.items()}

    distances = generator.integers(codes.shape[1], size=len(codes))
    rolled = np.stack([np.roll(stream, distance) for stream, distance in zip(codes, distances, strict=True)])
    entropy = information(histograms(codes[[0, 0]], codebook_size), ["plug_in"])["plug_in"].entropy[0]
    return {
        "positive": {"measured": total(codes[[0, 0]]), "truth": float(entropy)},
        "negative": {"measured": total(shuffled(codes, generator)), "truth": 0.0},
        "rolled": {"measured": total(rolled), "truth": 0.0},
    }


def _baseline(orders: list[np.ndarray], codebook_size: int) -> np.ndarray:
    values = [information(histograms(order, codebook_size), ["plug_in"])["plug_in"].mutual for order in orders]
    return np.mean(values, axis=0)


def _with_baseline(estimates: dict[str, Information], baseline: np.ndarray) -> dict[str, Pairwise]:
    plain = estimates["plug_in"]
    all_of_them = {**estimates, "shuffled_baseline": plain._replace(mutual=plain.mutual - baseline)}
    return {name: Pairwise.of(all_of_them[name]) for name in ESTIMATORS}


def flattened(codes: np.ndarray) -> np.ndarray:
    """Codes `[n, K, T]` as `[K, n T]`."""
    return np.ascontiguousarray(codes.transpose(1, 0, 2)).reshape(codes.shape[1], -1)


def _histograms(codes: np.ndarray, codebook_size: int) -> Histograms:
    """Histograms of codes `[K, M]`; raises ValueError if there are fewer frames than codes."""
    counts = histograms(codes, codebook_size)
    if codes.shape[1] < codebook_size:
        raise ValueError(
            f"{codes.shape[1]} frames are too few to see {codebook_size} codes; take more clips or a smaller codebook"
        )
    return counts


class HeldOut(NamedTuple):
    """Codes to measure, and what they are of."""

    name: str
    codes: np.ndarray  # [n, K, T]
    tracks: np.ndarray  # [n], numbered from 0
    codebook_size: int  # C
    frame_rate: float | None  # Hz; None where it is not known, and nothing can be measured by lag


def of_study(codec: Path, tokens: Path, rows: pd.DataFrame, clip_seconds: float) -> HeldOut:
    """The test split's tokens of a codec, of the clips in the manifest's `rows`.

    Raises:
        ValueError: as `manifest.streams`, `manifest.of_split` and `manifest.read_tokens`.
    """
    test, streams = manifest.of_split(rows, "test"), manifest.streams(codec)
    codes = manifest.read_tokens(tokens, "test", len(test), *streams)
    frame_rate = codes.shape[2] / clip_seconds
    return HeldOut(tokens.name, codes, manifest.track_numbers(test), streams.codebook_size, frame_rate)


def of_file(path: Path, tracks: Path | None, frame_rate: float | None) -> HeldOut:
    """Codes of any codec, `[n, K, T]` in a `.npy` file, of as many codes as the greatest tells; without `tracks`, each
    clip counts as one.

    Raises:
        ValueError: the file holds no such codes, or not as many clips as `tracks`, or of one track.
    """
    codes = _array(path)
    if codes.ndim != 3 or 0 in codes.shape:
        raise ValueError(f"{path} holds an array of shape {codes.shape}: codes are [n, K, T], clips, codebooks, frames")
    if codes.shape[1] < 2:
        raise ValueError(f"{path} holds codes of one codebook, and dependence is between two or more")
    if not np.issubdtype(codes.dtype, np.integer):
        nan = ", and NaN among them" if np.issubdtype(codes.dtype, np.inexact) and np.isnan(codes).any() else ""
        raise ValueError(f"{path} holds numbers of type {codes.dtype}{nan}: codes are integers")
    if codes.min() < 0:
        raise ValueError(f"{path} holds the code {codes.min()}: codes count from 0; leave out frames that are padding")
    names = np.arange(len(codes)) if tracks is None else _tracks(tracks)
    if len(names) != len(codes):
        raise ValueError(f"{tracks} names the tracks of {len(names)} clips, and {path} holds {len(codes)}")
    numbers = np.unique(names, return_inverse=True)[1]
    if numbers.max() < 1:
        raise ValueError(f"{path} holds one {'clip' if tracks is None else 'track'}: an interval needs two or more")
    return HeldOut(path.stem, codes, numbers, int(codes.max()) + 1, frame_rate)


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the .npy file of the codes")
    try:
        codes = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers, as `np.save` writes it: {error}") from None
    if not isinstance(codes, np.ndarray):
        raise ValueError(f"{path} holds several arrays: save the codes alone, with `np.save`")
    return codes


def _tracks(path: Path) -> np.ndarray:
    """Names of the clips' tracks `[n]`: of a `.npy` file, or the column `track_id` of a CSV."""
    if path.suffix == ".npy":
        names = _array(path)
    else:
        table = pd.read_csv(path, dtype=str)
        if "track_id" not in table:
            raise ValueError(f"{path} has no column track_id: its columns are {', '.join(table)}")
        names = table["track_id"].to_numpy()
    if names.ndim != 1 or pd.isna(names).any():
        raise ValueError(f"{path} must name one track for each clip, in the order of the codes")
    return names.astype(str)


def dependence(
    held_out: HeldOut, settings: params.Dependence, confidence: float, progress: job.Progress | None = None
) -> dict[str, Any]:
    """All that is measured on codes: under each of `ALIGNMENTS`, by lag, and on `controls`; JSON-ready."""
    name, codes, tracks, size, frame_rate = held_out
    result = {
        "codec": name,
        "codebook_size": size,
        "alignments": {
            name: measure(align(codes), tracks, size, settings, confidence) for name, align in ALIGNMENTS.items()
        },
        "controls": controls(flattened(codes), size, settings),
        "confidence": confidence,
    }
    if frame_rate is not None:
        result["by_lag"] = by_lag(codes, tracks, size, frame_rate, settings, confidence, progress)
    used = {"dependence": settings.model_dump(), "codebook_size": size, "confidence": confidence}
    return {**result, "provenance": provenance.record(used, seed=settings.seed)}


def shown(result: dict[str, Any]) -> str:
    """What `dependence` found, for a reader: mutual information summed over pairs, a row an estimator."""
    equal = result["alignments"]["equal_time"]
    rows = []
    for estimator in ESTIMATORS:
        row = {"estimator": estimator.replace("_", " ")}
        for name, measured in result["alignments"].items():
            total, where = measured["estimators"][estimator]["total"], name.replace("_", " ")
            row[f"{where} (bits)"] = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**total["mutual_information"])
            row["of least entropy" if name == "equal_time" else "and delayed"] = (
                f"{total['normalised_by_minimum']['value']:.1%}"
            )
        for name, label in (("negative", "shuffled, truth 0"), ("rolled", "moved in time, truth 0")):
            row[label] = f"{result['controls'][name]['measured'][estimator]:.3f}"
        rows.append(row)
    entropy = sum(equal["estimators"]["plug_in"]["entropy"])
    return (
        f"{len(equal['perplexity'])} codebooks of {result['codebook_size']} codes, {entropy:.2f} bits a frame: "
        f"{equal['frames']:,} frames of {equal['clips']} clips of {equal['tracks']} tracks.\n"
        f"Mutual information, sum of {len(equal['pairs'])} pairs, {result['confidence']:.0%} intervals over tracks:\n\n"
        + pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    )


def main() -> None:
    """Measures one codec's held-out test codes and writes JSON, or any codes, and shows what was found."""
    parser = job.parser("Measure the dependence between codebooks on held-out codes.")
    parser.set_defaults(params=str(provenance.ROOT / "params.yaml"))
    study = parser.add_argument_group("codes of a study")
    study.add_argument("--codec", type=Path, help="folder of the codec")
    study.add_argument("--tokens", type=Path, help="folder of its tokens")
    study.add_argument("--manifest", type=Path, help="manifest.parquet, for the clips' tracks")
    other = parser.add_argument_group("any other codes")
    other.add_argument("--codes", type=Path, help=".npy file of integers [n, K, T]: clips, codebooks, frames")
    other.add_argument("--tracks", type=Path, help="their tracks: .npy [n], or CSV with track_id (default: clips)")
    other.add_argument("--frame-rate", type=float, help="frames a second, to measure by lag too (default: do not)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    if not args.codes and not all((args.codec, args.tokens, args.manifest, args.out)):
        parser.error("give --codes, or all of --codec, --tokens, --manifest and --out")
    job.prepare(args)
    settings = params.section(args.params, "dependence", params.Dependence)
    confidence = params.confidence(args.params)
    if args.codes:
        held_out = of_file(args.codes, args.tracks, args.frame_rate)
    else:
        clip_seconds = params.section(args.params, "corpus", params.Corpus).clip_seconds
        held_out = of_study(args.codec, args.tokens, manifest.read(args.manifest), clip_seconds)
    lags = len(all_lags(settings, held_out.frame_rate, held_out.codes.shape[1])) if held_out.frame_rate else 0
    with job.Progress(f"dependence/{held_out.name}", lags, "lag") as progress:
        result = dependence(held_out, settings, confidence, progress)
    if args.out:
        files.write_json(args.out, result)
    if args.codes:
        print(shown(result))


if __name__ == "__main__":
    job.run(main)
