"""Tables of the study: CSV for machines, Markdown and LaTeX for readers, and a few numbers for `dvc metrics`.

Intervals are over tracks; rows `mean` average the seeds. The paper's own numbers were not at hand: they are n/a.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import files, job, provenance, statistics
from pipeline.report import claims
from pipeline.report.claims import MUSIC_SEEDS, Claim
from pipeline.report.history import RULE_CHANGES
from pipeline.report.orders import verdict
from pipeline.report.results import ALIGNMENTS, DISTRIBUTIONS, ESTIMATORS, MAIN, Results
from pipeline.statistics import POWER, Estimate
from pipeline.study import FLOOR, JOINT, OUTSIDE, Model, Run, Study

FORMATS = ("csv", "md", "tex")
BESIDE = "decides nothing"  # of a finding, in place of a verdict
ERRORS = {"bias": "bias", "spread": "spread", "mean absolute error": "error"}  # as shown -> as stored

Row = dict[str, Any]  # column -> str, int, float, Estimate or Best


class Best(NamedTuple):
    """A number that is shown as the best of its group."""

    estimate: Estimate


# The scores that the paper gives: of embedders whose weights are in no package, n/a where they were not asked.
PAPER_SCORES = ("FAD-VGGish", "KL-PaSST (nats)", "CLAP score")

# MusicGen (arXiv 2306.05284), its own data, 30 s, 300M parameters, plain EnCodec: steps, and scores, by pattern.
MUSICGEN = "MusicGen, arXiv 2306.05284"
MUSICGEN_COLUMNS = ("steps", "FAD (VGGish)", "KL (PaSST)", "CLAP score")
PUBLISHED = {
    "delay": (1500, 0.96, 0.52, 0.35),
    "partial-delay": (1500, 1.51, 0.54, 0.32),
    "parallel": (1500, 2.58, 0.62, 0.27),
    "partial-flatten": (3000, 1.32, 0.54, 0.34),
    "coarse-first": (3000, 1.98, 0.56, 0.30),
    "flatten": (6000, 0.86, 0.51, 0.37),
}
# Normalised mutual information between streams, as its paper prints it; over which entropies, we do not know.
BANDTOK = "BandTok, arXiv 2605.15831"
NORMALISED = "normalised MI of streams"
BETWEEN_STREAMS = (("residual levels", "about 0.77"), ("bands, of one codebook", "0.50 to 0.71"))
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
        by_seed: list[Row] = []
        for seed in results.study.seeds(codec):
            perplexity = results.dependence(codec, seed)["alignments"]["equal_time"]["perplexity"]
            by_seed.append(
                {
                    "SI-SDR (dB)": results.reconstruction(codec, seed, "si_sdr"),
                    "log-mel distance": results.reconstruction(codec, seed, "log_mel"),
                    "Zimtohrli MOS": results.reconstruction(codec, seed, "mos"),
                    **{f"perplexity {k}": value for k, value in enumerate(perplexity, start=1)},
                }
            )
        rows += _with_mean(results, {"codec": codec}, results.study.seeds(codec), by_seed)
    return rows


def dependence(results: Results) -> list[Row]:
    """Dependence between the codebooks of each codec by the chosen estimator, at equal time and delayed."""
    rows, estimator = [], results.estimator
    for codec in results.study.codecs:
        for alignment, where in ALIGNMENTS.items():
            by_seed: list[Row] = []
            for seed in results.study.seeds(codec):
                result = results.dependence(codec, seed)
                sizes, controls = result["alignments"][alignment], result["controls"]
                copy = controls["positive"]
                by_seed.append(
                    {
                        "MI, sum of pairs (bits)": results.total(codec, seed, alignment, "mutual_information"),
                        "over sum of entropies": results.total(codec, seed, alignment, "normalised_by_sum"),
                        "over least entropy": results.total(codec, seed, alignment, "normalised_by_minimum"),
                        "summed entropy (bits)": results.total(codec, seed, alignment, "entropy"),
                        "control: copy, of its entropy": copy["measured"][estimator] / copy["truth"],
                        "control: shuffled (bits)": controls["negative"]["measured"][estimator],
                        "control: moved in time (bits)": controls["rolled"]["measured"][estimator],
                        "estimator": estimator,
                        "codebooks": len(sizes["perplexity"]),
                        "codes": result["codebook_size"],
                        "frames": sizes["frames"],
                        "tracks": sizes["tracks"],
                    }
                )
            rows += _with_mean(results, {"codec": codec, "alignment": where}, results.study.seeds(codec), by_seed)
    return rows


def estimators(results: Results) -> list[Row]:
    """Mutual information summed over pairs by every estimator, which shows whether a verdict depends on the choice."""
    rows = []
    for codec in results.study.codecs:
        seeds = results.study.seeds(codec)
        for alignment, where in ALIGNMENTS.items():
            names = results.dependence(codec, seeds[0])["alignments"][alignment]["estimators"]
            by_seed: list[Row] = [
                {
                    f"{ESTIMATORS[name]} (bits)": results.total(codec, seed, alignment, "mutual_information", name)
                    for name in names
                }
                for seed in seeds
            ]
            rows += _with_mean(results, {"codec": codec, "alignment": where}, seeds, by_seed)
    return rows


def total_correlation(results: Results) -> list[Row]:
    """Learned lower bounds on what all codebooks share, and on what each shares with those before it and all others."""
    rows = []
    for codec, seeds in results.study.modelled_codecs.items():
        for alignment, where in ALIGNMENTS.items():
            by_seed: list[Row] = []
            for seed in seeds:
                result = results.learned(codec, seed)
                bounds, controls = result["alignments"][alignment], result["controls"]
                previous = [bound["value"] for bound in bounds["given_previous"]]
                others = [bound["value"] for bound in bounds["given_others"]]
                by_seed.append(
                    {
                        "total correlation (bits)": results.total_correlation(codec, seed, alignment),
                        **{f"codebook {k} and those before": bits for k, bits in enumerate(previous, start=2)},
                        **{f"codebook {k} and all others": bits for k, bits in enumerate(others, start=1)},
                        "control: copy, of its entropy": controls["positive"]["measured"]
                        / controls["positive"]["truth"],
                        "control: shuffled (bits)": controls["negative"]["measured"],
                        "control: moved in time (bits)": controls["rolled"]["measured"],
                        "frames": bounds["frames"],
                        "tracks": bounds["tracks"],
                        "training frames": bounds["train_frames"],
                    }
                )
            rows += _with_mean(results, {"codec": codec, "alignment": where}, seeds, by_seed)
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


def systems(results: Results) -> list[Row]:
    """Scores of each codec's reconstructions and of the models of each pattern on it, means over seeds.

    What is clearly the best of its group is marked: by a score that found its known orders (`Results.valid`), its
    paired difference to every other row lies below 0 with the whole interval over seeds and tracks. Rows that share
    fewer than `MUSIC_SEEDS` seeds are not compared.
    """
    rows: list[Row] = []
    for made_by, codecs in _by_codec(results.study).items():
        scored = {
            score: {codec: _by_seed(results, measure, made) for codec, made in codecs.items()}
            for score, measure in {**results.lower_is_better, "agreement with captions": results.text}.items()
        }
        for codec, made in codecs.items():
            row: Row = {"made by": made_by, "codec": codec, "seeds": len(made)}
            for score, values in scored.items():
                row[score] = "n/a"
                if by_seed := list(values[codec].values()):
                    mean = statistics.over_seeds(by_seed, results.confidence).estimate
                    best = results.valid(score) and _clearly_lowest(results, values, codec)
                    row[score] = Best(mean) if best else mean
            rows.append(row)
    return rows


def scores(results: Results) -> list[Row]:
    """Scores of real music (the floor), the codecs' reconstructions, the models, and outside systems.

    The floor is music of other tracks, so its KL compares unrelated clips. The scores that the paper gives are n/a
    where their embedder was not asked.
    """
    return [
        _score(results, FLOOR, "real music of other tracks (floor)"),
        *(
            _score(results, run.system, "reconstruction by the codec", run.codec, run.seed)
            for run in results.study.runs
        ),
        *(_score(results, m.system, f"LM, {m.pattern}", m.codec, m.seed, m) for m in results.study.models),
        *(_score(results, f"{OUTSIDE}{name}", name) for name in results.study.outside),
    ]


def orders(results: Results) -> list[Row]:
    """What each score makes of systems whose order is known, a row a system, from the worst to the best."""
    return [
        {
            "score": order.score,
            "order": order.name,
            "system": system,
            "value": value,
            "minus the one before": step or "",
            "step": verdict([step]) if step else "",
            "whole order": order.verdict,
            "may decide": "yes" if results.valid(order.score) else "no",
        }
        for order in results.orders
        for system, value, step in zip(order.systems, order.values, [None, *order.steps], strict=True)
    ]


def shuffles(results: Results) -> list[Row]:
    """What it costs in sound to shuffle each codebook by itself instead of whole frames, or whole steps of the delay.

    Beside it, what the codebooks share at that alignment.
    """
    rows = []
    for codec in dict.fromkeys(run.codec for run in results.study.shuffled):
        runs = [run for run in results.study.shuffled if run.codec == codec]
        for alignment, where in ALIGNMENTS.items():
            by_seed: list[Row] = []
            for run in runs:
                row: Row = {"MI, sum of pairs (bits)": results.total(*run, alignment, "mutual_information")}
                apart = results.shuffled(run, "independent")
                for name, distance in results.shuffled(run, alignment).items():
                    row |= {f"{name}, together": distance, f"{name}, independent": apart[name]}
                    row[f"{name}, cost"] = results.difference(apart[name], distance)
                by_seed.append(row)
            rows += _with_mean(results, {"codec": codec, "kept together": where}, [run.seed for run in runs], by_seed)
    return rows


def generated_information(results: Results) -> list[Row]:
    """What codebooks share in generated codes and in real ones of the same captions' clips, and both entropies."""
    measures = {"MI, sum of pairs (bits)": "mutual_information", "summed entropy (bits)": "entropy"}
    rows: list[Row] = []
    for model in results.study.models:
        for alignment, where in ALIGNMENTS.items():
            row: Row = {**model._asdict(), "alignment": where}
            for name, measure in measures.items():
                ours, real = (results.generated_total(model, of, alignment, measure) for of in ("generated", "real"))
                row |= {f"{name}, generated": ours, f"{name}, real": real}
                row[f"{name}, generated - real"] = results.difference(ours, real)
            frames = results.generated_information(model)["real"][alignment]["frames"]
            rows.append(row | {"estimator": results.estimator, "frames": frames})
    return rows


