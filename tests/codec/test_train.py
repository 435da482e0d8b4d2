"""Training the codec: trunk and branch against a straight run, resumption to the bit, the adversary, small studies."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from pipeline import job, params
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.codec import reconstruction, seanet, tokens
from pipeline.codec import train as train_codec
from pipeline.codec.independence import above_floor, mmd
from pipeline.codec.innovation import innovations
from pipeline.codec.quantizer import ResidualVectorQuantizer
from pipeline.codec.spectral import mel_loss
from pipeline.codec.train import Rows, Run
from pipeline.files import read_json, write_array
from pipeline.generation import decode

OFF = params.Independence(weight=0, delay=False, stream="quantized", estimator="closed_form")
ON = params.Independence(weight=10, delay=True, stream="quantized", estimator="closed_form")
GIVEN = ON.model_copy(update={"stream": "innovation"})
WEIGHTS = ("adversarial_weight", "feature_weight")
ADVERSARY: dict[str, Any] = dict.fromkeys(WEIGHTS, 4.0)
BALANCED = ADVERSARY | {"balancer": True}
# The light one, on one window a step, from half of a trunk or of a branch on.
MEL = small.TRAINING["discriminator"] | {"kind": "mel", "windows_a_step": 1}
EARLY = ADVERSARY | {"discriminator": MEL, "adversary_from": 0.25, "adversary_ramp": 0.5, "mel_windows_a_step": 1}
LATE = EARLY | {"adversary_from": 0.75, "adversary_ramp": 0.1, "weight_decay": 0.01, "cosine_weight": 0.1}
CHECKPOINT = Path("checkpoints/run")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new(settings: params.CodecSettings | None = None, seed: int = 0, quantizer: str = "") -> Run:
    settings = settings or small.settings()
    own = "shared" if settings.architecture == "band" else "residual"
    return Run(settings, small.RATE, quantizer or own, seed, CPU)


def clips() -> Rows:
    return Rows(small.music(), np.arange(4))


def trained(run: Run, independence: params.Independence, until: int = 12) -> list[dict[str, float]]:
    validation = torch.from_numpy(to_float(small.music()[4:6]))
    return train_codec.train(run, clips(), validation, independence, until, CHECKPOINT, "this run")


def state(run: Run) -> dict[str, Tensor]:
    run.save(Path("state.safetensors"), [], "")
    return load_file("state.safetensors")


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def as_csv(history: list[dict[str, float]]) -> str:
    return str(pd.DataFrame(history).to_csv(index=False))


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training inside ends within the step after `step`, with a checkpoint after every one before."""
    average = train_codec.average

    def kill(run: Run, decay: float) -> None:
        if run.step == step:
            raise KeyboardInterrupt
        average(run, decay)

    with monkeypatch.context() as patch:
        patch.setattr(train_codec, "CHECKPOINT_SECONDS", -1.0)
        patch.setattr(train_codec, "average", kill)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize(
    ("architecture", "independence", "training"),
    [
        ("seanet", OFF, {}),
        ("seanet", ON, {}),
        ("seanet", ON, BALANCED),
        ("seanet", ON, EARLY),
        ("stft", ON, {}),
        ("stft", OFF, EARLY),
        ("stft", ON, EARLY),
        ("stft", ON, LATE),
        ("band", ON, EARLY),
        ("stft", GIVEN, {}),
    ],
)
def test_a_trunk_and_its_branch_are_a_straight_run(
    architecture: str, independence: params.Independence, training: dict[str, Any]
) -> None:
    """Also where the trunk ends before the adversary comes, or within its ramp."""
    settings = small.settings(training, architecture)
    straight = new(settings)
    history = trained(straight, independence)
    trunk = new(settings)
    first = trained(trunk, OFF, 6)
    trunk.save(Path("trunk"), first, "trunk")
    branch = new(settings)
    branch.load(Path("trunk"))
    assert branch.step == 6
    second = trained(branch, independence)
    assert same(state(straight), state(branch))
    assert as_csv(first + second) == as_csv(history)


def test_codecs_of_a_seed_part_at_the_start_of_the_loss_and_not_before() -> None:
    runs = {}
    for name, independence, until in (("off", OFF, 6), ("on", ON, 6), ("off later", OFF, 8), ("on later", ON, 8)):
        runs[name] = new()
        trained(runs[name], independence, until)
    assert same(state(runs["off"]), state(runs["on"]))
    assert not same(state(runs["off later"]), state(runs["on later"]))


