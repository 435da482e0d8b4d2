"""Tables of the study: CSV for machines, Markdown and LaTeX for readers, and the few numbers for `dvc metrics`.

An interval is over tracks; rows `mean` average the seeds. The paper's own numbers were not at hand: they are n/a.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import files, job, provenance
from pipeline.report import claims
from pipeline.report.claims import Claim
from pipeline.report.results import ALIGNMENTS, DISTRIBUTIONS, ESTIMATORS, Results
from pipeline.statistics import Estimate
from pipeline.study import JOINT, Model

TABLES = (
    "reconstruction",
    "dependence",
    "estimators",
    "total_correlation",
    "calibration",
    "scores",
    "likelihood",
    "speed",
    "patterns",
    "published",
    "claims",
    "findings",
)
FORMATS = ("csv", "md", "tex")
FILES = (*(f"{name}.{suffix}" for name in TABLES for suffix in FORMATS), "metrics.json", "provenance.json")

ERRORS = {"bias": "bias", "spread": "spread", "mean absolute error": "error"}  # as shown -> as stored

Row = dict[str, Any]  # column -> str, int, float or Estimate

# MusicGen (arXiv 2306.05284), its own data, 30 s, 300M parameters, plain EnCodec; VGGish, PaSST and CLAP scores.
MUSICGEN = "MusicGen, arXiv 2306.05284"
PUBLISHED = (
    ("delay", 1500, 0.96, 0.52, 0.35),
    ("partial delay", 1500, 1.51, 0.54, 0.32),
    ("parallel", 1500, 2.58, 0.62, 0.27),
    ("partial flatten", 3000, 1.32, 0.54, 0.34),
    ("coarse first", 3000, 1.98, 0.56, 0.30),
    ("flatten", 6000, 0.86, 0.51, 0.37),
)
# On MusicCaps, as the same paper prints them.
MUSICCAPS = (
    ("MusicGen 300M", 3.1, 1.28, 0.31),
    ("MusicGen 1.5B", 3.4, 1.23, 0.32),
    ("MusicGen 3.3B", 3.8, 1.22, 0.31),
    ("Riffusion", 14.8, 2.06, 0.19),
    ("Mousai", 7.5, 1.59, 0.23),
    ("MusicLM", 4.0, "n/a", "n/a"),
    ("Noise2Music", 2.1, "n/a", "n/a"),
)


def reconstruction(results: Results) -> list[Row]:
    """How well each codec reconstructs held-out clips, and how many codes it uses."""
    rows = []
    for codec in results.study.codecs:
        measured = [
            {
                "SI-SDR (dB)": results.reconstruction(codec, seed, "si_sdr"),
                "log-mel distance": results.reconstruction(codec, seed, "log_mel"),
                "Zimtohrli MOS": results.reconstruction(codec, seed, "mos"),
            }
            for seed in results.study.seeds(codec)
        ]
        perplexities = [
            results.dependence(codec, seed)["alignments"]["equal_time"]["perplexity"]
            for seed in results.study.seeds(codec)
        ]
        for row, used in zip(measured, perplexities, strict=True):
            row |= {f"perplexity {k}": value for k, value in enumerate(used, start=1)}
        rows += _with_mean(results, {"codec": codec}, results.study.seeds(codec), measured)
    return rows


def dependence(results: Results) -> list[Row]:
    """Dependence between the codebooks of each codec by the chosen estimator, at equal time and delayed."""
    rows, estimator = [], results.estimator
    for codec in results.study.codecs:
        for alignment, name in ALIGNMENTS.items():
            measured = []
            for seed in results.study.seeds(codec):
                result = results.dependence(codec, seed)
                found, known = result["alignments"][alignment], result["controls"]
                measured.append(
                    {
                        "MI, sum of pairs (bits)": results.total(codec, seed, alignment, "mutual_information"),
                        "over sum of entropies": results.total(codec, seed, alignment, "normalised_by_sum"),
                        "over least entropy": results.total(codec, seed, alignment, "normalised_by_minimum"),
                        "summed entropy (bits)": results.total(codec, seed, alignment, "entropy"),
                        "control: copy, of its entropy": (
                            known["positive"]["measured"][estimator] / known["positive"]["truth"]
                        ),
                        "control: shuffled (bits)": known["negative"]["measured"][estimator],
                        "control: moved in time (bits)": known["rolled"]["measured"][estimator],
                        "estimator": estimator,
                        "frames": found["frames"],
                        "tracks": found["tracks"],
                    }
                )
            rows += _with_mean(results, {"codec": codec, "alignment": name}, results.study.seeds(codec), measured)
    return rows


def estimators(results: Results) -> list[Row]:
    """Mutual information summed over pairs by every estimator, so that a verdict can be seen not to hang on one."""
    rows = []
    for codec in results.study.codecs:
        for alignment, where in ALIGNMENTS.items():
            names = results.dependence(codec, results.study.seeds(codec)[0])["alignments"][alignment]["estimators"]
            measured = [
                {
                    f"{ESTIMATORS[name]} (bits)": results.total(codec, seed, alignment, "mutual_information", name)
                    for name in names
                }
                for seed in results.study.seeds(codec)
            ]
            rows += _with_mean(results, {"codec": codec, "alignment": where}, results.study.seeds(codec), measured)
    return rows


def total_correlation(results: Results) -> list[Row]:
    """What all codebooks share, and each with those before it and with all others: learned bounds from below."""
    rows = []
    for codec in dict(results.study.modelled):
        seeds = [seed for name, seed in results.study.modelled if name == codec]
        for alignment, where in ALIGNMENTS.items():
            measured = []
            for seed in seeds:
                result = results.learned(codec, seed)
                found, known = result["alignments"][alignment], result["controls"]
                previous, others = (
                    [bound["value"] for bound in found[given]] for given in ("given_previous", "given_others")
                )
                measured.append(
                    {
                        "total correlation (bits)": results.total_correlation(codec, seed, alignment),
                        **{f"codebook {k} and those before": bits for k, bits in enumerate(previous, start=2)},
                        **{f"codebook {k} and all others": bits for k, bits in enumerate(others, start=1)},
                        "control: copy, of its entropy": known["positive"]["measured"] / known["positive"]["truth"],
                        "control: shuffled (bits)": known["negative"]["measured"],
                        "control: moved in time (bits)": known["rolled"]["measured"],
                        "frames": found["frames"],
                        "tracks": found["tracks"],
                        "training frames": found["train_frames"],
                    }
                )
            rows += _with_mean(results, {"codec": codec, "alignment": where}, seeds, measured)
    return rows


def calibration(results: Results) -> list[Row]:
    """Errors of every estimator where mutual information is known, and which one is used.

    First with the study's own codes and frames, which alone decide, then with the paper's codes in few frames.
    """
    own = results.calibration
    rows: list[Row] = []
    for condition, chosen in ((own, own["chosen"]), (own["few_frames"], None)):
        size = {"codes": condition["codebook_size"], "frames": condition["frames"]["test"]}
        rows += [
            {
                **size,
                "distribution": DISTRIBUTIONS[name],
                "truth (bits)": known["truth"],
                "estimator": ESTIMATORS[estimator],
                **{f"{error} (bits)": float(errors[key]) for error, key in ERRORS.items()},
                "verdict": "",
            }
            for name, known in condition["distributions"].items()
            for estimator, errors in known["estimators"].items()
        ]
        for estimator, error in condition["worst"].items():
            verdict = "used by the claims" if estimator == chosen else ""
            worst = {**size, "distribution": "worst case", "truth (bits)": "", "estimator": ESTIMATORS[estimator]}
            rows.append({**worst, **dict.fromkeys((f"{name} (bits)" for name in ERRORS), ""), "verdict": verdict})
            rows[-1]["mean absolute error (bits)"] = float(error)
    return rows


def scores(results: Results) -> list[Row]:
    """Scores of real music (the floor), the codecs' reconstructions (the upper bound), the models, and outside systems.

    Real music is that of other tracks, so its KL-MTT compares clips that have nothing to do with each other. A score
    whose embedder was not asked, for its weights are in no package, is n/a.
    """
    bound = "reconstruction (upper bound)"
    return [
        _score(results, "floor", "real music of other tracks (floor)", "", ""),
        *(_score(results, f"reconstruction/{c}-seed{s}", bound, c, s) for c, s in results.study.runs),
        *(_score(results, f"generation/{m.name}", f"LM, {m.pattern}", m.codec, m.seed) for m in results.study.models),
        *(_score(results, f"outside/{name}", name, "", "") for name in results.evaluation.systems),
    ]


def likelihood(results: Results) -> list[Row]:
    """Held-out bits per frame of each model, and the price of the product of marginals: each pattern minus flatten."""
    rows: list[Row] = []
    for codec, seed in results.study.modelled:
        models = {m.pattern: m for m in results.study.models if (m.codec, m.seed) == (codec, seed)}
        row: Row = {"codec": codec, "seed": seed}
        for pattern in results.study.patterns:
            row[f"{pattern} (bits per frame)"] = results.bits(models[pattern]) if pattern in models else ""
        for pattern in results.study.patterns:
            if pattern != JOINT:
                row[f"price: {pattern} - {JOINT}"] = results.price(Model(pattern, codec, seed)) or ""
        rows.append(row)
    return rows


def speed(results: Results) -> list[Row]:
    """Steps and seconds of generation by pattern."""
    rows = []
    for model in results.study.models:
        timing = results.timing(model)
        rows.append(
            {
                "pattern": model.pattern,
                "codec": model.codec,
                "seed": model.seed,
                "steps a clip": timing["steps"],
                "clips": timing["clips"],
                "batches": len(timing["a_clip"]),
                "seconds a clip (median batch)": float(np.median(timing["a_clip"])),
                "seconds": float(timing["seconds"]),
                "processor seconds": float(timing["processor_seconds"]),
                "frames per second": float(timing["frames_per_second"]),
                "real-time factor": float(timing["real_time_factor"]),
            }
        )
    return rows


def patterns(results: Results) -> list[Row]:
    """Speed of every codebook pattern, same weights, captions and machine, beside MusicGen's scores as published."""
    scores = {row["pattern"].replace(" ", "-"): row for row in published(results)}
    rows, left_out = [], ("system", "pattern", "test set", "source")
    for timing in results.patterns():
        row: Row = {
            "pattern": timing["pattern"],
            "clips at once": timing["batch_size"],
            "steps a clip": timing["steps"],
            "repeats": len(timing["seconds"]),
            "seconds (median)": float(np.median(timing["seconds"])),
            "processor seconds (median)": float(np.median(timing["processor_seconds"])),
            "frames per second": timing["frames_per_second"],
            "real-time factor": timing["real_time_factor"],
        }
        theirs = scores[timing["pattern"]]
        rows.append(row | {f"MusicGen: {name}": theirs[name] for name in theirs if name not in left_out})
        rows[-1]["MusicGen's source"] = theirs["source"]
    return rows


