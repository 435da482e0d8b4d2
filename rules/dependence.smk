"""Dependence: mutual information between the codebooks of held-out codes."""


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
        code=code("pipeline.dependence"),
    shell:
        "python -m pipeline.dependence --params {params.settings:q} --threads {threads}"
        " --tokens results/tokens/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest}"
        " --out {output} > {log} 2>&1"


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
        code=code("pipeline.snapshots"),
    shell:
        "python -m pipeline.snapshots --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed} --corpus results/corpus"
        " --out {output} > {log} 2>&1"


rule dependence:
    input:
        [expand(rules.measure_snapshots.output, **run) for run in RUNS],
        [expand(rules.measure_dependence.output, **run) for run in RUNS],
