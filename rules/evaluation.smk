"""Evaluation: distances of generated and reconstructed audio to held-out music."""


rule embed:
    input:
        audio=audio_of,
        captions=lambda wildcards: STUDY.theirs(wildcards.system)[1:],
        manifest=rules.captions.output.manifest,
    output:
        study.EMBEDDINGS,
    log:
        "logs/evaluation/embeddings/{system}.log",
    benchmark:
        "benchmarks/evaluation/embeddings/{system}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("corpus", "evaluation", "generation"),
        code=code("pipeline.evaluation.embed", "EMBEDDERS"),
        captions=lambda wildcards: " ".join(
            f"--captions {shlex.quote(path)}"
            for path in STUDY.theirs(wildcards.system)[1:]
        ),
        content=lambda wildcards: contents(*STUDY.theirs(wildcards.system)),
    shell:
        "python -m pipeline.evaluation.embed --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --system {wildcards.system} --audio {input.audio:q} {params.captions} --manifest {input.manifest}"
        ' --downloads "$DOWNLOADS" --checkpoints "$CHECKPOINTS" --out {output} > {log} 2>&1'


rule score:
    input:
        embeddings=rules.embed.output,
        reference=expand(rules.embed.output, system=study.REFERENCE),
        reconstruction=lambda wildcards: expand(
            rules.embed.output, system=STUDY.bound(wildcards.system)
        ),
    output:
        scores=f"{study.SCORES}.json",
        clips=f"{study.SCORES}.npz",
    log:
        "logs/evaluation/scores/{system}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("evaluation", confidence="report.confidence"),
        code=code("pipeline.evaluation.score"),
        reconstruction=lambda wildcards, input: " ".join(
            f"--reconstruction {path}" for path in input.reconstruction
        ),
    shell:
        "python -m pipeline.evaluation.score --params {params.settings:q} --threads {threads}"
        " --system {wildcards.system} --embeddings {input.embeddings} --reference {input.reference}"
        " {params.reconstruction}"
        ' --downloads "$DOWNLOADS" --out {output.scores} > {log} 2>&1'


rule evaluation:
    input:
        expand(rules.score.output, system=STUDY.systems),
