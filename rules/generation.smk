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
        tokens=f"{study.GENERATION}/tokens.npy",
        audio=f"{study.GENERATION}/audio.npy",
        timing=f"{study.GENERATION}/timing.json",
    log:
        "logs/generation/{pattern}/{codec}-seed{seed}-lm{lm}.log",
    benchmark:
        "benchmarks/generation/{pattern}/{codec}-seed{seed}-lm{lm}.tsv"
    priority: 25
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=settings("generation"),
        code=code(
            "pipeline.generation.sampling",
            *CODEC,
            "PATTERNS",
            "DECODINGS",
        ),
        lm=at(study.LM),
        codec=at(study.CODEC),
        out=at(study.GENERATION),
        text=at(study.TEXT),
    shell:
        "python -m pipeline.generation.sampling --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm {params.lm} --codec {params.codec} --manifest {input.manifest} --text {params.text}"
        " --out {params.out} > {log} 2>&1"


use rule generate as generate_snapshot with:
    input:
        rules.encode_text.output,
        multiext(f"{study.LM_SNAPSHOT}/", "model.safetensors", "model.json"),
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
        manifest=rules.captions.output.manifest,
    output:
        tokens=f"{study.GENERATION_SNAPSHOT}/tokens.npy",
        audio=f"{study.GENERATION_SNAPSHOT}/audio.npy",
        timing=f"{study.GENERATION_SNAPSHOT}/timing.json",
    log:
        "logs/generation/snapshot/{percent}/{pattern}/{codec}-seed{seed}-lm{lm}.log",
    benchmark:
        "benchmarks/generation/snapshot/{percent}/{pattern}/{codec}-seed{seed}-lm{lm}.tsv"
    params:
        lm=at(study.LM_SNAPSHOT),
        out=at(study.GENERATION_SNAPSHOT),


rule measure_generated:
    input:
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
        expand(rules.tokenize.output, split="test", allow_missing=True),
        generated=rules.generate.output.tokens,
        manifest=rules.captions.output.manifest,
    output:
        study.INFORMATION,
    log:
        "logs/generation/information/{pattern}/{codec}-seed{seed}-lm{lm}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("dependence", "generation", confidence="report.confidence"),
        code=code("pipeline.generation.information", *CODEC),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
    shell:
        "python -m pipeline.generation.information --params {params.settings:q} --threads {threads}"
        " --generated {input.generated} --codec {params.codec} --tokens {params.tokens} --manifest {input.manifest}"
        " --out {output} > {log} 2>&1"


# Any of the models would do: what a step takes does not depend on the weights.
TIMED = STUDY.trained_models[:1]


rule pattern_speed:
    input:
        rules.encode_text.output,
        every(TIMED, rules.train_lm.output.model, rules.train_lm.output.description),
        every(
            TIMED,
            rules.codec_branch.output.model,
            rules.codec_branch.output.description,
        ),
        manifest=rules.captions.output.manifest,
    output:
        study.PATTERNS,
    log:
        "logs/generation/patterns.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=settings("dependence", "generation", "speed"),
        code=provenance.source_digest(
            "pipeline.generation.speed",
            *parameters.choices("PATTERNS").values(),
            *parameters.choices("ARCHITECTURES").values(),
            *parameters.choices("PRETRAINED").values(),
        ),
        lm=every(TIMED, study.LM),
        codec=every(TIMED, study.CODEC),
        text=at(study.TEXT),
    shell:
        "python -m pipeline.generation.speed --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --lm {params.lm} --codec {params.codec} --manifest {input.manifest} --text {params.text}"
        " --out {output} > {log} 2>&1"


rule decode:
    input:
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
        expand(rules.tokenize.output, split="test", allow_missing=True),
        manifest=rules.captions.output.manifest,
    output:
        audio=f"{study.RECONSTRUCTION}/audio.npy",
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
        code=code("pipeline.generation.decode", *CODEC),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
        out=at(study.RECONSTRUCTION),
        codebooks="",
    shell:
        "python -m pipeline.generation.decode --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec {params.codec} --tokens {params.tokens} --manifest {input.manifest} {params.codebooks}"
        " --out {params.out} > {log} 2>&1"


use rule decode as decode_kept with:
    output:
        audio=f"{study.KEPT}/audio.npy",
    log:
        "logs/generation/kept/{kept}/{codec}-seed{seed}.log",
    params:
        out=at(study.KEPT),
        codebooks="--codebooks {kept}",


rule shuffle:
    input:
        rules.codec_branch.output.model,
        rules.codec_branch.output.description,
        expand(rules.tokenize.output, split="test", allow_missing=True),
        reconstruction=rules.decode.output.audio,
        manifest=rules.captions.output.manifest,
    output:
        expand(f"{study.SHUFFLED}/audio.npy", kind=study.SHUFFLES, allow_missing=True),
        levels=study.SHUFFLED_LEVELS,
    log:
        "logs/generation/shuffled/{codec}-seed{seed}.log",
    benchmark:
        "benchmarks/generation/shuffled/{codec}-seed{seed}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("generation"),
        code=code("pipeline.generation.shuffle", *CODEC),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
        out=Path(study.SHUFFLED_LEVELS).parent,
    shell:
        "python -m pipeline.generation.shuffle --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec {params.codec} --tokens {params.tokens} --reconstruction {input.reconstruction}"
        " --manifest {input.manifest} --out {params.out} > {log} 2>&1"


rule generation:
    input:
        rules.pattern_speed.output if TIMED else [],
        every(STUDY.runs, *rules.decode.output),
        every(STUDY.models, *rules.generate.output, *rules.measure_generated.output),
        every(STUDY.growing, *rules.generate_snapshot.output, percent=STUDY.percents),
        every(STUDY.plain, *rules.decode_kept.output, kept=STUDY.settings.kept),
        every(STUDY.shuffled, *rules.shuffle.output),
