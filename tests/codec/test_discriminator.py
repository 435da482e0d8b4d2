"""The discriminators against EnCodec's own code and a slow reference, their losses in closed form, and learning."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codec.discriminator import (
    Judgement,
    MelDiscriminator,
    StftDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    halves,
)
from pipeline.codec.spectral import mel

WINDOWS = [256, 64, 32]
Discriminator = StftDiscriminator | MelDiscriminator


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def small(slope: float = 0.2) -> StftDiscriminator:
    torch.manual_seed(0)
    return StftDiscriminator(windows=WINDOWS, filters=4, slope=slope)


def light(windows: list[int] = WINDOWS, bins: int = 12) -> MelDiscriminator:
    torch.manual_seed(0)
    return MelDiscriminator(windows=windows, filters=4, slope=0.2, bins=bins, sample_rate=1600)


def says(*logits: float, features: float = 0.0) -> list[Judgement]:
    """A judgement a value, of one layer of features."""
    return [Judgement(torch.full((2, 1, 3, 4), value), [torch.full((2, 5, 3, 4), features)]) for value in logits]


@pytest.mark.parametrize("slope", [0.2, 0.3])
@pytest.mark.parametrize("length", [256, 700])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_logits_and_features_are_those_of_encodecs_own_code(slope: float, length: int) -> None:
    from encodec.msstftd import MultiScaleSTFTDiscriminator

    theirs = MultiScaleSTFTDiscriminator(
        filters=4,
        n_ffts=WINDOWS,
        win_lengths=WINDOWS,
        hop_lengths=[window // 4 for window in WINDOWS],
        activation_params={"negative_slope": slope},
    )
    ours = small(slope)
    convolutions = [[m for m in network.modules() if isinstance(m, nn.Conv2d)] for network in (ours, theirs)]
    for mine, other in zip(*convolutions, strict=True):
        assert mine.weight.shape == other.weight.shape
        # Their weight norm is the deprecated one: a magnitude `g` and a direction `v`.
        state = {name.replace("parametrizations.weight.original", ""): v for name, v in mine.state_dict().items()}
        other.load_state_dict({{"0": "weight_g", "1": "weight_v"}.get(name, name): v for name, v in state.items()})
    x = noise(2, length)
    logits, features = theirs(x[:, None])
    for judgement, expected, layers in zip(ours(x, range(3)), logits, features, strict=True):
        torch.testing.assert_close(judgement.logits, expected, rtol=1e-5, atol=1e-5)
        for feature, layer in zip(judgement.features, layers, strict=True):
            torch.testing.assert_close(feature, layer, rtol=1e-5, atol=1e-5)


def test_frames_and_frequencies_of_every_layer() -> None:
    """A frame each quarter of a window; each of three dilated layers halves the frequencies."""
    discriminator = StftDiscriminator(windows=[2048, 1024, 512, 256, 128], filters=2, slope=0.2)
    for window, judgement in zip([2048, 1024, 512, 256, 128], discriminator(noise(1, 4096), range(5)), strict=True):
        frames = (4096 - window) // (window // 4) + 1
        widths = [window // 2 + 1, *(math.ceil((window // 2 + 1) / 2**i) for i in (1, 2, 3, 3))]
        assert [tuple(f.shape) for f in judgement.features] == [(1, 2, frames, width) for width in widths]
        assert judgement.logits.shape == (1, 1, frames, widths[-1])


def test_the_stft_of_white_noise_has_its_power_at_any_window() -> None:
    """Normalised by the window's energy, real and imaginary part share the noise's variance."""
    for scale in small().scales:
        seen: list[Tensor] = []
        scale.layers[0].register_forward_pre_hook(lambda _layer, inputs, seen=seen: seen.append(inputs[0]))
        scale(3 * noise(4, 4000))
        assert seen[0].shape[1] == 2
        assert float(seen[0].square().sum(1).mean()) == pytest.approx(9, rel=0.1)


def test_waveforms_shorter_than_a_window_are_named() -> None:
    with pytest.raises(ValueError, match=r"waveforms of 255 samples are shorter than .* \(256 samples\)"):
        small()(noise(1, 255), [0])


def test_hinge_losses_are_their_equations() -> None:
    real, generated = says(0.25, 3.0), says(-0.5, 0.5)
    # Scale 1: (1 - 0.25) + (1 - 0.5); scale 2: 0 + (1 + 0.5).
    assert float(discriminator_loss(real, generated)) == pytest.approx((0.75 + 0.5 + 0 + 1.5) / 2)
    assert float(adversarial_loss(generated)) == pytest.approx(0)
    assert float(adversarial_loss(says(2.0, 3.0))) == pytest.approx(-2.5)


def test_a_discriminator_that_is_sure_and_right_has_nothing_to_learn() -> None:
    assert float(discriminator_loss(says(1.0, 5.0), says(-1.0, -2.0))) == 0


@pytest.mark.parametrize(("relative", "expected"), [(True, 0.75), (False, 1.5)])
def test_feature_matching_is_relative_to_the_real_features_where_asked(relative: bool, expected: float) -> None:
    real, generated = says(0.0, 0.0, features=-2.0), says(0.0, 0.0, features=-0.5)
    assert float(feature_loss(real, generated, relative=relative)) == pytest.approx(expected)


def test_feature_matching_weighs_layers_alike_whatever_their_sizes() -> None:
    real = [Judgement(torch.zeros(1), [torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 400)])]
    generated = [Judgement(torch.zeros(1), [torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 400)])]
    assert float(feature_loss(real, generated, relative=True)) == pytest.approx(0.5)


def test_equal_waveforms_match_in_every_feature() -> None:
    judged = small()(noise(2, 400), range(3))
    assert float(feature_loss(judged, judged, relative=True).detach()) == 0


@pytest.mark.parametrize("kind", [small, light])
def test_scales_are_judged_alone_and_by_their_numbers(kind: Callable[[], Discriminator]) -> None:
    discriminator, waveform = kind(), noise(2, 400)
    every = discriminator(waveform, range(3))
    for number in range(3):
        (alone,) = discriminator(waveform, [number])
        assert torch.equal(alone.logits, every[number].logits)
        assert all(torch.equal(a, b) for a, b in zip(alone.features, every[number].features, strict=True))
    assert discriminator(waveform, []) == []


@pytest.mark.parametrize("kind", [small, light])
def test_a_batch_of_both_is_taken_apart_into_its_halves(kind: Callable[[], Discriminator]) -> None:
    """The features of the first half are what the codec is held to, so they keep no gradient."""
    discriminator = kind()
    waveforms = noise(2, 400), noise(2, 400, seed=1)
    sides = halves(discriminator(torch.cat(waveforms), [0, 2]))
    for side, waveform in zip(sides, waveforms, strict=True):
        for found, alone in zip(side, discriminator(waveform, [0, 2]), strict=True):
            torch.testing.assert_close(found.logits, alone.logits)
            assert found.logits.requires_grad
            for feature, expected in zip(found.features, alone.features, strict=True):
                torch.testing.assert_close(feature, expected)
    assert not any(feature.requires_grad for judgement in sides[0] for feature in judgement.features)
    assert all(feature.requires_grad for judgement in sides[1] for feature in judgement.features)


@torch.no_grad()
def test_the_light_one_is_convolutions_of_log_mels() -> None:
    """Each layer from its weight g v / ||v||, kernels over frames and mels, strides over both where they are 2."""
    discriminator, waveform = light(), noise(2, 1600)
    layers = [((1, 2), (1, 3)), ((2, 2), (1, 2)), ((1, 2), (1, 2)), ((1, 1), (1, 1)), ((1, 1), (1, 1))]
    for number, judgement in enumerate(discriminator(waveform, range(3))):
        scale = discriminator.scales[number]
        mels = mel(waveform, sample_rate=1600, window=WINDOWS[number], bins=12)
        x = ((mels + 1e-3).log() + 4).transpose(1, 2)[:, None] / 2
        for i, (convolution, (stride, padding)) in enumerate(zip([*scale.layers, scale.last], layers, strict=True)):
            weight = convolution.parametrizations.weight
            norm = weight.original1.square().sum((1, 2, 3), keepdim=True).sqrt()
            x = F.conv2d(x, weight.original0 * weight.original1 / norm, convolution.bias, stride, padding)
            if i < 4:
                x = torch.where(x > 0, x, 0.2 * x)
                torch.testing.assert_close(judgement.features[i], x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(judgement.logits, x, rtol=1e-4, atol=1e-5)


def test_mels_enter_between_about_minus_1_5_and_3() -> None:
    """Silence and a sine of full scale, at every window."""
    seen: list[Tensor] = []
    discriminator = light(windows=[256, 512])
    for scale in discriminator.scales:
        scale.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loud = torch.sin(2 * math.pi * 200 * torch.arange(1600) / 1600)
    discriminator(torch.stack([torch.zeros(1600), loud]), [0, 1])
    for x in seen:
        torch.testing.assert_close(x[0], torch.full_like(x[0], (math.log(1e-3) + 4) / 2))
        assert 2 < float(x[1].max()) < 3.5


@pytest.mark.parametrize("kind", [small, light])
def test_silence_has_finite_gradients(kind: Callable[[], Discriminator]) -> None:
    silence = torch.zeros(2, 400).requires_grad_()
    adversarial_loss(kind()(silence, range(3))).backward()
    assert silence.grad.isfinite().all()


@pytest.mark.parametrize(
    "discriminator",
    [
        lambda: StftDiscriminator(windows=[32], filters=4, slope=0.2),
        lambda: MelDiscriminator(windows=[32], filters=4, slope=0.2, bins=8, sample_rate=1600),
    ],
    ids=["stft", "mel"],
)
def test_it_learns_to_tell_white_noise_from_its_moving_average(discriminator: Callable[[], Discriminator]) -> None:
    torch.manual_seed(0)
    judge = discriminator()
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2, betas=(0.5, 0.9))
    losses = []
    for step in range(40):
        real, generated = noise(2, 400, seed=2 * step), noise(2, 401, seed=2 * step + 1).unfold(1, 2, 1).mean(-1)
        loss = discriminator_loss(judge(real, [0]), judge(generated, [0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(2, abs=0.3)
    assert sum(losses[-5:]) / 5 < 0.8
