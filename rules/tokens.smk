"""Tokens: every clip of a split as codes of a codec; the test split's of every codec, the others' where a model learns."""

SPLITS = ["train", "validation", "test"]


rule tokenize:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
    output:
        "results/tokens/{codec}-seed{seed}/{split}.npy",
    log:
        "logs/tokens/{codec}-seed{seed}.{split}.log",
    benchmark:
        "benchmarks/tokens/{codec}-seed{seed}.{split}.tsv"
    priority: 75
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("corpus"),
        code=code("pipeline.codec.tokens"),
    shell:
        "python -m pipeline.codec.tokens --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed} --corpus results/corpus"
        " --split {wildcards.split} --out {output} > {log} 2>&1"


rule tokens:
    input:
        [expand(rules.tokenize.output, split="test", **run) for run in RUNS],
        [expand(rules.tokenize.output, split=SPLITS, **run) for run in MODELLED],
