"""What embedders hear, what the cache keeps, and whole systems from the study, from folders, and by a new embedder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from evaluations import Evaluation
from torch import Tensor

from pipeline import audio, fetch, job
from pipeline.audio import Audio
from pipeline.evaluation import embeddings
from pipeline.evaluation.embed import describe, embed_clips, text_cosines, waveform_for
from pipeline.evaluation.embedders import Embedder
from pipeline.evaluation.frechet import Gaussian, frechet_distance
from pipeline.pretrained import cdpam

ROOT = Path(__file__).parents[2]
RATE = 16_000
CPU = torch.device("cpu")
NEW_EMBEDDER = """
from pipeline.evaluation.embedders import Embedder, identity

def _load(name, downloads, weights, device):
    def embed(waveforms):
        return waveforms.unflatten(1, (-1, 1000)).square().mean(2).unflatten(1, (-1, 4))

    return Embedder(name, "Power", 8000, device, identity(name, [], device), embed)

EMBEDDERS = {"power": _load}
"""


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def probe(rate: int = 100, identity: str = "a") -> Embedder:
    """Its embedding is a clip's first four samples."""
    return Embedder("probe", "Probe", rate, CPU, identity, lambda waveforms: waveforms[:, None, :4])


def test_what_was_embedded_is_not_embedded_again(tmp_path: Path) -> None:
    calls = []

    def embed(waveforms: Tensor) -> Tensor:
        calls.append(len(waveforms))
        return waveforms[:, None, :4] + 1

    embedder = probe()._replace(embed=embed)
    clips = [Audio(noise(200), 100), Audio(noise(200, seed=1), 100)]
    first = embed_clips(embedder, clips, 2.0, tmp_path)
    np.testing.assert_array_equal(first[:, 0], [clip.waveform[:4] + 1 for clip in clips])
    np.testing.assert_array_equal(embed_clips(embedder, clips, 2.0, tmp_path), first)
    assert calls == [2]
    embed_clips(embedder._replace(identity="b"), clips, 2.0, tmp_path)  # other weights
    embed_clips(embedder, [Audio(clips[0].waveform * 2, 100), clips[1]], 2.0, tmp_path)  # other samples
    embed_clips(embedder, [Audio(clip.waveform, 200) for clip in clips], 2.0, tmp_path)  # another rate
    embed_clips(embedder, clips, 1.5, tmp_path)  # another duration
    embed_clips(embedder, clips[::-1], 2.0, tmp_path)
    assert calls == [2] * 6


