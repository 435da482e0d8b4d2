"""The workflow as a whole: what runs again when something changes, and that Snakemake and DVC agree about it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ENVIRONMENT, Output, Study, merged

from pipeline import figures, params, provenance, tables

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())

REPORTED = "results/tables/|figures/"
MODELS = f"results/(lm|generation)/(delay|flatten)/|results/evaluation/.*/generation/|{REPORTED}"

settled_study = pytest.mark.xdist_group("settled")
smoke_study = pytest.mark.xdist_group("smoke")


def test_the_schema_is_the_models(tmp_path: Path) -> None:
    params.write_schema(tmp_path / "schema.json")
    assert json.loads(params.SCHEMA.read_text()) == json.loads((tmp_path / "schema.json").read_text()), (
        "run `make format`"
    )


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_fit_and_say_only_what_differs(preset: Path) -> None:
    changes = yaml.safe_load(preset.read_text())
    params.checked(params.Params, merged(DEFAULTS, changes), preset.name)


@settled_study
def test_a_mistyped_parameter_ends_in_one_sentence(settled: Study) -> None:
    faults = ["--config", "lm={stepz: 3}", "codec={training: {steps: fast}}", "lmm={}"]
    said = settled.run("snakemake", "--dry-run", *faults, fails=True)
    assert re.search(r"^parameters: codec.training.steps: .+; lm.stepz: .+; lmm: .+$", said, re.MULTILINE), said
    assert "Traceback" not in said
    assert "Building DAG" not in said


def test_a_rule_carries_the_digest_of_the_module_that_it_runs() -> None:
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for rule in re.split(r"^rule ", rules, flags=re.MULTILINE)[1:]:
        assert re.findall(r"python -m (pipeline\.\w+)", rule) == re.findall(r'=code\("(pipeline\.\w+)"\)', rule), rule


@settled_study
def test_what_the_report_makes_is_declared(outputs: list[Output]) -> None:
    made = {output.path for output in outputs}
    expected = {f"results/tables/{name}.{suffix}" for name in tables.TABLES for suffix in tables.FORMATS}
    expected |= {f"figures/{name}.{suffix}" for name in figures.FIGURES for suffix in figures.FORMATS}
    assert expected < made


@settled_study
def test_every_output_lies_in_one_dvc_out(outputs: list[Output]) -> None:
    for output in outputs:
        holding = [out for stage in STAGES.values() for out in _outs(stage) if Path(output.path).is_relative_to(out)]
        assert len(holding) == 1, f"{output.path} lies in {holding}"


@settled_study
@pytest.mark.parametrize("name", STAGES)
def test_a_dvc_stage_declares_what_its_rules_read(outputs: list[Output], name: str) -> None:
    stage = STAGES[name]
    own = [output for output in outputs if _stage(output.path) == name]
    assert stage["cmd"] == f"snakemake --cores all {name}"
    assert set(stage["deps"]) == _read(name, own)
    used = _used(own)
    assert {key for key in used if not _covers(stage["params"], key)} == set(), "used, not declared"
    assert {key for key in stage["params"] if not any(_covers([key], u) for u in used)} == set(), "declared, not used"


@settled_study
@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({"lm": {"steps": 7}}, MODELS),
        ({"evaluation": {"bootstrap": 7}}, f"results/evaluation/|{REPORTED}"),
        ({"report": {"confidence": 0.5}}, f"results/dependence/|results/evaluation/scores/|{REPORTED}"),
        ({"study": {"codecs": {"mmd": {"weight": 7.0}}}}, f".*/mmd-seed|{REPORTED}"),
    ],
    ids=["lm.steps", "evaluation.bootstrap", "report.confidence", "study.codecs.mmd.weight"],
)
def test_a_changed_parameter_reruns_what_depends_on_it(
    settled: Study, tmp_path: Path, changes: dict[str, Any], rerun: str
) -> None:
    study = settled.copy(tmp_path / "study")
    study.configure(changes)
    _assert_pending(study, rerun)


@settled_study
@pytest.mark.parametrize(
    ("module", "rerun"),
    [
        ("sampling", f"results/generation/(delay|flatten)/|results/evaluation/.*/generation/|{REPORTED}"),
        ("patterns", MODELS),
        ("figures", "figures/"),
    ],
)
def test_changed_code_reruns_what_it_computes(settled: Study, tmp_path: Path, module: str, rerun: str) -> None:
    study = settled.copy(tmp_path / "study")
    study.append(f"pipeline/{module}.py", "ADDED = 1\n")
    _assert_pending(study, rerun)


@settled_study
def test_what_decides_no_result_reruns_nothing(settled: Study, tmp_path: Path) -> None:
    """Comments, devices, sources of downloads, and new dates on old contents, as after `dvc checkout`."""
    study = settled.copy(tmp_path / "study")
    study.append("pipeline/audio.py", "# Said better.\n")
    study.configure({"runtime": {"device": "auto", "archive": "elsewhere", "downloads": "elsewhere"}})
    for path in (study.folder / "results").rglob("*.*"):
        os.utime(path)
    assert study.pending() == set()


@pytest.mark.slow
@smoke_study
def test_the_smoke_study_makes_everything_once(smoke: Study) -> None:
    for output in smoke.outputs():
        assert (smoke.folder / output.path).stat().st_size > 0
    assert smoke.pending() == set()
    assert set(json.loads((smoke.folder / "results/tables/metrics.json").read_text())["lm"]) == {"delay", "flatten"}


@pytest.mark.slow
@smoke_study
def test_snakemake_writes_its_report(smoke: Study, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    smoke.run("snakemake", "--report", str(report))
    text = report.read_text()
    assert all(name.replace("_", " ") in text for name in figures.FIGURES)


@pytest.mark.slow
@smoke_study
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
    assert "metrics.json" in study.run("dvc", "metrics", "show")

    study.run("git", "add", "--all")
    study.run("git", "commit", "--quiet", "-m", "Results")
    study.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    study.run("dvc", "push", "--quiet")
    study.run("git", "clone", "--quiet", str(study.folder), str(tmp_path / "clone"))
    clone = Study(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    clone.run("dvc", "pull", "--quiet")
    clone.snakemake("--touch", "--forceall")
    assert clone.pending() == set()
    assert "up to date" in clone.run("dvc", "status")


@pytest.mark.slow
@smoke_study
@pytest.mark.parametrize("job", ["lm/delay/baseline-seed0", "codec/mmd-seed0"])
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
    os.kill(_job(study, Path(job).name, running), signal.SIGKILL)
    running.communicate()
    assert running.returncode != 0
    assert not model.exists()
    study.snakemake(name)
    assert model.read_bytes() == finished


def _outs(stage: dict[str, Any]) -> list[str]:
    return [next(iter(out)) for out in stage["outs"]]


def _stage(path: str) -> str:
    return next(name for name, stage in STAGES.items() if any(Path(path).is_relative_to(out) for out in _outs(stage)))


def _read(name: str, outputs: list[Output]) -> set[str]:
    """Rules, source files, and outs of other stages that lie behind a stage's outputs."""
    sources = {str(path.relative_to(ROOT)) for output in outputs for path in provenance.sources(output.module)}
    others = {_stage(path) for output in outputs for path in output.inputs} - {name}
    data = {"pipeline/soundtracks.csv"} if name == "corpus" else set()
    return {
        "rules/common.smk",
        f"rules/{name}.smk",
        *sources,
        *data,
        *(out for o in others for out in _outs(STAGES[o])),
    }


