"""Whole studies, in folders of their own, for the tests of the workflow."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ("Snakefile", "rules", "pipeline", "profiles", "params.yaml", "dvc.yaml", ".dvcignore", ".gitignore")
# What runs is what is tested: its interpreter, and one thread a job.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}


class Output(NamedTuple):
    """One file that a study makes, as Snakemake recorded it."""

    path: str
    inputs: tuple[str, ...]
    module: str  # the one that made it
    settings: dict[str, Any]  # the parameters that it was given
    pending: bool  # to be made again

    @classmethod
    def of(cls, row: dict[str, str]) -> "Output":
        """A row of `snakemake --detailed-summary`."""
        words = shlex.split(row["shellcmd"])
        return cls(
            path=row["output_file"],
            inputs=tuple(filter(None, row["input-file(s)"].split(","))),
            module=words[words.index("-m") + 1] if "-m" in words else "",
            settings=json.loads(words[words.index("--params") + 1]) if "--params" in words else {},
            pending=row["plan"] != "no update",
        )


class Study:
    """A study in a folder of its own, whose workflow and parameters may be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def new(cls, folder: Path) -> "Study":
        """The workflow of this repository, without results."""
        for name in WORKFLOW:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            folder.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        shutil.copy2(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        return cls(folder)

    def copy(self, folder: Path) -> "Study":
        """The same study elsewhere, results and all."""
        return Study(Path(shutil.copytree(self.folder, folder)))

    def run(self, *command: str, fails: bool = False) -> str:
        """What a command prints, on stdout and stderr; the test fails where it ends otherwise than expected."""
        answer = subprocess.run(
            command,
            cwd=self.folder,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (answer.returncode != 0) == fails, f"{' '.join(command)}:\n{answer.stdout[-8000:]}"
        return answer.stdout

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """Snakemake on two cores."""
        return self.run("snakemake", *arguments, "--cores", "2", fails=fails)

    def configure(self, changes: dict[str, Any]) -> None:
        """Changes params.yaml."""
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), changes), sort_keys=False))

    def append(self, name: str, text: str) -> None:
        """Adds to the end of a file."""
        with (self.folder / name).open("a") as file:
            file.write(text)

    def settle(self) -> None:
        """Makes every missing output a line of text, and all of them up to date."""
        for output in self.outputs():
            path = self.folder / output.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(f"{output.path}\n")
        self.snakemake("--touch", "--forceall")

    def outputs(self) -> list[Output]:
        """Every output of the study."""
        lines = self.run("snakemake", "--detailed-summary", "--quiet", "all").splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("output_file\t"))
        return [Output.of(row) for row in csv.DictReader(lines[start:], delimiter="\t", quoting=csv.QUOTE_NONE)]

    def pending(self) -> set[str]:
        """Outputs that the next run would make again."""
        return {output.path for output in self.outputs() if output.pending}


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` laid over `config`, as Snakemake lays a preset over params.yaml."""
    result = dict(config)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        result[key] = merged(config[key], value) if both else value
    return result
