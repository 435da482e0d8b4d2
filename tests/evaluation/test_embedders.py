"""Every embedder by its name: those of packages as they are, the others on checkpoints of random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from pipeline import fetch, params
from pipeline.evaluation import embedders
from pipeline.job import JobError
from pipeline.pretrained import musicnn

DOWNLOADS = ".cache/downloads"
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_parameters_name_every_embedder() -> None:
    assert get_args(params.Embedder) == embedders.NAMES
    assert set(embedders.FMA_POP) < set(embedders.NAMES)


@pytest.mark.parametrize("which", ["mtt", "msd"])
def test_musicnn_embeds_and_tags(which: str) -> None:
    embedder = embedders.load(f"musicnn-{which}", DOWNLOADS, "", CPU)
    waveforms = 0.1 * torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    answer = musicnn.load(which, fetch.musicnn_folder(DOWNLOADS)).embed(waveforms)
    embeddings = embedder.embed(waveforms)
    torch.testing.assert_close(embeddings, answer.penultimate)
    torch.testing.assert_close(embedder.tags(embeddings), answer.logits)


def test_identities_tell_networks_and_devices_apart() -> None:
    mtt, msd = (embedders.load(f"musicnn-{which}", DOWNLOADS, "", CPU).identity for which in ("mtt", "msd"))
    assert len({mtt, msd, embedders._identity("musicnn-mtt", fetch.MUSICNN, torch.device("cuda"))}) == 3
    assert mtt == embedders.load("musicnn-mtt", DOWNLOADS, "", CPU).identity


def test_fma_pop_is_fadtks() -> None:
    with np.load(fetch.fadtk_folder(DOWNLOADS) / "stats" / "fma_pop.npz") as arrays:
        for name, theirs in embedders.FMA_POP.items():
            found, covariance = embedders.fma_pop(name, DOWNLOADS), arrays[f"{theirs}.cov"]
            np.testing.assert_array_equal(found.mean, arrays[f"{theirs}.mu"])
            np.testing.assert_allclose(found.factor.T @ found.factor, covariance, atol=1e-6 * covariance.max())


@pytest.mark.parametrize("name", embedders.OUTSIDE)
def test_a_missing_checkpoint_is_named_with_its_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    first = embedders.OUTSIDE[name].checkpoints[0]
    with pytest.raises(JobError) as error:
        embedders.load(name, DOWNLOADS, tmp_path, CPU)
    said = str(error.value)
    assert all(part in said for part in (name, first.path, first.source, str(tmp_path), "runtime.offline"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("checkpoints")
    environment = os.environ | {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "fake_hub.py"), str(folder), *embedders.OUTSIDE]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vggish", [2, 3, 128]),
        ("encodec", [2, 225, 128]),
        ("pann", [2, 1, 2048]),
        ("clap-laion-music", [2, 1, 512]),
        ("passt", [2, 1, 768]),
    ],
)
def test_packages_embed_through_local_checkpoints(
    asked: dict[str, dict[str, Any]], name: str, shape: list[int]
) -> None:
    found = asked[name]
    assert found["shape"] == shape
    assert found["finite"]
    assert found["alone"] < 1e-4
    assert found["apart"] > 1e-4


@pytest.mark.slow
def test_clap_embeds_texts_as_unit_vectors(asked: dict[str, dict[str, Any]]) -> None:
    found = asked["clap-laion-music"]
    assert found["text"] == [2, 512]
    assert found["norm"] == pytest.approx(1, abs=1e-4)
    assert found["text norm"] == pytest.approx(1, abs=1e-4)
    assert found["text alone"] < 1e-4
    assert found["text apart"] > 1e-4


@pytest.mark.slow
def test_passt_tags_as_its_package_does_and_hears_long_clips_in_pieces(asked: dict[str, dict[str, Any]]) -> None:
    found = asked["passt"]
    assert found["tags"] == [2, 1, 527]
    assert found["tags apart"] < 1e-4
    assert found["pieces"] == [1, 2]


def test_what_is_no_checkpoint_of_passt_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / embedders.OUTSIDE["passt"].checkpoints[0].path)
    with pytest.raises(JobError, match="is no checkpoint of passt_s_swa_p16_128_ap476"):
        embedders.load("passt", DOWNLOADS, tmp_path, CPU)


@pytest.mark.slow
def test_the_distance_is_the_packages_on_its_embeddings(asked: dict[str, dict[str, Any]]) -> None:
    found = asked["encodec"]
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-4)
