"""Jobs: arguments, threads, one-sentence errors, and progress that others can read."""

import ast
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from pipeline import job

ROOT = Path(__file__).parents[1]
OPTION = r"--[a-z][a-z-]*"
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "pipeline").rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRACEBACK", raising=False)


def test_every_job_takes_parameters_device_and_threads() -> None:
    arguments = job.parser("A job.").parse_args([])
    assert (arguments.params, arguments.device, arguments.threads) == ("params.yaml", "cpu", 1)
    assert job.parser("A job.").parse_args(["--device", "auto"]).device == "auto"


def test_preparing_sets_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert job.prepare(job.parser("A job.").parse_args(["--threads", "2"])) == torch.device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_the_gpu_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert job.prepare(job.parser("A job.").parse_args(["--device", "auto"])).type == ("cuda" if there else "cpu")
    assert job.prepare(job.parser("A job.").parse_args(["--device", "cpu"])).type == "cpu"


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(job.JobError, match="--device cuda: torch finds no GPU here"):
        job.prepare(job.parser("A job.").parse_args(["--device", "cuda"]))


@pytest.mark.parametrize("error", [job.JobError("lower it"), ValueError("lower it"), OSError("lower it")])
def test_what_the_user_can_mend_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit, match=r"^error: lower it \(set TRACEBACK=1"):
        job.run(main)
    monkeypatch.setenv("TRACEBACK", "1")
    with pytest.raises(type(error), match=r"^lower it$"):
        job.run(main)


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def main() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        job.run(main)


def test_progress_is_logged_and_gone_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with job.Progress("codec/mmd", 10) as progress:
        progress.update(1, mel=0.123456)
        state = json.loads(Path("progress/codec.mmd.json").read_text())
        assert state["pid"] == os.getpid()
        assert state["line"].startswith("step 1/10  mel 0.1235  ")
        assert state["line"].endswith("s left")
    assert not Path("progress/codec.mmd.json").exists()
    assert "codec/mmd: step 1/10  mel 0.1235" in capsys.readouterr().out


def test_progress_is_not_logged_at_every_step_but_at_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    with job.Progress("codec", 5, "clip", every=3600) as progress:
        for step in range(1, 6):
            progress.update(step)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split()[1] for line in lines] == ["1/5", "5/5"]


def test_speed_counts_the_steps_of_this_run_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(job.time, "monotonic", lambda: next(clock))
    job.Progress("codec", 200, done=100).update(150)
    assert "5.00/s, 10 s left" in capsys.readouterr().out


def test_slow_steps_show_their_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(job.time, "monotonic", lambda: next(clock))
    job.Progress("codec", 4).update(2)
    assert "5.00 s each, 10 s left" in capsys.readouterr().out


def test_progress_never_stops_a_job() -> None:
    Path("progress").write_text("a file where the folder should be")
    progress = job.Progress("codec", 2)
    progress.update(1, loss=1.0)
    Path("progress").unlink()
    with job.Progress("codec", 2) as progress:
        progress.update(1, loss=float("nan"))


def test_a_failed_job_leaves_no_progress_behind() -> None:
    def fail() -> None:
        with job.Progress("codec", 2) as progress:
            progress.update(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(Path("progress").iterdir())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_knows_the_options_of_its_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ")
    example = ast.get_docstring(ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())) or ""
    assert set(re.findall(r"python -m (pipeline[\w.]*\w)", example)) <= {name}
    assert set(re.findall(OPTION, example)) <= set(re.findall(OPTION, shown))


def test_every_main_is_a_command() -> None:
    mains = [path for path in (ROOT / "pipeline").rglob("*.py") if "\ndef main(" in path.read_text()]
    assert {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in mains} == set(COMMANDS)
