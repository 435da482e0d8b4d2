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
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=settings("codec", "corpus", "generation", "lm"),
        code=code("pipeline.sampling"),
    shell:
        "python -m pipeline.sampling --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm results/lm/{wildcards.pattern}/{wildcards.codec}-seed{wildcards.seed}"
        " --codec results/codec/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest} --text results/lm/text"
        " --out results/generation/{wildcards.pattern}/{wildcards.codec}-seed{wildcards.seed} > {log} 2>&1"


rule generation:
    input:
        [expand(rules.generate.output, **model) for model in MODELS],