def published(_: Results) -> list[Row]:
    """MusicGen's patterns on plain EnCodec, and systems on MusicCaps, as published: other data, sizes and scores.

    The numbers of the paper's own tables were not at hand.
    """
    columns = ("system", "pattern", "steps", "FAD (VGGish)", "KL (PaSST)", "CLAP score", "test set")
    rows = [
        *(("MusicGen 300M", *numbers, "its own") for numbers in PUBLISHED),
        *((system, "n/a", "n/a", *numbers, "MusicCaps") for system, *numbers in MUSICCAPS),
    ]
    return [{**dict(zip(columns, row, strict=True)), "source": MUSICGEN} for row in rows]


def claim_rows(assessed: list[Claim]) -> list[Row]:
    """One row a claim: what was measured, what came out, the verdict, what it rests on."""
    return [
        {
            "claim": claim.id,
            "says": claim.says,
            "measured": claim.measured,
            "found": _found(claim) or "n/a",
            "verdict": claim.verdict,
            "rests on": claim.rests_on,
            "paper": "claimed",
        }
        for claim in assessed
    ]


def finding_rows(assessed: list[Claim]) -> list[Row]:
    """Every number behind a verdict, and those that stand beside."""
    return [
        {
            "claim": claim.id,
            "measure": finding.measure,
            "of": finding.of,
            "seed": finding.seed,
            "value": finding.value,
            "low": "" if finding.low is None else finding.low,
            "high": "" if finding.high is None else finding.high,
            "verdict": finding.verdict or "decides nothing",
        }
        for claim in assessed
        for finding in claim.findings
    ]


