"""Language models: captions as token states, and one model for each pattern, codec and seed that the study names."""


rule encode_text:
    input:
        manifest=rules.captions.output.manifest,
    output:
        multiext("results/lm/text/", "states.safetensors", "captions.parquet"),
    log:
        "logs/lm/text.log",
    # Every model waits for it.
    priority: 50
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("conditioner"),
        code=code("pipeline.lm.conditioning"),
    shell:
        "python -m pipeline.lm.conditioning --params {params.settings:q} --device $DEVICE"
        " --threads {threads} --downloads $DOWNLOADS --manifest {input} --out results/lm/text > {log} 2>&1"


rule train_lm:
    input:
        rules.encode_text.output,
        expand(rules.tokenize.output, split=SPLITS, allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        model="results/lm/{pattern}/{codec}-seed{seed}/model.safetensors",
        description="results/lm/{pattern}/{codec}-seed{seed}/model.json",
        history="results/lm/{pattern}/{codec}-seed{seed}/history.csv",
        metrics="results/lm/{pattern}/{codec}-seed{seed}/metrics.json",
        held_out="results/lm/{pattern}/{codec}-seed{seed}/held_out.npz",
    log:
        "logs/lm/{pattern}/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/lm/{pattern}/{codec}-seed{seed}.tsv"
    priority: 50
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=settings("codec", "lm"),
        code=code("pipeline.lm.train"),
    shell:
        "python -m pipeline.lm.train --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --pattern {wildcards.pattern} --codec {wildcards.codec} --seed {wildcards.seed}"
        " --tokens results/tokens/{wildcards.codec}-seed{wildcards.seed} --manifest {input.manifest} --text results/lm/text"
        " --out results/lm/{wildcards.pattern}/{wildcards.codec}-seed{wildcards.seed} > {log} 2>&1"


rule lm:
    input:
        rules.encode_text.output,
        [expand(rules.train_lm.output, **model) for model in MODELS],
