"""Dependence: what the codebooks share on held-out codes, and what the estimators of it are worth."""


rule measure_dependence:
    input:
        rules.tokenize.output.test,
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
        code=code("pipeline.dependence"),
    shell:
        "python -m pipeline.dependence --params {params.settings:q} --threads {threads}"
        " --tokens results/tokens/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest}"
        " --out {output} > {log} 2>&1"


rule bound_dependence:
    input:
        rules.tokenize.output,
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
        code=code("pipeline.difference_of_entropies"),
    shell:
        "python -m pipeline.difference_of_entropies --params {params.settings:q} --threads {threads}"
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
        code=code("pipeline.calibration"),
    shell:
        "python -m pipeline.calibration --params {params.settings:q} --threads {threads}"
        " --manifest {input.manifest} --out {output} > {log} 2>&1"


rule dependence:
    input:
        expand(rules.measure_dependence.output, codec=CODECS, seed=SEEDS),
        expand(rules.bound_dependence.output, codec=CODECS, seed=SEEDS),
        rules.calibrate_dependence.output,
