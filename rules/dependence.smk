"""Dependence: its estimates on held-out codes, what it costs language models, and the errors of the estimators."""


rule measure_dependence:
    input:
        rules.codec_branch.output.description,
        expand(rules.tokenize.output, split="test", allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        study.DEPENDENCE,
    log:
        "logs/dependence/{codec}-seed{seed}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("corpus", "dependence", confidence="report.confidence"),
        code=code("pipeline.dependence.pairwise"),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
    shell:
        "python -m pipeline.dependence.pairwise --params {params.settings:q} --threads {threads}"
        " --codec {params.codec} --tokens {params.tokens} --manifest {input.manifest} --out {output} > {log} 2>&1"


rule bound_dependence:
    input:
        rules.codec_branch.output.description,
        expand(rules.tokenize.output, split=SPLITS, allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        study.LEARNED,
    log:
        "logs/dependence/learned/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/dependence/learned/{codec}-seed{seed}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("dependence", confidence="report.confidence"),
        code=code("pipeline.dependence.learned"),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
    shell:
        "python -m pipeline.dependence.learned --params {params.settings:q} --threads {threads}"
        " --codec {params.codec} --tokens {params.tokens} --manifest {input.manifest} --out {output} > {log} 2>&1"


rule calibrate_dependence:
    input:
        manifest=rules.captions.output.manifest,
    output:
        study.CALIBRATION,
    log:
        "logs/dependence/calibration.log",
    benchmark:
        "benchmarks/dependence/calibration.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("codec", "corpus", "dependence"),
        code=code("pipeline.dependence.calibration"),
    shell:
        "python -m pipeline.dependence.calibration --params {params.settings:q} --threads {threads}"
        " --manifest {input.manifest} --out {output} > {log} 2>&1"


rule measure_price:
    input:
        rules.encode_text.output,
        rules.train_lm.output.model,
        rules.train_lm.output.description,
        expand(rules.tokenize.output, split=["train", "test"], allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        study.CONDITIONAL,
    log:
        "logs/dependence/conditional/{pattern}/{codec}-seed{seed}-lm{lm}.log",
    benchmark:
        "benchmarks/dependence/conditional/{pattern}/{codec}-seed{seed}-lm{lm}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        settings=settings("dependence", confidence="report.confidence"),
        code=code("pipeline.dependence.price", "PATTERNS"),
        lm=at(study.LM),
        tokens=at(study.TOKENS),
        text=at(study.TEXT),
    shell:
        "python -m pipeline.dependence.price --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm {params.lm} --tokens {params.tokens} --manifest {input.manifest} --text {params.text}"
        " --out {output} > {log} 2>&1"


rule calibrate_price:
    input:
        manifest=rules.captions.output.manifest,
    output:
        study.CONDITIONAL_CALIBRATION,
    log:
        "logs/dependence/conditional/calibration.log",
    benchmark:
        "benchmarks/dependence/conditional/calibration.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        settings=settings(
            "codec", "corpus", "dependence", confidence="report.confidence"
        ),
        code=code("pipeline.dependence.conditional_calibration"),
    shell:
        "python -m pipeline.dependence.conditional_calibration --params {params.settings:q} --threads {threads}"
        " --manifest {input.manifest} --out {output} > {log} 2>&1"


rule measure_snapshots:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.description,
        rules.codec_branch.output.snapshots,
    output:
        study.SNAPSHOTS,
    log:
        "logs/dependence/snapshots/{codec}-seed{seed}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("codec", "dependence"),
        code=code("pipeline.dependence.snapshots", "ARCHITECTURES", "QUANTIZERS"),
        codec=at(study.CODEC),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.dependence.snapshots --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec {params.codec} --corpus {params.corpus} --out {output} > {log} 2>&1"


# What the price's calibration is for; a study without such models makes none.
PRICED = rules.calibrate_price.output if STUDY.factorised else []


rule dependence:
    input:
        every(STUDY.trained_runs, *rules.measure_snapshots.output),
        every(STUDY.runs, *rules.measure_dependence.output),
        every(STUDY.modelled, *rules.bound_dependence.output),
        every(STUDY.factorised, *rules.measure_price.output),
        rules.calibrate_dependence.output,
        PRICED,
