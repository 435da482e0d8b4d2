"""Captions of sounds whose tempo and key are known, leakage against a slow search, and the choice of clips."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import audio, params
from pipeline.corpus import captions

RATE = 16_000
TIME = np.arange(10 * RATE) / RATE
SETTINGS = params.Captions(tag_threshold=0.2, max_tags=2, paraphrases=3, seed=0)
BANDS = captions.Bands(np.array([-30.0, -20.0]), np.array([500.0, 1500.0]))
CORPUS = small.CORPUS | {"sample_rate": RATE, "clip_seconds": 10}


def metronome(bpm: float) -> np.ndarray:
    click = np.hanning(200) * np.sin(0.5 * np.arange(200))
    wave = np.zeros(len(TIME), np.float32)
    for second in np.arange(0, 9.9, 60 / bpm):
        wave[int(second * RATE) :][:200] = click
    return wave


def chords(*triads: tuple[int, int, int]) -> np.ndarray:
    wave = np.zeros(len(TIME), np.float32)
    for part, triad in zip(np.array_split(np.arange(len(TIME)), len(triads)), triads, strict=True):
        for note in triad:
            for harmonic in (1, 2, 3):
                wave[part] += np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * harmonic * TIME[part]) / (
                    20 * harmonic
                )
    return wave


@pytest.mark.parametrize("bpm", [66, 92, 120, 144, 170])
def test_a_metronomes_tempo_is_found(bpm: float) -> None:
    tempo, pulse = captions.tempo(torch.from_numpy(metronome(bpm))[None], RATE)
    assert tempo.item() == pytest.approx(bpm, rel=0.02)
    assert pulse.item() > 0.7


def test_noise_and_silence_have_no_pulse() -> None:
    noise = np.random.default_rng(0).normal(size=len(TIME)) / 10
    _, pulse = captions.tempo(torch.tensor(np.stack([noise, 0 * noise]), dtype=torch.float32), RATE)
    assert (pulse < captions.PULSE).all()


@pytest.mark.parametrize("rate", [RATE, 2 * RATE])
@pytest.mark.parametrize("tonic", [0, 5, 11])
def test_cadences_have_their_mode(tonic: int, rate: int) -> None:
    def cadence(third: int) -> np.ndarray:
        steps = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
        wave = chords(*[tuple(57 + tonic + note for note in step) for step in steps])
        return audio.resample(wave, RATE, rate)

    major, minor = captions.mode(torch.tensor(np.stack([cadence(4), cadence(3)]), dtype=torch.float32), rate)
    assert major > 0 > minor


def test_a_tones_centroid_is_its_frequency() -> None:
    tone = torch.from_numpy(np.sin(2 * np.pi * 1000 * TIME).astype(np.float32))
    assert captions.centroid(tone[None], RATE).item() == pytest.approx(1000, rel=0.05)


def test_analysis_of_silence_is_finite() -> None:
    assert all(part.isfinite().all() for part in captions.analyse(torch.zeros(1, len(TIME)), RATE))


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.99))
def test_no_split_resembles_another_when_leaked_clips_are_dropped(seed: int, limit: float) -> None:
    generator = np.random.default_rng(seed)
    splits = generator.choice(["train", "validation", "test"], 40)
    splits[0] = "train"
    directions = captions.embedding_directions(generator.normal(size=(40, 3)), splits == "train")
    dropped = captions.leaked(directions, splits, limit)
    assert not dropped[splits == "test"].any()
    for i in np.flatnonzero(~dropped):
        for j in np.flatnonzero(~dropped):
            assert splits[i] == splits[j] or directions[i] @ directions[j] <= limit + 1e-9


def test_a_copy_in_training_is_dropped_and_nothing_else() -> None:
    directions = np.eye(4)[[0, 1, 2, 3, 0]]
    splits = np.array(["train", "train", "validation", "train", "test"])
    assert captions.leaked(directions, splits, 0.9).tolist() == [True, False, False, False, False]


def test_tags_above_the_threshold_come_likeliest_first() -> None:
    names = np.array(["a", "b", "c", "d"])
    assert captions.named_tags(np.array([0.3, 0.9, 0.1, 0.4]), names, SETTINGS) == ["b", "d"]
    assert captions.named_tags(np.array([0.1, 0.1, 0.1, 0.2]), names, SETTINGS) == ["d"]


def row(**changes: object) -> pd.Series:
    default = {"clip_id": "x-0", "style": "", "facts": "", "rms_db": -10.0, "tempo": 80.0, "pulse": 0.9, "mode": -0.2}
    return pd.Series({**default, "centroid": 300.0, **changes})


def test_what_is_heard_is_said() -> None:
    for text in captions.caption(row(style='["romantic classical"]'), ["ambient"], BANDS, SETTINGS):
        words = text.lower()
        assert any(word in words for word in captions.TEMPI[0][1])
        assert any(word in words for word in captions.LOUDNESS[2])
        assert any(word in words for word in captions.BRIGHTNESS[0])
        assert all(word in words for word in ("ambient", "romantic classical", "minor"))


def test_paraphrases_differ_and_are_seeded() -> None:
    texts = captions.caption(row(), ["rock"], BANDS, SETTINGS)
    assert len(set(texts)) == 3
    assert texts == captions.caption(row(), ["rock"], BANDS, SETTINGS)


@pytest.mark.parametrize("tags", [[], ["sad"], ["female vocalists", "female vocalist", "00s"]])
def test_little_to_say_still_makes_sentences(tags: list[str]) -> None:
    bland = row(rms_db=-25.0, centroid=1000.0, mode=0.0, pulse=0.0)
    for text in captions.caption(bland, tags, BANDS, SETTINGS):
        assert text[0] == text[0].upper()
        assert text.endswith(".")
        assert "  " not in text


def test_a_scores_facts_are_exact() -> None:
    facts = {"instruments": ["flute", "cello", "harp"], "key": "D minor", "metre": "3/4", "tempo": 96}
    for text in captions.caption(row(facts=json.dumps(facts)), ["rock"], BANDS, SETTINGS):
        assert all(str(fact) in text for fact in ("lute, cello and harp", "D minor", "3/4", 96))
        assert "rock" not in text


def corpus(folder: Path) -> pd.DataFrame:
    """Six clips; the last, a test clip, sounds like the first, a training clip."""
    generator = np.random.default_rng(0)
    clips = np.round(3000 * np.stack([metronome(60 + 20 * i) for i in range(6)])).astype(np.int16)
    np.save(folder / "audio.npy", clips)
    rows = pd.DataFrame(
        {
            "clip_id": [f"clip-{i}" for i in range(6)],
            "row": range(6),
            "track_id": [f"track-{i}" for i in range(6)],
            "split": ["train"] * 3 + ["validation", "test", "test"],
            "title": "The Secret Title",
            "artist": "Somebody",
            "rms_db": np.linspace(-40, -10, 6),
            "genre": "",
            "facts": "",
            "style": "",
        }
    )
    rows.to_parquet(folder / "clips.parquet", index=False)
    embeddings = generator.normal(size=(6, 200)).astype(np.float32)
    embeddings[5] = embeddings[0]
    np.savez(
        folder / "tags.npz",
        msd=generator.uniform(size=(6, 50)).astype(np.float32),
        msd_tags=np.array([f"tag{i}" for i in range(50)]),
        mtt_penultimate=embeddings,
    )
    return rows


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    given = json.dumps({"corpus": CORPUS, "captions": SETTINGS.model_dump()})
    monkeypatch.setattr(
        "sys.argv", ["captions", "--params", given, "--corpus", str(folder), "--out", str(folder / "manifest.parquet")]
    )
    captions.main()


def test_a_manifest_is_clips_less_leaked_ones_with_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = corpus(tmp_path)
    run(tmp_path, monkeypatch)
    found = pd.read_parquet(tmp_path / "manifest.parquet")
    assert found["row"].tolist() == [1, 2, 3, 4, 5]
    assert set(clips.columns) < set(found.columns)
    texts = " ".join(found[[f"caption_{i}" for i in range(3)]].to_numpy().ravel())
    assert "Secret" not in texts
    assert "Somebody" not in texts
    assert all(len(json.loads(tags)) == 2 for tags in found["tags"])
    leakage = json.loads((tmp_path / "leakage.json").read_text())
    assert leakage["dropped"] == {"test": 0, "validation": 0, "train": 1}
    assert leakage["kept"] == {"test": 2, "validation": 1, "train": 2}


def test_tags_of_another_corpus_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path).iloc[:4].to_parquet(tmp_path / "clips.parquet")
    with pytest.raises(ValueError, match="make the tags again"):
        run(tmp_path, monkeypatch)
