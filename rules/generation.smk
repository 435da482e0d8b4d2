"""Generation: music for the test split's captions, and the codecs' own reconstructions as the upper bound."""


rule generate:
    input:
        rules.encode_text.output,
        rules.train_lm.output.model,
        rules.train_lm.output.description,
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
        manifest=rules.captions.output.manifest,
    output:
        tokens="results/generation/{pattern}/{codec}-seed{seed}/tokens.npy",
        audio="results/generation/{pattern}/{codec}-seed{seed}/audio.npy",
        timing="results/generation/{pattern}/{codec}-seed{seed}/timing.json",
    log:
        "logs/generation/{pattern}/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/generation/{pattern}/{codec}-seed{seed}.tsv"
    priority: 25
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=settings("generation"),
        code=code("pipeline.generation.sampling"),
    shell:
        "python -m pipeline.generation.sampling --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm results/lm/{wildcards.pattern}/{wildcards.codec}-seed{wildcards.seed}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest} --text results/lm/text"
        " --out results/generation/{wildcards.pattern}/{wildcards.codec}-seed{wildcards.seed} > {log} 2>&1"


# Any of the models would do: what a step takes does not depend on the weights.
TIMED = MODELS[:1]


rule pattern_speed:
    input:
        rules.encode_text.output,
        [expand(rules.train_lm.output.model, **model) for model in TIMED],
        [expand(rules.train_lm.output.description, **model) for model in TIMED],
        [expand(rules.codec_branch.output.model, **model) for model in TIMED],
        [expand(rules.codec_branch.output.description, **model) for model in TIMED],
        manifest=rules.captions.output.manifest,
    output:
        "results/generation/patterns.json",
    log:
        "logs/generation/patterns.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        lm=["results/lm/{pattern}/{codec}-seed{seed}".format(**m) for m in TIMED],
        codec=["results/codec/{codec}-seed{seed}".format(**m) for m in TIMED],
        settings=settings("generation", "speed"),
        code=code("pipeline.generation.speed"),
    shell:
        "python -m pipeline.generation.speed --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm {params.lm} --codec {params.codec} --manifest {input.manifest} --text results/lm/text"
        " --out {output} > {log} 2>&1"


rule decode:
    input:
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
        tokens="results/tokens/{codec}-seed{seed}/test.npy",
        manifest=rules.captions.output.manifest,
    output:
        audio="results/generation/reconstruction/{codec}-seed{seed}/audio.npy",
    log:
        "logs/generation/reconstruction/{codec}-seed{seed}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("generation"),
        code=code("pipeline.codec.reconstruction"),
    shell:
        "python -m pipeline.codec.reconstruction decode --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed}"
        " --tokens results/tokens/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest}"
        " --out results/generation/reconstruction/{wildcards.codec}-seed{wildcards.seed} > {log} 2>&1"


rule generation:
    input:
        rules.pattern_speed.output if MODELS else [],
        [expand(rules.decode.output, **run) for run in RUNS],
        [expand(rules.generate.output, **model) for model in MODELS],
