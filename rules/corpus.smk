"""Corpus: clips of music, their tags and captions, one manifest."""


rule clips:
    output:
        audio=f"{study.CORPUS}/audio.npy",
        clips=f"{study.CORPUS}/clips.parquet",
        credits=multiext(f"{study.CORPUS}/credits", ".csv", ".md"),
        summary=f"{study.CORPUS}/summary.json",
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
        code=code("pipeline.corpus.clips", "SOURCES"),
        tracks=provenance.file_digest(ROOT / "pipeline" / "corpus" / "soundtracks.csv"),
        music=lambda wildcards: contents(
            PARAMS.corpus.local.audio, PARAMS.corpus.local.metadata
        ),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.corpus.clips --params {params.settings:q} --threads {threads}"
        ' --archive "$ARCHIVE" --downloads "$DOWNLOADS" --out {params.corpus} > {log} 2>&1'


rule tags:
    input:
        rules.clips.output.audio,
        rules.clips.output.clips,
    output:
        f"{study.CORPUS}/tags.npz",
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
        code=code("pipeline.corpus.tags"),
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.corpus.tags --params {params.settings:q} --device $DEVICE --threads {threads}"
        ' --downloads "$DOWNLOADS" --corpus {params.corpus} --out {output} > {log} 2>&1'


rule captions:
    input:
        rules.clips.output.audio,
        rules.clips.output.clips,
        rules.tags.output,
    output:
        manifest=f"{study.CORPUS}/manifest.parquet",
        leakage=f"{study.CORPUS}/leakage.json",
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
        corpus=at(study.CORPUS),
    shell:
        "python -m pipeline.corpus.captions --params {params.settings:q} --threads {threads}"
        " --corpus {params.corpus} --out {output.manifest} > {log} 2>&1"


rule corpus:
    input:
        rules.clips.output,
        rules.captions.output,