def test_seeds_differ() -> None:
    assert not same(state(new(seed=0)), state(new(seed=1)))
    first, second = (train_codec.batch(clips(), new(seed=seed), 0) for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("architecture", "step", "training", "independence"),
    [
        *(("seanet", step, {}, ON) for step in (1, 3, 5, 9, 11)),
        *(("stft", step, EARLY, ON) for step in (1, 3, 5, 9, 11)),
        ("seanet", 1, BALANCED, ON),
        ("seanet", 9, BALANCED, ON),
        ("seanet", 9, ADVERSARY, ON),
        ("seanet", 9, EARLY, ON),
        ("seanet", 5, {"balancer": True}, ON),
        ("stft", 9, LATE, ON),
        ("stft", 9, {}, GIVEN),
        ("band", 5, EARLY, ON),
        ("band", 9, EARLY, ON),
    ],
)
def test_a_killed_run_continues_bit_by_bit(
    architecture: str,
    step: int,
    training: dict[str, Any],
    independence: params.Independence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in the first steps, before k-means, before the loss, in its ramp, and in the last step."""
    settings = small.settings(training, architecture)
    straight = new(settings)
    history = trained(straight, independence)
    assert not (CHECKPOINT / "state.safetensors").exists()
    with killed_at(step, monkeypatch):
        trained(new(settings), independence)
    continued = new(settings, seed=5)  # whose own weights must not matter
    continued.seed = 0
    assert as_csv(trained(continued, independence)) == as_csv(history)
    assert same(state(straight), state(continued))


def test_without_adversary_and_balancer_a_step_descends_the_sum_of_its_losses() -> None:
    """The loop written out anew, to the bit: nothing of the adversary is built, drawn or added."""
    run, plain, training = new(), new(), small.settings().training
    trained(run, OFF, 6)
    for step in range(6):
        plain.step = step
        for group in plain.optimizer.param_groups:
            group["lr"] = 1e-3 * train_codec.schedule(step, 2, 12)
        waveform = train_codec.batch(clips(), plain, step)
        if step == 0:
            first = torch.cat([train_codec.batch(clips(), plain, step) for step in range(4)])
            latent = seanet.scale_to_data(plain.codec.encoder, first[:, None], 1.0)
            seanet.scale_to_data(plain.codec.decoder, latent, float(first.std()))
            plain.average.load_state_dict(plain.codec.state_dict())
        if step == 3:
            train_codec.initialise(plain, clips(), CPU)
        plain.optimizer.zero_grad()
        latent = plain.codec.latent(waveform)
        quantized = plain.codec.quantizer(latent)
        output = plain.codec.synthesise(quantized.latent if step >= 3 else latent)
        losses = train_codec.reconstruction_losses(output, waveform, plain)
        loss = 1.0 * losses["l1"] + 1.0 * losses["mel"] - 0.1 * losses["si_sdr"]
        (loss + 0.25 * quantized.commitment if step >= 3 else loss).backward()
        torch.nn.utils.clip_grad_norm_(plain.codec.parameters(), training.gradient_clip)
        plain.optimizer.step()
        if step >= 3:
            rules = {"decay": 0.9, "dead_share": 0.2, "generator": plain.generator(2)}
            plain.codec.quantizer.update(latent.detach(), **rules)
        train_codec.average(plain, 0.9)
    assert same(state(run), state(plain))
    assert {name.split(".")[0] for name in state(run)} == {"codec", "average", "optimizer"}


@pytest.mark.parametrize("balancer", [False, True])
def test_a_run_with_an_adversary_trains_both(balancer: bool) -> None:
    run = new(small.settings(ADVERSARY | {"balancer": balancer}))
    discriminator = run.modules["discriminator"]
    before = [p.clone() for p in discriminator.parameters()]
    assert same(run.codec.state_dict(), new().codec.state_dict())
    history = trained(run, ON)
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert all({"adversarial", "feature", "discriminator"} <= row.keys() for row in history)
    assert history[0]["discriminator"] == pytest.approx(2, abs=0.5)
    assert history[-1]["validation_log_mel"] < history[0]["validation_log_mel"]
    # Biases may stand still: while all logits are inside the hinge, real and generated pull at the last one alike.
    pairs = zip(discriminator.parameters(), before, strict=True)
    assert not any(torch.equal(p, q) for p, q in pairs if p.ndim > 1)
    optimizer = run.optimizers["discriminator_optimizer"]
    assert {int(state["step"]) for state in optimizer.state.values()} == {12}
    # The discriminator's rate is constant, the codec's falls.
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert run.optimizer.param_groups[0]["lr"] < 1e-4


@pytest.mark.parametrize(("training", "first"), [(EARLY, 3), (LATE, 9)])
def test_a_light_adversary_comes_in_at_its_share_of_the_steps(training: dict[str, Any], first: int) -> None:
    """Until then the run is one without it, to the bit; from then on each step moves the scale drawn for it alone."""
    runs = [new(small.settings(training | weights, "stft")) for weights in ({}, dict.fromkeys(WEIGHTS, 0.0))]
    for run in runs:
        trained(run, OFF, first)
    plain = state(runs[1])
    assert plain.keys() < state(runs[0]).keys()
    assert same({name: value for name, value in state(runs[0]).items() if name in plain}, plain)
    optimizer = runs[0].optimizers["discriminator_optimizer"]
    assert not optimizer.state
    history = trained(runs[0], OFF)
    assert all({"adversarial", "feature", "discriminator"} <= row.keys() for row in history[-2:])
    moved = [int(optimizer.state[scale.last.bias]["step"]) for scale in runs[0].modules["discriminator"].scales]
    assert sum(moved) == 12 - first
    assert not same({name: state(runs[0])[name] for name in plain}, plain)


def test_windows_of_the_mel_loss_are_drawn_anew_each_step() -> None:
    run, generator = new(small.settings({"mel_windows_a_step": 1})), torch.Generator().manual_seed(0)
    waveform = train_codec.batch(clips(), run, 0)
    output = waveform + 0.1 * torch.randn(waveform.shape, generator=generator)
    sizes = {"sample_rate": small.RATE, "bins": small.TRAINING["mel_bins"]}
    alone = [float(mel_loss(output, waveform, windows=[window], **sizes)) for window in (32, 64)]
    found = []
    for run.step in range(20):
        found.append(float(train_codec.reconstruction_losses(output, waveform, run)["mel"]))
    assert set(found) == set(alone)
    both = train_codec.reconstruction_losses(output, waveform, new())["mel"]
    assert float(both) == pytest.approx(sum(alone) / 2)


@given(count=st.integers(1, 6), data=st.data())
def test_what_is_drawn_is_some_of_the_numbers_in_their_order(count: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, count))
    drawn = train_codec.drawn(count, wanted, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    assert len(drawn) == wanted
    assert drawn == sorted(set(drawn) & set(range(count)))


@given(start=st.integers(0, 20), length=st.integers(0, 10), step=st.integers(0, 40))
def test_a_ramp_is_0_then_linear_then_1(start: int, length: int, step: int) -> None:
    expected = 0.0 if step < start else 1.0 if step >= start + length else (step - start + 1) / length
    assert train_codec.ramp(step, start, length) == pytest.approx(expected)


@pytest.mark.parametrize(("architecture", "sizes"), [("seanet", {"filters": 4}), ("stft", {})])
def test_weight_decay_pulls_at_matrices_alone(architecture: str, sizes: dict[str, int]) -> None:
    """With gradients of 0, a step is p - rate x decay x p for these, and nothing for gains, biases and magnitudes."""
    codec = new(params.Codec.model_validate(small.codec(architecture, sizes=sizes)).of(architecture)).codec
    before = {name: p.detach().clone() for name, p in codec.named_parameters()}
    for p in codec.parameters():
        p.grad = torch.zeros_like(p)
    train_codec.optimizer(codec, 0.1, (0.8, 0.98), 0.5).step()
    kept = {name for name, p in codec.named_parameters() if torch.equal(p, before[name])}
    assert kept == {name for name, p in before.items() if p.ndim == 1 or name.endswith("original0")}
    for name, p in codec.named_parameters():
        if name not in kept:
            torch.testing.assert_close(p, 0.95 * before[name])


def judged(training: dict[str, Any]) -> tuple[Run, Tensor, dict[str, Tensor]]:
    """A run, an output that is no network's, and its losses."""
    run = new(small.settings(training))
    waveform = train_codec.batch(clips(), run, 0)
    output = (0.1 * torch.randn(waveform.shape, generator=run.generator(6))).requires_grad_()
    losses = train_codec.reconstruction_losses(output, waveform, run)
    if run.settings.training.adversarial:
        losses |= train_codec.adversarial_losses(output, waveform, run)
    return run, output, losses


def test_the_codecs_losses_reach_the_output_and_not_the_discriminator() -> None:
    run, output, losses = judged(ADVERSARY)
    discriminator = run.modules["discriminator"]
    before = [p.grad.clone() for p in discriminator.parameters()]
    (losses["adversarial"] + losses["feature"]).backward()
    assert output.grad.norm() > 0
    assert all(torch.equal(p.grad, q) for p, q in zip(discriminator.parameters(), before, strict=True))
    # They are taken from the discriminator as its update left it.
    found = torch.stack([scale.logits.mean() for scale in discriminator(output, [0, 1])]).mean()
    torch.testing.assert_close(-found, losses["adversarial"])


def test_weighted_losses_are_summed_where_nothing_balances_them() -> None:
    run, output, losses = judged(ADVERSARY | {"si_sdr_weight": 0.0, "feature_weight": 3.0})
    expected = losses["l1"] + losses["mel"] + 4 * losses["adversarial"] + 3 * losses["feature"]
    torch.testing.assert_close(train_codec.combined(losses, output, run, 1.0), expected)
    expected -= 0.75 * (4 * losses["adversarial"] + 3 * losses["feature"])
    torch.testing.assert_close(train_codec.combined(losses, output, run, 0.25), expected)


def test_the_balancer_holds_the_losses_of_the_output_alone_and_raises_si_sdr() -> None:
    run, *_ = judged(BALANCED | {"l1_weight": 0.5})
    shares = {"l1": 0.5, "mel": 1.0, "si_sdr": 0.1, "adversarial": 4.0, "feature": 4.0}
    assert run.modules["balancer"].weights == shares
    run, output, losses = judged({"balancer": True, "l1_weight": 0.0, "mel_weight": 0.0})
    (upwards,) = torch.autograd.grad(losses["si_sdr"], output, retain_graph=True)
    train_codec.combined(losses, output, run, 1.0).backward()
    torch.testing.assert_close(output.grad.flatten() @ upwards.flatten(), -output.grad.norm() * upwards.norm())
    assert float(output.grad.norm(dim=1).mean()) == pytest.approx(1)


@pytest.mark.parametrize(("saved", "needed"), [({}, BALANCED), (BALANCED, {}), ({}, {"balancer": True})])
def test_a_state_with_other_parts_is_named(saved: dict[str, Any], needed: dict[str, Any]) -> None:
    new(small.settings(saved)).save(Path("trunk"), [], "trunk")
    with pytest.raises(ValueError, match=r"trunk holds \['average'.*\], this run needs \['average'.*\]: train it anew"):
        new(small.settings(needed)).load(Path("trunk"))


@pytest.mark.parametrize("quantizer", ["fsq", "cosine"])
def test_a_quantizers_parameters_are_trained_and_averaged_once_the_latent_is_quantized(quantizer: str) -> None:
    run = new(quantizer=quantizer)
    fresh = {name: value.clone() for name, value in run.codec.quantizer.state_dict().items()}
    trained(run, OFF, small.QUANTIZED_FROM)
    assert same(run.codec.quantizer.state_dict(), fresh)
    history = trained(run, ON)
    assert all(np.isfinite(list(row.values())).all() for row in history)
    moved, averaged = run.codec.quantizer.state_dict(), run.average.quantizer.state_dict()
    for name, value in fresh.items():
        assert not torch.equal(moved[name], value)
        assert not torch.equal(averaged[name], value)
        assert not torch.equal(averaged[name], moved[name])


@pytest.mark.parametrize("quantizer", ["fsq", "cosine"])
def test_a_trunk_and_its_branch_are_a_straight_run_whatever_the_quantizer(quantizer: str) -> None:
    straight, trunk, branch = (new(quantizer=quantizer) for _ in range(3))
    trained(straight, ON)
    trained(trunk, OFF, 6)
    trunk.save(Path("trunk"), [], "trunk")
    branch.load(Path("trunk"))
    trained(branch, ON)
    assert same(state(straight), state(branch))


@pytest.mark.parametrize("step", [1, 5, 9])
@pytest.mark.parametrize("quantizer", ["fsq", "cosine"])
def test_a_killed_run_continues_whatever_the_quantizer(
    quantizer: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, continued = new(quantizer=quantizer), new(quantizer=quantizer, seed=5)
    trained(straight, ON)
    with killed_at(step, monkeypatch):
        trained(new(quantizer=quantizer), ON)
    continued.seed = 0
    trained(continued, ON)
    assert same(state(straight), state(continued))


def dropping(share: float) -> params.CodecSettings:
    return params.Codec.model_validate(small.codec(quantizer_dropout=share)).of("seanet")


@pytest.mark.parametrize("quantizer", ["residual", "cosine"])
def test_quantizer_dropout_is_drawn_from_seed_and_step(quantizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a killed run continues bit by bit, and at 0 it is no part of a run."""
    runs = {share: new(dropping(share), quantizer=quantizer) for share in (0.0, 0.5)}
    for run in runs.values():
        trained(run, ON)
    assert not same(state(runs[0.0]), state(runs[0.5]))
    with killed_at(9, monkeypatch):
        trained(new(dropping(0.5), quantizer=quantizer), ON)
    continued = new(dropping(0.5), quantizer=quantizer, seed=5)
    continued.seed = 0
    trained(continued, ON)
    assert same(state(runs[0.5]), state(continued))


def test_a_share_of_the_segments_is_decoded_from_fewer_codebooks() -> None:
    run, kept = new(dropping(0.5)), []
    for run.step in range(400):
        kept += train_codec.kept_codebooks(run).tolist()
    assert set(kept) == {1, small.K}
    assert np.mean(np.array(kept) < small.K) == pytest.approx(0.5 / small.K, abs=0.05)
    run = new(dropping(1.0))
    for run.step in range(400):
        kept += train_codec.kept_codebooks(run).tolist()
    assert np.mean(np.array(kept[800:]) < small.K) == pytest.approx(1 / small.K, abs=0.05)
    for settings, quantizer in ((dropping(0.0), "residual"), (dropping(0.5), "grouped"), (dropping(0.5), "fsq")):
        assert train_codec.kept_codebooks(new(settings, quantizer=quantizer)) is None


def test_the_loss_sees_every_stream_where_segments_drop_codebooks() -> None:
    runs = [new(dropping(share)) for share in (0.0, 1.0)]
    found = [train_codec.independence_loss(run, train_codec.macro_batch(clips(), run), ON) for run in runs]
    assert torch.equal(*found)


@pytest.mark.parametrize("stream", ["embedding", "time"])
def test_nemos_streams_train_a_codec(stream: str) -> None:
    run = new(quantizer="fsq")
    # Of four segments, and so four rows of `time`, a permutation's unbiased estimate is often below 0, and clamped.
    loss = params.Independence(weight=1, delay=False, stream=stream, estimator="closed_form")
    history = trained(run, loss)
    assert any(row.get("mmd", 0) > 0 for row in history)
    assert all(np.isfinite(list(row.values())).all() for row in history)


@pytest.mark.parametrize("stream", ["quantized", "input", "residual", "innovation"])
@pytest.mark.parametrize("quantizer", ["residual", "grouped", "fsq", "cosine"])
@pytest.mark.parametrize("architecture", ["seanet", "stft"])
def test_the_loss_trains_the_encoder_and_leaves_codebooks_alone(architecture: str, quantizer: str, stream: str) -> None:
    run = new(small.settings(architecture=architecture), quantizer=quantizer)
    trained(run, OFF, 6)
    run.optimizer.zero_grad()
    before = {name: value.clone() for name, value in run.codec.state_dict().items()}
    waveform = train_codec.macro_batch(clips(), run)
    loss = train_codec.independence_loss(
        run, waveform, params.Independence(weight=1, delay=True, stream=stream, estimator="closed_form")
    )
    loss.backward()
    assert float(loss.detach()) > 0
    assert all(torch.equal(value, before[name]) for name, value in run.codec.state_dict().items())
    assert all(p.grad is None for p in run.codec.decoder.parameters())
    # Of the quantizer's parameters, those that lead from the latent to its numbers, and no codes.
    reached = {name for name, p in run.codec.quantizer.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in run.codec.quantizer.named_parameters() if name.startswith("project_in")}
    gradients = torch.stack([p.grad.norm() for p in run.codec.encoder.parameters()])
    assert gradients.isfinite().all()
    assert gradients.max() > 0


def test_codebooks_move_once_a_step_with_the_loss_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    update = ResidualVectorQuantizer.update

    def counted(quantizer: Any, latent: Tensor, **arguments: Any) -> None:
        calls.append(len(latent))
        update(quantizer, latent, **arguments)

    monkeypatch.setattr(ResidualVectorQuantizer, "update", counted)
    trained(new(), ON)
    assert calls == [small.TRAINING["batch_size"]] * (12 - small.QUANTIZED_FROM)


def test_the_loss_is_taken_every_so_many_steps_over_as_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    loss = train_codec.independence_loss

    def watched(run: Run, waveforms: list[Tensor], independence: params.Independence) -> Tensor:
        seen.append((run.step, len(waveforms)))
        return loss(run, waveforms, independence)

    monkeypatch.setattr(train_codec, "independence_loss", watched)
    history = trained(new(small.settings(every=3)), ON)
    assert seen == [(8, 3), (11, 3)]
    assert [row["step"] for row in history if "mmd" in row] == [9, 12]
    assert all(row["gradient_ratio"] > 0 for row in history if "mmd" in row)


def test_a_recomputed_macro_batch_has_the_same_gradient() -> None:
    gradients = []
    for checkpointed in (False, True):
        run = new(small.settings(checkpointed=checkpointed))
        trained(run, OFF, 6)
        run.optimizer.zero_grad()
        train_codec.independence_loss(run, train_codec.macro_batch(clips(), run), ON).backward()
        gradients.append([p.grad for p in run.codec.encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_released_code_is_an_estimator_of_its_own() -> None:
    run = new()
    trained(run, OFF, 6)
    batches = train_codec.macro_batch(clips(), run)
    ours, released = (
        float(train_codec.independence_loss(run, batches, ON.model_copy(update={"estimator": estimator})).detach())
        for estimator in ("permutation", "audiocraft")
    )
    assert released > 10 * ours


def test_the_loss_on_innovations_is_that_of_the_quantized_vectors_without_their_past() -> None:
    """By its own settings, over the clips of all batches, whatever the delay."""
    run = new(small.settings(innovation={"frames": 3, "ridge": [0.5], "through": False}))
    trained(run, OFF, 6)
    batches = train_codec.macro_batch(clips(), run)
    found = train_codec.independence_loss(run, batches, GIVEN)
    vectors = run.codec.quantizer(torch.cat([run.codec.latent(waveform) for waveform in batches])).vectors
    given = innovations(vectors, frames=3, ridges=[0.5], through=False)
    expected = mmd(given, delay=True, estimator="closed_form", bandwidths=small.INDEPENDENCE["bandwidths"]).loss
    torch.testing.assert_close(found.detach(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["quantized", "innovation"])
def test_the_loss_lowers_what_it_measures(stream: str) -> None:
    """Enough of it makes the codebooks of the same music less dependent than they are without."""
    settings = small.settings(
        {"steps": 60, "segment_seconds": 0.64, "quantize_from": 0.05, "warmup": 1 / 30}, start=1 / 6, ramp=1 / 12
    )
    found = {}
    for weight in (0, 100):
        run = new(settings)
        trained(run, params.Independence(weight=weight, delay=False, stream=stream, estimator="closed_form"), 60)
        waveform = torch.from_numpy(to_float(small.music()[:4]))
        vectors = run.codec.quantizer(run.codec.latent(waveform)).vectors
        if stream == "innovation":
            vectors = innovations(vectors, frames=2, ridges=[0.01, 0.1, 1, 10], through=False)
        found[weight] = float(mmd(vectors, delay=False, estimator="closed_form", bandwidths=[0.1, 1, 5]).estimate)
    assert found[100] < found[0]


def test_schedule() -> None:
    shares = [train_codec.schedule(step, 10, 1000) for step in range(1001)]
    np.testing.assert_allclose(shares[:9], np.arange(1, 10) / 10)
    assert shares[500] == pytest.approx(0.5)
    assert shares[1000] == pytest.approx(0)
    assert np.diff(shares[10:]).max() < 0
    assert train_codec.schedule(0, 0, 10) == 1


def test_ramp() -> None:
    assert [train_codec.ramp(step, 5, 4) for step in range(3, 11)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [train_codec.ramp(step, 2, 0) for step in range(4)] == [0, 0, 1, 1]


@given(st.integers(0, 100), st.integers(0, 50), st.integers(0, 50))
def test_a_ramp_lies_between_0_and_1_and_is_0_before_its_start(step: int, start: int, length: int) -> None:
    share = train_codec.ramp(step, start, length)
    assert 0 <= share <= 1
    assert (share > 0) == (step >= start)
    assert share <= train_codec.ramp(step + 1, start, length)


def test_a_macro_batch_is_the_last_batches() -> None:
    run = new()
    run.step = 7
    batches = [train_codec.batch(clips(), run, step) for step in (6, 7)]
    for found, expected in zip(train_codec.macro_batch(clips(), run), batches, strict=True):
        assert torch.equal(found, expected)
    assert batches[0].shape == (2, 512)
    assert not torch.equal(*batches)


def test_segments_are_parts_of_training_clips() -> None:
    audio = np.arange(3 * 1024, dtype=np.int16).reshape(3, 1024)
    rows, run = Rows(audio, np.array([2, 0])), new()
    for step in range(20):
        for segment in train_codec.batch(rows, run, step):
            first = round(float(segment[0]) * 32_768)
            assert first // 1024 in (0, 2)
            assert first % 1024 <= 512
            np.testing.assert_array_equal(segment.numpy() * 32_768, np.arange(first, first + 512))


def test_rows_see_their_split_alone() -> None:
    array = np.arange(12).reshape(4, 3)
    rows = Rows(array, np.array([3, 1]))
    assert (len(rows), rows.shape) == (2, (2, 3))
    assert rows[0, slice(1, 3)].tolist() == [10, 11]


def test_the_average_of_the_weights_follows_its_equation() -> None:
    run = new()
    before = [p.clone() for p in run.average.parameters()]
    with torch.no_grad():
        for p in run.codec.parameters():
            p.add_(1)
    run.codec.quantizer.hits.fill_(7)
    train_codec.average(run, 0.9)
    for old, found in zip(before, run.average.parameters(), strict=True):
        torch.testing.assert_close(found, old + 0.1)
    assert run.average.quantizer.hits.unique().tolist() == [7]


def test_the_first_step_scales_the_network_to_the_data() -> None:
    run = new()
    history = trained(run, OFF, 1)
    assert history[0]["latent_spread"] == pytest.approx(1, abs=0.5)
    assert "perplexity_0" not in history[0]


def test_a_run_that_quantizes_from_its_first_step_starts_its_codebooks_on_the_scaled_latent() -> None:
    run = new(small.settings({"quantize_from": 0}, start=0))
    history = trained(run, OFF, 1)
    # Two codebooks of 8 leave less than half of a variance of 1.
    assert history[0]["commitment"] < 0.75


def test_what_is_measured_of_held_out_clips() -> None:
    history = trained(new(), OFF)
    assert [row["step"] for row in history] == list(range(1, 13))
    for row in history[3:]:
        assert all(1 <= row[f"perplexity_{k}"] <= small.C + 1e-3 for k in range(small.K))
        assert np.isfinite(list(row.values())).all()
    assert history[-1]["validation_log_mel"] < history[0]["validation_log_mel"]


@pytest.mark.parametrize(("weight", "training"), [(0.0, {}), (1e38, {}), (0.0, BALANCED)])
def test_a_run_that_diverges_says_what_to_lower(weight: float, training: dict[str, Any]) -> None:
    settings = small.settings({"learning_rate": 1e-3 if weight else 1e38, "steps": 40} | training, start=0.25)
    independence = params.Independence(weight=weight, delay=False, stream="quantized", estimator="closed_form")
    with pytest.raises((job.JobError, ValueError), match=r"diverged"):
        trained(new(settings), independence, 40)


def command(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str, **sections: Any) -> None:
    """Runs a stage's `main` as its command line does."""
    known = {"codec": small.CODEC, "corpus": small.CORPUS, "generation": small.GENERATION}
    monkeypatch.setattr(sys, "argv", [module.__name__, *words, "--params", json.dumps(known | sections)])
    module.main()


Command = Callable[..., None]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A made-up corpus, and the command that trains a codec on it."""
    small.write_corpus(tmp_path / "corpus")

    def train(part: str, *words: str, **sections: Any) -> None:
        common = ("--seed", "0", "--corpus", "corpus", "--architecture", "seanet", "--quantizer", "residual", "--out")
        command(train_codec, monkeypatch, part, *common, *(words or ("trunk",)), **sections)

    return train


BRANCH = ("--trunk", "trunk", "--name", "mmd")


@pytest.mark.parametrize(
    ("architecture", "quantizer", "changes"),
    [
        ("seanet", "residual", {}),
        ("seanet", "grouped", {"sizes": {"causal": True, "pad_mode": "constant"}}),
        ("stft", "residual", {"training": EARLY}),
        ("stft", "grouped", {"training": LATE}),
        ("stft", "fsq", {"training": EARLY}),
        ("stft", "cosine", {"training": EARLY}),
        ("seanet", "cosine", {"quantizer_dropout": 0.5}),
    ],
)
def test_from_a_corpus_to_tokens_and_reconstructions(
    architecture: str, quantizer: str, changes: dict[str, Any], study: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = {"loss": {"weight": 1.0, "delay": True, "stream": "quantized", "estimator": "closed_form"}}
    settings = {"codec": small.codec(architecture, **changes)}
    kind = ("--architecture", architecture, "--quantizer", quantizer)
    study("trunk", "trunk", *kind, **settings)
    study("branch", "mmd", *BRANCH, *kind, **loss, **settings)
    study("branch", "again", *BRANCH, *kind, **loss, **settings)
    assert Path("mmd/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()
    assert Path("mmd/history.csv").read_bytes() == Path("again/history.csv").read_bytes()
    assert not list(Path("checkpoints").rglob("*.safetensors"))
    assert pd.read_csv("trunk/history.csv")["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert pd.read_csv("mmd/history.csv")["step"].tolist() == [7, 8, 9, 10, 11, 12]
    origin = read_json("mmd/model.json")["provenance"]
    assert origin["seed"] == 0
    assert (origin["params"]["quantizer"], origin["params"]["independence"]) == (quantizer, loss["loss"])
    assert read_json("trunk/state.json")["params"]["part"] == "trunk"

    snapshots, weights = load_file("mmd/snapshots.safetensors"), load_file("mmd/model.safetensors")
    assert snapshots.keys() == {f"{step}.{name}" for step in (9, 12) for name in weights}
    assert same({name: snapshots[f"12.{name}"] for name in weights}, weights)
    assert not same({name: snapshots[f"9.{name}"] for name in weights}, weights)

    codec = codecs.load(Path("mmd"))
    audio = np.load("corpus/audio.npy")
    for split, rows in {"train": [0, 2, 3], "validation": [5], "test": [6, 7, 8, 9]}.items():
        places = ("--codec", "mmd", "--corpus", "corpus", "--out", f"tokens/{split}.npy")
        command(tokens, monkeypatch, *places, "--split", split, **settings)
        codes = np.load(f"tokens/{split}.npy")
        assert codes.dtype == np.uint16
        assert codes.shape == (len(rows), small.K, small.CLIP // small.HOP)
        expected = codec.encode(torch.from_numpy(to_float(audio[rows])))
        assert np.array_equal(codes, expected.numpy())

    command(reconstruction, monkeypatch, "--codec", "mmd", "--corpus", "corpus", "--out", "metrics.json", **settings)
    metrics = read_json("metrics.json")
    assert (metrics["clips"], metrics["tracks"], metrics["frame_rate"]) == (4, 2, 100)
    assert all(1 <= value <= small.C for value in metrics["perplexity"])
    each = np.load("metrics.npz")
    assert each["clip_id"].tolist() == ["clip6", "clip7", "clip8", "clip9"]
    assert float(each["si_sdr"].mean()) == pytest.approx(metrics["si_sdr"])
    assert float(each["log_mel"].mean()) == pytest.approx(metrics["log_mel"])
    assert np.isfinite(each["mos"]).all()  # of so few clips, every one
    assert 1 <= metrics["mos"] <= 5
    vectors = codec.quantizer(codec.latent(torch.from_numpy(to_float(audio[6:])))).vectors
    for name, delay in (("equal_time", False), ("delayed", True)):
        expected = above_floor(vectors, delay=delay, bandwidths=small.INDEPENDENCE["bandwidths"])
        assert metrics["mmd"][name] == pytest.approx(expected, rel=1e-4)

    places = ("--codec", "mmd", "--tokens", "tokens", "--manifest", "corpus/manifest.parquet", "--out", "wave")
    command(decode, monkeypatch, *places, **settings)
    waves = np.load("wave/audio.npy")
    assert waves.dtype == np.int16
    assert waves.shape == (3, small.CLIP)


def test_a_killed_branch_starts_again_from_its_own_checkpoint(study: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"loss": {"weight": 0.0, "delay": False, "stream": "quantized", "estimator": "closed_form"}}
    study("trunk")
    study("branch", "straight", *BRANCH, **settings)
    with killed_at(9, monkeypatch):
        study("branch", "mmd", *BRANCH, **settings)
    assert list(Path("checkpoints/codec/mmd").glob("*/state.safetensors"))
    assert not Path("mmd").exists()
    study("branch", "mmd", *BRANCH, **settings)
    for name in ("model.safetensors", "snapshots.safetensors", "history.csv"):
        assert Path("mmd", name).read_bytes() == Path("straight", name).read_bytes()


def test_a_study_with_the_adversary_and_the_balancer(study: Command) -> None:
    codec = small.codec(training=BALANCED)
    loss = {"weight": 1.0, "delay": False, "stream": "quantized", "estimator": "closed_form"}
    study("trunk", codec=codec)
    study("branch", "mmd", *BRANCH, codec=codec, loss=loss)
    history = pd.read_csv("mmd/history.csv")
    assert history["step"].tolist() == [7, 8, 9, 10, 11, 12]
    assert np.isfinite(history[["adversarial", "feature", "discriminator", "validation_log_mel"]].to_numpy()).all()
    # What is saved to be used is the codec alone.
    assert load_file("mmd/model.safetensors").keys() == new().codec.state_dict().keys()


def test_segments_shorter_than_a_window_of_the_discriminator_are_named(study: Command) -> None:
    discriminator = small.TRAINING["discriminator"] | {"windows": [1024], "windows_a_step": 1}
    codec = small.codec(training=BALANCED | {"discriminator": discriminator})
    with pytest.raises(ValueError, match=r"waveforms of 512 samples are shorter than .* \(1024 samples\)"):
        study("trunk", codec=codec)


def test_a_branch_reads_its_loss_from_the_study_by_name(study: Command) -> None:
    study("trunk")
    loss = {"weight": 2.0, "delay": True, "stream": "input", "estimator": "closed_form"}
    named = {"mmd": {"architecture": "seanet", "quantizer": "residual", "seeds": [0], "loss": loss}}
    whole = {"codecs": named, "language_models": {}, "shuffled": [], "depth": [], "kept": []}
    study("branch", "mmd", *BRANCH, study=whole)
    assert read_json("mmd/model.json")["provenance"]["params"]["independence"] == loss
    with pytest.raises(params.ParamsError, match=r"--name other: study.codecs has \['mmd'\]"):
        study("branch", "other", "--trunk", "trunk", "--name", "other", study=whole)


def test_an_empty_trunk_can_be_branched(study: Command) -> None:
    """The paper takes the loss from the first step on, so its trunk is the start alone."""
    codec = small.codec(training={"quantize_from": 0}, independence={"start": 0})
    study("trunk", codec=codec)
    loss = {"weight": 1.0, "delay": False, "stream": "quantized", "estimator": "permutation"}
    study("branch", "mmd", *BRANCH, codec=codec, loss=loss)
    assert pd.read_csv("mmd/history.csv")["step"].tolist() == list(range(1, 13))


def test_a_branch_without_its_trunk_is_named(study: Command) -> None:
    with pytest.raises(ValueError, match="a branch needs --trunk"):
        study("branch", "mmd")
    with pytest.raises(OSError, match="No such file"):
        study("branch", "mmd", *BRANCH, loss=OFF.model_dump())


def test_a_trunk_of_another_start_is_named(study: Command) -> None:
    study("trunk")
    codec = small.codec(independence={"start": 7 / 12})
    with pytest.raises(ValueError, match=r"trunk stands at step 6 and the loss starts at step 7"):
        study("branch", "mmd", *BRANCH, codec=codec, loss=OFF.model_dump())


def test_segments_longer_than_clips_are_named(study: Command) -> None:
    codec = small.codec(training={"segment_seconds": 0.7})
    with pytest.raises(ValueError, match=r"segment_seconds \(0.7 s\) is longer than the corpus' clips \(0.64 s\)"):
        study("trunk", codec=codec)


def test_a_corpus_without_a_split_is_named(study: Command) -> None:
    manifest = pd.read_parquet("corpus/manifest.parquet")
    manifest[manifest["split"] != "validation"].to_parquet("corpus/manifest.parquet")
    with pytest.raises(ValueError, match="the manifest has no clips of the validation split"):
        study("trunk")


def test_other_rates_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    codecs.save(new().average, Path("codec"))
    small.write_corpus(Path("corpus"))
    places = ("--codec", "codec", "--corpus", "corpus", "--out", "out")
    corpus = small.CORPUS | {"sample_rate": 800}
    with pytest.raises(ValueError, match="codec was trained at 1600 Hz and the corpus is at 800 Hz"):
        command(tokens, monkeypatch, *places, "--split", "test", corpus=corpus)
    with pytest.raises(ValueError, match="codec was trained at 1600 Hz and the corpus is at 800 Hz"):
        command(reconstruction, monkeypatch, *places, corpus=corpus)


def test_more_codes_than_uint16_holds_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    many = params.Codec.model_validate(small.codec(codebook_size=2**16 + 1, dimension=1, codebooks=1)).of("seanet")
    codecs.save(codecs.Codec(codecs.configuration(many, small.RATE, "residual")), Path("codec"))
    with pytest.raises(ValueError, match="codes beyond 65536 do not fit"):
        command(tokens, monkeypatch, "--codec", "codec", "--corpus", "corpus", "--split", "test", "--out", "out")


def test_silent_clips_do_not_stop_training(study: Command) -> None:
    audio = small.music()
    audio[[3, 5]] = 0  # of training, and the only one of validation
    write_array("corpus/audio.npy", audio)
    study("trunk")
    history = pd.read_csv("trunk/history.csv")
    assert np.isfinite(history[["mel", "validation_log_mel", "validation_si_sdr"]].to_numpy()).all()
