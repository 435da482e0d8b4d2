"""Tokens: every clip of every split as codes of every codec."""


rule tokenize:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
    output:
        train="results/tokens/{codec}-seed{seed}/train.npy",
        validation="results/tokens/{codec}-seed{seed}/validation.npy",
        test="results/tokens/{codec}-seed{seed}/test.npy",
    log:
        "logs/tokens/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/tokens/{codec}-seed{seed}.tsv"
    priority: 75
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("corpus"),
        code=code("pipeline.tokens"),
    shell:
        "python -m pipeline.tokens --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed} --corpus results/corpus"
        " --out results/tokens/{wildcards.codec}-seed{wildcards.seed} > {log} 2>&1"


rule tokens:
    input:
        expand(rules.tokenize.output, codec=CODECS, seed=SEEDS),
