"""Codec: one trunk an architecture, quantizer and seed, from which codecs branch; how well each reconstructs; every clip's tokens."""


rule trunk:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
    output:
        state=f"{study.TRUNK}/state.safetensors",
        description=f"{study.TRUNK}/state.json",
        history=f"{study.TRUNK}/history.csv",
    log:
        "logs/codec/trunk/{architecture}-{quantizer}-seed{seed}.log",
    benchmark:
        "benchmarks/codec/trunk/{architecture}-{quantizer}-seed{seed}.tsv"
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
        code=code("pipeline.codec.train", "ARCHITECTURES", "QUANTIZERS"),
        out=at(study.TRUNK),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.codec.train trunk --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --architecture {wildcards.architecture} --quantizer {wildcards.quantizer} --seed {wildcards.seed} --corpus {params.corpus}"
        " --out {params.out} > {log} 2>&1"


rule codec_branch:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        trunk=lambda wildcards: every(
            [STUDY.trunk(wildcards.codec, int(wildcards.seed))],
            rules.trunk.output.state,
            rules.trunk.output.description,
        ),
    output:
        model=f"{study.CODEC}/model.safetensors",
        description=f"{study.CODEC}/model.json",
        history=f"{study.CODEC}/history.csv",
        snapshots=f"{study.CODEC}/snapshots.safetensors",
    log:
        "logs/codec/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/codec/{codec}-seed{seed}.tsv"
    wildcard_constraints:
        codec=any_of(STUDY.trained),
    priority: 100
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        settings=settings("codec", "corpus", loss="study.codecs.{codec}.loss"),
        code=code("pipeline.codec.train", "ARCHITECTURES", "QUANTIZERS"),
        kind=lambda wildcards: STUDY.kind(wildcards.codec),
        trunk=lambda wildcards, input: Path(input.trunk[0]).parent,
        out=at(study.CODEC),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.codec.train branch --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --architecture {params.kind.architecture} --quantizer {params.kind.quantizer} --name {wildcards.codec} --seed {wildcards.seed}"
        " --corpus {params.corpus} --trunk {params.trunk} --out {params.out} > {log} 2>&1"


# A codec that comes trained has what a branch has, its history aside.
rule adopt_codec:
    output:
        model=rules.codec_branch.output.model,
        description=rules.codec_branch.output.description,
    log:
        "logs/codec/{codec}-seed{seed}.adopt.log",
    wildcard_constraints:
        codec=any_of(STUDY.pretrained),
    priority: 100
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        settings=settings("corpus"),
        code=code("pipeline.exchange.adopt", *CODEC),
        folder=lambda wildcards: STUDY.pretrained[wildcards.codec].pretrained,
        codebooks=lambda wildcards: STUDY.pretrained[wildcards.codec].codebooks,
        content=lambda wildcards: contents(STUDY.pretrained[wildcards.codec].pretrained),
        out=at(study.CODEC),
    shell:
        "python -m pipeline.exchange.adopt --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --model {params.folder:q} --codebooks {params.codebooks} --out {params.out} > {log} 2>&1"


rule reconstruction:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
    output:
        metrics=f"{study.CODEC}/metrics.json",
        clips=f"{study.CODEC}/metrics.npz",
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
        code=code("pipeline.codec.reconstruction", *CODEC),
        codec=at(study.CODEC),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.codec.reconstruction --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec {params.codec} --corpus {params.corpus} --out {output.metrics} > {log} 2>&1"


rule tokenize:
    input:
        rules.clips.output.audio,
        rules.captions.output.manifest,
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
    output:
        f"{study.TOKENS}/{{split}}.npy",
    log:
        "logs/codec/tokens/{codec}-seed{seed}.{split}.log",
    benchmark:
        "benchmarks/codec/tokens/{codec}-seed{seed}.{split}.tsv"
    priority: 75
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("corpus"),
        code=code("pipeline.codec.tokens", *CODEC),
        codec=at(study.CODEC),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.codec.tokens --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec {params.codec} --corpus {params.corpus} --split {wildcards.split} --out {output} > {log} 2>&1"


# The test split's tokens of every codec, the others' where a model learns from them.
rule codec:
    input:
        every(STUDY.trained_runs, *rules.codec_branch.output),
        every(STUDY.runs, *rules.adopt_codec.output, *rules.reconstruction.output),
        every(STUDY.runs, *rules.tokenize.output, split="test"),
        every(STUDY.modelled, *rules.tokenize.output, split=SPLITS),
