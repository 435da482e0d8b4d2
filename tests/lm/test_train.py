"""Training: known entropies, bit-exact resumption, equal batches, schedule, files; and a run from tokens to audio."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import audio, params
from pipeline.codec import model as codecs
from pipeline.files import read_json
from pipeline.generation import compose, sampling
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm import train as train_lm
from pipeline.lm.conditioning import TextStates
from pipeline.lm.model import LanguageModel, ModelShape
from pipeline.lm.patterns import PATTERNS
from pipeline.lm.train import Batch, Split, Trained

ROOT = Path(__file__).parents[2]
K, C, T, D = 2, 4, 32, 8
LM = {
    "width": 32, "heads": 2, "layers": 2, "feedforward": 64, "positions": "sinusoidal",
    "dropout": 0.1, "steps": 12, "batch_size": 4,
    "crop_seconds": 0.0, "micro_batch_size": 4, "precision": "float32", "optimizer": "adamw", "learning_rate": 3e-3,
    "embedding_learning_rate": 3e-3, "other_learning_rate": 3e-3, "betas": [0.9, 0.95], "weight_decay": 0.01,
    "warmup_steps": 3, "gradient_clip": 1.0, "text_dropout": 0.2, "weight_ema": 0.9, "snapshots": [0.5],
}  # fmt: skip


def sizes(**changes: float) -> params.LanguageModel:
    return params.LanguageModel.model_validate({**LM, **changes})


def text_states() -> TextStates:
    states = torch.randn(10, D, generator=torch.Generator().manual_seed(0)).half()
    return TextStates(states, torch.tensor([0, 2, 5, 9, 10]), ["a", "b", "c", "d"])


def split_of(codes: np.ndarray, seed: int = 0) -> Split:
    rows = np.random.default_rng(seed).integers(4, size=(len(codes), 2))
    names = np.array([f"{i}" for i in range(len(codes))])
    return Split(codes.astype(np.uint16), rows, names, names)


def copied_chains(clips: int, seed: int) -> tuple[np.ndarray, float]:
    """Codebook 0 is a Markov chain, codebook 1 its copy but for one in ten; and the entropy rate in bits per frame."""
    generator = np.random.default_rng(seed)
    moves = np.array([0.7, 0.1, 0.1, 0.1])
    chain = (generator.integers(C, size=(clips, 1)) + generator.choice(C, p=moves, size=(clips, T)).cumsum(axis=1)) % C
    noise = generator.choice(C, p=[0.9, 0.1, 0, 0], size=chain.shape)
    bits = -sum(p * math.log2(p) for p in (0.7, 0.1, 0.1, 0.1, 0.9, 0.1))
    return np.stack([chain, (chain + noise) % C], axis=1), bits


def shape(pattern: str, model: params.LanguageModel) -> ModelShape:
    return ModelShape.of(model, pattern=pattern, codebooks=K, codebook_size=C, frames=T, text_dimension=D)


def run(pattern: str, model: params.LanguageModel, folder: Path, clips: int = 16, frames: int = T) -> Trained:
    (codes, _), (other, _) = copied_chains(clips, 0), copied_chains(8, 1)
    where = folder / "checkpoints" / pattern / "run.safetensors"
    arguments = (split_of(codes), split_of(other), text_states(), 5, torch.device("cpu"))
    return train_lm.train(shape(pattern, model), model, frames, *arguments, where.relative_to(folder))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["flatten", "delay", "parallel"])
def test_bits_per_frame_near_the_entropy_of_the_source(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flatten and delay see codebook 0 before codebook 1 and reach the joint entropy; parallel cannot."""
    monkeypatch.chdir(tmp_path)
    model = sizes(steps=400, batch_size=16, micro_batch_size=16, dropout=0.0, weight_ema=0.95)
    trained = run(pattern, model, tmp_path, clips=1000).model
    codes, entropy = copied_chains(200, 2)
    measured = train_lm.bits(train_lm.evaluate(trained, split_of(codes), text_states(), 50)).mean()
    # Given the past alone, codebook 1 is the chain's next step with noise on top.
    moves, noise = np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.9, 0.1, 0, 0])
    noisy = sum(p * np.roll(moves, i) for i, p in enumerate(noise))
    independent = -(moves * np.log2(moves)).sum() - (noisy * np.log2(noisy)).sum()
    expected = independent if pattern == "parallel" else entropy
    # The first frame has no past and costs up to log2(C) bits more.
    assert expected - 0.03 < measured < expected + 0.15


