"""Scores of systems whose distance is known, and whole runs over a small made corpus."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from evaluations import Evaluation

from pipeline import fetch, params, provenance
from pipeline.evaluation import embeddings, score, tagging
from pipeline.evaluation.embeddings import ClipEmbeddings, EmbedderOutput
from pipeline.evaluation.frechet import Gaussian

RATE = 16_000
CONFIDENCE = 0.95
EVALUATION = params.Evaluation(
    embedders={"musicnn-mtt": 4, "musicnn-msd": 2}, systems={}, loudness_lufs=-14, seconds=9.5, bootstrap=20, seed=0
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def clip_embeddings(tracks: int = 8, shift: float = 0, seed: int = 0, prefix: str = "t") -> ClipEmbeddings:
    """Four clips a track, three patches a clip, in eight dimensions."""
    track = np.repeat([f"{prefix}{i}" for i in range(tracks)], 4)
    names = np.array([f"{name}-{i}" for i, name in enumerate(track)])
    return ClipEmbeddings(names, track, noise(len(track), 3, 8, seed=seed + 1) + shift)


def test_scoring_depends_on_no_embedder_and_on_no_preparation() -> None:
    """Else a change to one of them would score everything again, and a changed score embed everything again."""
    names = {path.stem for path in provenance.sources("pipeline.evaluation.score")}
    assert names.isdisjoint({"clips", "embed", "embedders", "musicnn", "cdpam", "audio", "manifest"})
    names = {path.stem for path in provenance.sources("pipeline.evaluation.embed")}
    assert names.isdisjoint({"score", "frechet", "tagging", "statistics"})


def test_a_system_is_at_no_distance_from_itself() -> None:
    same = score.fad(clip_embeddings(), clip_embeddings(), EVALUATION, CONFIDENCE)
    assert same["value"] == pytest.approx(0, abs=1e-9)
    assert np.allclose(same["resamples"], 0, atol=1e-9)
    assert same["patches"] == 96
    assert same["tracks"] == 8


def test_a_shift_is_found_with_its_interval() -> None:
    near = score.fad(clip_embeddings(seed=5), clip_embeddings(), EVALUATION, CONFIDENCE)
    far = score.fad(clip_embeddings(shift=1.0, seed=5), clip_embeddings(), EVALUATION, CONFIDENCE)
    assert far["value"] - near["value"] == pytest.approx(8, abs=2)
    assert far["low"] < far["value"] < far["high"]
    assert near["infinity"] < near["value"]
    assert len(far["resamples"]) == EVALUATION.bootstrap


def test_a_published_reference_gives_the_distance_to_it() -> None:
    known = Gaussian.of(np.zeros(8), np.eye(8))
    near = score.fad_to(clip_embeddings(), known, EVALUATION, CONFIDENCE)
    far = score.fad_to(clip_embeddings(shift=1.0), known, EVALUATION, CONFIDENCE)
    assert far["value"] - near["value"] == pytest.approx(8, abs=2)
    assert far["low"] < far["value"] < far["high"]
    assert len(far["resamples"]) == EVALUATION.bootstrap


def test_the_kernel_distance_sees_a_shift_and_nothing_where_there_is_none() -> None:
    near = score.kad(clip_embeddings(seed=5, prefix="u"), clip_embeddings(), EVALUATION, CONFIDENCE)
    far = score.kad(clip_embeddings(shift=1.0, seed=5), clip_embeddings(), EVALUATION, CONFIDENCE)
    assert near["low"] < 0 < near["high"]
    assert far["low"] > near["high"]


def test_halves_of_the_reference_are_near_each_other() -> None:
    halves = score.halves(clip_embeddings(), seed=0)
    assert halves["low"] < halves["value"] < halves["high"] < 3
    assert halves["infinity"] < halves["value"]
    assert halves["patches"] == 48


def test_fma_pop_is_fadtks() -> None:
    with np.load(fetch.fadtk_folder(".cache/downloads") / "stats" / "fma_pop.npz") as arrays:
        for name in ("cdpam-acoustic", "vggish", "clap-laion-music", "encodec-emb"):
            gaussian, covariance = score.fma_pop(name, ".cache/downloads"), arrays[f"{name}.cov"]
            np.testing.assert_array_equal(gaussian.mean, arrays[f"{name}.mu"])
            np.testing.assert_allclose(gaussian.factor.T @ gaussian.factor, covariance, atol=1e-6 * covariance.max())


def test_systems_are_scored(evaluation: Evaluation) -> None:
    for system, source in (("reference", "audio.npy"), ("floor", "audio.npy"), ("generation/x", "system.npy")):
        evaluation.embed(system, source)
    generated = evaluation.score("generation/x")
    assert generated["clips"] == 4
    assert generated["tracks"] == 2
    assert generated["kl"]["paired"]
    assert generated["silent"] == generated["clipped"] == generated["short"] == generated["not_finite"] == 0
    assert generated["provenance"]["seed"] == 0
    assert generated["fad"]["musicnn-mtt"]["patches"] == 12
    assert generated["fad"]["musicnn-msd"]["patches"] == 6
    assert generated["text"]["clips"] == 4
    assert generated["fma_pop"] == {}
    assert generated["embedders"] == {
        "musicnn-mtt": {"label": "MTT", "divergence": "kl"},
        "musicnn-msd": {"label": "MSD", "divergence": "kl_musicnn-msd"},
    }
    with np.load("scores/generation/x.npz") as arrays:
        assert arrays["kl"].mean() == pytest.approx(generated["kl"]["value"])
        assert arrays["track_id"].tolist() == ["t0", "t0", "t1", "t1"]
        assert (arrays["fad"] > 0).all()

    real = evaluation.score("floor")
    assert not real["kl"]["paired"]
    assert real["halves"]["draws"] == score.HALVES

    same = evaluation.score("reference")
    assert same["kl"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["fad"]["musicnn-mtt"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_system_is_also_held_against_the_reconstructions_of_its_codec(evaluation: Evaluation) -> None:
    """Each distance is the one that the reconstructions would have as the reference; its own is 0."""
    evaluation.embed("reference", "audio.npy")
    clips = np.load("system.npy")
    np.save("reconstruction.npy", clips // 2 + np.random.default_rng(1).integers(-300, 300, clips.shape, np.int16))
    system = evaluation.embed("generation/x", "system.npy")
    reconstruction = evaluation.embed("reconstruction/x", "reconstruction.npy")
    assert "to_reconstruction" not in evaluation.score("reconstruction/x")
    bound = ("--reconstruction", "embeddings/reconstruction/x.npz")
    found = evaluation.score("generation/x", *bound)
    settings = params.checked(params.Evaluation, evaluation.settings, "")
    for embedder in ("musicnn-mtt", "musicnn-msd"):
        pair = (system.of(embedder), reconstruction.of(embedder))
        assert found["to_reconstruction"]["fad"][embedder] == score.fad(*pair, settings, CONFIDENCE)
        assert found["to_reconstruction"]["kad"][embedder] == score.kad(*pair, settings, CONFIDENCE)
    same = evaluation.score("reconstruction/x", *bound)["to_reconstruction"]
    for measure in ("fad", "kad"):
        assert same[measure]["musicnn-mtt"]["value"] == pytest.approx(0, abs=1e-6)
    embeddings.write(Path("embeddings/few.npz"), reconstruction.first(3))
    with pytest.raises(ValueError, match="generation/x has 4 clips, the reconstruction 3: only equal counts"):
        evaluation.score("generation/x", "--reconstruction", "embeddings/few.npz")


def test_a_folder_of_clips_is_scored_against_as_many_of_the_reference(evaluation: Evaluation) -> None:
    evaluation.embed("reference", "audio.npy")
    Path("others").mkdir()
    for name in "abc":
        soundfile.write(f"others/{name}.wav", 0.1 * noise(10 * RATE, seed=ord(name)), RATE)
    soundfile.write("others/d.wav", np.full(10 * RATE, np.nan), RATE, subtype="FLOAT")
    evaluation.embed("outside/others", "others")
    whole = evaluation.score("outside/others")
    assert whole["clips"] == whole["tracks"] == 4
    assert (whole["silent"], whole["short"], whole["not_finite"]) == (1, 0, 1)
    assert not whole["kl"]["paired"]
    assert whole["text"] is None

    Path("others/d.wav").unlink()
    assert evaluation.embed("outside/others", "others").turn.tolist() != [0, 0, 0]
    assert evaluation.score("outside/others")["fad"]["musicnn-mtt"]["clips"] == 3


def test_one_missing_caption_takes_the_text_score_from_its_own_clip_alone(evaluation: Evaluation) -> None:
    """The clips that have one are scored as `tagging.agreement` scores them."""
    evaluation.embed("reference", "audio.npy")
    Path("others").mkdir()
    captions = {"a": "Slow guitar", "b": "", "c": "Loud rock", "d": "Fast techno"}
    for name in captions:
        soundfile.write(f"others/{name}.wav", 0.1 * noise(10 * RATE, seed=ord(name)), RATE)
    rows = [f"{name}.wav,{caption}" for name, caption in captions.items()]
    Path("captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    system = evaluation.embed("outside/others", "others", "--captions", "captions.csv")
    output = system.outputs["musicnn-mtt"]
    assert output.tags is not None
    assert output.tag_names is not None
    agreement = tagging.agreement(output.tags, system.caption.tolist(), output.tag_names.tolist())
    text = evaluation.score("outside/others")["text"]
    assert text["clips"] == np.isfinite(agreement).sum() == 3
    assert text["value"] == pytest.approx(np.nanmean(agreement))


def test_clips_of_one_patch_have_no_distance_of_their_own(evaluation: Evaluation) -> None:
    evaluation.settings |= {"seconds": 4.5, "embedders": {"musicnn-mtt": 4}}
    assert evaluation.embed("reference", "audio.npy").outputs["musicnn-mtt"].vectors.shape == (4, 1, 200)
    evaluation.embed("generation/x", "system.npy")
    assert evaluation.score("generation/x")["fad"]["musicnn-mtt"]["patches"] == 4
    with np.load("scores/generation/x.npz") as arrays:
        assert np.isnan(arrays["fad"]).all()


def test_every_tagger_gives_a_divergence_and_every_text_encoder_a_cosine(evaluation: Evaluation) -> None:
    """PaSST and CLAP by what they would say, of two clips; CLAP of one clip only, the other having no caption."""
    values = {}
    for system, source in (("reference", "audio.npy"), ("generation/x", "system.npy")):
        stored = evaluation.embed(system, source)
        few = stored.outputs["musicnn-msd"]
        passt = EmbedderOutput("PaSST", few.vectors, tags=few.tags, tag_names=few.tag_names)
        cosines = {"clap-laion-music": np.array([0.25, np.nan]), "other-clap": np.array([0.25, 0.5])}
        clap = {name: EmbedderOutput("CLAP", few.vectors, cosines=each) for name, each in cosines.items()}
        outputs = {**stored.outputs, "passt": passt, **clap}
        embeddings.write(Path(f"embeddings/{system}.npz"), stored._replace(outputs=outputs))
        values[system] = few.tags
    scores = evaluation.score("generation/x")
    assert values["reference"] is not None
    assert values["generation/x"] is not None
    expected = tagging.kl(values["reference"], values["generation/x"])
    assert scores["kl_passt"]["value"] == pytest.approx(expected.mean())
    assert scores["kl_passt"]["clips"] == 2
    assert scores["kl_passt"]["paired"]
    assert scores["clap"] is None  # one clip has no interval
    assert scores["clap_other-clap"]["value"] == pytest.approx(0.375)
    assert scores["embedders"]["passt"] == {"label": "PaSST", "divergence": "kl_passt"}
    assert scores["embedders"]["clap-laion-music"] == {"label": "CLAP", "cosine": "clap"}
    with np.load("scores/generation/x.npz") as arrays:
        assert np.nansum(arrays["clap"]) == 0.25
        assert np.isnan(arrays["clap"]).sum() == 3


def test_unequal_counts_are_not_compared(evaluation: Evaluation) -> None:
    reference = evaluation.embed("reference", "audio.npy")
    embeddings.write(Path("embeddings/few.npz"), reference.first(3))
    with pytest.raises(ValueError, match="few has 3 clips, the reference 4: only equal counts"):
        evaluation.score("few")
