"""A study's state from logs as Snakemake writes them."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from pipeline import job, watch

BEGIN = time.mktime((2026, 11, 26, 20, 0, 0, 0, 0, -1))
HEAD = """Provided cores: 2
Job stats:
job              count
-------------  -------
clips                1
codec_branch         4
all                  1
total                6

"""


def stamp(second: int) -> str:
    return f"[{time.strftime(watch.DATE, time.localtime(BEGIN + second))}]\n"


def started(number: int, rule: str, second: int) -> str:
    return f"{stamp(second)}localrule {rule}:\n    input: a.npy\n    jobid: {number}\n"


def finished(number: int, rule: str, second: int) -> str:
    return f"{stamp(second)}Finished jobid: {number} (Rule: {rule})\n"


def write(folder: Path, text: str, name: str = "b") -> Path:
    path = folder / watch.LOGS / f"{name}.snakemake.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


RUNNING = (
    HEAD
    + started(1, "clips", 0)
    + finished(1, "clips", 60)
    + started(2, "codec_branch", 60)
    + started(3, "codec_branch", 60)
    + finished(2, "codec_branch", 260)
    + started(4, "codec_branch", 260)
)


def test_jobs_are_counted_and_timed_by_rule(tmp_path: Path) -> None:
    log = watch.read(write(tmp_path, RUNNING))
    assert (log.cores, dict(log.jobs)) == (2, {"clips": 1, "codec_branch": 4})
    assert log.seconds == {"clips": [60], "codec_branch": [200]}
    assert log.running == {3: ("codec_branch", BEGIN + 60), 4: ("codec_branch", BEGIN + 260)}


def test_time_left_is_that_of_the_jobs_to_come_shared_among_the_cores(tmp_path: Path) -> None:
    log = watch.read(write(tmp_path, RUNNING))
    # Three jobs of 200 s are not done; 150 s of one and 0 s of the other running one have passed.
    left, unknown = watch.time_left(log, log.seconds, BEGIN + 260)
    assert (left, unknown) == ((3 * 200 - 200) / 2, 0)
    assert watch.time_left(log, {}, BEGIN + 260) == (0, 3)


def test_a_rule_that_has_run_before_is_known(tmp_path: Path) -> None:
    write(tmp_path, HEAD + started(9, "codec_branch", -900) + finished(9, "codec_branch", -800), "a")
    write(tmp_path, HEAD + started(1, "clips", 0) + finished(1, "clips", 60))
    text = watch.report(tmp_path, BEGIN + 60)
    assert text.startswith("1 of 5 jobs done, 0:01 so far, about 0:03 left")
    assert "not run here yet" not in text


def test_a_running_study_shows_rules_and_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, RUNNING)
    monkeypatch.chdir(tmp_path)
    with job.Progress("codec/mmd", 2) as progress:
        progress.update(1)
        state = json.loads(Path("progress/codec.mmd.json").read_text())
        Path("progress/dead.json").write_text(json.dumps(state | {"job": "dead", "pid": 2**22 + 1}))
        Path("progress/half.json").write_text("{")
        lines = watch.report(tmp_path, BEGIN + 300).splitlines()
    assert lines[0] == "2 of 5 jobs done, 0:05 so far, about 0:03 left"
    assert lines[1].split() == ["codec_branch", "1", "of", "4", "done,", "2", "running,", "200", "s", "each"]
    assert lines[2].startswith("codec/mmd ")
    assert "step 1/2" in lines[2]
    assert len(lines) == 3


def test_a_finished_study_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = finished(3, "codec_branch", 270) + finished(4, "codec_branch", 460) + started(5, "codec_branch", 300)
    rest += finished(5, "codec_branch", 4000) + started(0, "all", 4000) + finished(0, "all", 4000)
    write(tmp_path, RUNNING + rest)
    monkeypatch.setattr(sys, "argv", ["watch", "--study", str(tmp_path)])  # which ends by itself
    watch.main()
    assert f"5 of 5 jobs done in 1:06: see {tmp_path}/results/index.html" in capsys.readouterr().out


def test_a_failed_or_stopped_study_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, RUNNING + f"{stamp(300)}Error in rule codec_branch:\n    jobid: 3\n")
    os.utime(path, (BEGIN + 300, BEGIN + 300))
    assert "; failed: codec_branch, see logs/, " in watch.report(tmp_path, BEGIN + 301)
    assert "may have been stopped" not in watch.report(tmp_path, BEGIN + 301)
    assert "may have been stopped" in watch.report(tmp_path, BEGIN + 1000)


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    assert (
        watch.report(tmp_path, BEGIN)
        == f"no study has run in {tmp_path}: start one there, the default one by `make study`"
    )
