"""Scores of systems whose distance is known, and whole runs over a small made corpus."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyloudnorm
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import audio, job, params
from pipeline.evaluation import score as evaluate
from pipeline.evaluation import tagging
from pipeline.evaluation.embedders import Embedder
from pipeline.evaluation.frechet import Gaussian

RATE = 16_000
CONFIDENCE = 0.95
EVALUATION = params.Evaluation(
    embedders={"musicnn-mtt": 4, "musicnn-msd": 2},
    systems={},
    loudness_lufs=-14,
    seconds=9.5,
    bootstrap=20,
    seed=0,
)
PARAMS: dict[str, Any] = {
    "evaluation": EVALUATION.model_dump(),
    "generation": {
        "clips": 4,
        "guidance_scale": 3,
        "top_k": 10,
        "temperature": 1,
        "batch_size": 1,
        "seed": 0,
    },
    "corpus": {
        "source": "scores",
        "sample_rate": RATE,
        "clip_seconds": 10,
        "clips_per_track": 5,
        "silence_db": -50,
        "split": {"salt": "", "validation": 0.1, "test": 0.1},
        "max_cosine": 0.9,
        "soundtracks": {"packages": ["x"]},
        "scores": {"collections": ["bach"], "works": 1, "renditions": 1, "seconds": 30},
        "local": {"audio": "", "metadata": ""},
    },
    "report": {"confidence": CONFIDENCE},
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def embeddings(tracks: int = 8, shift: float = 0, seed: int = 0, prefix: str = "t") -> evaluate.Embedded:
    """Four clips a track, three patches a clip, in eight dimensions."""
    track = np.repeat([f"{prefix}{i}" for i in range(tracks)], 4)
    names = np.array([f"{name}-{i}" for i, name in enumerate(track)])
    return evaluate.Embedded(names, track, noise(len(track), 3, 8, seed=seed + 1) + shift)


def prepared(samples: np.ndarray, rate: int = RATE, start: int = 0) -> evaluate.Prepared:
    return evaluate.prepare(samples, rate, start=start, seconds=2.0, lufs=-14)


@pytest.mark.parametrize("rate", [RATE, 32_000])
def test_clips_are_as_loud_as_asked(rate: int) -> None:
    quiet = audio.to_int16(0.01 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate))
    waveform, faults = prepared(quiet, rate, start=100)
    assert waveform.shape == (2 * rate,)
    assert waveform.dtype == np.float32
    assert not any(faults)
    assert pyloudnorm.Meter(rate).integrated_loudness(waveform) == pytest.approx(-14, abs=0.5)


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (np.zeros(3 * RATE, np.int16), "silent"),
        (np.full(3 * RATE, np.nan, np.float32), "not_finite"),
        (audio.to_int16(0.1 * noise(RATE)), "short"),
        (np.zeros(0, np.int16), "short"),
        (audio.to_int16(noise(3 * RATE)), "clipped"),
    ],
)
def test_faulty_clips_are_marked_and_stay(samples: np.ndarray, fault: str) -> None:
    waveform, faults = prepared(samples)
    assert dict(zip(evaluate.FAULTS, faults, strict=True))[fault]
    assert waveform.shape == (2 * RATE,)
    assert np.isfinite(waveform).all()


@given(st.integers(1, 20))
def test_offsets_lie_in_the_room_and_stay(clips: int) -> None:
    places = evaluate.offsets(clips, seed=3)
    assert places.shape == (clips,)
    assert 0 <= places.min() <= places.max() < 1
    np.testing.assert_array_equal(places, evaluate.offsets(clips, seed=3))


def test_a_system_is_at_no_distance_from_itself() -> None:
    same = evaluate.fad(embeddings(), embeddings(), EVALUATION, CONFIDENCE)
    assert same["value"] == pytest.approx(0, abs=1e-9)
    assert np.allclose(same["resamples"], 0, atol=1e-9)
    assert same["patches"] == 96
    assert same["tracks"] == 8


def test_a_shift_is_found_with_its_interval() -> None:
    near = evaluate.fad(embeddings(seed=5), embeddings(), EVALUATION, CONFIDENCE)
    far = evaluate.fad(embeddings(shift=1.0, seed=5), embeddings(), EVALUATION, CONFIDENCE)
    assert far["value"] - near["value"] == pytest.approx(8, abs=2)
    assert far["low"] < far["value"] < far["high"]
    assert near["infinity"] < near["value"]
    assert len(far["resamples"]) == EVALUATION.bootstrap


def test_a_published_reference_gives_the_distance_to_it() -> None:
    known = Gaussian.of(np.zeros(8), np.eye(8))
    near = evaluate.fad_to(embeddings(), known, EVALUATION, CONFIDENCE)
    far = evaluate.fad_to(embeddings(shift=1.0), known, EVALUATION, CONFIDENCE)
    assert far["value"] - near["value"] == pytest.approx(8, abs=2)
    assert far["low"] < far["value"] < far["high"]
    assert len(far["resamples"]) == EVALUATION.bootstrap


def test_the_kernel_distance_sees_a_shift_and_nothing_where_there_is_none() -> None:
    near = evaluate.kad(embeddings(seed=5, prefix="u"), embeddings(), EVALUATION, CONFIDENCE)
    far = evaluate.kad(embeddings(shift=1.0, seed=5), embeddings(), EVALUATION, CONFIDENCE)
    assert near["low"] < 0 < near["high"]
    assert far["low"] > near["high"]


def test_halves_of_the_reference_are_near_each_other() -> None:
    halves = evaluate.halves(embeddings(), seed=0)
    assert halves["low"] < halves["value"] < halves["high"] < 3
    assert halves["infinity"] < halves["value"]
    assert halves["patches"] == 48


def test_what_was_embedded_is_not_embedded_again(tmp_path: Path) -> None:
    calls = []

    def embed(waveforms: Tensor) -> Tensor:
        calls.append(len(waveforms))
        return waveforms[:, None, :4] + 1

    embedder = Embedder("probe", 100, embed, identity="a")
    clips = [(noise(200).astype(np.float32), 100), (noise(200, seed=1).astype(np.float32), 100)]

    def ask(embedder: Embedder, clips: list[tuple[np.ndarray, int]]) -> np.ndarray:
        return evaluate.embedded(embedder, clips, tmp_path, torch.device("cpu"))

    first = ask(embedder, clips)
    assert first.shape == (2, 1, 4)
    np.testing.assert_array_equal(ask(embedder, clips), first)
    assert calls == [2]
    ask(embedder._replace(identity="b"), clips)  # other weights
    ask(embedder, [(clips[0][0] * 2, 100), clips[1]])  # other samples
    ask(embedder, [(clip, 200) for clip, _ in clips])  # another rate
    assert calls == [2, 2, 2, 2]


def test_an_answer_that_is_not_finite_is_named_and_not_kept(tmp_path: Path) -> None:
    embedder = Embedder("probe", 100, lambda waveforms: waveforms[:, None, :4] / 0, identity="a")
    with pytest.raises(job.JobError, match="probe answered with NaN"):
        evaluate.embedded(embedder, [(noise(200).astype(np.float32), 100)], tmp_path, torch.device("cpu"))
    assert not list(tmp_path.rglob("*.npy"))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of four test and four validation clips, two tracks each, and a system's audio."""
    monkeypatch.chdir(tmp_path)
    clips = audio.to_int16(0.1 * noise(8, 10 * RATE))
    np.save("audio.npy", clips)
    np.save("system.npy", clips[:4][::-1])
    words = ("Slow guitar", "Fast techno", "Loud rock", "Quiet piano")
    rows = [
        {
            "clip_id": f"c{i}",
            "row": i,
            "track_id": f"t{i // 2}",
            "split": "test" if i < 4 else "validation",
            "caption_0": f"{words[i % 4]} music.",
        }
        for i in range(8)
    ]
    pd.DataFrame(rows).to_parquet("manifest.parquet")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    given = ["--params", json.dumps(PARAMS), "--downloads", ".cache/downloads", *arguments[1:]]
    monkeypatch.setattr("sys.argv", ["evaluate", arguments[0], *given])
    evaluate.main()


