"""Somebody else's codecs: what transformers makes of them, from a folder to music, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import outside_codecs
import pandas as pd
import pytest
import small
import soxr
import torch
from outside_codecs import C, K, noise, saved
from safetensors.torch import load_file, save_file

from pipeline import params
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.codec import reconstruction, tokens
from pipeline.dependence import pairwise
from pipeline.exchange import adopt as adopting
from pipeline.exchange.adopt import adopt
from pipeline.exchange.encodec import save_encodec
from pipeline.files import read_json, write_json
from pipeline.generation import decode, sampling
from pipeline.lm import conditioning
from pipeline.lm import train as train_lm

RATES = {"encodec": 1600, "dac": 1000, "mimi": 2400}  # Hz
HOPS = {"encodec": 16, "dac": 10, "mimi": 24}
KEPT = 3


@torch.no_grad()
def theirs(kind: str, model: Any, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and waveforms of waveforms `[B, T]`, by transformers alone."""
    if kind == "encodec":
        codes = model.encode(waveform[:, None], bandwidth=model.config.target_bandwidths[-1]).audio_codes[:, :, :KEPT]
        return codes[0], model.decode(codes, [None]).audio_values[:, 0]
    if kind == "mimi":
        codes = model.encode(waveform[:, None], num_quantizers=KEPT).audio_codes
        return codes, model.decode(codes).audio_values[:, 0]
    from transformers import DacFeatureExtractor

    extractor = DacFeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=model.config.hop_length)
    clips = [clip.numpy() for clip in waveform]
    filled = extractor(clips, sampling_rate=model.config.sampling_rate, return_tensors="pt")["input_values"]
    codes = model.encode(filled, n_quantizers=KEPT).audio_codes
    return codes, model.decode(audio_codes=codes).audio_values


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("samples", [480, 1111])
def test_codes_and_waveforms_are_those_of_transformers(kind: str, samples: int, tmp_path: Path) -> None:
    model = saved(kind, tmp_path / "theirs")
    codecs.save(adopt(tmp_path / "theirs", KEPT, RATES[kind]), tmp_path / "ours")
    codec, waveform = codecs.load(tmp_path / "ours"), noise(samples)[:, 0]
    codes, decoded = theirs(kind, model, waveform)
    assert torch.equal(codec.encode(waveform), codes)
    assert min(len(stream.unique()) for stream in codes.unbind(1)) > 1
    assert codes.shape == (2, KEPT, -(-samples // HOPS[kind]))
    output = codec.decode(codes)
    assert output.shape == (2, codes.shape[2] * HOPS[kind])
    torch.testing.assert_close(output[:, : decoded.shape[1]], decoded)
    assert not output[:, decoded.shape[1] :].any()
    assert output.std() > 0
    assert codec.configuration["codebooks"] == KEPT
    assert codec.configuration["codebook_size"] == C
    assert codec.frame_rate == RATES[kind] / HOPS[kind]


@pytest.mark.parametrize("kind", RATES)
def test_waveforms_come_and_go_at_the_corpus_rate(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    own, other = adopt(tmp_path, KEPT, RATES[kind]), adopt(tmp_path, KEPT, 800)
    waveform = noise(800)[:, 0]
    resampled = [torch.from_numpy(soxr.resample(clip.numpy(), 800, RATES[kind])) for clip in waveform]
    codes = other.encode(waveform)
    assert torch.equal(codes, own.encode(torch.stack(resampled)))
    assert codes.shape[2] == -(-RATES[kind] // HOPS[kind])
    expected = [soxr.resample(clip.numpy(), RATES[kind], 800) for clip in own.decode(codes)]
    np.testing.assert_allclose(other.decode(codes).numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="NaN or infinity"):
        other.encode(waveform * float("nan"))


@pytest.mark.parametrize("kind", RATES)
def test_fewer_codebooks_decode_to_what_they_say(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    most, least = adopt(tmp_path, K, RATES[kind]), adopt(tmp_path, 2, RATES[kind])
    codes = most.encode(noise()[:, 0])
    assert torch.equal(least.encode(noise()[:, 0]), codes[:, :2])
    assert torch.equal(least.decode(codes[:, :2]), most.decode(codes[:, :2]))
    assert not torch.equal(most.decode(codes[:, :2]), most.decode(codes))


@pytest.mark.parametrize("architecture", ["seanet", "stft"])
def test_codecs_of_this_project_come_from_their_folders_and_their_exports(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = params.Codec.model_validate(small.codec(architecture, codebooks=3)).of(architecture)
    codec = codecs.Codec(codecs.configuration(settings, small.RATE, "residual")).eval()
    codec.architecture.start(codec.encoder, codec.decoder, noise()[:, 0])
    codec.quantizer.codebooks.normal_()
    codecs.save(codec, tmp_path / "own")
    save_encodec(codec, tmp_path / "exported")
    codes = codec.encode(noise()[:, 0])
    assert min(len(stream.unique()) for stream in codes.unbind(1)) > 1
    for name in ("own", "exported"):
        adopted = adopt(tmp_path / name, 2, small.RATE)
        assert torch.equal(adopted.encode(noise()[:, 0]), codes[:, :2])
        # An export's transposed convolutions have their weights normed along another axis.
        torch.testing.assert_close(adopted.decode(codes[:, :2]), codec.decode(codes[:, :2]))
    codecs.save(adopted, tmp_path / "adopted")
    with pytest.raises(ValueError, match="was adopted itself: give the folder that"):
        adopt(tmp_path / "adopted", 2, small.RATE)
    with pytest.raises(ValueError, match="this codec came trained"):
        save_encodec(codecs.load(tmp_path / "adopted"), tmp_path / "again")


def _weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(folder: Path, **changes: Any) -> None:
    write_json(folder / "config.json", read_json(folder / "config.json") | changes)


def _spoil(weights: dict[str, torch.Tensor]) -> None:
    next(value for value in weights.values() if value.is_floating_point() and value.ndim > 1)[0] = float("nan")


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds neither config.json, as a model of transformers has"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model.safetensors is missing: weights are read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "is not a whole safetensors file"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not whole JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: _config(folder, model_type="snac"), "a model of type 'snac': give one of encodec, dac, mimi"),
        (lambda folder: _config(folder, model_type="own"), "a model of type 'own': give one of encodec, dac, mimi"),
        (lambda folder: _config(folder, codebook_size=[16, 8]), r"config.json: .*codebook_size"),
        (
            lambda folder: _config(folder, codebook_size=32),
            "fit config.json: model.safetensors has another shape",
        ),
        (lambda folder: _weights(folder, _spoil), "holds NaN or infinity"),
        (lambda folder: _weights(folder, lambda w: w.pop(sorted(w)[0])), "do not fit config.json: .*lacks "),
    ],
)
def test_what_is_no_whole_codec_is_named(kind: str, change: Any, complaint: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        adopt(tmp_path, 2, 1600)


@pytest.mark.parametrize("kind", RATES)
def test_more_codebooks_than_there_are_cannot_be_kept(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    with pytest.raises(ValueError, match="has 4 codebooks, and 5 were to be kept: keep 2 to 4"):
        adopt(tmp_path, 5, 1600)


@pytest.mark.parametrize(("kind", "changes"), [("encodec", {"target_bandwidths": [0.4]}), ("dac", {"n_codebooks": 1})])
def test_a_codec_of_one_codebook_is_named(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    saved(kind, tmp_path, **changes)
    with pytest.raises(ValueError, match="has one codebook, and dependence is between two or more"):
        adopt(tmp_path, 2, 1600)


@pytest.mark.parametrize(
    ("kind", "changes", "complaint"),
    [
        ("encodec", {"audio_channels": 2}, "encodec is not supported where audio_channels is 2 and must be 1"),
        ("encodec", {"normalize": True}, "normalize is True and must be False"),
        ("encodec", {"chunk_length_s": 1.0, "overlap": 0.01}, "chunk_length_s is 1.0 and must be None"),
        ("mimi", {"audio_channels": 2}, "mimi is not supported where audio_channels is 2 and must be 1"),
    ],
)
def test_what_codes_alone_do_not_tell_is_named(
    kind: str, changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    saved(kind, tmp_path)
    _config(tmp_path, **changes)
    with pytest.raises(ValueError, match=complaint):
        adopt(tmp_path, 2, 1600)


def test_codebooks_of_different_sizes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's own class may have them; of these classes, none can."""
    saved("dac", tmp_path)
    entry = params.choice("PRETRAINED", "dac")
    monkeypatch.setattr(entry, "layout", staticmethod(lambda network: (10, [16, 16, 8])))
    adopt(tmp_path, 2, 1600)
    with pytest.raises(ValueError, match=r"has codebooks of \[16, 16, 8\] codes: those that are kept must be of one"):
        adopt(tmp_path, 3, 1600)


def _call(main: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], **places: Any) -> None:
    words = [word for name, value in places.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["job", "--params", json.dumps(settings), *words])
    main()


@pytest.mark.parametrize("kind", RATES)
def test_from_a_folder_to_music(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job of a study, on clips of 0.64 s at 1600 Hz: tokens, measures, a language model and its music."""
    monkeypatch.chdir(tmp_path)
    model = saved(kind, Path("theirs"))
    small.write_corpus(Path("corpus"))
    manifest = pd.read_parquet("corpus/manifest.parquet").assign(caption_0="slow")
    manifest.to_parquet("corpus/manifest.parquet")
    whole = params.load(Path(adopting.__file__).parents[2] / "params.yaml").model_dump(mode="json")
    settings = {"corpus": small.CORPUS, "generation": small.GENERATION, "confidence": 0.9}
    # At rates so low, a third of a second is many frames.
    settings["dependence"] = whole["dependence"] | {"bootstrap": 5, "shuffles": 1, "far_lags": [0.1]}
    settings["lm"] = whole["lm"] | {"width": 8, "heads": 2, "layers": 1, "feedforward": 8, "steps": 3}
    settings["lm"] |= {"batch_size": 2, "micro_batch_size": 2, "crop_seconds": 0.3, "warmup_steps": 1, "snapshots": []}
    _call(adopting.main, monkeypatch, settings, model="theirs", codebooks=KEPT, out="codec/x-seed0")
    record = read_json("codec/x-seed0/model.json")["provenance"]["params"]
    assert record["folder"] == "theirs"
    assert record["files"].keys() == {"config.json", "model.safetensors"}

    audio, frames = np.load("corpus/audio.npy"), -(-round(small.CLIP * RATES[kind] / small.RATE) // HOPS[kind])
    at = {"codec": "codec/x-seed0", "corpus": "corpus"}
    for split in ("train", "validation", "test"):
        _call(tokens.main, monkeypatch, settings, **at, split=split, out=f"tokens/x-seed0/{split}.npy")
    codes = np.load("tokens/x-seed0/test.npy")
    assert codes.shape == (4, KEPT, frames)
    waveform = [soxr.resample(to_float(clip), small.RATE, RATES[kind]) for clip in audio[[6, 7, 8, 9]]]
    expected, _ = theirs(kind, model, torch.from_numpy(np.stack(waveform)))
    assert np.array_equal(codes, expected.numpy())

    _call(reconstruction.main, monkeypatch, settings, **at, out="codec/x-seed0/metrics.json")
    metrics = read_json("codec/x-seed0/metrics.json")
    assert metrics["frame_rate"] == RATES[kind] / HOPS[kind]
    assert "mmd" not in metrics
    assert len(metrics["perplexity"]) == KEPT

    of = {"codec": "codec/x-seed0", "tokens": "tokens/x-seed0", "manifest": "corpus/manifest.parquet"}
    _call(pairwise.main, monkeypatch, settings, **of, out="dependence.json")
    found = read_json("dependence.json")
    assert (found["codec"], found["codebook_size"]) == ("x-seed0", C)
    assert found["alignments"]["equal_time"]["frames"] == codes[:, 0].size
    assert found["by_lag"]["frame_rate"] == pytest.approx(frames / small.CORPUS["clip_seconds"])

    conditioning.save(conditioning.TextStates(torch.ones(1, 4).half(), torch.tensor([0, 1]), ["slow"]), Path("text"))
    of |= {"text": "text"}
    _call(train_lm.main, monkeypatch, settings, **of, pattern="delay", seed=0, out="lm/x-seed0-lm0")
    shape = read_json("lm/x-seed0-lm0/model.json")
    assert [shape[name] for name in ("codebooks", "codebook_size", "frames")] == [KEPT, C, frames]
    assert read_json("lm/x-seed0-lm0/metrics.json")["codec"] == "x-seed0"
    del of["tokens"]
    _call(sampling.main, monkeypatch, settings, **of, lm="lm/x-seed0-lm0", out="generated")
    assert np.load("generated/tokens.npy").shape == (3, KEPT, frames)
    del of["text"]
    _call(decode.main, monkeypatch, settings, **of, tokens="tokens/x-seed0", out="decoded")
    lengths = {np.load(f"{made}/audio.npy").shape[1] for made in ("generated", "decoded")}
    assert lengths == {round(frames * HOPS[kind] * small.RATE / RATES[kind])}
    assert small.CLIP <= lengths.pop() < small.CLIP + 2 * HOPS[kind]


def test_a_folder_is_not_adopted_into_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("dac", tmp_path)
    with pytest.raises(ValueError, match="the model's own folder, whose files would be overwritten"):
        _call(adopting.main, monkeypatch, {}, model=tmp_path, codebooks=2, out=tmp_path)
    assert outside_codecs.MODELS.keys() <= params.choices("PRETRAINED").keys()
