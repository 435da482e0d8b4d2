"""Corpus: clips of music, their tags and captions, one manifest."""


rule clips:
    output:
        audio="results/corpus/audio.npy",
        clips="results/corpus/clips.parquet",
        credits=multiext("results/corpus/credits", ".csv", ".md"),
        summary="results/corpus/summary.json",
    log:
        "logs/corpus/clips.log",
    benchmark:
        "benchmarks/corpus/clips.tsv"
    conda:
        environment
    # Nothing else can run yet.
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=settings("corpus"),
        code=code("pipeline.corpus.clips"),
        tracks=provenance.file_digest(ROOT / "pipeline" / "soundtracks.csv"),
    shell:
        "python -m pipeline.corpus.clips --params {params.settings:q} --threads {threads}"
        " --archive $ARCHIVE --downloads $DOWNLOADS --out results/corpus > {log} 2>&1"


rule tags:
    input:
        rules.clips.output.audio,
        rules.clips.output.clips,
    output:
        "results/corpus/tags.npz",
    log:
        "logs/corpus/tags.log",
    benchmark:
        "benchmarks/corpus/tags.tsv"
    conda:
        environment
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("corpus"),
        code=code("pipeline.pretrained.musicnn"),
    shell:
        "python -m pipeline.pretrained.musicnn --params {params.settings:q} --device $DEVICE --threads {threads}"
        " --downloads $DOWNLOADS --corpus results/corpus --out {output} > {log} 2>&1"


rule captions:
    input:
        rules.clips.output.audio,
        rules.clips.output.clips,
        rules.tags.output,
    output:
        manifest="results/corpus/manifest.parquet",
        leakage="results/corpus/leakage.json",
    log:
        "logs/corpus/captions.log",
    conda:
        environment
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings("captions", "corpus"),
        code=code("pipeline.corpus.captions"),
    shell:
        "python -m pipeline.corpus.captions --params {params.settings:q} --threads {threads}"
        " --corpus results/corpus --out {output.manifest} > {log} 2>&1"


rule corpus:
    input:
        rules.clips.output,
        rules.captions.output,