def test_an_answer_that_is_not_finite_is_named_and_not_kept(tmp_path: Path) -> None:
    embedder = probe()._replace(embed=lambda waveforms: waveforms[:, None, :4] / 0)
    with pytest.raises(job.JobError, match="probe answered with NaN"):
        embed_clips(embedder, [Audio(noise(200), 100)], 2.0, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("rate", [8000, 11_025, 12_345, 16_000, 22_050, 44_100])
@pytest.mark.parametrize(("target", "resample"), [(16_000, audio.resample), (22_050, cdpam.resample)])
def test_a_clip_is_as_long_at_any_rate(
    rate: int, target: int, resample: Callable[[np.ndarray, int, int], np.ndarray]
) -> None:
    embedder = probe(target)._replace(resample=resample)
    for seconds in (0.7, 1.0, 9.5):
        clip = Audio(noise(round(seconds * rate)), rate)
        assert waveform_for(embedder, clip, seconds).shape == (round(seconds * target),)


def test_a_clip_of_an_odd_rate_sounds_the_same_to_its_end() -> None:
    """A tone of 11,025 Hz's odd length, resampled, beside the tone itself; a sample apart, they differ by 0.17."""
    tones = {rate: np.sin(2 * np.pi * 440 * np.arange(round(9.5 * rate)) / rate) for rate in (11_025, RATE)}
    heard = waveform_for(probe(RATE), Audio(tones[11_025].astype(np.float32), 11_025), 9.5)
    assert heard.shape == (152_000,)
    np.testing.assert_allclose(heard[1000:-1000], tones[RATE][1000:-1000], atol=1e-3)


def test_the_cosine_is_that_of_the_mean_vector() -> None:
    vectors = np.array([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 0.0]]])
    texts = np.array([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(text_cosines(vectors, texts), [np.sqrt(0.5), 0.0], atol=1e-12)


def test_a_clip_without_a_caption_has_no_cosine_and_takes_none_from_the_others() -> None:
    asked: list[list[str]] = []

    def text(texts: list[str]) -> Tensor:
        asked.append(texts)
        return torch.tensor([[float(len(each)), 0.0] for each in texts])

    cosines = describe(probe()._replace(text=text), np.ones((4, 1, 2)), ["a", "", " ", "bc"]).cosines
    assert cosines is not None
    np.testing.assert_allclose(cosines, [np.sqrt(0.5), np.nan, np.nan, np.sqrt(0.5)])
    none = describe(probe()._replace(text=text), np.ones((2, 1, 2)), ["", ""]).cosines
    assert none is not None
    assert np.isnan(none).all()
    assert asked == [["a", "bc"]]
    assert describe(probe(), np.ones((2, 1, 2)), ["a", "b"]).cosines is None


def test_systems_of_the_study_are_embedded(evaluation: Evaluation) -> None:
    reference, floor = evaluation.embed("reference", "audio.npy"), evaluation.embed("floor", "audio.npy")
    tagger = reference.outputs["musicnn-mtt"]
    assert tagger.label == "MTT"
    assert tagger.vectors.shape == (4, 3, 200)
    assert tagger.tags is not None
    assert tagger.tags.shape == (4, 3, 50)
    assert tagger.tag_names is not None
    assert tagger.tag_names[0] == "guitar"
    assert reference.clip_id.tolist() == ["c0", "c1", "c2", "c3"]
    assert floor.clip_id.tolist() == ["c4", "c5", "c6", "c7"]
    few = reference.of("musicnn-msd")
    assert few.vectors.shape == (2, 3, 200)
    assert sorted(few.track_id) == ["t0", "t1"]
    assert reference.paired
    assert not floor.paired


def test_files_of_any_rate_and_length_are_embedded(evaluation: Evaluation) -> None:
    """Of five files one is silent, one lasts 5 s and one 0.2 s; 11,025 Hz has an odd number of samples in 9.5 s."""
    evaluation.settings["embedders"] = {"musicnn-mtt": 5}
    Path("others").mkdir()
    soundfile.write("others/a.wav", 0.1 * noise(12 * RATE, 2), RATE)
    soundfile.write("others/b.flac", 0 * noise(10 * 22_050), 22_050)
    soundfile.write("others/c.wav", 0.1 * noise(5 * 44_100), 44_100)
    soundfile.write("others/d.ogg", 0.1 * noise(10 * 11_025), 11_025)
    stored = evaluation.embed("outside/others", "others")
    assert sorted(stored.clip_id) == ["a.wav", "b.flac", "c.wav", "d.ogg"]
    assert stored.faults.sum(0).tolist() == [1, 0, 1, 0]
    assert stored.outputs["musicnn-mtt"].vectors.shape == (4, 3, 200)
    soundfile.write("others/a.wav", 0.1 * noise(RATE // 5), RATE)
    assert evaluation.embed("outside/others", "others").faults.sum(0).tolist() == [1, 0, 2, 0]


def test_more_is_kept_of_clips_than_they_have(evaluation: Evaluation) -> None:
    evaluation.settings["seconds"] = 10.5
    with pytest.raises(ValueError, match=r"evaluation\.seconds keeps 10\.5 s of clips of 10\.0 s: lower it"):
        evaluation.embed("reference", "audio.npy")


@pytest.mark.parametrize("seconds", [0.2, 2.5])
def test_clips_too_short_for_an_embedder_are_one_sentence(evaluation: Evaluation, seconds: float) -> None:
    evaluation.settings["seconds"] = seconds
    with pytest.raises(
        job.JobError, match=rf"musicnn-mtt cannot embed clips of {seconds} s .*raise evaluation\.second"
    ):
        evaluation.embed("reference", "audio.npy")


def test_missing_weights_are_one_sentence(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evaluation.settings["embedders"] = {"musicnn-mtt": 4, "vggish": 4}
    with pytest.raises(job.JobError, match=r"vggish, but /.*weights has no harr.*hubconf\.py: get it from https"):
        evaluation.embed("reference", "audio.npy", "--checkpoints", str(Path("weights").resolve()))


def test_a_wrong_number_of_clips_is_named(evaluation: Evaluation) -> None:
    with pytest.raises(ValueError, match=r"8 clips, generation\.clips asks for 4"):
        evaluation.embed("generation/x", "audio.npy")


@pytest.mark.slow
def test_a_new_embedder_is_one_file_and_one_line(evaluation: Evaluation, tmp_path: Path) -> None:
    """In a copy of the code, for the names of embedders are read from its files."""
    code = tmp_path / "code"
    shutil.copytree(ROOT / "pipeline", code / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    new = code / "pipeline" / "evaluation" / "power.py"
    new.write_text(NEW_EMBEDDER)
    evaluation.settings["embedders"] = {"musicnn-mtt": 4, "power": 4}
    downloads = fetch.downloads_folder(".cache/downloads")
    # A cache of its own, beside the packages that are there.
    (tmp_path / "downloads").mkdir()
    for path in downloads.glob("*.whl"):
        (tmp_path / "downloads" / path.name).symlink_to(path)

    def stage(name: str, *arguments: str) -> None:
        common = ("--params", evaluation.params, "--downloads", str(tmp_path / "downloads"), *arguments)
        command = [sys.executable, "-m", f"pipeline.evaluation.{name}", *common]
        environment = os.environ | {"PYTHONPATH": str(code)}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]

    def embed(system: str, source: str) -> None:
        stage("embed", *f"--system {system} --audio {source} --manifest manifest.parquet --out {system}.npz".split())

    embed("reference", "audio.npy")
    embed("generation", "system.npy")
    sides = ("--embeddings", "generation.npz", "--reference", "reference.npz")
    stage("score", "--system", "x", *sides, "--out", "score.json")
    score = json.loads(Path("score.json").read_text())
    assert score["embedders"]["power"] == {"label": "Power"}
    ours, theirs = (embeddings.read(Path(f"{name}.npz")).of("power").patches for name in ("generation", "reference"))
    assert score["fad"]["power"]["value"] == pytest.approx(
        frechet_distance(Gaussian.fitted(ours), Gaussian.fitted(theirs)), abs=1e-12
    )
    assert score["fad"]["power"]["patches"] == 4 * 19
    assert len(list((tmp_path / "downloads" / "embeddings" / "power").iterdir())) == 2
    new.write_text(NEW_EMBEDDER.replace("mean(2)", "amax(2)"))  # which must not find the other's answers
    embed("reference", "audio.npy")
    assert len(list((tmp_path / "downloads" / "embeddings" / "power").iterdir())) == 3
    assert len(list((tmp_path / "downloads" / "embeddings" / "musicnn-mtt").iterdir())) == 2


def test_a_folder_with_the_references_clips_is_paired(evaluation: Evaluation) -> None:
    reference = evaluation.embed("reference", "audio.npy")
    Path("others").mkdir()
    for index, clip in enumerate(np.load("audio.npy")[:4]):
        soundfile.write(f"others/{3 - index}.wav", clip, RATE)
    pairs = pd.DataFrame({"file": [f"{3 - i}.wav" for i in range(4)], "clip_id": [f"c{i}" for i in range(4)]})
    pairs.to_csv("pairs.csv", index=False)
    stored = evaluation.embed("outside/others", "others", "--captions", "pairs.csv")
    assert stored.paired
    assert stored.clip_id.tolist() == ["c0", "c1", "c2", "c3"]
    assert stored.caption[1] == "Fast techno music."
    ours, theirs = (each.outputs["musicnn-mtt"].vectors for each in (stored, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)  # files hold 16 bits of another scale

    pairs.iloc[:3].to_csv("pairs.csv", index=False)
    with pytest.raises(ValueError, match="lacks 1 of the 4 clips"):
        evaluation.embed("outside/others", "others", "--captions", "pairs.csv")