def likelihood(results: Results) -> list[Row]:
    """Held-out bits per frame of each model, the static entropy, the share saved, and each pattern's gap to flatten."""
    rows: list[Row] = []
    for codec, seed, lm in dict.fromkeys((m.codec, m.seed, m.lm) for m in results.study.models):
        models = {m.pattern: m for m in results.study.models if (m.codec, m.seed, m.lm) == (codec, seed, lm)}
        static = results.static_bits(next(iter(models.values())))
        row: Row = {"codec": codec, "seed": seed, "LM seed": lm, "static entropy (bits per frame)": static}
        for pattern in results.study.patterns:
            row[f"{pattern} (bits per frame)"] = results.bits(models[pattern]) if pattern in models else ""
        for pattern in results.study.patterns:
            row[f"gain: {pattern}"] = results.gain(models[pattern]) if pattern in models else ""
        for pattern in results.study.patterns:
            if pattern != JOINT:
                gap = results.gap(models[pattern]) if pattern in models else None
                row[f"gap at equal steps: {pattern} - {JOINT}"] = gap or ""
        rows.append(row)
    return rows


def price(results: Results) -> list[Row]:
    """What each factorised model pays for predicting the codes of a step apart, beside what is read where it is known.

    The bias at a model's price is that of the made processes, linear between their prices.
    """
    known = results.price_calibration
    measured, bias = np.transpose(sorted((process["measured"]["value"], process["bias"]) for process in known))
    rows: list[Row] = []
    for model in results.study.factorised:
        found, paid = results.conditional(model), results.price_of_factorising(model)
        controls = found["controls"]
        rows.append(
            {
                "pattern": model.pattern,
                "codec": model.codec,
                "seed": model.seed,
                "LM seed": model.lm,
                "factorised (bits a step)": float(found["bits_factorised"]["value"]),
                "with heads (bits a step)": float(found["bits_with_head"]["value"]),
                "price (bits a step)": paid,
                "bias at that price": float(np.interp(paid.value, measured, bias)),
                "truth": "unknown",
                "last codebook alone": float(found["by_codebook"][-1]["value"]),
                "control: last sees another clip": float(controls["other_clip"]["value"]),
                "control: last sees another frame": float(controls["other_frame"]["value"]),
                "control: copy, of its bits": float(controls["copied"]["value"] / controls["copied"]["truth"]),
                "steps": found["steps"],
                "tracks": found["tracks"],
            }
        )
    empty = dict.fromkeys(rows[0], "")
    for process in known:
        paid = Estimate(**process["measured"], resamples=np.empty(0))
        about = {"codec": f"made, {process['shared']:.0%} shared", "truth": float(process["truth"])}
        rows.append({**empty, **about, "price (bits a step)": paid, "bias at that price": float(process["bias"])})
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
                "LM seed": model.lm,
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
    rows = []
    for timing in results.patterns():
        published_scores = PUBLISHED.get(timing["pattern"], ("n/a",) * len(MUSICGEN_COLUMNS))
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
        row |= {f"MusicGen: {column}": x for column, x in zip(MUSICGEN_COLUMNS, published_scores, strict=True)}
        rows.append(row | {"MusicGen's source": MUSICGEN if timing["pattern"] in PUBLISHED else "n/a"})
    return rows


