"""Report: tables, figures and the claims."""

# A study of codecs alone has none of what takes a language model, or the tokens that one learns from.
OF_MODELS = ["total_correlation", "likelihood", "speed", "patterns"] if MODELS else []
TABLES = [
    "reconstruction",
    "dependence",
    "estimators",
    "calibration",
    "scores",
    *OF_MODELS,
    "published",
    "claims",
    "findings",
]
FIGURES = [
    "dependence",
    "dependence_matrices",
    "dependence_by_lag",
    "calibration",
    "reconstruction_dependence",
    "criterion",
    "scores",
    *OF_MODELS,
    "training",
]


rule tables:
    input:
        [expand(rules.trunk.output.history, **trunk_of(run)) for run in RUNS],
        [expand(rules.codec_branch.output.history, **run) for run in RUNS],
        [expand(rules.reconstruction.output, **run) for run in RUNS],
        [expand(rules.measure_dependence.output, **run) for run in RUNS],
        [expand(rules.measure_snapshots.output, **run) for run in RUNS],
        [expand(rules.bound_dependence.output, **run) for run in MODELLED],
        rules.calibrate_dependence.output,
        [expand(rules.train_lm.output.held_out, **model) for model in MODELS],
        [expand(rules.generate.output.timing, **model) for model in MODELS],
        rules.pattern_speed.output if MODELS else [],
        expand(rules.score.output, system=SYSTEMS),
    output:
        [
            report(
                f"results/tables/{name}.csv",
                caption=f"captions/{name}.rst",
                category="Tables",
                labels={"table": name},
            )
            for name in TABLES
        ],
        expand("results/tables/{name}.{suffix}", name=TABLES, suffix=["md", "tex"]),
        "results/tables/metrics.json",
        "results/tables/provenance.json",
    log:
        "logs/report/tables.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("evaluation", "report", "study"),
        code=code("pipeline.report.tables"),
    shell:
        "python -m pipeline.report.tables --params {params.settings:q} --threads {threads}"
        " --results results --out results/tables > {log} 2>&1"


rule figures:
    input:
        rules.tables.input,
    output:
        [
            report(
                f"figures/{name}.png",
                caption=f"captions/{name}.rst",
                category="Figures",
                labels={"figure": name.replace("_", " ")},
            )
            for name in FIGURES
        ],
        expand("figures/{name}.svg", name=FIGURES),
    log:
        "logs/report/figures.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("evaluation", "report", "study"),
        code=code("pipeline.report.figures"),
    shell:
        "python -m pipeline.report.figures --params {params.settings:q} --threads {threads}"
        " --results results --out figures > {log} 2>&1"


rule report:
    input:
        rules.tables.output,
        rules.figures.output,
