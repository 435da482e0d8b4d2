"""What all tests share: threads, the order of the tests, and whole studies."""

import os

import pytest
import yaml
from hypothesis import settings
from studies import ROOT, Output, Study

# Before torch is imported: threads of tests that run side by side would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Examples are slow where other jobs have the cores, and none the worse for it.
settings.register_profile("default", deadline=None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts the whole runs first, so that none of them is left alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The default study as if it had run: every output a line of text, and up to date. Not to be changed."""
    study = Study.new(tmp_path_factory.mktemp("settled") / "study")
    study.settle()
    return study


@pytest.fixture(scope="session")
def outputs(settled: Study) -> list[Output]:
    """Every output of the default study, up to date."""
    return settled.outputs()


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The smoke preset, really run, with DVC and git beside it. Not to be changed."""
    study = Study.new(tmp_path_factory.mktemp("smoke") / "study")
    study.configure(yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text()))
    study.configure({"runtime": {"downloads": str(ROOT / ".cache" / "downloads")}})
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "A study"]):
        study.run("git", *command)
    study.snakemake()
    return study
