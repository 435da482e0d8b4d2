"""musicnn against TensorFlow's own answers, and against its layers in the order in which its authors wrote them."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import fetch
from pipeline.pretrained import musicnn, tensorflow_bundle

DOWNLOADS = ".cache/downloads"
REFERENCE = Path(__file__).parents[1] / "fixtures" / "musicnn_reference.npz"


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetch.musicnn_folder(DOWNLOADS)


@pytest.fixture(scope="module")
def mtt(folder: Path) -> musicnn.Musicnn:
    return musicnn.load("mtt", folder)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def test_the_front_end_is_librosas(reference: dict[str, Tensor]) -> None:
    patches = musicnn.log_mel_patches(reference["waveform"][None])
    torch.testing.assert_close(patches[0], reference["log_mel"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("which", ["mtt", "msd"])
def test_answers_are_tensorflows(which: Literal["mtt", "msd"], folder: Path, reference: dict[str, Tensor]) -> None:
    answer = musicnn.load(which, folder).embed(reference["waveform"][None])
    for name, atol in (("logits", 1e-4), ("penultimate", 1e-4), ("max_pool", 1e-3)):
        expected = reference[f"{which.upper()}_musicnn/{name}"]
        torch.testing.assert_close(getattr(answer, name)[0], expected, atol=atol, rtol=0)


def test_rearranged_layers_are_the_authors(folder: Path, mtt: musicnn.Musicnn) -> None:
    """Convolution, ReLU, batch norm, maximum over frequency, one after the other, on noise."""
    arrays = tensorflow_bundle.read(f"{folder / 'MTT_musicnn'}/")
    variables = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}

    def norm(x: Tensor, index: int) -> Tensor:
        name = f"batch_normalization_{index}"
        beta, gamma, mean, variance = (
            variables[f"{name}/{part}"] for part in ("beta", "gamma", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)

    x = torch.randn(2, 187, 96, generator=torch.Generator().manual_seed(0))
    for index, layer in enumerate([*mtt.timbral, *mtt.temporal]):
        name = f"conv2d_{index}" if index else "conv2d"
        kernel = variables[f"{name}/kernel"].permute(3, 2, 0, 1)
        padding = (kernel.shape[2] - 1) // 2
        padded = F.pad(x[:, None], (0, 0, padding, kernel.shape[2] - 1 - padding))
        expected = norm(F.conv2d(padded, kernel, variables[f"{name}/bias"]).relu(), index + 1).amax(3)
        torch.testing.assert_close(layer(x).transpose(1, 2), expected, atol=1e-3, rtol=1e-4)


def test_patches_do_not_depend_on_their_company(mtt: musicnn.Musicnn) -> None:
    waveforms = torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0)) / 10
    together, alone = mtt.embed(waveforms), mtt.embed(waveforms[1:2])
    assert together.logits.shape == (3, 2, 50)
    assert together.penultimate.shape == (3, 2, 200)
    torch.testing.assert_close(together.logits[1:2], alone.logits)


def test_tags_are_fifty_and_distinct() -> None:
    assert all(len(set(tags)) == 50 for tags in musicnn.TAGS.values())


def test_silence_has_an_answer(mtt: musicnn.Musicnn) -> None:
    assert mtt.embed(torch.zeros(1, 48_000)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("waveforms", "complaint"),
    [
        (torch.zeros(48_000), r"\[B, T\]"),
        (torch.zeros(1, 40_000), "40000 samples, one patch"),
        (torch.full((1, 48_000), torch.nan), "NaN"),
    ],
)
def test_bad_waveforms_are_named(mtt: musicnn.Musicnn, waveforms: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mtt.embed(waveforms)


def test_bad_patches_are_named(mtt: musicnn.Musicnn) -> None:
    with pytest.raises(ValueError, match="187, 96"):
        mtt(torch.zeros(1, 96, 187))
