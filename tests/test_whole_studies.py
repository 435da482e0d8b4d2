"""A whole study, small and real: it runs, is up to date for Snakemake and DVC alike, and survives a killed job."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from studies import ENVIRONMENT, ROOT, Study

from pipeline import provenance
from pipeline.report import figures

pytestmark = pytest.mark.slow

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SECRETS = {"access_key_id": "somebody", "secret_access_key": "something"}


def test_the_smoke_study_makes_everything_once(smoke: Study) -> None:
    for output in smoke.outputs():
        assert (smoke.folder / output.path).stat().st_size > 0
    assert smoke.pending() == set()
    patterns = {path.stem.split("-")[0] for path in (smoke.folder / "results/tables/metrics/lm").iterdir()}
    assert patterns == {"delay", "flatten", "parallel"}
    assert "gallery/" in (smoke.folder / "results/index.html").read_text()


def test_snakemake_writes_its_report(smoke: Study, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    smoke.run("snakemake", "--report", str(report))
    text = report.read_text()
    assert all(name.replace("_", " ") in text for name in figures.FIGURES)


def test_dvc_and_snakemake_leave_each_other_nothing_to_do(smoke: Study, tmp_path: Path) -> None:
    study = smoke.copy(tmp_path / "study")
    before = _results(study)
    said = study.run("dvc", "repro")
    assert said.count("Nothing to be done") == len(STAGES), said
    assert _contents(study, before) == _contents(smoke, before)
    assert "up to date" in study.run("dvc", "status")

    study.configure({"evaluation": {"bootstrap": 21}})
    ran = re.findall(r"Running stage '(\w+)'", study.run("dvc", "repro"))
    assert ran == ["evaluation", "report"]
    assert study.pending() == set()
    shown = study.run("dvc", "metrics", "show", "--md")
    columns = [cell.strip() for cell in next(line for line in shown.splitlines() if "fad_mtt" in line).split("|")]
    rows = [line for line in shown.splitlines() if "tables/metrics/codec/" in line]
    assert {"fad_mtt", "log_mel", "si_sdr_db"} <= set(columns)
    assert len(rows) > 1

    with _bucket() as endpoint:
        study.run("dvc", "remote", "add", "--default", "store", "s3://studies/independence")
        study.run("dvc", "remote", "modify", "store", "endpointurl", endpoint)
        _unlock(study)
        study.run("dvc", "push", "--quiet")
        study.run("git", "add", "--all")
        study.run("git", "commit", "--quiet", "-m", "Results")
        study.run("git", "clone", "--quiet", str(study.folder), str(tmp_path / "clone"))
        clone = Study(tmp_path / "clone")
        _unlock(clone)
        clone.run("dvc", "pull", "--quiet")
    clone.snakemake("--touch", "--forceall")
    assert clone.pending() == set()
    assert "up to date" in clone.run("dvc", "status")


@pytest.mark.parametrize("job", ["lm/delay/baseline-seed0-lm0", "codec/mmd-seed0"])
def test_a_killed_job_is_made_up_for_by_the_next_run(smoke: Study, tmp_path: Path, job: str) -> None:
    study = smoke.copy(tmp_path / "study")
    name = f"results/{job}/model.safetensors"
    model = study.folder / name
    finished = model.read_bytes()
    model.unlink()
    running = subprocess.Popen(
        ["snakemake", "--cores", "2", name],
        cwd=study.folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.kill(_job(study, job, running), signal.SIGKILL)
    running.communicate()
    assert running.returncode != 0
    assert not model.exists()
    study.snakemake(name)
    assert model.read_bytes() == finished


@contextmanager
def _bucket() -> Iterator[str]:
    """Address of an S3 server on this machine, with one bucket."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        keys = {f"aws_{name}": secret for name, secret in SECRETS.items()}
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket="studies")
        yield endpoint
    finally:
        server.stop()


def _unlock(study: Study) -> None:
    """Gives DVC the keys of the bucket, outside git."""
    for name, secret in SECRETS.items():
        study.run("dvc", "remote", "modify", "--local", "store", name, secret)


def _results(study: Study) -> list[Path]:
    return sorted(path.relative_to(study.folder) for path in (study.folder / "results").rglob("*") if path.is_file())


def _contents(study: Study, paths: list[Path]) -> list[str]:
    return [provenance.file_digest(study.folder / path) for path in paths]


def _job(study: Study, name: str, started: subprocess.Popen[str]) -> int:
    """Process of a job, as soon as it reports that it is under way."""
    while started.poll() is None:
        with suppress(FileNotFoundError):
            return json.loads((study.folder / "progress" / f"{name.replace('/', '.')}.json").read_text())["pid"]
        time.sleep(0.02)
    raise AssertionError(f"{name} was never seen at work: {started.communicate()[0][-4000:]}")
