"""Errors of every estimator of mutual information on codes with known mutual information.

Pairs of codebooks of C codes, used as unevenly as p_c ~ 1 / (c + C / `FLATNESS`), c from 0, unless stated otherwise:

- `independent`: truth 0;
- `noisy_copy`: codebook 2 equals codebook 1 in a share of the frames, and is drawn anew in the others;
- `markov_pair`: codebook 1 repeats its last code in a share r of the frames. Codebook 2 equals codebook 1 of one frame
  before in a share s of them, and follows a chain of its own, with the same r, in the others. Neighbouring frames are
  alike, which every estimator mistakes for evidence; at equal time the pair is a noisy copy with share s r;
- `quantised_gaussian`: two scalars that share one Gaussian factor, each rounded to C equal bins over +-`REACH` standard
  deviations; truth from the bins' probabilities, by numerical integration.

They are drawn under two conditions: with the study's own codebook size and number of test frames, and with the paper's
2,048 codes in `FEW_FRAMES`, where cells of the histogram outnumber frames by 200 to 1 and most cells that are hit are
hit once. The second condition shows how each estimator does far from the study's own condition, as in a study of the
paper's codebooks with little music.

The estimator for the claims is chosen by a rule set before any results: the histogram estimator with the smallest worst
error over the distributions, where an error is the mean absolute difference from the truth over draws. Only the study's
own condition counts, because bias depends on codebook size and frames, the claims are about codes of that size, and the
larger errors of the other condition would dominate the choice. No codec is involved. The learned bound is not a
candidate: here it is trained and tested on the same distribution, but in a study on different artists, so its error
here does not predict its error there. These draws have no tracks; the controls on each study's own codes do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import entr, ndtr

from pipeline import files, job, manifest, params, provenance
from pipeline.dependence import learned as difference_of_entropies
from pipeline.dependence.information import ESTIMATORS, shuffled
from pipeline.dependence.learned import Splits
from pipeline.dependence.pairwise import pairwise

LEARNED = "difference_of_entropies"
FLATNESS = 8  # as codes of the default study: a perplexity of about 0.8 C
REACH = 3.0
NODES = 16  # of the quadrature within one bin of the Gaussian
PAPER_CODES = 2048
FEW_FRAMES = 20_000
FAR = 9.0  # standard deviations, used as infinity: the probability beyond is 1e-19


class Known(NamedTuple):
    """A pair of codebooks whose mutual information is known, in bits, and how to draw codes `[2, M]` of it."""

    truth: float
    draw: Callable[[int, np.random.Generator], np.ndarray]


def known(codebook_size: int, settings: params.Calibration) -> dict[str, Known]:
    """The distributions above, by name."""
    p = 1 / (np.arange(codebook_size) + codebook_size / FLATNESS)
    p /= p.sum()
    copied, repeated, correlation = settings.copied, settings.repeated, settings.correlation
    return {
        "independent": Known(0.0, lambda frames, generator: _noisy_copy(p, 0.0, frames, generator)),
        "noisy_copy": Known(
            noisy_copy_information(p, copied), lambda frames, generator: _noisy_copy(p, copied, frames, generator)
        ),
        "markov_pair": Known(
            noisy_copy_information(p, copied * repeated),
            lambda frames, generator: _markov_pair(p, copied, repeated, frames, generator),
        ),
        "quantised_gaussian": Known(
            gaussian_information(codebook_size, correlation),
            lambda frames, generator: _gaussian_pair(codebook_size, correlation, frames, generator),
        ),
    }


def mutual_information(joint: np.ndarray) -> float:
    """I = H(a) + H(b) - H(a, b) in bits, of probabilities `[C, C]`."""
    return float((entr(joint.sum(0)).sum() + entr(joint.sum(1)).sum() - entr(joint).sum()) / np.log(2))


def noisy_copy_information(p: np.ndarray, copied: float) -> float:
    """Truth of a noisy copy in bits: p(a, b) = s p(a) [a = b] + (1 - s) p(a) p(b), s being the share copied."""
    return mutual_information(copied * np.diag(p) + (1 - copied) * np.outer(p, p))


def gaussian_information(codebook_size: int, correlation: float) -> float:
    """Truth of the quantised Gaussian in bits: Gauss and Legendre's rule over a within each bin, b in closed form."""
    edges = _edges(codebook_size)
    low, high = np.concatenate([[-FAR], edges]), np.concatenate([edges, [FAR]])
    joint = np.zeros((codebook_size, codebook_size))
    for node, weight in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):
        a = (low + high + (high - low) * node) / 2
        below = ndtr((edges - correlation * a[:, None]) / np.sqrt(1 - correlation**2))
        density = np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi)
        joint += (weight * (high - low) / 2 * density)[:, None] * np.diff(below, prepend=0, append=1, axis=1)
    return mutual_information(joint / joint.sum())