def embed(monkeypatch: pytest.MonkeyPatch, system: str, source: str, *more: str) -> evaluate.Stored:
    out = f"embeddings/{system}.npz"
    common = ["--manifest", "manifest.parquet", "--out", out, *more]
    command(monkeypatch, "embed", "--system", system, "--audio", source, *common)
    return evaluate.read(Path(out))


def score(monkeypatch: pytest.MonkeyPatch, system: str) -> dict[str, Any]:
    source, out = f"embeddings/{system}.npz", f"scores/{system}.json"
    given = ["--embeddings", source, "--reference", "embeddings/reference.npz", "--out", out]
    command(monkeypatch, "score", "--system", system, *given)
    return json.loads(Path(out).read_text())


@pytest.mark.usefixtures("study")
def test_systems_are_embedded_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = embed(monkeypatch, "reference", "audio.npy")
    floor = embed(monkeypatch, "floor", "audio.npy")
    embed(monkeypatch, "generation/delay/x-seed0", "system.npy")
    assert reference.answers["musicnn-mtt"].shape == (4, 3, 200)
    assert reference.answers["musicnn-mtt/tags"].shape == (4, 3, 50)
    assert reference.clip_id.tolist() == ["c0", "c1", "c2", "c3"]
    assert floor.clip_id.tolist() == ["c4", "c5", "c6", "c7"]
    few = reference.embedded("musicnn-msd")
    assert few.x.shape == (2, 3, 200)
    assert sorted(few.track_id) == ["t0", "t1"]

    generated = score(monkeypatch, "generation/delay/x-seed0")
    assert generated["clips"] == 4
    assert generated["tracks"] == 2
    assert generated["kl"]["paired"]
    assert generated["silent"] == generated["clipped"] == generated["short"] == generated["not_finite"] == 0
    assert generated["provenance"]["seed"] == 0
    assert generated["fad"]["musicnn-mtt"]["patches"] == 12
    assert generated["fad"]["musicnn-msd"]["patches"] == 6
    assert generated["text"]["clips"] == 4
    assert generated["fma_pop"] == {}
    with np.load("scores/generation/delay/x-seed0.npz") as arrays:
        assert arrays["kl"].mean() == pytest.approx(generated["kl"]["value"])
        assert arrays["track_id"].tolist() == ["t0", "t0", "t1", "t1"]
        assert (arrays["fad"] > 0).all()

    real = score(monkeypatch, "floor")
    assert not real["kl"]["paired"]
    assert real["halves"]["draws"] == evaluate.HALVES

    same = score(monkeypatch, "reference")
    assert same["kl"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["fad"]["musicnn-mtt"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("study")
def test_a_folder_of_clips_is_a_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files of other rates and lengths, one of them silent, one too short, against as many of the reference."""
    embed(monkeypatch, "reference", "audio.npy")
    Path("others").mkdir()
    soundfile.write("others/a.wav", 0.1 * noise(12 * RATE, 2), RATE)
    soundfile.write("others/b.flac", 0 * noise(10 * 22_050), 22_050)
    soundfile.write("others/c.wav", 0.1 * noise(5 * 44_100), 44_100)
    soundfile.write("others/d.wav", np.full(10 * RATE, np.nan), RATE, subtype="FLOAT")
    found = embed(monkeypatch, "outside/others", "others")
    assert sorted(found.clip_id) == ["a.wav", "b.flac", "c.wav", "d.wav"]
    scores = score(monkeypatch, "outside/others")
    assert scores["clips"] == scores["tracks"] == 4
    assert (scores["silent"], scores["short"], scores["not_finite"]) == (2, 1, 1)
    assert not scores["kl"]["paired"]
    assert scores["text"] is None

    Path("others/d.wav").unlink()
    assert embed(monkeypatch, "outside/others", "others").turn.tolist() != [0, 0, 0]
    assert score(monkeypatch, "outside/others")["fad"]["musicnn-mtt"]["clips"] == 3


@pytest.mark.usefixtures("study")
def test_a_folder_with_the_references_clips_is_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    embed(monkeypatch, "reference", "audio.npy")
    Path("others").mkdir()
    for index, clip in enumerate(np.load("audio.npy")[:4]):
        soundfile.write(f"others/{3 - index}.wav", clip, RATE)
    pairs = pd.DataFrame({"file": [f"{3 - i}.wav" for i in range(4)], "clip_id": [f"c{i}" for i in range(4)]})
    pairs.to_csv("pairs.csv", index=False)
    found = embed(monkeypatch, "outside/others", "others", "--captions", "pairs.csv")
    assert found.clip_id.tolist() == ["c0", "c1", "c2", "c3"]
    assert found.caption[1] == "Fast techno music."
    scores = score(monkeypatch, "outside/others")
    assert scores["kl"]["paired"]
    assert scores["kl"]["value"] == pytest.approx(0, abs=1e-3)  # files hold 16 bits of another scale

    pairs.iloc[:3].to_csv("pairs.csv", index=False)
    with pytest.raises(ValueError, match="lacks 1 of the 4 clips"):
        embed(monkeypatch, "outside/others", "others", "--captions", "pairs.csv")


@pytest.mark.usefixtures("study")
def test_a_table_of_captions_is_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = pd.read_parquet("manifest.parquet")
    Path("others").mkdir()
    with pytest.raises(ValueError, match="no audio file"):
        evaluate.clips_of("outside/x", Path("others"), manifest, 4, RATE, None)
    soundfile.write("others/a.wav", 0.1 * noise(RATE), RATE)
    table = Path("captions.csv")

    def clips(text: str) -> evaluate.Clips:
        table.write_text(text)
        return evaluate.clips_of("outside/x", Path("others"), manifest, 4, RATE, table)

    Path("others/folder.wav").mkdir()
    Path("others/._a.wav").write_text("of macOS")
    found = clips("\ufefffile,caption\na.wav,Slow guitar\n")
    assert found.names["caption"].tolist() == ["Slow guitar"]
    assert not found.paired
    for text, complaint in (
        ("name,caption\na.wav,x\n", "has no column file"),
        ("file,text\na.wav,x\n", "needs a column `caption` or `clip_id`; it has file, text"),
        ("file,caption\nb.wav,x\n", r"names 1 files .* 'b\.wav'"),
        ("file,clip_id\na.wav,c9\n", "1 clips that are not scored, c9"),
    ):
        with pytest.raises((ValueError, job.JobError), match=complaint):
            clips(text)


@pytest.mark.usefixtures("study")
def test_a_longer_cut_than_the_clip_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMS, "evaluation", {**PARAMS["evaluation"], "seconds": 10.5})
    with pytest.raises(ValueError, match=r"evaluation\.seconds keeps 10\.5 s"):
        embed(monkeypatch, "reference", "audio.npy")


@pytest.mark.usefixtures("study")
def test_a_missing_checkpoint_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = {**PARAMS["evaluation"], "embedders": {"musicnn-mtt": 4, "vggish": 4}}
    monkeypatch.setitem(PARAMS, "evaluation", asked)
    with pytest.raises(job.JobError, match=r"vggish, but /.*weights has no harr.*hubconf\.py: get it from https"):
        embed(monkeypatch, "reference", "audio.npy", "--checkpoints", str(Path("weights").resolve()))


@pytest.mark.usefixtures("study")
def test_clips_of_one_patch_have_no_distance_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMS, "evaluation", {**PARAMS["evaluation"], "seconds": 4.5, "embedders": {"musicnn-mtt": 4}})
    assert embed(monkeypatch, "reference", "audio.npy").answers["musicnn-mtt"].shape == (4, 1, 200)
    embed(monkeypatch, "generation/x", "system.npy")
    assert score(monkeypatch, "generation/x")["fad"]["musicnn-mtt"]["patches"] == 4
    with np.load("scores/generation/x.npz") as arrays:
        assert np.isnan(arrays["fad"]).all()


@pytest.mark.usefixtures("study")
def test_the_tags_of_passt_give_a_divergence_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    load = evaluate.embedders.load
    stand_in = {"passt": "musicnn-msd"}
    monkeypatch.setattr(evaluate.embedders, "load", lambda name, *given: load(stand_in.get(name, name), *given))
    asked = {"musicnn-mtt": 4, "passt": 2}
    monkeypatch.setitem(PARAMS, "evaluation", {**PARAMS["evaluation"], "embedders": asked})
    reference, system = embed(monkeypatch, "reference", "audio.npy"), embed(monkeypatch, "generation/x", "system.npy")
    found = score(monkeypatch, "generation/x")["kl_passt"]
    expected = tagging.kl(reference.answers["passt/tags"], system.answers["passt/tags"])
    assert found["value"] == pytest.approx(expected.mean())
    assert found["clips"] == 2
    assert found["paired"]


@pytest.mark.usefixtures("study")
def test_a_wrong_number_of_clips_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"8 clips, generation\.clips asks for 4"):
        embed(monkeypatch, "generation/x", "audio.npy")


@pytest.mark.usefixtures("study")
def test_unequal_counts_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = embed(monkeypatch, "reference", "audio.npy")
    few = reference.first(3)
    named = {name: getattr(few, name) for name in evaluate.Stored._fields[:-1]}
    np.savez("embeddings/few.npz", **named, **few.answers)
    with pytest.raises(ValueError, match="equal counts"):
        score(monkeypatch, "few")