def published(_: Results) -> list[Row]:
    """MusicGen's patterns on plain EnCodec, systems on MusicCaps, dependence between BandTok's streams, as published.

    All are of other data, sizes and scores. The numbers of the paper's own tables were not at hand. BandTok's values
    are no shares of summed entropies, which are at most 1/2; table `dependence` has these and, the greatest of the
    usual ones, shares of the least entropy: compare the order of streams alone.
    """
    columns = ("system", "pattern", *MUSICGEN_COLUMNS, "test set")
    rows: list[tuple[Any, ...]] = [
        *(("MusicGen 300M", name.replace("-", " "), *numbers, "its own") for name, numbers in PUBLISHED.items()),
        *((system, "n/a", "n/a", *numbers, "MusicCaps") for system, *numbers in MUSICCAPS),
    ]
    others: Row = dict.fromkeys(columns, "n/a")
    return [
        *({**dict(zip(columns, row, strict=True)), NORMALISED: "n/a", "source": MUSICGEN} for row in rows),
        *({**others, "system": streams, NORMALISED: value, "source": BANDTOK} for streams, value in BETWEEN_STREAMS),
    ]


def claim_rows(assessed: dict[str, Claim]) -> list[Row]:
    """One row a claim: what was measured, what came out, the verdict, what it rests on."""
    return [
        {
            "claim": name,
            "says": claim.says,
            "measured": claim.measured,
            "found": _deciding_numbers(claim) or "n/a",
            "verdict": claim.verdict,
            "note": claim.note,
            "rests on": claim.rests_on,
            "paper": "claimed",
        }
        for name, claim in assessed.items()
    ]


