"""Report: tables, figures and the claims."""


rule tables:
    input:
        every(
            [STUDY.trunk(*run) for run in STUDY.trained_runs],
            rules.trunk.output.history,
        ),
        every(
            STUDY.trained_runs,
            rules.codec_branch.output.history,
            *rules.measure_snapshots.output,
        ),
        every(
            STUDY.runs,
            *rules.reconstruction.output,
            *rules.measure_dependence.output,
        ),
        every(STUDY.modelled, *rules.bound_dependence.output),
        every(STUDY.factorised, *rules.measure_price.output),
        rules.calibrate_dependence.output,
        PRICED,
        every(
            STUDY.models,
            rules.train_lm.output.held_out,
            rules.generate.output.timing,
            *rules.measure_generated.output,
        ),
        every(STUDY.trained_models, rules.train_lm.output.history),
        every(STUDY.shuffled, rules.shuffle.output.levels),
        rules.pattern_speed.output if TIMED else [],
        expand(rules.score.output, system=STUDY.systems),
    output:
        [
            report(
                f"{study.TABLES}/{name}.csv",
                caption=f"captions/{name}.rst",
                category="Tables",
                labels={"table": name},
            )
            for name in STUDY.tables
        ],
        expand(
            f"{study.TABLES}/{{name}}.{{suffix}}",
            name=STUDY.tables,
            suffix=["md", "tex"],
        ),
        f"{study.TABLES}/tables.tex",
        expand(f"{study.TABLES}/metrics/{{name}}.json", name=STUDY.metrics),
        f"{study.TABLES}/provenance.json",
    log:
        "logs/report/tables.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("evaluation", "report", "study", snapshots="lm.snapshots"),
        code=code("pipeline.report.tables", "CLAIMS"),
        out=at(study.TABLES),
    shell:
        "python -m pipeline.report.tables --params {params.settings:q} --threads {threads}"
        " --out {params.out} > {log} 2>&1"


rule figures:
    input:
        rules.tables.input,
    output:
        [
            report(
                f"{study.FIGURES}/{name}.png",
                caption=f"captions/{name}.rst",
                category="Figures",
                labels={"figure": name.replace("_", " ")},
            )
            for name in STUDY.figures
        ],
        expand(f"{study.FIGURES}/{{name}}.svg", name=STUDY.figures),
    log:
        "logs/report/figures.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("evaluation", "report", "study", snapshots="lm.snapshots"),
        code=code("pipeline.report.figures", "CLAIMS"),
        out=at(study.FIGURES),
    shell:
        "python -m pipeline.report.figures --params {params.settings:q} --threads {threads}"
        " --out {params.out} > {log} 2>&1"


rule gallery:
    input:
        manifest=rules.captions.output.manifest,
        audio=[
            (
                ancient(STUDY.audio(each.system))
                if STUDY.theirs(each.system)
                else STUDY.audio(each.system)
            )
            for each in STUDY.shown
        ],
        captions=[
            path for each in STUDY.shown for path in STUDY.theirs(each.system)[1:]
        ],
    output:
        f"{study.GALLERY}/gallery.json",  # and sounds and pictures beside it
    log:
        "logs/report/gallery.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings(
            "corpus",
            "evaluation",
            "generation",
            "study",
            gallery_clips="report.gallery_clips",
        ),
        code=code("pipeline.report.gallery"),
        out=at(study.GALLERY),
        content=lambda wildcards: [
            content
            for each in STUDY.shown
            for content in contents(*STUDY.theirs(each.system))
        ],
    shell:
        "python -m pipeline.report.gallery --params {params.settings:q} --threads {threads}"
        " --out {params.out} > {log} 2>&1"


rule page:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.gallery.output,
        rules.clips.output.credits,
        rules.clips.output.summary,
    output:
        page=study.PAGE,
        parameters=f"{study.TABLES}/parameters.json",
    log:
        "logs/report/page.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=settings(*(name for name in config if name != "runtime")),
        code=code("pipeline.report.page", "CLAIMS"),
        looks=contents(
            ROOT / "pipeline" / "report" / "page.html",
            ROOT / "pipeline" / "report" / "vendor",
            ROOT / "rules" / "captions",
        ),
    shell:
        "python -m pipeline.report.page --params {params.settings:q} --threads {threads}"
        " --out {output.page} > {log} 2>&1"


rule report:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.gallery.output,
        rules.page.output,
