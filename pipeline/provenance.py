"""Records the origin of a result, and computes the digests that decide whether it is up to date."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.files import write_json

ROOT = Path(__file__).parent.parent
PLUMBING = ("params", "job", "provenance")
PACKAGES = ("torch", "torchaudio", "numpy", "pandas", "soundfile", "soxr", "transformers")


def record(params: dict[str, Any], *, seed: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Commit, package versions, machine, device, seed, and digest of the parameters, as JSON-ready values."""
    name = "cpu"
    if device.startswith("cuda"):
        import torch  # which takes seconds, and Snakemake imports this module

        name = torch.cuda.get_device_name(device)
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": name,
        "seed": seed,
        "params": params,
        "params_sha256": digest(params),
    }


def digest(value: Any) -> str:
    """SHA-256 of a JSON-ready value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str:
    """The repository's commit, `-dirty` after it where more than results differs, or `unknown` outside git."""
    git = ("git", "-C", str(ROOT))
    answer = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return "unknown"
    # Tables and figures in git are a study's outputs, so changes to them do not count.
    sources = [":(top)", ":(top,exclude)results", ":(top,exclude)figures", ":(top,exclude)dvc.lock"]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *sources], check=False).returncode != 0
    return answer.stdout.strip() + "-dirty" * changed


def content_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, or of a folder's files and their names; empty where nothing is there.

    What a file holds is read once and remembered by its size and dates, in `.cache/contents.json` of the repository.
    """
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] * path.is_file()
    known = _remembered(files)
    return digest([[str(file.relative_to(path)), known[str(file.resolve())][1]] for file in files]) if files else ""


def _remembered(files: list[Path]) -> dict[str, list[str]]:
    memory = ROOT / ".cache" / "contents.json"
    try:
        old: dict[str, list[str]] = json.loads(memory.read_text())
    except (OSError, ValueError):
        old = {}
    new = {}
    for file in files:
        stat, name = file.stat(), str(file.resolve())
        stamp = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
        new[name] = old[name] if old.get(name, [""])[0] == stamp else [stamp, file_digest(file)]
    if any(old.get(name) != entry for name, entry in new.items()):
        with suppress(OSError):  # what cannot be remembered is read again
            write_json(memory, old | new)
    return new


@functools.cache
def sources(module: str) -> tuple[Path, ...]:
    """Files of this package that `module` imports, directly or not, itself among them, sorted."""
    paths: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        if name in paths or not path.exists():
            continue
        paths[name] = path
        waiting += [imported for imported in _imports(path) if imported.startswith("pipeline.")]
    return tuple(sorted(paths.values()))


@functools.cache
def source_digest(*modules: str) -> str:
    """SHA-256 of what modules and their imports in this package compute: comments, docstrings and layout left out.

    Snakemake sees a rule's own text, not the modules behind it; this digest, as a rule's parameter, makes a changed
    formula rerun what used it and nothing else. Modules that compute nothing of a result are left out: `params`, whose
    values a rule hands over as such, `job`, which logs and sets threads, and this one.
    """
    paths = {path for module in modules for path in sources(module)}
    plumbing = {ROOT / "pipeline" / f"{name}.py" for name in PLUMBING}
    return digest({str(path.relative_to(ROOT)): _code(path) for path in paths - plumbing})[:16]


@functools.cache
def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


@functools.cache
def _code(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            # A string that stands alone is a docstring: it computes nothing.
            body[:] = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return ast.dump(tree)