def metrics(results: Results, assessed: list[Claim]) -> dict[str, Any]:
    """Small flat numbers, means over seeds, for `dvc metrics`."""

    def mean(codec: str, estimate: Callable[[int], Estimate]) -> float:
        return results.mean([estimate(seed) for seed in results.study.seeds(codec)]).value

    codecs = {
        codec: {
            "si_sdr_db": mean(codec, partial(results.reconstruction, codec, measure="si_sdr")),
            "log_mel": mean(codec, partial(results.reconstruction, codec, measure="log_mel")),
            **{
                f"mi_{alignment}_bits": mean(
                    codec, partial(results.total, codec, alignment=alignment, measure="mutual_information")
                )
                for alignment in ALIGNMENTS
            },
        }
        for codec in results.study.codecs
    }
    models: dict[str, dict[str, dict[str, float]]] = {}
    for pattern, settings in results.study.settings.language_models.items():
        for codec in settings.codecs:
            runs = [Model(pattern, codec, seed) for seed in settings.seeds]
            models.setdefault(pattern, {})[codec] = {
                "fad_mtt": results.mean([results.fad(f"generation/{run.name}") for run in runs]).value,
                "kl_mtt": results.mean([results.kl(f"generation/{run.name}") for run in runs]).value,
                "bits_per_frame": results.mean([results.bits(run) for run in runs]).value,
            }
    return {"codec": codecs, "lm": models, "claims": {claim.id: claim.verdict for claim in assessed}}


