"""What every stage's `main()` shares: arguments, threads and device, progress, one-sentence errors."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from pipeline.files import write_json

PROGRESS = Path("progress")  # under the run's directory, outside every phase's results


class JobError(RuntimeError):
    """An error that the user can fix; the message says what is wrong, where, and what to do."""


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with what every job takes: `--params`, `--device`, `--threads`."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--params", default="params.yaml", help="parameter file, or JSON text (default: params.yaml)")
    result.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    result.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    return result


def prepare(arguments: argparse.Namespace) -> torch.device:
    """Sets the threads and returns the device."""
    # One thread a job: OpenMP's threads spin, and more of them than free cores is ten times slower than one.
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise JobError("--device cuda: torch finds no GPU here; set runtime.device to cpu or auto")
    name = "cuda" if arguments.device != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(name)


def run(main: Callable[[], None]) -> None:
    """Runs a stage's `main`; an error the user can mend ends in one sentence and exit status 1, not a traceback."""
    try:
        main()
    except (JobError, ValueError, OSError) as error:
        if os.environ.get("TRACEBACK"):
            raise
        sys.exit(f"error: {error} (set TRACEBACK=1 for the whole story)")


class Progress:
    """A job's step, values, speed and time left, in its log and in a file that `python -m pipeline.watch` reads."""

    def __init__(self, job: str, total: int, unit: str = "step", *, done: int = 0, every: float = 10.0) -> None:
        """`done` steps came from a checkpoint; a log line is printed every `every` seconds."""
        self.job, self.total, self.unit, self.every = job, total, unit, every
        self.first, self.started, self.logged = done, time.monotonic(), -float("inf")
        self.path = PROGRESS / f"{job.replace('/', '.')}.json"

    def update(self, step: int, **values: float) -> None:
        """Reports that `step` of `total` steps are done, with what was measured on the way."""
        now = time.monotonic()
        if now - self.logged < self.every and step < self.total:
            return
        self.logged = now
        speed = (step - self.first) / max(now - self.started, 1e-9)
        left = (self.total - step) / speed if speed > 0 else 0.0
        measured = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        rate = f"{speed:.2f}/s" if speed >= 1 or speed == 0 else f"{1 / speed:.2f} s each"
        line = f"{self.unit} {step}/{self.total}  {measured}  {rate}, {left:.0f} s left"
        print(f"{time.strftime('%H:%M:%S')} {self.job}: {line}", flush=True)
        # A full disk must not end a training run for the sake of its progress bar.
        with suppress(OSError, ValueError):
            write_json(self.path, {"job": self.job, "line": line, "time": time.time(), "pid": os.getpid()})

    def __enter__(self) -> "Progress":
        """Starts the report."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the file: the job is no longer running."""
        self.path.unlink(missing_ok=True)