@pytest.mark.parametrize(
    ("pattern", "optimizer", "frames"), [("delay", "adamw", T), ("flatten", "muon", T), ("delay", "muon", 7)]
)
def test_a_killed_run_continues_bit_by_bit(
    pattern: str, optimizer: str, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = sizes(optimizer=optimizer)
    straight = run(pattern, model, tmp_path, frames=frames)
    checkpoint = Path("checkpoints") / pattern / "run.safetensors"
    assert not checkpoint.exists()

    monkeypatch.setattr(train_lm, "CHECKPOINT_SECONDS", 0.0)
    draw = train_lm.draw

    def killed(*arguments: object) -> tuple:
        if arguments[-1] == 7:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(train_lm, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        run(pattern, model, tmp_path, frames=frames)
    assert checkpoint.exists()
    drawn = []
    monkeypatch.setattr(train_lm, "draw", lambda *a: drawn.append(a[-1]) or draw(*a))
    continued = run(pattern, model, tmp_path, frames=frames)
    assert drawn == [7, 8, 9, 10, 11]
    assert set(straight.snapshots) == {50}
    for one, other in ((straight.model, continued.model), (straight.snapshots[50], continued.snapshots[50])):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    keys = [key for key in straight.history[0] if key != "seconds"]
    histories = ([[row[k] for k in keys] for row in each.history] for each in (straight, continued))
    assert next(histories) == next(histories)


def test_a_checkpoint_of_other_parameters_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_lm, "CHECKPOINT_SECONDS", 0.0)
    run("delay", sizes(), tmp_path)
    monkeypatch.setattr(train_lm, "CHECKPOINT_SECONDS", 60.0)
    after = run("delay", sizes(learning_rate=1e-3), tmp_path).model
    Path("checkpoints/delay/run.safetensors").unlink()
    fresh = run("delay", sizes(learning_rate=1e-3), tmp_path).model
    assert all(torch.equal(a, b) for a, b in zip(after.parameters(), fresh.parameters(), strict=True))


def test_all_that_decides_a_run_is_in_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a checkpoint would be continued with other data, other captions or by other code."""
    (codes, _), (other, _), text, model = copied_chains(8, 0), copied_chains(8, 1), text_states(), sizes()
    usual: dict[str, Any] = {"shape": shape("delay", model), "sizes": model, "frames": T, "text": text}
    usual["seed"] = 0
    usual["splits"] = (split_of(codes), split_of(other))
    changes: list[dict[str, Any]] = [
        {},
        {"shape": shape("flatten", model)},
        {"sizes": sizes(learning_rate=1e-3)},
        {"frames": 7},
        {"seed": 1},
        {"splits": (split_of(other), split_of(other))},
        {"splits": (split_of(codes, seed=1), split_of(other))},  # the same tokens under other captions
        {"splits": (split_of(codes), split_of(codes))},
        {"text": TextStates(text.states + 1, text.offsets, list(text.index))},
    ]
    digests = [train_lm.digest_of(**usual | change) for change in changes]
    assert train_lm.digest_of(**usual) == digests[0]
    monkeypatch.setattr(train_lm.provenance, "source_digest", lambda *modules: "other code")
    digests.append(train_lm.digest_of(**usual))
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(("micro_batch_size", "frames"), [(1, T), (3, T), (3, 7)])
def test_a_gradient_summed_over_micro_batches_is_the_batchs(micro_batch_size: int, frames: int) -> None:
    model = sizes(dropout=0.0)
    torch.manual_seed(0)
    network, text = LanguageModel(shape("delay", model)), text_states()
    batch = train_lm.draw(split_of(copied_chains(16, 0)[0]), text, model, frames, 0, 0)
    train_lm.backward(network, batch, share=1.0, precision="float32")
    whole = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    for part in zip(*(x.split(micro_batch_size) for x in batch), strict=True):
        train_lm.backward(network, Batch(*part), share=len(part[0]) / 4, precision="float32")
    for gradient, parameter in zip(whole, network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_bfloat16_products_leave_weights_and_loss_in_float32() -> None:
    model = sizes(dropout=0.0)
    torch.manual_seed(0)
    network = LanguageModel(shape("delay", model))
    network.heads.data.normal_(std=0.3)
    batch = train_lm.draw(split_of(copied_chains(16, 0)[0]), text_states(), model, T, 0, 0)
    found = {name: train_lm.backward(network, batch, share=1.0, precision=name) for name in ("float32", "bfloat16")}
    assert found["bfloat16"].dtype == torch.float32
    assert not torch.equal(found["bfloat16"], found["float32"])
    torch.testing.assert_close(found["bfloat16"], found["float32"], atol=0.1, rtol=0.02)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())


def test_an_untrained_model_costs_the_static_entropy() -> None:
    """And the static entropy is that of the codes' shares: of codes with known ones, their entropy."""
    generator = np.random.default_rng(0)
    share = np.array([0.6, 0.2, 0.15, 0.05])
    train_split, held_out = (split_of(generator.choice(C, p=share, size=(200, K, T))) for _ in range(2))
    shares = train_lm.log_shares(train_split, C)
    static = train_lm.static_nats(held_out, shares)
    assert train_lm.bits(static).mean() == pytest.approx(-K * (share * np.log2(share)).sum(), abs=0.05)
    torch.manual_seed(0)
    model = LanguageModel(shape("delay", sizes())).eval()
    model.start_at(shares)
    np.testing.assert_allclose(train_lm.evaluate(model, held_out, text_states(), 50), static, rtol=1e-5)


def test_a_code_that_training_lacks_costs_a_finite_number_of_bits() -> None:
    train_split, held_out = split_of(np.zeros((4, K, T), int)), split_of(np.ones((4, K, T), int))
    counted = 4 * T + C / 2
    static = train_lm.static_nats(held_out, train_lm.log_shares(train_split, C))
    np.testing.assert_allclose(static, np.full((4, K), math.log(counted / 0.5)), rtol=1e-6)


def test_crops_lie_anywhere_in_their_clips_and_have_their_length() -> None:
    split, text, model = split_of(copied_chains(50, 0)[0]), text_states(), sizes(batch_size=50)
    windows = torch.cat([train_lm.draw(split, text, model, 7, 0, step).window for step in range(20)])
    assert set(windows[:, 0].tolist()) == set(range(T - 7 + 1))
    assert torch.equal(windows, windows[:, :1] + torch.arange(7))


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 250), (2.5, 62), (2.6, 65), (1e-3, 1), (10.0, 250), (30.0, 250)])
def test_frames_of_a_crop(seconds: float, frames: int) -> None:
    assert train_lm.crop_frames(sizes(crop_seconds=seconds), 250, 10.0) == frames


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_weight_is_learnt_at_its_own_rate(optimizer: str) -> None:
    rates = {"learning_rate": 0.1, "embedding_learning_rate": 0.2, "other_learning_rate": 0.3}
    model = LanguageModel(shape("delay", sizes()))
    optimizers = train_lm.optimizers_of(model, sizes(optimizer=optimizer, **rates))
    assert set(optimizers) == {"adamw", optimizer}
    rate = {p: g["rate"] for each in optimizers.values() for g in each.param_groups for p in g["params"]}
    muon = {p for g in optimizers[optimizer].param_groups if "matrices" in g for p in g["params"]}
    for name, parameter in model.named_parameters():
        matrix = name.startswith("transformer.layers.") and parameter.ndim == 2
        assert rate.pop(parameter) == (0.1 if matrix else 0.2 if name == "embedding.weight" else 0.3), name
        assert (parameter in muon) == matrix
    assert not rate


