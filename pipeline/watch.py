"""A whole study as it runs: jobs done and to come, the time that is left, and how far each running job is.

    python -m pipeline.watch                        # here, live
    python -m pipeline.watch --study runs/smoke --once
    python -m pipeline.watch > study.log &          # where no one is watching, a report a minute

It reads the log that Snakemake keeps, so it may be started and stopped at any time. Time left is that of the jobs to
come, each as long as jobs of its rule have taken here so far, shared among the cores.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.job import PROGRESS

LOGS = ".snakemake/log"
DATE = "%a %b %d %H:%M:%S %Y"
LIVE, LOGGED = 2.0, 60.0  # seconds between reports to a terminal, and to a file
NONE = "no study has run in"
SILENT = 120.0  # seconds without a sign of life, after which a study counts as stopped


class Log(NamedTuple):
    """What a log of Snakemake's says."""

    cores: int
    jobs: Counter[str]  # of each rule
    started: dict[int, tuple[str, float]]  # job -> rule, seconds since the epoch
    finished: dict[int, float]
    failed: list[str]  # rules

    @property
    def running(self) -> dict[int, tuple[str, float]]:
        """Jobs that have begun and not ended."""
        return {job: begun for job, begun in self.started.items() if job not in self.finished}

    @property
    def seconds(self) -> dict[str, list[float]]:
        """How long the finished jobs of each rule took."""
        taken: dict[str, list[float]] = {}
        for job, end in self.finished.items():
            rule, begin = self.started[job]
            taken.setdefault(rule, []).append(end - begin)
        return taken


def read(path: Path) -> Log:
    """Reads a log of Snakemake's, also one that is being written."""
    log = Log(1, Counter(), {}, {}, [])
    now, rule, counting = 0.0, "", False
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("[") and line.endswith("]"):
            with suppress(ValueError):
                now = time.mktime(time.strptime(line[1:-1], DATE))
        elif match := re.match(r"Provided cores: (\d+)", line):
            log = log._replace(cores=int(match[1]))
        elif line.startswith("Job stats:"):
            counting = True
        elif counting and (match := re.match(r"(\w+) +(\d+)$", line)):
            counting = match[1] != "total"
            if counting and match[1] != "all":
                log.jobs[match[1]] = int(match[2])
        elif match := re.match(r"(?:local)?(?:rule|checkpoint) (\w+):", line):
            rule = match[1]
        elif rule and (match := re.match(r" +jobid: (\d+)", line)):
            if rule in log.jobs:  # not `all`, which does nothing
                log.started[int(match[1])] = (rule, now)
            rule = ""
        elif (match := re.match(r"Finished job(?:id:)? (\d+)", line)) and int(match[1]) in log.started:
            log.finished[int(match[1])] = now
        elif match := re.match(r"Error in rule (\w+):", line):
            log.failed.append(match[1])
    return log


def time_left(log: Log, known: dict[str, list[float]], now: float) -> tuple[float, int]:
    """Seconds until the jobs to come are done, and the number of those of which it is not known."""
    typical = {rule: statistics.median(taken) for rule, taken in known.items()}
    done = Counter(log.started[job][0] for job in log.finished)
    work, unknown = 0.0, 0
    for rule, number in (log.jobs - done).items():
        if rule in typical:
            work += number * typical[rule]
        else:
            unknown += number
    for rule, begin in log.running.values():
        work -= min(now - begin, typical.get(rule, 0.0))
    return max(work, 0.0) / log.cores, unknown


def running_jobs(study: Path) -> list[str]:
    """What the running jobs of a study say of themselves, a line each."""
    lines = []
    for path in sorted((study / PROGRESS).glob("*.json")):
        with suppress(OSError, ValueError):
            state = json.loads(path.read_text())
            if Path(f"/proc/{state['pid']}").exists() or not Path("/proc").exists():
                lines.append(f"{state['job']:32} {state['line']}   ({time.time() - state['time']:.0f} s ago)")
    return lines


def report(study: Path, now: float) -> str:
    """The state of the study in a folder, in a few lines."""
    paths = sorted((study / LOGS).glob("*.snakemake.log"))
    jobs = running_jobs(study)
    if not paths:
        return "\n".join([f"{NONE} {study.resolve()}: start one there, the default one by `make study`", *jobs])
    logs = [read(path) for path in paths]
    log = logs[-1]
    known: dict[str, list[float]] = {}
    for each in logs:
        for rule, taken in each.seconds.items():
            known.setdefault(rule, []).extend(taken)
    total, done = log.jobs.total(), len(log.finished)
    begun = min((begin for _, begin in log.started.values()), default=now)
    head = f"{done} of {total} jobs done"
    if log.failed:
        head += f"; failed: {', '.join(log.failed)}, see logs/"
    if done < total:
        left, unknown = time_left(log, known, now)
        doubt = f", and {unknown} jobs of rules that have not run here yet" if unknown else ""
        head += f", {clock(now - begun)} so far, about {clock(left)} left{doubt}"
        if not jobs and now - paths[-1].stat().st_mtime > SILENT:
            head += "; none is heard of now, so it may have been stopped: run the same command to go on"
    else:
        head += f" in {clock(max(log.finished.values(), default=begun) - begun)}: see {study / 'results/index.html'}"
    return "\n".join([head, *_rules(log, known), *jobs])


def _rules(log: Log, known: dict[str, list[float]]) -> list[str]:
    """A line for each rule that has begun and has jobs to come."""
    done = Counter(log.started[job][0] for job in log.finished)
    begun = Counter(rule for rule, _ in log.running.values())
    return [
        f"  {rule:24} {done[rule]:3} of {number:3} done, {begun[rule]} running"
        + (f", {statistics.median(known[rule]):.0f} s each" if rule in known else "")
        for rule, number in log.jobs.items()
        if (done[rule] or begun[rule]) and done[rule] < number
    ]


def clock(seconds: float) -> str:
    """Hours and minutes, such as 1:05."""
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02}"


def main() -> None:
    """Reports until the study is done, or it is stopped; once where there is none."""
    parser = argparse.ArgumentParser(description="Show a whole study as it runs.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--once", action="store_true", help="report once and stop")
    args = parser.parse_args()
    terminal = sys.stdout.isatty()
    with suppress(KeyboardInterrupt):
        while True:
            text = report(args.study, time.time())
            stamp = "\033[2J\033[H" if terminal and not args.once else "" if args.once else f"{time.strftime('%X')}  "
            print(stamp + text, flush=True)
            if args.once or text.startswith(NONE) or re.match(r"(\d+) of \1 jobs done", text):
                return
            time.sleep(LIVE if terminal else LOGGED)


if __name__ == "__main__":
    main()