def _used(outputs: list[Output]) -> set[str]:
    """Dotted names of the parameters that decide which outputs there are and what is in them."""
    used = {key for output in outputs for key in _leaves(output.settings)}
    for output in outputs:
        if re.search("/(delay|flatten)/", output.path):
            used.add("study.language_models")
        elif "-seed" in output.path:
            used |= {"study.codecs", "study.seeds"}
    return used


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if prefix + key == "independence":
            yield "study.codecs"
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _covers(declared: list[str], key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in declared)


def _assert_pending(study: Study, pattern: str) -> None:
    outputs = study.outputs()
    assert {o.path for o in outputs if o.pending} == {o.path for o in outputs if re.match(pattern, o.path)}


def _results(study: Study) -> list[Path]:
    return sorted(path.relative_to(study.folder) for path in (study.folder / "results").rglob("*") if path.is_file())


def _contents(study: Study, paths: list[Path]) -> list[str]:
    return [provenance.file_digest(study.folder / path) for path in paths]


def _job(study: Study, name: str, started: subprocess.Popen[str]) -> int:
    """Process of a job, as soon as it reports that it is under way."""
    while started.poll() is None:
        for path in (study.folder / "progress").glob(f"[!.]*{name}*.json"):
            with suppress(FileNotFoundError):
                return json.loads(path.read_text())["pid"]
        time.sleep(0.02)
    raise AssertionError(f"{name} was never seen at work: {started.communicate()[0][-4000:]}")