def calibrate(frames: dict[str, int], codebook_size: int, settings: params.Dependence) -> dict[str, Any]:
    """Errors of every estimator under the study's own condition and that of few frames; JSON-ready.

    Args:
        frames: of each split; histograms see the test split's, as in the study.
        codebook_size: C.
        settings: the study's own, and how many draws.
    """
    own = errors(frames, codebook_size, settings)
    few = errors({"test": FEW_FRAMES}, PAPER_CODES, settings)
    return {"draws": settings.calibration.draws, **own, "few_frames": few, "chosen": chosen(own["worst"])}


def errors(frames: dict[str, int], codebook_size: int, settings: params.Dependence) -> dict[str, Any]:
    """Bias, spread (standard deviation) and mean absolute error of every estimator in bits over draws; JSON-ready.

    The learned bound is left out where `frames` lacks the splits that it learns from.
    """
    distributions: dict[str, dict[str, Any]] = {}
    learns = set(manifest.SPLITS) <= set(frames)
    names = (*ESTIMATORS, LEARNED) if learns else ESTIMATORS
    draws = settings.calibration.draws
    pairs = known(codebook_size, settings.calibration)
    with job.Progress("calibration", len(pairs) * draws, "draw") as progress:
        for index, (distribution, pair) in enumerate(pairs.items()):
            estimates = np.empty((draws, len(names)))
            for draw in range(draws):
                generator = np.random.default_rng([settings.seed, index, draw])
                codes = {split: pair.draw(count, generator) for split, count in frames.items()}
                orders = [shuffled(codes["test"], generator) for _ in range(settings.shuffles)]
                by_name = pairwise(codes["test"], orders, codebook_size)
                estimates[draw, : len(ESTIMATORS)] = [by_name[name].mutual_information[0] for name in ESTIMATORS]
                if learns:
                    splits = Splits(*(torch.from_numpy(codes[split][::-1].copy()) for split in manifest.SPLITS))
                    estimates[draw, -1] = difference_of_entropies.lower_bound(
                        splits, codebook_size, settings.learned, settings.seed + draw
                    )
                progress.update(index * draws + draw + 1)
            error = estimates - pair.truth
            table = zip(names, error.mean(0), error.std(0, ddof=1), np.abs(error).mean(0), strict=True)
            distributions[distribution] = {
                "truth": pair.truth,
                "estimators": {name: {"bias": b, "spread": s, "error": e} for name, b, s, e in table},
            }
    worst = {name: max(each["estimators"][name]["error"] for each in distributions.values()) for name in names}
    return {"frames": frames, "codebook_size": codebook_size, "distributions": distributions, "worst": worst}


def chosen(worst: dict[str, float]) -> str:
    """The estimator that the claims use: the histogram estimator with the smallest worst error."""
    return min(ESTIMATORS, key=worst.__getitem__)


def _noisy_copy(p: np.ndarray, copied: float, frames: int, generator: np.random.Generator) -> np.ndarray:
    first, fresh = generator.choice(len(p), (2, frames), p=p)
    return np.stack([first, np.where(generator.random(frames) < copied, first, fresh)])


def _markov_pair(
    p: np.ndarray, copied: float, repeated: float, frames: int, generator: np.random.Generator
) -> np.ndarray:
    first, own = (_slow(p, repeated, frames + 1, generator) for _ in range(2))
    return np.stack([first[1:], np.where(generator.random(frames) < copied, first[:-1], own[1:])])


def _slow(p: np.ndarray, repeated: float, frames: int, generator: np.random.Generator) -> np.ndarray:
    """A chain that draws from p anew, or repeats its last code in that share of the frames."""
    fresh = generator.random(frames) >= repeated
    fresh[0] = True
    return generator.choice(len(p), frames, p=p)[np.maximum.accumulate(np.where(fresh, np.arange(frames), 0))]


def _gaussian_pair(codebook_size: int, correlation: float, frames: int, generator: np.random.Generator) -> np.ndarray:
    shared, *own = generator.standard_normal((3, frames))
    scalars = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * np.stack(own)
    return np.searchsorted(_edges(codebook_size), scalars)


def _edges(codebook_size: int) -> np.ndarray:
    """Inner edges of the Gaussian's bins, `[C - 1]`."""
    return np.linspace(-REACH, REACH, codebook_size + 1)[1:-1]


def main() -> None:
    """Calibrates the estimators for one study and writes JSON."""
    parser = job.parser("Run every estimator of dependence on codes whose mutual information is known.")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.parquet, for the number of clips")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    job.prepare(args)
    codec = params.section(args.params, "codec", params.Codec)
    corpus = params.section(args.params, "corpus", params.Corpus)
    settings = params.section(args.params, "dependence", params.Dependence)
    clips = manifest.read(args.manifest, ["split"])["split"].value_counts()
    length = corpus.clip_samples // codec.hop_length
    frames = {split: int(clips.get(split, 0)) * length for split in manifest.SPLITS}
    used = {"dependence": settings.model_dump(), "codebook_size": codec.codebook_size, "frames": frames}
    result = calibrate(frames, codec.codebook_size, settings)
    files.write_json(args.out, result | {"provenance": provenance.record(used, seed=settings.seed)})


if __name__ == "__main__":
    job.run(main)
