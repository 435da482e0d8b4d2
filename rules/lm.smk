"""Language models: captions as token states, and one model for each pattern, codec and seed that the study names."""


rule encode_text:
    input:
        manifest=rules.captions.output.manifest,
    output:
        multiext(f"{study.TEXT}/", "states.safetensors", "captions.parquet"),
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
        text=at(study.TEXT),
    shell:
        "python -m pipeline.lm.conditioning --params {params.settings:q} --device $DEVICE --threads {threads}"
        ' --downloads "$DOWNLOADS" --manifest {input} --out {params.text} > {log} 2>&1'


rule train_lm:
    input:
        rules.encode_text.output,
        rules.codec_branch.output.description,
        expand(rules.tokenize.output, split=SPLITS, allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        model=f"{study.LM}/model.safetensors",
        description=f"{study.LM}/model.json",
        history=f"{study.LM}/history.csv",
        metrics=f"{study.LM}/metrics.json",
        held_out=f"{study.LM}/held_out.npz",
        snapshots=expand(
            f"{study.LM_SNAPSHOT}/{{file}}",
            percent=PARAMS.lm.snapshot_percents,
            file=["model.safetensors", "model.json"],
            allow_missing=True,
        ),
    log:
        "logs/lm/{pattern}/{codec}-seed{seed}-lm{lm}.log",
    benchmark:
        "benchmarks/lm/{pattern}/{codec}-seed{seed}-lm{lm}.tsv"
    wildcard_constraints:
        pattern=any_of(STUDY.settings.language_models),
    priority: 50
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=settings("corpus", "lm"),
        code=code("pipeline.lm.train", "PATTERNS"),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
        out=at(study.LM),
        text=at(study.TEXT),
    shell:
        "python -m pipeline.lm.train --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --pattern {wildcards.pattern} --codec {params.codec} --seed {wildcards.lm}"
        " --tokens {params.tokens} --manifest {input.manifest} --text {params.text} --out {params.out} > {log} 2>&1"


rule deepen_lm:
    input:
        rules.encode_text.output,
        lambda wildcards: expand(
            [rules.train_lm.output.model, rules.train_lm.output.description],
            **factorised(wildcards),
        ),
        expand(rules.tokenize.output, split=["train", "test"], allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        multiext(
            f"{study.LM}/",
            "model.safetensors",
            "model.json",
            "metrics.json",
            "held_out.npz",
        ),
    log:
        "logs/lm/deepened/{pattern}/{codec}-seed{seed}-lm{lm}.log",
    benchmark:
        "benchmarks/lm/deepened/{pattern}/{codec}-seed{seed}-lm{lm}.tsv"
    wildcard_constraints:
        pattern=any_of({model.pattern for model in STUDY.deepened}),
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("dependence", "lm"),
        code=code("pipeline.lm.deepen", "PATTERNS"),
        lm=lambda wildcards: study.LM.format(**factorised(wildcards)),
        tokens=at(study.TOKENS),
        out=at(study.LM),
        text=at(study.TEXT),
    shell:
        "python -m pipeline.lm.deepen --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm {params.lm} --tokens {params.tokens} --manifest {input.manifest} --text {params.text}"
        " --out {params.out} > {log} 2>&1"


rule lm:
    input:
        rules.encode_text.output,
        every(STUDY.trained_models, *rules.train_lm.output),
        every(STUDY.deepened, *rules.deepen_lm.output),
