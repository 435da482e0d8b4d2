"""Codec: one trunk a quantizer and seed, from which the study's codecs branch, and how well each reconstructs."""


rule trunk:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
    output:
        state="results/codec/trunk-{quantizer}-seed{seed}/state.safetensors",
        description="results/codec/trunk-{quantizer}-seed{seed}/state.json",
        history="results/codec/trunk-{quantizer}-seed{seed}/history.csv",
    log:
        "logs/codec/trunk-{quantizer}-seed{seed}.log",
    benchmark:
        "benchmarks/codec/trunk-{quantizer}-seed{seed}.tsv"
    # The longest chain of jobs begins here: left to the end, it would keep one core busy alone. Priorities fall along it.
    priority: 100
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        settings=settings("codec", "corpus"),
        code=code("pipeline.codec.train"),
    shell:
        "python -m pipeline.codec.train trunk --params {params.settings:q} --device $DEVICE"
        " --threads {threads} --quantizer {wildcards.quantizer} --seed {wildcards.seed} --corpus results/corpus"
        " --out results/codec/trunk-{wildcards.quantizer}-seed{wildcards.seed} > {log} 2>&1"


rule codec_branch:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        trunk=lambda wildcards: expand(
            [rules.trunk.output.state, rules.trunk.output.description],
            **trunk_of(wildcards),
        ),
    output:
        model="results/codec/{codec}-seed{seed}/model.safetensors",
        description="results/codec/{codec}-seed{seed}/model.json",
        history="results/codec/{codec}-seed{seed}/history.csv",
        snapshots="results/codec/{codec}-seed{seed}/snapshots.safetensors",
    log:
        "logs/codec/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/codec/{codec}-seed{seed}.tsv"
    priority: 100
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        settings=settings("codec", "corpus", loss="study.codecs.{codec}.loss"),
        code=code("pipeline.codec.train"),
        quantizer=lambda wildcards: trunk_of(wildcards)["quantizer"],
    shell:
        "python -m pipeline.codec.train branch --params {params.settings:q} --device $DEVICE"
        " --threads {threads} --quantizer {params.quantizer} --name {wildcards.codec} --seed {wildcards.seed}"
        " --corpus results/corpus --trunk results/codec/trunk-{params.quantizer}-seed{wildcards.seed}"
        " --out results/codec/{wildcards.codec}-seed{wildcards.seed} > {log} 2>&1"


rule reconstruction:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
    output:
        metrics="results/codec/{codec}-seed{seed}/metrics.json",
        clips="results/codec/{codec}-seed{seed}/metrics.npz",
    log:
        "logs/codec/{codec}-seed{seed}.reconstruction.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("codec", "corpus"),
        code=code("pipeline.codec.reconstruction"),
    shell:
        "python -m pipeline.codec.reconstruction measure --params {params.settings:q} --device $DEVICE"
        " --threads {threads} --codec results/codec/{wildcards.codec}-seed{wildcards.seed}"
        " --corpus results/corpus --out {output.metrics} > {log} 2>&1"


rule codec:
    input:
        [
            expand(rules.codec_branch.output + rules.reconstruction.output, **run)
            for run in RUNS
        ],