@pytest.mark.slow
def test_crops_learn_what_whole_clips_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 8 frames of 32, a Markov chain's next code can be learnt as well, and is at every position."""
    monkeypatch.chdir(tmp_path)
    model = sizes(steps=400, batch_size=32, micro_batch_size=32, dropout=0.0, optimizer="muon", learning_rate=0.02)
    trained = run("delay", model, tmp_path, clips=1000, frames=8).model
    codes, entropy = copied_chains(200, 2)
    measured = train_lm.bits(train_lm.evaluate(trained, split_of(codes), text_states(), 50)).mean()
    assert entropy - 0.03 < measured < entropy + 0.15


def test_schedule() -> None:
    shares = [train_lm.schedule(step, 10, 110) for step in range(110)]
    assert shares[:10] == [(i + 1) / 10 for i in range(10)]
    assert shares[10] == 1
    assert shares[60] == pytest.approx(0.5)
    assert train_lm.schedule(110, 10, 110) == pytest.approx(0, abs=1e-12)
    assert train_lm.schedule(0, 0, 10) == 1


def test_text_is_dropped_at_its_rate_and_a_step_draws_the_same_batch_again() -> None:
    codes, _ = copied_chains(50, 0)
    split, text, model = split_of(codes), text_states(), sizes(batch_size=50)
    masks = [train_lm.draw(split, text, model, T, 0, step).mask for step in range(40)]
    dropped = np.mean([~mask.any(dim=1).numpy() for mask in masks])
    assert dropped == pytest.approx(0.2, abs=0.03)
    first, again = (train_lm.draw(split, text, model, 7, 0, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_bits_of_uniform_tokens() -> None:
    assert train_lm.bits(np.full((3, K), math.log(C))).tolist() == pytest.approx([K * math.log2(C)] * 3)


def test_fewer_clips_than_a_batch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"has 3 clips, lm\.batch_size asks for 4"):
        run("delay", sizes(), tmp_path, clips=3)


def study(folder: Path) -> tuple[dict, pd.DataFrame]:
    """Tokens, manifest, captions and an untrained codec: all that training and sampling read."""
    settings = params.load(ROOT / "params.yaml").model_dump(mode="json")
    settings["lm"] = {**LM, "steps": 3}
    settings["generation"] |= {"clips": 5, "batch_size": 2, "top_k": 3}
    settings["codec"] |= {"dimension": 4, "codebooks": K, "codebook_size": C}
    settings["codec"]["seanet"] |= {"filters": 2, "ratios": [4, 2]}
    del settings["codec"]["stft"], settings["codec"]["band"]
    splits = ["train"] * 8 + ["validation"] * 4 + ["test"] * 6
    manifest = pd.DataFrame(
        {
            "clip_id": [f"clip-{i}" for i in range(18)],
            "track_id": [f"track-{i // 2}" for i in range(18)],
            "split": splits,
            "caption_0": list("abcdab" * 3),
            "caption_1": list("dcbadc" * 3),
        }
    )
    manifest.to_parquet(folder / "manifest.parquet")
    conditioning.save(text_states(), folder / "text")
    (folder / "tokens").mkdir()
    codes, _ = copied_chains(18, 0)
    for name in ("train", "validation", "test"):
        np.save(folder / "tokens" / f"{name}.npy", codes[manifest["split"] == name].astype(np.uint16))
    torch.manual_seed(0)
    seanet = params.Codec.model_validate(settings["codec"]).of("seanet")
    configuration = codecs.configuration(seanet, 16_000, "residual")
    codecs.save(codecs.Codec(configuration), folder / "codec-seed0")
    return settings, manifest


def call(monkeypatch: pytest.MonkeyPatch, main: object, settings: dict, **arguments: object) -> None:
    options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["job", "--params", json.dumps(settings), *options])
    main()


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_from_tokens_to_audio(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings, manifest = study(tmp_path)
    common = {"manifest": "manifest.parquet", "text": "text"}
    training = {
        **common,
        "pattern": pattern,
        "codec": "codec-seed0",
        "seed": 0,
        "tokens": "tokens",
        "out": "lm/codec-seed0",
    }
    call(monkeypatch, train_lm.main, settings, **training)
    with np.load("lm/codec-seed0/held_out.npz", allow_pickle=False) as held_out:
        assert held_out["track_id"].tolist() == manifest["track_id"][manifest["split"] == "test"].tolist()
        bits = held_out["bits_per_frame"]
        nats, static = held_out["nats"], held_out["static_bits"]
    np.testing.assert_allclose(bits, nats.sum(axis=1) / math.log(2))
    metrics = read_json(Path("lm/codec-seed0/metrics.json"))
    assert metrics["test"]["bits_per_frame"] == pytest.approx(bits.mean())
    assert metrics["test"]["static_bits"] == pytest.approx(static.mean())
    assert metrics["test"]["gain"] == pytest.approx(1 - bits.mean() / static.mean())
    assert metrics["frames_seen"] == 3 * 4 * T
    assert metrics["test"]["cross_entropy_nats"] == pytest.approx(list(nats.mean(axis=0)))
    history = pd.read_csv("lm/codec-seed0/history.csv")
    assert list(history["step"]) == [1, 3]
    losses = history[[f"validation_loss_{k}" for k in range(K)]].sum(axis=1)
    np.testing.assert_allclose(history["validation_bits_per_frame"], losses / math.log(2))

    # A snapshot is a model like any other: music can be made from it.
    assert language_model.load(Path("lm/codec-seed0/snapshots/50")).shape.pattern == pattern
    generation = {**common, "lm": "lm/codec-seed0", "codec": "codec-seed0"}
    call(monkeypatch, sampling.main, settings, **generation, out="generated")
    tokens, audio = np.load("generated/tokens.npy"), np.load("generated/audio.npy")
    assert (tokens.shape, tokens.dtype, audio.shape, audio.dtype) == ((5, K, T), np.uint16, (5, T * 8), np.int16)
    timing = read_json(Path("generated/timing.json"))
    assert timing["steps"] == PATTERNS[pattern](torch.arange(K)[:, None], torch.arange(T)[None], K, T).max() + 1
    assert timing["frames_per_second"] == pytest.approx(5 * T / timing["seconds"])
    assert np.dot(timing["a_clip"], [2, 2, 1]) == pytest.approx(timing["seconds"])
    assert not list(Path("checkpoints").rglob("*.*"))

    # A kill after two of three batches: the third alone is left to do, and nothing differs.
    generate, calls = sampling.generate, []

    def killed(*arguments: object, **options: object) -> torch.Tensor:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return generate(*arguments, **options)

    monkeypatch.setattr(sampling, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, sampling.main, settings, **generation, out="again")
    monkeypatch.setattr(sampling, "generate", lambda *a, **o: calls.append(1) or generate(*a, **o))
    call(monkeypatch, sampling.main, settings, **generation, out="again")
    assert len(calls) == 3
    np.testing.assert_array_equal(np.load("again/tokens.npy"), tokens)
    np.testing.assert_array_equal(np.load("again/audio.npy"), audio)


def test_a_recording_is_continued_past_the_length_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings, manifest = study(tmp_path)
    torch.manual_seed(0)
    model = LanguageModel(shape("delay", sizes(dropout=0.0)))
    language_model.save(model, tmp_path / "lm")
    codec = codecs.load(tmp_path / "codec-seed0")
    codec.quantizer.codebooks.normal_()  # untrained, all codes are alike
    codecs.save(codec, tmp_path / "codec-seed0")
    monkeypatch.setattr(conditioning, "embed", lambda captions, *_: TextStates(
        torch.randn(4, D), torch.tensor([0, 2, 4]), captions
    ))  # fmt: skip
    tone = 0.1 * np.sin(np.arange(100) / 3).astype(np.float32)
    audio.write_wav(tmp_path / "prompt.wav", tone, 16_000)
    seconds = 3 * T * 8 / 16_000
    monkeypatch.setattr(sys, "argv", [
        "compose", "--params", json.dumps(settings), "--lm", "lm", "--codec", "codec-seed0", "--encoder", "any",
        "--caption", "a", "--caption", "b", "--seconds", str(seconds), "--prompt", "prompt.wav", "--out", "composed",
    ])  # fmt: skip
    compose.main()
    pieces = [audio.read(tmp_path / "composed" / f"{i:04}.wav") for i in range(2)]
    assert [(len(piece.waveform), piece.rate) for piece in pieces] == [(3 * T * 8, 16_000)] * 2
    assert not np.array_equal(pieces[0].waveform, pieces[1].waveform)
    texts = ["--manifest", "manifest.parquet", "--out", "scored"]
    monkeypatch.setattr(conditioning, "embed", lambda *_: text_states())
    monkeypatch.setattr(sys, "argv", [*sys.argv[:9], *texts])
    compose.main()
    listed = pd.read_csv(tmp_path / "scored" / "captions.csv")
    assert set(listed["clip_id"]) <= set(manifest["clip_id"][manifest["split"] == "test"])
    assert [len(audio.read(tmp_path / "scored" / file).waveform) for file in listed["file"]] == [T * 8] * 5
    short = ["--caption", "a", "--seconds", "0.001", "--prompt", "prompt.wav", "--out", "short"]
    monkeypatch.setattr(sys, "argv", [*sys.argv[:9], *short])
    with pytest.raises(ValueError, match=r"prompt\.wav is as long as what is to come of it"):
        compose.main()


def test_tokens_that_do_not_fit_the_manifest_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings, manifest = study(tmp_path)
    codec, text = params.Codec.model_validate(settings["codec"]), text_states()
    np.save("tokens/test.npy", np.zeros((5, 2, 5), np.uint16))
    with pytest.raises(ValueError, match="has 5 clips, the manifest's test split 6"):
        train_lm.load_split(Path("tokens"), manifest, text, "test", codec)


def test_a_model_of_another_codec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings, _ = study(tmp_path)
    other = {**settings["codec"], "codebook_size": C + 1}
    configuration = codecs.configuration(params.Codec.model_validate(other).of("seanet"), 16_000, "residual")
    codecs.save(codecs.Codec(configuration), tmp_path / "other")
    common = {"manifest": "manifest.parquet", "text": "text"}
    training = {**common, "pattern": "delay", "codec": "codec-seed0", "seed": 0, "tokens": "tokens", "out": "lm"}
    call(monkeypatch, train_lm.main, settings, **training)
    with pytest.raises(ValueError, match="was not trained on tokens of other"):
        call(monkeypatch, sampling.main, settings, **common, lm="lm", codec="other", out="generated")
