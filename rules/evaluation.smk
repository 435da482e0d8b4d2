"""Evaluation: distances of generated and reconstructed audio to held-out music."""


rule embed:
    input:
        audio=audio_of,
        captions=captions_of,
        manifest=rules.captions.output.manifest,
    output:
        "results/evaluation/embeddings/{system}.npz",
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
        captions=lambda _, input: (
            f"--captions {shlex.quote(input.captions)}" if input.captions else ""
        ),
        code=code("pipeline.evaluation.score"),
    shell:
        "python -m pipeline.evaluation.score embed --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --system {wildcards.system} --audio {input.audio:q} {params.captions} --manifest {input.manifest}"
        " --downloads $DOWNLOADS --checkpoints $CHECKPOINTS"
        " --out {output} > {log} 2>&1"


rule score:
    input:
        embeddings=rules.embed.output,
        reference="results/evaluation/embeddings/reference.npz",
    output:
        scores="results/evaluation/scores/{system}.json",
        clips="results/evaluation/scores/{system}.npz",
    log:
        "logs/evaluation/scores/{system}.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("evaluation", "report"),
        code=code("pipeline.evaluation.score"),
    shell:
        "python -m pipeline.evaluation.score score --params {params.settings:q} --threads {threads}"
        " --system {wildcards.system} --embeddings {input.embeddings} --reference {input.reference}"
        " --downloads $DOWNLOADS --out {output.scores} > {log} 2>&1"


rule evaluation:
    input:
        expand(rules.score.output, system=SYSTEMS),
