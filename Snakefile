"""The study, from the music to the claims table.

    snakemake --cores all                                                         # params.yaml
    snakemake --cores all --directory runs/smoke --configfile presets/smoke.yaml  # another study, beside it

A phase's name is a target: corpus, codec, lm, dependence, generation, evaluation, report.
"""

from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


configfile: str(Path(workflow.basedir) / "params.yaml")


include: "rules/common.smk"
include: "rules/corpus.smk"
include: "rules/codec.smk"
include: "rules/lm.smk"
include: "rules/dependence.smk"
include: "rules/generation.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


# Every phase, not the report alone: its tables and figures are in git, and a fresh clone that has them has nothing else.
rule all:
    default_target: True
    input:
        rules.corpus.input,
        rules.codec.input,
        rules.lm.input,
        rules.dependence.input,
        rules.generation.input,
        rules.evaluation.input,
        rules.report.input,


onstart:
    # With a rate limit, even the default one that no study comes near, every pass of Snakemake's scheduler starts a timer
    # that starts another pass. After some hundred jobs the passes took as much of a core as a job.
    workflow.scheduler.job_rate_limiter = None


onsuccess:
    print(f"Done: look at {Path(study.PAGE).resolve()}")
