"""What the rules share: where they run, the parameters on which they depend, and the names in the study."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from pipeline import params as parameters
from pipeline import provenance, study
from pipeline.params import SPLITS

parameters.leave_out(config)
try:
    PARAMS = parameters.checked(parameters.Params, config, "parameters")
except parameters.ParamsError as error:
    raise WorkflowError(str(error)) from None
STUDY = study.Study(
    PARAMS.study, PARAMS.evaluation.systems, PARAMS.lm.snapshot_percents
)

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


def any_of(names) -> str:
    """A pattern for one of these names; one that matches nothing where there is none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    codec=any_of(STUDY.codecs),
    architecture=any_of(parameters.choices("ARCHITECTURES")),
    quantizer=any_of(parameters.choices("QUANTIZERS")),
    seed=r"\d+",
    lm=r"\d+",
    split=any_of(SPLITS),
    pattern=any_of(STUDY.patterns),
    system=any_of(STUDY.systems),
    percent=any_of(map(str, STUDY.percents)),
    kept=any_of(map(str, STUDY.settings.kept)),


def every(parts, *templates: str, **wildcards) -> list[str]:
    """The templates' paths for each run, model or trunk, given as what sets its wildcards."""
    values = [part if isinstance(part, dict) else part._asdict() for part in parts]
    return [
        path for value in values for path in expand(templates, **value, **wildcards)
    ]


def audio_of(wildcards) -> str:
    """The audio of a system; a folder from outside counts by its contents, not by its date."""
    audio = STUDY.audio(wildcards.system)
    return ancient(audio) if STUDY.theirs(wildcards.system) else audio


def contents(*paths: str) -> list[str]:
    """Digests of files and folders that no rule makes, so that what they hold decides whether a result is up to date."""
    return [provenance.content_digest(path) for path in paths if path]


def at(place: str) -> Callable[..., str]:
    """A place of the study with a job's wildcards, as one of its parameters."""
    return lambda wildcards: place.format(**wildcards)


def factorised(wildcards) -> dict[str, str]:
    """Wildcards of the model that a job of depth heads starts from."""
    return {**wildcards, "pattern": study.without_depth(wildcards.pattern)}


def environment(wildcards) -> str | None:
    """The conda environment that jobs activate under `--sdm conda`; else they run in Snakemake's own."""
    return (
        "independence-loss" if workflow.deployment_settings.deployment_method else None
    )


def settings(*keys: str, **named: str) -> Callable[..., str]:
    """The sections `keys` of the configuration, as the compact JSON that a job takes as `--params`.

    `name="dotted.{wildcard}"` puts what lies there under `name`. A rule sees these keys alone, so that a change of
    any other one leaves its results up to date.
    """

    def text(wildcards) -> str:
        part = {key: _section(key, wildcards) for key in keys}
        part |= {name: _lookup(key.format(**wildcards)) for name, key in named.items()}
        return json.dumps(part, sort_keys=True, separators=(",", ":"))

    return text


def _section(key: str, wildcards) -> dict:
    """A section of the configuration; of `codec`, for a job of one codec, what concerns its architecture alone."""
    job = dict(wildcards.items())
    if key != "codec" or not {"architecture", "codec"} & set(job):
        return config[key]
    if job.get("codec") in STUDY.pretrained:
        return {}
    others = set(PARAMS.codec.architectures) - set(CHOSEN["ARCHITECTURES"](job))
    return {name: value for name, value in config[key].items() if name not in others}


def _lookup(key: str):
    value = config
    for name in key.split("."):
        value = value[name]
    return value


def _of_codec(job: dict, what: str, table: str) -> list[str]:
    """The entry of `table` that a job's codec is built of; any, where only the folder of a pretrained one tells."""
    if what in job:
        return [job[what]]
    if job["codec"] in STUDY.pretrained:
        return list(parameters.choices(table))
    return [getattr(STUDY.trained[job["codec"]], what)]


# The tables behind a codec that is there.
CODEC = ("ARCHITECTURES", "QUANTIZERS", "PRETRAINED")
# Which entry of each table of choices a job uses, given its wildcards.
CHOSEN = {
    "SOURCES": lambda job: [PARAMS.corpus.source],
    "ARCHITECTURES": lambda job: _of_codec(job, "architecture", "ARCHITECTURES"),
    "QUANTIZERS": lambda job: _of_codec(job, "quantizer", "QUANTIZERS"),
    "PRETRAINED": lambda job: (
        parameters.choices("PRETRAINED") if job["codec"] in STUDY.pretrained else []
    ),
    "PATTERNS": lambda job: [study.without_depth(job["pattern"])],
    "DECODINGS": lambda job: [PARAMS.generation.decoding],
    "EMBEDDERS": lambda job: [
        name for name, clips in PARAMS.evaluation.embedders.items() if clips
    ],
    "CLAIMS": lambda job: PARAMS.report.claims,
}


def code(module: str, *tables: str) -> Callable[..., str]:
    """Digest of what `module`, its imports and the chosen entries of `tables` compute, by which a changed formula reruns
    what used it."""

    def text(wildcards) -> str:
        job = dict(wildcards.items())
        chosen = [
            parameters.choices(table)[name]
            for table in tables
            for name in CHOSEN[table](job)
        ]
        return provenance.source_digest(module, *chosen)

    return text
