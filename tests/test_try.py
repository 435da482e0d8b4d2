"""A recording of one's own through models in half precision: what is told of it is right, and faults are named."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

from pipeline import audio, files
from pipeline import study as place
from pipeline.codec import model as codecs
from pipeline.exchange import release
from pipeline.lm import conditioning
from pipeline.lm import model as language_models
from pipeline.lm.model import LanguageModel, ModelShape

trial = importlib.import_module("pipeline.try")  # whose name is a word of Python
NAMES, FRAMES, TEXT = ("baseline", "mmd"), 64, 5


def write_study(root: Path) -> None:
    """Two codecs and their language models, with the tokens of a small corpus."""
    small.write_corpus(root / place.CORPUS)
    rows = release.manifest.read(root / place.CORPUS / "manifest.parquet")
    rows["caption_0"] = "Music."
    rows.to_parquet(root / place.CORPUS / "manifest.parquet")
    states = conditioning.TextStates(torch.randn(2, TEXT), torch.tensor([0, 2]), ["Music."])
    conditioning.save(states, root / place.TEXT)
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        which = {"codec": name, "seed": 0, "pattern": "delay", "lm": 0}
        codec = codecs.Codec(codecs.configuration(small.settings(architecture="stft"), small.RATE, "residual")).eval()
        codec.quantizer.codebooks.copy_(torch.randn(codec.quantizer.codebooks.shape))
        codecs.save(codec, root / place.CODEC.format(**which))
        sizes = {"width": 16, "heads": 2, "layers": 1, "feedforward": 32, "dropout": 0.0}
        model = LanguageModel(ModelShape("delay", small.K, small.C, FRAMES, TEXT, **sizes)).eval()
        language_models.save(model, root / place.LM.format(**which))
        test = torch.from_numpy(audio.to_float(small.music()[6:]))
        codes = codec.encode(test).numpy().astype(np.uint16)
        files.write_array(root / place.TOKENS.format(**which) / "test.npy", codes)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        given = {"codec": small.codec("stft")}
        argv = ["release", "--study", str(root), "--codec", "baseline", "--codec", "mmd", "--pattern", "delay"]
        monkeypatch.setattr(sys, "argv", [*argv, "--out", str(root / "models"), "--params", json.dumps(given)])
        release.main()
    return root / "models"


def try_out(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["try", *map(str, arguments)])
    trial.main()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    tone = np.sin(np.arange(8 * small.RATE) / 7) * 0.3 + np.random.default_rng(0).standard_normal(8 * small.RATE) * 0.1
    audio.write_wav(tmp_path / "song.wav", tone.astype(np.float32), small.RATE)
    return tmp_path / "song.wav"


def test_half_precision_is_compared_on_held_out_music(models: Path) -> None:
    told = files.read_json(models / "models.json")
    assert told["clips"] == 4
    for name in NAMES:
        cost = told["models"][name]
        assert 0.9 < cost["equal_codes"] <= 1
        assert cost["log_mel_half"] == pytest.approx(cost["log_mel"], rel=0.05)
        assert cost["bits_per_frame_half"] == pytest.approx(cost["bits_per_frame"], rel=1e-3)
        weights = release.load_file(models / name / "codec" / "model.safetensors")
        assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
        assert codecs.load(models / name / "codec").quantizer.codebooks.dtype == torch.float32


def test_a_weight_beyond_half_precision_is_named(tmp_path: Path) -> None:
    release.save_file({"scale": torch.tensor([1e5])}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="scale is beyond half precision"):
        release.halve(tmp_path, tmp_path / "half")


def test_a_recording_is_encoded_measured_and_continued(
    models: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tried"
    try_out(monkeypatch, recording, "--models", models, "--continuation", 0.5, "--out", out)
    said, shown = capsys.readouterr().out, (out / "index.html").read_text()
    heard = audio.read(recording).waveform
    codec = codecs.load(models / "mmd" / "codec")
    codes = codec.encode(torch.from_numpy(heard)[None])
    expected = codec.decode(codes)[0].numpy()
    np.testing.assert_allclose(audio.read(out / "mmd.wav").waveform, np.clip(expected, -1, 1), atol=2 / 2**15)
    continued = audio.read(out / "mmd-continued.wav").waveform
    frames = min(round(trial.PROMPT * codec.frame_rate), FRAMES // 2) + round(0.5 * codec.frame_rate)
    assert len(continued) == frames * codec.hop_length
    now, apart = trial.shared(codes[0].numpy(), small.C, codec.frame_rate)
    assert f"mmd: codebooks share {now:.2f} bits a frame, of which {apart:.2f} remain 2 s apart" in said
    assert f"<td>{now:.2f}</td><td>{apart:.2f}</td>" in shown
    sounds = set(re.findall(r'src="([^"]+)"', shown))
    assert sounds == {path.name for path in out.glob("*.wav")}
    assert len(sounds) == 1 + 2 * len(NAMES)


def test_what_codebooks_share_is_told_from_what_the_piece_shares() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(8, size=4000)
    copied = np.where(generator.random(4000) < 0.5, first, generator.integers(8, size=4000))
    now, apart = trial.shared(np.stack([first, copied]), 8, frame_rate=25.0)
    p = 0.5 + 0.5 / 8
    truth = 3 + p * np.log2(p) + (1 - p) * np.log2((1 - p) / 7)  # of a symmetric channel
    assert now == pytest.approx(truth, abs=0.05)
    assert apart == pytest.approx(0, abs=0.02)


def test_faults_are_named(models: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has no models: clone the whole repository"):
        try_out(monkeypatch, recording, "--models", tmp_path)
    with pytest.raises(ValueError, match=r"1\.0 s of .*song\.wav, and 3\.0 s are needed"):
        try_out(monkeypatch, recording, "--models", models, "--seconds", 1, "--out", tmp_path / "a")
    with pytest.raises(ValueError, match="--seconds is -5: give a number of seconds above 0"):
        try_out(monkeypatch, recording, "--models", models, "--seconds", -5)
    with pytest.raises(ValueError, match="is no file: give the path of an audio file"):
        try_out(monkeypatch, tmp_path, "--models", models)
    audio.write_wav(tmp_path / "silent.wav", np.zeros(8 * small.RATE, np.float32), small.RATE)
    with pytest.raises(ValueError, match=r"silent\.wav is silent: give a recording with something to hear"):
        try_out(monkeypatch, tmp_path / "silent.wav", "--models", models)
    (tmp_path / "song.txt").write_text("not music")
    with pytest.raises(ValueError, match=r"song\.txt"):
        try_out(monkeypatch, tmp_path / "song.txt", "--models", models, "--out", tmp_path / "a")
    assert not (tmp_path / "a" / "index.html").exists()


def test_names_cannot_break_the_page() -> None:
    shown = trial.page("<script>", [('a"><b', 1.0, 0.5)])
    assert "<script>" not in shown
    assert '"><b' not in shown
    assert shown.count("<tr>") == 2
