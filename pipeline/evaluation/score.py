"""Scores of a system's embeddings: Fréchet and kernel distances, tag divergence, agreement with captions.

    python -m pipeline.evaluation.score --system outside/others --embeddings others.npz --reference reference.npz \
        --downloads .cache/downloads --out others.json

Every score carries the name of its embedder: scores by different embedders cannot be compared.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import fetch, files, job, params, provenance, statistics
from pipeline.evaluation import embeddings, frechet, tagging
from pipeline.evaluation.embeddings import FAULTS, ClipEmbeddings, SystemEmbeddings
from pipeline.evaluation.frechet import Gaussian
from pipeline.params import FLOOR, MAIN, OUTSIDE

# Keys of what taggers and text encoders give each clip; the other embedders' keys end with their names, as kl_passt.
DIVERGENCES = {MAIN: "kl"}
COSINES = {"clap-laion-music": "clap"}
HALVES = 20  # random halves of the reference
KAD_SCALE = 100  # of the kernel distance, as kadtk prints it

Score = dict[str, Any]  # as it is written


def score_system(
    name: str,
    system: SystemEmbeddings,
    reference: SystemEmbeddings,
    evaluation: params.Evaluation,
    confidence: float,
    downloads: Path | str,
    reconstruction: SystemEmbeddings | None = None,
) -> tuple[Score, dict[str, np.ndarray]]:
    """The scores of the system called `name`, and those of each of its clips, `[n]`, NaN where a clip has none.

    Given the `reconstruction` of the reference by the codec that decoded the system, the score has `to_reconstruction`
    too: distances in which that codec's own faults do not count.

    Raises:
        ValueError: system and reference, or reconstruction, have different numbers of clips.
    """
    if name.startswith(OUTSIDE):
        reference = reference.first(len(system.clip_id))
    for what, other in (("reference", reference), ("reconstruction", reconstruction)):
        if other is not None and len(other.clip_id) != len(system.clip_id):
            raise ValueError(
                f"{name} has {len(system.clip_id)} clips, the {what} {len(other.clip_id)}: "
                "only equal counts can be compared"
            )
    score: Score = {
        "system": name,
        "clips": len(system.clip_id),
        "tracks": len(np.unique(system.track_id)),
        **dict(zip(FAULTS, system.faults.sum(0).tolist(), strict=True)),
        "fma_pop": {},
        "embedders": {},
    }
    values = {"text": tag_agreements(system)}
    score |= distances(name, system, reference, evaluation, confidence)
    if reconstruction is not None:
        score["to_reconstruction"] = distances(name, system, reconstruction, evaluation, confidence)
    for embedder, output in system.outputs.items():
        ours = system.of(embedder)
        if output.fma_pop:
            published = fma_pop(output.fma_pop, downloads)
            score["fma_pop"][embedder] = fad_to(ours, published, evaluation, confidence)
        score["embedders"][embedder] = columns = {"label": output.label}
        if output.tags is not None:
            key = columns["divergence"] = DIVERGENCES.get(embedder, f"kl_{embedder}")
            values[key] = tag_divergences(system, reference, embedder)
        if output.cosines is not None:
            key = columns["cosine"] = COSINES.get(embedder, f"clap_{embedder}")
            values[key] = system.spread(embedder, output.cosines)
    for key, each in values.items():
        score[key] = mean_of_known(each, system.track_id, evaluation, confidence)
    for columns in score["embedders"].values():
        if mean := score.get(columns.get("divergence")):
            mean["paired"] = system.paired
    if name == FLOOR:
        score["halves"] = halves(reference.of(MAIN), evaluation.seed)
    values["fad"] = clip_distances(system, reference)
    return score, values


def distances(
    name: str, system: SystemEmbeddings, other: SystemEmbeddings, evaluation: params.Evaluation, confidence: float
) -> dict[str, dict[str, Score]]:
    """`fad` and `kad` of the system called `name` to another one, by embedder.

    Raises:
        ValueError: an embedder was given more clips of one than of the other.
    """
    pairs = {embedder: (system.of(embedder), other.of(embedder)) for embedder in system.outputs}
    for embedder, (ours, theirs) in pairs.items():
        if len(ours.vectors) != len(theirs.vectors):
            counts = f"{len(ours.vectors)} clips of {name}, {len(theirs.vectors)} of what it is compared with"
            raise ValueError(f"{embedder} embedded {counts}")
    return {
        "fad": {embedder: fad(*pair, evaluation, confidence) for embedder, pair in pairs.items()},
        "kad": {embedder: kad(*pair, evaluation, confidence) for embedder, pair in pairs.items()},
    }


def fad(system: ClipEmbeddings, reference: ClipEmbeddings, evaluation: params.Evaluation, confidence: float) -> Score:
    """Fréchet distance with its interval over tracks, its limit for infinite samples, and the patches of each side.

    A system that was given the reference's captions has the reference's tracks, and both get the same resample of them.
    """
    value = frechet.frechet_distance(Gaussian.fitted(system.patches), Gaussian.fitted(reference.patches))
    resamples = [
        frechet.frechet_distance(Gaussian.fitted(system.patches, a), Gaussian.fitted(reference.patches, b))
        for a, b in zip(*_patch_weights(system, reference, evaluation), strict=True)
    ]
    return _with_limit(value, resamples, system, reference.patches, evaluation, confidence)


def fad_to(system: ClipEmbeddings, reference: Gaussian, evaluation: params.Evaluation, confidence: float) -> Score:
    """Fréchet distance to a published reference, as `fad`."""
    value = frechet.frechet_distance(Gaussian.fitted(system.patches), reference)
    tracks, places = np.unique(system.patch_tracks, return_inverse=True)
    resamples = [
        frechet.frechet_distance(Gaussian.fitted(system.patches, drawn[places]), reference)
        for drawn in statistics.multiplicities(len(tracks), evaluation.bootstrap, evaluation.seed)
    ]
    return _with_limit(value, resamples, system, reference, evaluation, confidence)


def fma_pop(name: str, downloads: Path | str) -> Gaussian:
    """Mean and covariance of FMA-Pop's embeddings (Gui et al. 2023), by fadtk's name of the embedder."""
    with np.load(fetch.fadtk_folder(downloads) / "stats" / "fma_pop.npz", allow_pickle=False) as arrays:
        return Gaussian.of(arrays[f"{name}.mu"], arrays[f"{name}.cov"])


def kad(system: ClipEmbeddings, reference: ClipEmbeddings, evaluation: params.Evaluation, confidence: float) -> Score:
    """Kernel distance with its interval over tracks: `KAD_SCALE` times the unbiased squared MMD."""
    sums = frechet.kernel_sums(
        system.patches,
        reference.patches,
        system.patch_tracks,
        reference.patch_tracks,
        sigma=frechet.bandwidth(reference.patches),
    )
    value = KAD_SCALE * frechet.kernel_distance(sums)
    # Of very few tracks a resample may hold one alone, which has no pairs: the sample's own value stands in for it.
    resamples = [
        KAD_SCALE * frechet.kernel_distance(sums, weights)
        if all(np.count_nonzero(drawn) > 1 for drawn in weights)
        else value
        for weights in zip(*_track_weights(system, reference, evaluation), strict=True)
    ]
    return statistics.interval(value, np.array(resamples), confidence).json(resamples=True)


def halves(reference: ClipEmbeddings, seed: int) -> Score:
    """Fréchet distance between random halves of the reference's tracks: what real music scores against real music."""
    tracks = np.unique(reference.track_id)
    generator = np.random.default_rng(seed)
    values, limits = [], []
    for _ in range(HALVES):
        order = generator.permutation(tracks)
        a, b = (reference.of_tracks(side).patches for side in (order[: len(order) // 2], order[len(order) // 2 :]))
        values.append(frechet.frechet_distance(Gaussian.fitted(a), Gaussian.fitted(b)))
        limits.append(frechet.frechet_infinity(a, b, generator=generator).value)
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "value": float(np.mean(values)),
        "low": float(low),
        "high": float(high),
        "infinity": float(np.mean(limits)),
        "patches": len(reference.patches) // 2,
        "draws": HALVES,
    }


def tag_divergences(system: SystemEmbeddings, reference: SystemEmbeddings, tagger: str) -> np.ndarray:
    """Divergence of each clip's tags by `tagger` from the reference's, `[n]`; NaN where it was not tagged.

    Clips that are not paired are compared with the reference's in their order: that is the divergence of unrelated
    clips.
    """
    ours, theirs = system.outputs[tagger].tags, reference.outputs[tagger].tags
    if ours is None or theirs is None:
        raise ValueError(f"{tagger} tags no clips: no divergence can be taken of it")
    return system.spread(tagger, tagging.kl(theirs, ours))


def tag_agreements(system: SystemEmbeddings) -> np.ndarray:
    """Agreement of each clip with its caption by `MAIN`'s tags, `[n]`; NaN where that is missing or names none."""
    output, captions = system.outputs[MAIN], system.caption[system.given(MAIN)].tolist()
    if output.tags is None or output.tag_names is None:
        raise ValueError(f"{MAIN} tags no clips: their agreement with captions cannot be taken")
    return system.spread(MAIN, tagging.agreement(output.tags, captions, output.tag_names.tolist()))


def clip_distances(system: SystemEmbeddings, reference: SystemEmbeddings) -> np.ndarray:
    """Fréchet distance of each clip's own patches by `MAIN` to the reference, `[n]`; NaN where a clip has but one."""
    vectors = system.of(MAIN).vectors
    if vectors.shape[1] < 2:  # one patch has no spread
        return np.full(len(system.clip_id), np.nan)
    return system.spread(MAIN, frechet.per_clip(vectors, Gaussian.fitted(reference.of(MAIN).patches)))


def mean_of_known(
    values: np.ndarray, tracks: np.ndarray, evaluation: params.Evaluation, confidence: float
) -> Score | None:
    """Mean of the clips' values `[n]` that are not NaN, its interval, their number; None for fewer than two tracks."""
    known = np.isfinite(values)
    if len(np.unique(tracks[known])) < 2:
        return None
    resampling = {"resamples": evaluation.bootstrap, "seed": evaluation.seed}
    mean = statistics.mean(values[known], tracks[known], **resampling, confidence=confidence)
    return {**mean.json(), "clips": int(known.sum())}


def _with_limit(
    value: float,
    resamples: list[float],
    system: ClipEmbeddings,
    reference: np.ndarray | Gaussian,
    evaluation: params.Evaluation,
    confidence: float,
) -> Score:
    generator = np.random.default_rng(evaluation.seed)
    limit = frechet.frechet_infinity(system.patches, reference, generator=generator)
    return {
        **statistics.interval(value, np.array(resamples), confidence).json(resamples=True),
        "infinity": limit.value,
        "r2": limit.r2,
        "clips": len(system.vectors),
        "tracks": len(np.unique(system.track_id)),
        "patches": len(system.patches),
    }


def _track_weights(
    system: ClipEmbeddings, reference: ClipEmbeddings, evaluation: params.Evaluation
) -> tuple[np.ndarray, np.ndarray]:
    """How often each track of each side is drawn in each resample; the same draws where both have the same tracks."""
    ours, theirs = np.unique(system.track_id), np.unique(reference.track_id)
    seed = evaluation.seed + (not np.array_equal(ours, theirs))
    return (
        statistics.multiplicities(len(ours), evaluation.bootstrap, seed),
        statistics.multiplicities(len(theirs), evaluation.bootstrap, evaluation.seed),
    )


def _patch_weights(
    system: ClipEmbeddings, reference: ClipEmbeddings, evaluation: params.Evaluation
) -> tuple[np.ndarray, np.ndarray]:
    """The same for patches, `[R, n m]` a side."""
    sides = zip((system, reference), _track_weights(system, reference, evaluation), strict=True)
    ours, theirs = (drawn[:, np.unique(side.patch_tracks, return_inverse=True)[1]] for side, drawn in sides)
    return ours, theirs


def main() -> None:
    """Scores a system's embeddings against the reference's; beside the JSON go each clip's scores, as `.npz`."""
    parser = job.parser("Score a system's embeddings against held-out music.")
    parser.add_argument("--system", required=True, help="name that the result carries")
    parser.add_argument("--embeddings", type=Path, required=True, help="the system's, .npz")
    parser.add_argument("--reference", type=Path, required=True, help="the reference's, .npz")
    parser.add_argument("--reconstruction", type=Path, help="of the codec that decoded the system, .npz; or none")
    parser.add_argument("--downloads", required=True, help="folder that keeps what was downloaded")
    parser.add_argument("--out", type=Path, required=True, help="scores, .json; each clip's go beside it as .npz")
    args = parser.parse_args()
    job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    confidence = params.confidence(args.params)
    system, reference = embeddings.read(args.embeddings), embeddings.read(args.reference)
    bound = embeddings.read(args.reconstruction) if args.reconstruction else None
    score, values = score_system(args.system, system, reference, evaluation, confidence, args.downloads, bound)
    score["provenance"] = provenance.record({"evaluation": evaluation.model_dump()}, seed=evaluation.seed)
    with files.atomic(args.out.with_suffix(".npz")) as temporary:
        np.savez(temporary, **values, clip_id=system.clip_id, track_id=system.track_id)
    files.write_json(args.out, score)


if __name__ == "__main__":
    job.run(main)