def finding_rows(assessed: dict[str, Claim]) -> list[Row]:
    """Every number behind a verdict, and those reported beside it."""
    return [
        {
            "claim": name,
            "measure": finding.measure,
            "of": finding.of,
            "seed": finding.seed,
            "value": finding.value,
            "low": "" if finding.low is None else finding.low,
            "high": "" if finding.high is None else finding.high,
            "verdict": finding.verdict or BESIDE,
        }
        for name, claim in assessed.items()
        for finding in claim.findings
    ]


def power_rows(assessed: dict[str, Claim]) -> list[Row]:
    """What each deciding difference rests on, what it can see, and what would decide the value that was found."""
    rows: list[Row] = []
    for name, claim in assessed.items():
        for finding in claim.findings:
            basis = finding.basis
            if not (finding.verdict and basis):
                continue
            half = None if finding.low is None or finding.high is None else (finding.high - finding.low) / 2
            rows.append(
                {
                    "claim": name,
                    "measure": finding.measure,
                    "of": finding.of,
                    "number": basis.number,
                    "of what": basis.unit,
                    "tracks": basis.tracks,
                    "value": finding.value,
                    "half-width": _or_not(half),
                    "spread over seeds": _or_not(basis.spread),
                    "error over tracks": _or_not(basis.track_error),
                    f"smallest effect seen in {POWER:.0%}": basis.smallest,
                    "number that would decide this value": _or_not(basis.needed),
                    "verdict": finding.verdict,
                }
            )
    return rows


