"""The discriminator against EnCodec's own code, its losses in closed form and learning to tell two noises apart."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.codec.discriminator import (
    Judgement,
    StftDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)

WINDOWS = [256, 64, 32]


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def small(slope: float = 0.2) -> StftDiscriminator:
    torch.manual_seed(0)
    return StftDiscriminator(windows=WINDOWS, filters=4, slope=slope)


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


def test_it_learns_to_tell_white_noise_from_its_moving_average() -> None:
    torch.manual_seed(0)
    discriminator = StftDiscriminator(windows=[32], filters=4, slope=0.2)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2, betas=(0.5, 0.9))
    losses = []
    for step in range(40):
        real, generated = noise(2, 400, seed=2 * step), noise(2, 401, seed=2 * step + 1).unfold(1, 2, 1).mean(-1)
        loss = discriminator_loss(discriminator(real, range(3)), discriminator(generated, range(3)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(2, abs=0.3)
    assert sum(losses[-5:]) / 5 < 0.8
