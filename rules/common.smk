"""What the rules share: where they run, the parameters on which they depend, and the names in the study."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from pipeline import params as parameters
from pipeline import provenance

parameters.leave_out(config)
try:
    parameters.checked(parameters.Params, config, "parameters")
except parameters.ParamsError as error:
    raise WorkflowError(str(error)) from None
validate(config, str(parameters.SCHEMA), set_default=False)

# What jobs find in their environment decides where and how they run, never whether a result is up to date.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")])),
    "PYTHONUNBUFFERED": 1,
    "PYTHONHASHSEED": 0,
    # Where bytecode is not kept, every job compiles torch's and transformers' sources anew: a third of a short one's time.
    "PYTHONDONTWRITEBYTECODE": "",
    "OMP_NUM_THREADS": 1,
    # Training frees and asks for the same big blocks every step; handing them back to the system costs a fifth of it, and
    # small pages, where glibc may ask for large ones, a thirtieth.
    "MALLOC_MMAP_THRESHOLD_": 2**32,
    "MALLOC_TRIM_THRESHOLD_": 2**33,
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "HF_HUB_OFFLINE": int(config["runtime"]["offline"]),
    "DEVICE": config["runtime"]["device"],
    "ARCHIVE": config["runtime"]["archive"],
    # Under the repository and not under the run, so that every study shares what was downloaded.
    "DOWNLOADS": ROOT / config["runtime"]["downloads"],
    "CHECKPOINTS": ROOT / config["runtime"]["checkpoints"],
}
if not workflow.deployment_settings.deployment_method:
    # The interpreter that runs Snakemake runs the jobs too, activated or not.
    ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}:{os.getenv('PATH')}"
shell.prefix(
    "".join(
        f"export {name}={shlex.quote(str(value))}; "
        for name, value in ENVIRONMENT.items()
    )
)

CODECS = config["study"]["codecs"]
RUNS = [
    {"codec": name, "seed": seed}
    for name, codec in CODECS.items()
    for seed in codec["seeds"]
]
MODELS = [
    {"pattern": pattern, "codec": codec, "seed": seed}
    for pattern, models in config["study"]["language_models"].items()
    for codec in models["codecs"]
    for seed in models["seeds"]
]
# Runs whose tokens language models learn.
MODELLED = [
    run for run in RUNS if any(run.items() <= model.items() for model in MODELS)
]
# What is scored: real music against itself and against other real music, the codecs as upper bound, the models.
SYSTEMS = [
    "reference",
    "floor",
    *("reconstruction/{codec}-seed{seed}".format(**run) for run in RUNS),
    *("generation/{pattern}/{codec}-seed{seed}".format(**model) for model in MODELS),
    *(f"outside/{name}" for name in config["evaluation"]["systems"]),
]


wildcard_constraints:
    codec="|".join(map(re.escape, CODECS)),
    quantizer="residual|grouped",
    seed=r"\d+",
    split="train|validation|test",
    pattern="|".join(config["study"]["language_models"]) or "none",
    system="|".join(map(re.escape, SYSTEMS)),


def audio_of(wildcards) -> str:
    """The audio of a system; that of real music is rows of the corpus, that from outside a folder."""
    kind, _, name = wildcards.system.partition("/")
    if kind == "outside":
        return config["evaluation"]["systems"][name]["folder"]
    if wildcards.system in ("reference", "floor"):
        return "results/corpus/audio.npy"
    return (
        f"results/generation/{wildcards.system.removeprefix('generation/')}/audio.npy"
    )


def trunk_of(run) -> dict[str, str]:
    """Names of the trunk that a codec of a seed branches from."""
    return {"quantizer": CODECS[run["codec"]]["quantizer"], "seed": run["seed"]}


def captions_of(wildcards) -> str | list[str]:
    """The captions file of a system from outside, if it has one."""
    kind, _, name = wildcards.system.partition("/")
    systems = config["evaluation"]["systems"]
    return kind == "outside" and systems[name]["captions"] or []


def environment(wildcards) -> str | None:
    """The conda environment that jobs activate under `--sdm conda`; else they run in Snakemake's own."""
    return (
        "independence-loss" if workflow.deployment_settings.deployment_method else None
    )


def settings(*keys: str, **named: str) -> Callable[..., str]:
    """The part of the configuration under dotted `keys`, as the compact JSON that a job takes as `--params`.

    `name="dotted.{wildcard}"` puts what lies there under `name`. A rule sees these keys alone, so that a change of
    any other one leaves its results up to date.
    """

    def text(wildcards) -> str:
        part: dict = {
            name: _lookup(key.format(**wildcards)) for name, key in named.items()
        }
        for key in keys:
            *path, last = key.split(".")
            here = part
            for name in path:
                here = here.setdefault(name, {})
            here[last] = _lookup(key)
        return json.dumps(part, sort_keys=True, separators=(",", ":"))

    return text


def _lookup(key: str):
    value = config
    for name in key.split("."):
        value = value[name]
    return value


def code(module: str) -> str:
    """Digest of what `module` and its imports compute, by which a changed formula reruns what used it."""
    return provenance.source_digest(module)