def rule_rows(_: dict[str, Claim]) -> list[Row]:
    """Every change of a claim's rule so far."""
    return [
        {
            "date": change.date,
            "commit": change.commit,
            "claims": change.claims,
            "what changed": change.what,
            "why": change.why,
            "verdict before": change.before,
        }
        for change in RULE_CHANGES
    ]


def metrics(results: Results, assessed: dict[str, Claim]) -> dict[str, dict[str, Any]]:
    """A few numbers, means over seeds, for `dvc metrics`: a file for the claims, each codec, and each pattern on it.

    Files of a kind have the same numbers, so that DVC shows them as the columns of one table.
    """

    def mean(estimates: Iterable[Estimate]) -> float:
        return results.mean(list(estimates)).value

    study = results.study
    written: dict[str, dict[str, Any]] = {"claims": {name: claim.verdict for name, claim in assessed.items()}}
    for codec in study.codecs:
        runs = [run for run in study.runs if run.codec == codec]
        written[f"codec/{codec}"] = {
            "fad_mtt": mean(results.fad(run.system) for run in runs),
            "log_mel": mean(results.reconstruction(*run, "log_mel") for run in runs),
            "si_sdr_db": mean(results.reconstruction(*run, "si_sdr") for run in runs),
            **{
                f"mi_{alignment}_bits": mean(results.total(*run, alignment, "mutual_information") for run in runs)
                for alignment in ALIGNMENTS
            },
        }
    for pattern, codec in dict.fromkeys((model.pattern, model.codec) for model in study.models):
        models = [model for model in study.models if (model.pattern, model.codec) == (pattern, codec)]
        written[f"lm/{pattern}-{codec}"] = {
            "bits_per_frame": mean(results.bits(model) for model in models),
            "gain": mean(results.gain(model) for model in models),
            "fad_mtt": mean(results.fad(model.system) for model in models),
            "fad_mtt_to_own_reconstruction": mean(results.to_reconstruction(m.system, "fad") for m in models),
            "kl_mtt": mean(results.kl(model.system) for model in models),
        }
    return written


def write(rows: list[Row], path: Path) -> None:
    """Writes rows to `path` with each suffix of `FORMATS`; in CSV an interval's ends and the best get own columns."""
    wide = pd.DataFrame([_spread(row) for row in rows])
    narrow = pd.DataFrame([{column: _shown(value) for column, value in row.items()} for row in rows]).fillna("")
    best = pd.DataFrame([{column: isinstance(value, Best) for column, value in row.items()} for row in rows]).eq(True)
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: wide.to_csv(index=False),
        "md": lambda: narrow.mask(best, "**" + narrow + "**").to_markdown(index=False, disable_numparse=True) + "\n",
        "tex": lambda: (
            narrow.style.format(escape="latex")
            .format_index(escape="latex", axis="columns")
            .apply(lambda _: np.where(best, "textbf:--rwrap;", ""), axis=None)
            .hide(axis="index")
            .to_latex(hrules=True)
        ),
    }
    for suffix in FORMATS:
        with files.atomic(path.with_suffix(f".{suffix}")) as temporary:
            temporary.write_text(texts[suffix]())


