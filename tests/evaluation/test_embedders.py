"""Every embedder by its name: those of packages as they are, the others with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from pipeline import fetch
from pipeline.evaluation import embedders
from pipeline.job import JobError
from pipeline.pretrained import musicnn

DOWNLOADS = ".cache/downloads"
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.mark.parametrize("which", ["mtt", "msd"])
def test_musicnn_embeds_and_tags(which: Literal["mtt", "msd"]) -> None:
    embedder = embedders.load(f"musicnn-{which}", DOWNLOADS, "", CPU)
    waveforms = 0.1 * torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    answer = musicnn.load(which, fetch.musicnn_folder(DOWNLOADS)).embed(waveforms)
    embeddings = embedder.embed(waveforms)
    torch.testing.assert_close(embeddings, answer.penultimate)
    assert embedder.tags is not None
    torch.testing.assert_close(embedder.tags(embeddings), answer.logits)


def test_identities_tell_networks_and_devices_apart() -> None:
    mtt, msd = (embedders.load(f"musicnn-{which}", DOWNLOADS, "", CPU).identity for which in ("mtt", "msd"))
    assert len({mtt, msd, embedders.identity("musicnn-mtt", fetch.MUSICNN, torch.device("cuda"))}) == 3
    assert mtt == embedders.load("musicnn-mtt", DOWNLOADS, "", CPU).identity


@pytest.mark.parametrize("name", embedders.WEIGHTS)
def test_missing_weights_are_named_with_their_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    first = embedders.WEIGHTS[name][0]
    with pytest.raises(JobError) as error:
        embedders.load(name, DOWNLOADS, tmp_path, CPU)
    said = str(error.value)
    assert all(part in said for part in (name, first.path, first.source, str(tmp_path), "runtime.offline"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("weights")
    environment = os.environ | {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "fake_hub.py"), str(folder), *embedders.WEIGHTS]
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
def test_packages_embed_with_local_weights(asked: dict[str, dict[str, Any]], name: str, shape: list[int]) -> None:
    found = asked[name]
    assert found["shape"] == shape
    assert found["finite"]
    assert found["apart"] > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", embedders.WEIGHTS)
def test_packages_embed_a_clip_alike_each_time(asked: dict[str, dict[str, Any]], name: str) -> None:
    """To the bit, whatever numbers were drawn in between; in another batch, to rounding where clips go together."""
    assert asked[name]["again"] == 0
    assert asked[name]["alone"] <= (1e-4 if name in ("encodec", "passt") else 0)


@pytest.mark.slow
def test_clap_hears_all_of_a_long_clip(asked: dict[str, dict[str, Any]]) -> None:
    """Of 11.5 s the first and the last 10 s, each as laion-clap embeds it alone."""
    found = asked["clap-laion-music"]
    assert found["windows"] == [2, 2, 512]
    assert found["windows apart"] == 0


def test_windows_cover_a_clip_and_are_no_more_than_that_takes() -> None:
    def starts(samples: int) -> list[int]:
        return embedders.windows(torch.arange(samples)[None], 10)[0, :, 0].tolist()

    assert [starts(10), starts(11), starts(20), starts(25)] == [[0], [0, 1], [0, 10], [0, 8, 15]]
    for samples in range(10, 60):
        pieces = embedders.windows(torch.arange(samples)[None], 10)
        assert pieces.shape == (1, -(-samples // 10), 10)
        assert pieces.unique().tolist() == list(range(samples))
    assert embedders.windows(torch.ones(2, 4), 10).shape == (2, 1, 4)


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


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / embedders.WEIGHTS["passt"][0].path)
    with pytest.raises(JobError, match="does not hold the weights of passt_s_swa_p16_128_ap476"):
        embedders.load("passt", DOWNLOADS, tmp_path, CPU)


@pytest.mark.slow
def test_the_distance_is_the_packages_on_its_embeddings(asked: dict[str, dict[str, Any]]) -> None:
    found = asked["encodec"]
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-4)
