"""CDPAM against its layers as its authors wrote them, and against scores that fadtk published."""

import csv
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import audio, fetch
from pipeline.evaluation import embedders, score
from pipeline.evaluation.frechet import Gaussian, frechet_distance
from pipeline.pretrained import cdpam

DOWNLOADS = ".cache/downloads"


@pytest.fixture(scope="module")
def variables() -> dict[str, Tensor]:
    """A network of the same layers, four times as narrow, with random weights."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}
    incoming = 1
    for layer in range(cdpam.LAYERS):
        outgoing = 16 * 2 ** ((layer + 1) // 4)
        name = f"base_encoder.encoder.{layer}"
        spread = (incoming * 15) ** -0.5
        made[f"{name}.weight"] = spread * torch.randn(outgoing, incoming, 15, generator=generator)
        made[f"{name}.bias"] = torch.randn(outgoing, generator=generator)
        for part in ("weight", "bias", "running_mean", "running_var"):
            made[f"base_encoder.ebatch.{layer}.{part}"] = torch.rand(outgoing, generator=generator) + 0.5
        incoming = outgoing
    return made


def test_folded_layers_are_the_authors(variables: dict[str, Tensor]) -> None:
    waveforms = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))
    x = (waveforms * 32_768).round()[:, None]
    for layer in range(cdpam.LAYERS):
        encoder, norm = f"base_encoder.encoder.{layer}", f"base_encoder.ebatch.{layer}"
        x = F.conv1d(x, variables[f"{encoder}.weight"], variables[f"{encoder}.bias"], padding=7)
        mean, variance, gamma, beta = (
            variables[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.leaky_relu(F.batch_norm(x, mean, variance, gamma, beta), 0.1)
        if (layer + 1) % 4 == 0:
            x = x[:, :, ::2]
    acoustic, _ = (x.sum(2) / x.shape[2]).chunk(2, 1)
    torch.testing.assert_close(cdpam.Cdpam(variables)(waveforms), F.normalize(acoustic, dim=1), atol=1e-5, rtol=1e-4)


@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 200),
    kernel=st.sampled_from([1, 3, 15]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
def test_fast_convolution_is_convolution(batch: int, frames: int, kernel: int, stride: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, frames, generator=generator)
    weight, bias = torch.randn(5, 3, kernel, generator=generator), torch.randn(5, generator=generator)
    found = cdpam.Convolution(weight, bias, stride)(x.transpose(1, 2)).transpose(1, 2)
    wanted = F.conv1d(x, weight, bias, stride=stride, padding=kernel // 2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_each_second_has_an_embedding_and_so_has_the_rest(variables: dict[str, Tensor]) -> None:
    network = cdpam.Cdpam(variables)
    waveforms = 0.1 * torch.randn(2, cdpam.SAMPLE_RATE + 4000, generator=torch.Generator().manual_seed(1))
    found = network.embed(waveforms)
    assert found.shape == (2, 2, 128)
    torch.testing.assert_close(found[:, 1], network(waveforms[:, cdpam.SAMPLE_RATE :]))
    assert network.embed(waveforms[:, : cdpam.SAMPLE_RATE + 10]).shape == (2, 1, 128)


@pytest.mark.parametrize(
    ("waveforms", "complaint"),
    [
        (torch.zeros(9000), r"\[B, T\]"),
        (torch.zeros(1, 100), "at least 256"),
        (torch.full((1, 9000), torch.nan), "NaN"),
    ],
)
def test_bad_waveforms_are_named(variables: dict[str, Tensor], waveforms: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        cdpam.Cdpam(variables).embed(waveforms)


def test_a_checkpoint_gives_tensors_alone(tmp_path: Path, variables: dict[str, Tensor]) -> None:
    path = tmp_path / "whole.pth"
    torch.save({"state": variables, "epochs": 3}, path, _use_new_zipfile_serialization=False)
    waveform = torch.zeros(1, 3000)
    torch.testing.assert_close(cdpam.load(path)(waveform), cdpam.Cdpam(variables)(waveform))
    torch.save({"state": variables, "more": io.BytesIO(b"")}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError, match=r"asks for .*BytesIO"):
        cdpam.load(path)


@pytest.mark.slow
def test_fadtks_published_scores_come_out() -> None:
    """23 generated clips of three systems against FMA-Pop, one by one and together, within 0.5 %."""
    folder = fetch.fadtk_folder(DOWNLOADS) / "test"
    with (folder / "samples_FAD_scores.csv").open() as file:
        published = {row["song_id"]: float(row["FAD_cdpam_acoustic_fma_pop"]) for row in csv.DictReader(file)}
    embedder = embedders.load("cdpam", DOWNLOADS, "", torch.device("cpu"))
    reference = score.fma_pop("cdpam-acoustic", DOWNLOADS)
    found, every = {}, []
    for path in sorted((folder / "samples").glob("*.opus")):
        waveform, rate = audio.read(path)
        x = embedder.embed(torch.from_numpy(embedder.resample(waveform, rate, embedder.sample_rate))[None])[0]
        every.append(x.numpy())
        found[f"samples/{path.stem}"] = frechet_distance(Gaussian.fitted(every[-1]), reference)
    found["samples/all"] = frechet_distance(Gaussian.fitted(np.concatenate(every)), reference)
    assert len(found) == 24
    assert found == pytest.approx(published, rel=0.005)