def document(names: list[str]) -> str:
    """LaTeX that shows all tables by itself; each `.tex` beside it is one `tabular`, for a paper to `\\input`."""
    parts = [
        f"\\section*{{{name.replace('_', ' ').capitalize()}}}\n\\resizebox{{\\linewidth}}{{!}}{{\\input{{{name}}}}}"
        for name in names
    ]
    head = "\\documentclass{article}\n\\usepackage[landscape,margin=1cm]{geometry}\n\\usepackage{booktabs,graphicx}\n"
    return head + "\\begin{document}\n" + "\n\\clearpage\n".join(parts) + "\n\\end{document}\n"


def _with_mean(results: Results, names: Row, seeds: list[int], by_seed: list[Row]) -> list[Row]:
    """A row a seed and, where there are several, one with their mean."""
    rows = [{**names, "seed": seed, **row} for seed, row in zip(seeds, by_seed, strict=True)]
    if len(seeds) == 1:
        return rows
    mean: Row = {**names, "seed": "mean"}
    for column, first in by_seed[0].items():
        values = [row[column] for row in by_seed]
        if isinstance(first, Estimate):
            mean[column] = results.mean(values)
        else:
            mean[column] = first if isinstance(first, int | str) else sum(values) / len(values)
    return [*rows, mean]


def _by_codec(study: Study) -> dict[str, dict[str, dict[int, list[str]]]]:
    """Systems by what made them, the codec and its seed: reconstructions, then the models of each pattern."""
    made = {"reconstruction": {c: {seed: [Run(c, seed).system] for seed in study.seeds(c)} for c in study.codecs}}
    for model in study.models:
        by_seed = made.setdefault(f"LM, {model.pattern}", {}).setdefault(model.codec, {})
        by_seed.setdefault(model.seed, []).append(model.system)
    return made


def _by_seed(
    results: Results, measure: Callable[[str], Estimate | None], made: dict[int, list[str]]
) -> dict[int, Estimate]:
    """A score by seed of the codec, the mean over its models; without seeds for which it is not defined."""
    found = {seed: [measure(system) for system in systems] for seed, systems in made.items()}
    return {seed: results.mean([e for e in each if e]) for seed, each in found.items() if all(each)}


def _clearly_lowest(results: Results, values: dict[str, dict[int, Estimate]], codec: str) -> bool:
    """Whether a codec's score by seed is lower than that of each other with which it shares seeds enough."""
    compared = []
    for theirs in (by_seed for name, by_seed in values.items() if name != codec):
        shared = values[codec].keys() & theirs.keys()
        if len(shared) >= MUSIC_SEEDS:
            steps = [results.difference(values[codec][seed], theirs[seed]) for seed in sorted(shared)]
            compared.append(statistics.over_seeds(steps, results.confidence).estimate)
    return bool(compared) and all(step.high < 0 for step in compared)


def _score(
    results: Results, system: str, name: str, codec: str = "", seed: int | str = "", model: Model | None = None
) -> Row:
    score = results.score(system)
    main = score["fad"][MAIN]
    row: Row = {
        "system": name,
        "codec": codec,
        "seed": seed,
        "LM seed": model.lm if model else "",
        "FAD-MTT": results.fad(system),
        "FAD-MTT, infinite samples": float(main["infinity"]),
        "R2 of that": float(main["r2"]),
        **_by_embedder(results, system),
        "agreement with captions": results.text(system) or "n/a",
        "clips": score["clips"],
        "tracks": score["tracks"],
        **{fault.replace("_", " "): score[fault] for fault in ("silent", "not_finite", "short", "clipped")},
    }
    return row | {"published (VGGish, PaSST, CLAP)": _published(model.pattern if model else "")}


def _published(pattern: str) -> str:
    """MusicGen's scores of a pattern: another system on other data."""
    if pattern not in PUBLISHED:
        return "n/a"
    _, fad, kl, clap = PUBLISHED[pattern]
    return f"{fad} {kl} {clap} ({MUSICGEN}, 300M, its own data)"


