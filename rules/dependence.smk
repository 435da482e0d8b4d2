"""Dependence: what the codebooks share on held-out codes, and what the estimators of it are worth."""


rule measure_dependence:
    input:
        "results/tokens/{codec}-seed{seed}/test.npy",
        manifest=rules.captions.output.manifest,
    output:
        "results/dependence/{codec}-seed{seed}.json",
    log:
        "logs/dependence/{codec}-seed{seed}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("codec", "dependence", "report"),
        code=code("pipeline.dependence.pairwise"),
    shell:
        "python -m pipeline.dependence.pairwise --params {params.settings:q} --threads {threads}"
        " --tokens results/tokens/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest}"
        " --out {output} > {log} 2>&1"


rule bound_dependence:
    input:
        expand(rules.tokenize.output, split=SPLITS, allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        "results/dependence/learned/{codec}-seed{seed}.json",
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
        settings=settings("codec", "dependence", "report"),
        code=code("pipeline.dependence.learned"),
    shell:
        "python -m pipeline.dependence.learned --params {params.settings:q} --threads {threads}"
        " --tokens results/tokens/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest}"
        " --out {output} > {log} 2>&1"


rule calibrate_dependence:
    input:
        manifest=rules.captions.output.manifest,
    output:
        "results/dependence/calibration.json",
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


rule measure_snapshots:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.description,
        rules.codec_branch.output.snapshots,
    output:
        "results/dependence/snapshots/{codec}-seed{seed}.csv",
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
        code=code("pipeline.dependence.snapshots"),
    shell:
        "python -m pipeline.dependence.snapshots --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed} --corpus results/corpus"
        " --out {output} > {log} 2>&1"


rule dependence:
    input:
        [expand(rules.measure_snapshots.output, **run) for run in RUNS],
        [expand(rules.measure_dependence.output, **run) for run in RUNS],
        [expand(rules.bound_dependence.output, **run) for run in MODELLED],
        rules.calibrate_dependence.output,