def write(rows: list[Row], path: Path) -> None:
    """Writes rows to `path` with each suffix of `FORMATS`; in CSV an interval's ends get columns of their own."""
    wide = pd.DataFrame([_spread(row) for row in rows])
    narrow = pd.DataFrame([{column: _shown(value) for column, value in row.items()} for row in rows])
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: wide.to_csv(index=False),
        "md": lambda: narrow.to_markdown(index=False, disable_numparse=True) + "\n",
        "tex": lambda: (
            narrow.style.format(escape="latex")
            .format_index(escape="latex", axis="columns")
            .hide(axis="index")
            .to_latex(hrules=True)
        ),
    }
    for suffix in FORMATS:
        with files.atomic(path.with_suffix(f".{suffix}")) as temporary:
            temporary.write_text(texts[suffix]())


def _with_mean(results: Results, names: Row, seeds: list[int], measured: list[Row]) -> list[Row]:
    """A row a seed and, of several seeds, their mean."""
    rows = [{**names, "seed": seed, **row} for seed, row in zip(seeds, measured, strict=True)]
    if len(seeds) == 1:
        return rows
    mean: Row = {**names, "seed": "mean"}
    for column, first in measured[0].items():
        values = [row[column] for row in measured]
        if isinstance(first, Estimate):
            mean[column] = results.mean(values)
        else:
            mean[column] = first if isinstance(first, int | str) else sum(values) / len(values)
    return [*rows, mean]


def _score(results: Results, system: str, name: str, codec: str, seed: int | str) -> Row:
    score = results.score(system)
    main = score["fad"]["musicnn-mtt"]
    paired = score["kl"]["paired"] or system == "floor"
    return {
        "system": name,
        "codec": codec,
        "seed": seed,
        "FAD-MTT": results.fad(system),
        "FAD-MTT, infinite samples": float(main["infinity"]),
        "R2 of that": float(main["r2"]),
        "KAD-MTT": results.kad(system),
        "FAD-CDPAM to FMA-Pop": results.fma_pop(system, "cdpam") or "n/a",
        "FAD-VGGish": results.fad(system, "vggish") or "n/a",
        "KL-MTT (nats)": results.kl(system) if paired else "n/a",
        "KL-PaSST (nats)": (paired and results.kl_passt(system)) or "n/a",
        "agreement with captions": results.text(system) or "n/a",
        "CLAP score": results.text(system, "clap") or "n/a",
        "clips": score["clips"],
        "tracks": score["tracks"],
        **{fault.replace("_", " "): score[fault] for fault in ("silent", "not_finite", "short", "clipped")},
        "published (VGGish, PaSST, CLAP)": _published(name),
    }


def _published(name: str) -> str:
    """What MusicGen's table says of the pattern that a row is of: another system on other data."""
    for pattern, _, fad, kl, clap in PUBLISHED:
        if name == f"LM, {pattern}":
            return f"{fad} {kl} {clap} ({MUSICGEN}, 300M, its own data)"
    return "n/a"


def _found(claim: Claim) -> str:
    """The deciding numbers, a value and interval a seed."""
    values: dict[str, list[str]] = {}
    for finding in claim.findings:
        if finding.verdict:
            ends = "" if finding.low is None else f" [{finding.low:.3g}, {finding.high:.3g}]"
            values.setdefault(f"{finding.measure}, {finding.of}", []).append(f"{finding.value:.3g}{ends}")
    return "; ".join(f"{what}: {' and '.join(numbers)}" for what, numbers in values.items())


def _spread(row: Row) -> Row:
    result: Row = {}
    for column, value in row.items():
        if isinstance(value, Estimate):
            result |= {column: value.value, f"{column} low": value.low, f"{column} high": value.high}
        else:
            result[column] = value
    return result


def _shown(value: Any) -> str:
    if isinstance(value, Estimate):
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Writes every table and `metrics.json`."""
    parser = job.parser("Write the study's tables and metrics.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    args = parser.parse_args()
    job.prepare(args)
    results = Results(args.study, args.params)
    assessed = claims.assess(results)
    makers = (
        reconstruction,
        dependence,
        estimators,
        total_correlation,
        calibration,
        scores,
        likelihood,
        speed,
        patterns,
        published,
    )
    rows = [*(make(results) for make in makers), claim_rows(assessed), finding_rows(assessed)]
    for name, table in zip(TABLES, rows, strict=True):
        # A study of codecs alone has no rows of music.
        if table:
            write(table, args.out / name)
    used = {"study": results.study.settings.model_dump(mode="json"), "confidence": results.confidence}
    files.write_json(args.out / "metrics.json", metrics(results, assessed))
    files.write_json(args.out / "provenance.json", provenance.record(used))


if __name__ == "__main__":
    job.run(main)