def _by_embedder(results: Results, system: str) -> Row:
    """Scores by every embedder that was asked, each under its label, and n/a for what else the paper gives."""
    fad, kad, fma_pop = (results.distances(system, measure) for measure in ("fad", "kad", "fma_pop"))
    comparable = results.paired(system) or system == FLOOR
    row: Row = {}
    for name, embedder in results.embedders(system).items():
        label = embedder["label"]
        row |= {f"FAD-{label}": fad[name], f"KAD-{label}": kad[name]}
        for measure in ("fad", "kad"):
            own = results.to_reconstruction(system, measure, name) if results.study.bound(system) else "n/a"
            row[f"{measure.upper()}-{label} to own reconstruction"] = own
        if name in fma_pop:
            row[f"FAD-{label} to FMA-Pop"] = fma_pop[name]
        if "divergence" in embedder:
            kl = results.clip_score(system, embedder["divergence"]) if comparable else None
            row[f"KL-{label} (nats)"] = kl or "n/a"
        if "cosine" in embedder:
            row[f"{label} score"] = results.clip_score(system, embedder["cosine"]) or "n/a"
    return row | {column: row.get(column, "n/a") for column in PAPER_SCORES}


def _deciding_numbers(claim: Claim) -> str:
    """What each deciding measure gave: a value and its interval a seed."""
    values: dict[str, list[str]] = {}
    for finding in claim.findings:
        if finding.verdict:
            ends = "" if finding.low is None else f" [{finding.low:.3g}, {finding.high:.3g}]"
            values.setdefault(f"{finding.measure}, {finding.of}", []).append(f"{finding.value:.3g}{ends}")
    return "; ".join(f"{what}: {' and '.join(numbers)}" for what, numbers in values.items())


def _or_not(value: float | None) -> float | str:
    return "n/a" if value is None else value


def _spread(row: Row) -> Row:
    result: Row = {}
    for column, value in row.items():
        if isinstance(value, Best):
            result |= _spread({column: value.estimate}) | {f"{column} best": "yes"}
        elif isinstance(value, Estimate):
            result |= {column: value.value, f"{column} low": value.low, f"{column} high": value.high}
        else:
            result[column] = value
    return result


def shown(value: float, interval: tuple[float, float] | None = None) -> str:
    """A number with three decimals; with an interval, both with two digits of half its length."""
    if interval is None:
        return f"{value:.3f}"
    half = (interval[1] - interval[0]) / 2
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 3
    return f"{value:.{decimals}f} [{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"


def _shown(value: Any) -> str:
    if isinstance(value, Best):
        return _shown(value.estimate)
    if isinstance(value, Estimate):
        return shown(value.value, (value.low, value.high))
    return shown(value) if isinstance(value, float) else str(value)


OF_RESULTS: dict[str, Callable[[Results], list[Row]]] = {
    "reconstruction": reconstruction,
    "dependence": dependence,
    "estimators": estimators,
    "total_correlation": total_correlation,
    "calibration": calibration,
    "systems": systems,
    "scores": scores,
    "orders": orders,
    "shuffles": shuffles,
    "generated_information": generated_information,
    "likelihood": likelihood,
    "price": price,
    "speed": speed,
    "patterns": patterns,
    "published": published,
}
OF_CLAIMS: dict[str, Callable[[dict[str, Claim]], list[Row]]] = {
    "claims": claim_rows,
    "findings": finding_rows,
    "power": power_rows,
    "rules": rule_rows,
}
TABLES = (*OF_RESULTS, *OF_CLAIMS)


def main() -> None:
    """Writes every table, and the metrics."""
    parser = job.parser("Write the study's tables and metrics.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    args = parser.parse_args()
    job.prepare(args)
    results = Results(args.study, args.params)
    assessed = claims.assess(results)
    for name in results.study.tables:
        rows = OF_CLAIMS[name](assessed) if name in OF_CLAIMS else OF_RESULTS[name](results)
        write(rows, args.out / name)
    used = {"study": results.study.settings.model_dump(mode="json"), "confidence": results.confidence}
    with files.atomic(args.out / "tables.tex") as temporary:
        temporary.write_text(document(results.study.tables))
    for name, values in metrics(results, assessed).items():
        files.write_json(args.out / f"metrics/{name}.json", values)
    files.write_json(args.out / "provenance.json", provenance.record(used))


if __name__ == "__main__":
    job.run(main)
