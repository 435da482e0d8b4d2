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
        code=code(
            "pipeline.generation.sampling",
            "ARCHITECTURES",
            "QUANTIZERS",
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


# Any of the models would do: what a step takes does not depend on the weights.
TIMED = STUDY.models[:1]


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
        settings=settings("generation", "speed"),
        code=provenance.source_digest(
            "pipeline.generation.speed",
            *parameters.choices("PATTERNS").values(),
            *parameters.choices("ARCHITECTURES").values(),
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
        code=code("pipeline.generation.decode", "ARCHITECTURES", "QUANTIZERS"),
        codec=at(study.CODEC),
        tokens=at(study.TOKENS),
        out=at(study.RECONSTRUCTION),
    shell:
        "python -m pipeline.generation.decode --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --codec {params.codec} --tokens {params.tokens} --manifest {input.manifest}"
        " --out {params.out} > {log} 2>&1"


rule generation:
    input:
        rules.pattern_speed.output if TIMED else [],
        every(STUDY.runs, *rules.decode.output),
        every(STUDY.models, *rules.generate.output),
