"""Figures of the study, as PNG and SVG; the same results give the same bytes.

Whiskers and bands are intervals over tracks; each mark is one seed.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter
from matplotlib.typing import LineStyleType

from pipeline import files, job, statistics
from pipeline.report.claims import NOT_SUPPORTED, PAPER, SUPPORTED, UNDECIDED, Finding, assess
from pipeline.report.results import ALIGNMENTS, DISTRIBUTIONS, ESTIMATORS, Results
from pipeline.statistics import Estimate
from pipeline.study import FLOOR, JOINT, OUTSIDE, REFERENCE, Model, Run

FORMATS = ("png", "svg")
Shared = Literal["none", "row", "all"]  # which panels have an axis in common

# Okabe and Ito's colours, which readers who are colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255") * 3
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d") * 2
FEWEST = 5  # changes that are not 0, which tell whether one of them is far from the rest
DECADE = 10  # ratio from which a logarithmic axis has ticks to show
LINES: tuple[LineStyleType, ...] = ("-", "--", ":", "-.") * 6
HATCHES = ("", "///", "...", "xxx", "---", "ooo")
MANY = 3  # names that fit side by side
WIDEST = 9.0  # inches: printed across a page of text, letters are then at least 6 points high
TITLE = 7.5  # inches: width of the longest title
# Colour and mark of what decides a claim, and of what does not yet.
DECIDED = {SUPPORTED: (COLOURS[0], "o"), NOT_SUPPORTED: (COLOURS[1], "s"), UNDECIDED: ("#888888", "d")}
BEYOND = 5.0  # half-lengths of an interval, from which an arrow stands for a mark
STYLE: dict[Any, Any] = {  # matplotlib types the keys as a Literal of all its settings
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "figure",
    "svg.fonttype": "path",
}


def verdicts(results: Results) -> Figure:
    """Every difference that decides a claim, from its margin and in units of half its interval, a panel a claim."""
    deciding = {
        f"{name}: {claim.says}. {claim.verdict.capitalize()}": [f for f in claim.findings if f.verdict]
        for name, claim in assess(results).items()
    }
    panels = {title: findings for title, findings in deciding.items() if findings}
    lines = [len(findings) for findings in panels.values()]
    figure = Figure(figsize=(10, 0.8 + 0.75 * len(panels) + 0.2 * sum(lines)), layout="constrained")
    axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in lines]}
    )
    for ax, (title, findings) in zip(axes[:, 0], panels.items(), strict=True):
        for place, finding in enumerate(findings):
            _from_margin(ax, place, finding)
        ax.set_yticks(range(len(findings)), [f"{finding.measure}, {finding.of}" for finding in findings], fontsize=7)
        ax.set_ylim(len(findings) - 0.5, -0.5)
        ax.set_title("\n".join(textwrap.wrap(title, 90)), loc="left", fontsize=8.5)
        ax.axvline(0, color="black", linewidth=0.8, linestyle=":")
        ax.tick_params(axis="x", labelbottom=ax is axes[-1, 0])
        ax.grid(visible=False, axis="y")
    axes[-1, 0].set_xlim(-BEYOND, BEYOND)
    axes[-1, 0].set_xlabel("distance from the margin, in half-lengths of the interval")
    _legend(figure, DECIDED)
    figure.suptitle(f"What decides each claim, {results.confidence:.0%} intervals")
    return figure


def _from_margin(ax: Axes, place: int, finding: Finding) -> None:
    """One line of `verdicts`: mark and whisker, and the numbers beside the axis."""
    colour, marker = DECIDED[finding.verdict]
    numbers = f"{finding.value:.3g}"
    if finding.low is None or finding.high is None:
        over_line = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        text = f"{finding.verdict}, by its p"
        ax.text(0, place, text, color=colour, ha="center", va="center", fontsize=7, bbox=over_line)
    else:
        numbers += f" [{finding.low:.3g}, {finding.high:.3g}]"
        unit = (finding.high - finding.low) / 2 or 1.0  # an interval without length lies where it lies
        margin = finding.value - finding.basis.effect if finding.basis else 0.0
        low, value, high = ((end - margin) / unit for end in (finding.low, finding.value, finding.high))
        beyond = np.clip(value, -BEYOND + 0.3, BEYOND - 0.3)
        if beyond == value:
            ends = _whiskers([Estimate(value, low, high, np.empty(0))])
            ax.errorbar([value], [place], xerr=ends, fmt=marker, color=colour, capsize=2, markersize=4)
        else:
            ax.plot([beyond], [place], "<" if value < 0 else ">", color=colour, markersize=5)
    ax.text(1.01, place, numbers, transform=ax.get_yaxis_transform(), va="center", fontsize=7)


def dependence(results: Results) -> Figure:
    """Mutual information summed over pairs, and its share of the entropies, by codec and alignment."""
    figure, axes = _figure(2, 2, (8, 5.6), sharey="row")
    measures = {
        "mutual_information": "mutual information,\nsum of pairs (bits)",
        "normalised_by_sum": "over sum of entropies,\nmean of pairs",
    }
    for row, (measure, label) in zip(axes, measures.items(), strict=True):
        for ax, (alignment, where) in zip(row, ALIGNMENTS.items(), strict=True):
            for position, codec in enumerate(results.study.codecs):
                totals = [results.total(codec, seed, alignment, measure) for seed in results.study.seeds(codec)]
                _marks(ax, position, totals, *_look(results, codec))
            _categories(ax, list(results.study.codecs))
            _from_zero(ax)
            ax.set_ylabel(label)
            ax.set_title(where.capitalize())
    sizes = results.dependence(*results.study.runs[0])["alignments"]["equal_time"]
    figure.suptitle(
        f"Dependence between codebooks ({ESTIMATORS[results.estimator]}), {sizes['frames']:,} held-out frames of "
        f"{sizes['tracks']} tracks;\n{results.confidence:.0%} intervals over tracks"
    )
    return figure


def dependence_matrices(results: Results) -> Figure:
    """Pairwise mutual information, mean over seeds, one matrix a codec and alignment."""
    codecs = list(results.study.codecs)
    rows, columns = _wrapped(len(codecs), 4)
    figure, axes = _figure(len(ALIGNMENTS) * rows, columns, (max(2.1 * columns + 0.6, TITLE), 0.6 + 4.4 * rows))
    matrices = {
        (alignment, codec): np.mean(
            [_matrix(results, codec, seed, alignment) for seed in results.study.seeds(codec)], axis=0
        )
        for alignment in ALIGNMENTS
        for codec in codecs
    }
    highest = max(np.nanmax(matrix) for matrix in matrices.values())
    for panels, (alignment, where) in zip(np.split(axes, len(ALIGNMENTS)), ALIGNMENTS.items(), strict=True):
        for ax, codec in zip(_used(panels, len(codecs)), codecs, strict=True):
            matrix = matrices[alignment, codec]
            image = ax.imshow(matrix, cmap="cividis", vmin=0, vmax=highest)
            for a, b in np.argwhere(np.isfinite(matrix)):
                ink = "black" if matrix[a, b] > highest / 2 else "white"
                ax.text(b, a, f"{matrix[a, b]:.2f}", ha="center", va="center", color=ink, fontsize=8)
            ticks = range(len(matrix))
            ax.set_xticks(ticks, [str(k + 1) for k in ticks])
            ax.set_yticks(ticks, [str(k + 1) for k in ticks])
            ax.grid(visible=False)
            ax.set_title(f"{codec},\n{where}")
        for ax in panels[:, 0]:
            ax.set_ylabel("codebook")
    figure.colorbar(image, ax=axes, label="mutual information (bits)", shrink=0.5)
    figure.suptitle(
        f"Pairwise mutual information of held-out codes ({ESTIMATORS[results.estimator]}), means over seeds"
    )
    return figure


def dependence_by_lag(results: Results) -> Figure:
    """Mutual information summed over pairs against the lag of the later codebook, a panel a seed, a line a codec."""
    seeds, smallest = sorted({run.seed for run in results.study.runs}), np.inf
    figure, axes = _figure(1, len(seeds), (max(min(1 + 3.6 * len(seeds), WIDEST), TITLE), 4.2), sharey="row")
    for ax, seed in zip(axes[0], seeds, strict=True):
        for codec in (codec for codec in results.study.codecs if seed in results.study.seeds(codec)):
            colour, marker = _look(results, codec)
            by_lag = results.dependence(codec, seed)["by_lag"]
            value, low, high = (
                [estimate[key] for estimate in by_lag["estimators"][results.estimator]]
                for key in ("value", "low", "high")
            )
            lags = np.array(by_lag["lags"]) / by_lag["frame_rate"]  # s, for codecs may differ in their frames
            ax.fill_between(lags, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.plot(lags, value, color=colour, marker=marker, markersize=3.5, linewidth=1.2)
            smallest = min(smallest, *value)
        ax.axvline(0, color="#888888", linewidth=0.8, linestyle=":")
        nearest = min(abs(lag) for lag in by_lag["far"]) / by_lag["frame_rate"]
        for side in (-1, 1):
            ax.axvspan(side * nearest, side * max(lags), color="#888888", alpha=0.12, linewidth=0)
        ax.set_xlabel("lag of codebook b\nbehind codebook a < b (s)")
        ax.set_title(f"seed {seed}")
    if smallest > 0:  # what is 0 has no logarithm
        axes[0, 0].set_yscale("log")
        _plain_ticks(axes[0, 0].yaxis)
    else:
        _from_zero(axes[0, 0])
    axes[0, 0].set_ylabel("mutual information,\nsum of pairs (bits)")
    _legend(figure, {codec: _look(results, codec) for codec in results.study.codecs}, columns=4)
    frames = results.dependence(*results.study.runs[0])["by_lag"]["frames"]
    figure.suptitle(
        f"Dependence by lag, {frames:,} held-out frames ({ESTIMATORS[results.estimator]});\n"
        f"bands are {results.confidence:.0%} intervals over tracks"
    )
    return figure


def total_correlation(results: Results) -> Figure:
    """Learned lower bound on the total correlation of all codebooks, by codec and alignment."""
    codecs = results.study.modelled_codecs
    figure, axes = _figure(1, len(ALIGNMENTS), (8, 3.4), sharey="row")
    for ax, (alignment, where) in zip(axes[0], ALIGNMENTS.items(), strict=True):
        for position, (codec, seeds) in enumerate(codecs.items()):
            bounds = [results.total_correlation(codec, seed, alignment) for seed in seeds]
            _marks(ax, position, bounds, *_look(results, codec))
        _categories(ax, list(codecs))
        _from_zero(ax)
        ax.set_ylabel("total correlation,\nlower bound (bits)")
        ax.set_title(where.capitalize())
    sizes = results.learned(*results.study.modelled[0])["alignments"]["equal_time"]
    figure.suptitle(
        f"Total correlation of {sizes['frames']:,} held-out frames of {sizes['tracks']} tracks, "
        f"learned on {sizes['train_frames']:,} frames;\n{results.confidence:.0%} intervals over tracks"
    )
    return figure


def calibration(results: Results) -> Figure:
    """Bias and spread of every estimator on codes whose mutual information is known.

    A row of panels is a condition (the study's own, and the paper's codes in few frames), a panel a distribution.
    """
    own = results.calibration
    columns = len(own["distributions"])
    figure, axes = _figure(2, columns, (WIDEST, 6), sharex="row", sharey="row")
    for row, condition in zip(axes, (own, own["few_frames"]), strict=True):
        names = list(condition["worst"])
        for ax, (distribution, known) in zip(row, condition["distributions"].items(), strict=True):
            for place, estimator in enumerate(names):
                errors = known["estimators"][estimator]
                colour, marker = (COLOURS[1], "D") if estimator == own["chosen"] else (COLOURS[0], "o")
                ax.errorbar(
                    errors["bias"], place, xerr=errors["spread"], fmt=marker, color=colour, capsize=2, markersize=5
                )
            ax.axvline(0, color="black", linewidth=0.8)
            ax.set_xlabel("estimate - truth (bits)")
            ax.set_title(f"{DISTRIBUTIONS[distribution]},\ntruth {known['truth']:.2f} bits")
        row[0].set_yticks(range(len(names)), [ESTIMATORS[each] for each in names])
        row[0].set_ylim(len(names) - 0.5, -0.5)
        row[0].set_ylabel(f"{condition['codebook_size']:,} codes,\n{condition['frames']['test']:,} frames")
    _legend(figure, {"used by the claims": (COLOURS[1], "D"), "other": (COLOURS[0], "o")})
    figure.suptitle(f"Mutual information of known codes, {own['draws']} draws; whiskers are 1 standard deviation")
    return figure


def reconstruction_dependence(results: Results) -> Figure:
    """What reconstruction loses as dependence falls with the loss' weight, a line for each kind of loss and seed."""
    figure, axes = _figure(3, 2, (WIDEST, 10), sharey="row")
    measures: dict[str, Callable[[str, int], Estimate]] = {
        "SI-SDR (dB), higher is better": lambda codec, seed: results.reconstruction(codec, seed, "si_sdr"),
        "log-mel distance, lower is better": lambda codec, seed: results.reconstruction(codec, seed, "log_mel"),
        "FAD-MTT, lower is better": lambda codec, seed: results.fad(Run(codec, seed).system),
    }
    sweeps = results.study.sweeps
    for row, (label, measure) in zip(axes, measures.items(), strict=True):
        for ax, (alignment, where) in zip(row, ALIGNMENTS.items(), strict=True):
            for index, names in enumerate(sweeps.values()):
                for seed in results.study.seeds(*names):
                    x = [results.total(codec, seed, alignment, "mutual_information").value for codec in names]
                    y = [measure(codec, seed).value for codec in names]
                    changes = [value - y[0] for value in y]
                    ax.plot(x, changes, color=COLOURS[index], marker=MARKERS[index], markersize=4, linewidth=0.9)
            ax.axhline(0, color="black", linewidth=0.8)
            _bend(ax, [each for line in ax.lines for each in line.get_ydata()])
            low, high = ax.dataLim.intervalx
            if low > 0 and high > DECADE / 2 * low:
                ax.set_xscale("log")
                _plain_ticks(ax.xaxis)
            ax.set_xlabel(f"mutual information at {where}, sum of pairs (bits)")
            ax.set_ylabel(f"change of {label}")
    weights = {
        line: ", ".join(f"{results.study.trained[codec].loss.weight:g}" for codec in names)
        for line, names in sweeps.items()
    }
    entries = {f"{line}: {weights[line]}": (COLOURS[i], MARKERS[i]) for i, line in enumerate(sweeps)}
    _legend(figure, entries, columns=2)
    figure.suptitle(
        "What reconstruction loses as the loss' weight grows: changes from each line's first weight, held-out clips;\n"
        "a line a seed, a mark a weight"
    )
    return figure


def criterion(results: Results) -> Figure:
    """MMD against mutual information: the codecs as trained, and snapshots of them in training.

    Of codecs with the paper's quantizer, or of all where none has it.
    """
    figure, axes = _figure(2, 2, (9, 7), sharey="row")
    runs = results.study.trained_runs
    clips = results.dependence(*runs[0])["alignments"]["equal_time"]["clips"]
    paper = [run for run in runs if results.study.trained[run.codec].quantizer == PAPER] or runs
    looks = {run.codec: _look(results, run.codec) for run in paper}
    for (above, below), (alignment, where) in zip(axes.T, ALIGNMENTS.items(), strict=True):
        mmd = [results.codec(*run)["mmd"][alignment] for run in paper]
        bits = [results.total(*run, alignment, "mutual_information") for run in paper]
        over_training = [results.snapshots(*run, alignment) for run in paper]
        for run, at, found, over in zip(paper, mmd, bits, over_training, strict=True):
            colour, marker = looks[run.codec]
            above.errorbar(at, found.value, yerr=_whiskers([found]), fmt=marker, color=colour, capsize=2)
            below.plot(over["mmd"], over["mutual_information"], marker=marker, color=colour, markersize=3, lw=0.7)
        steps = pd.concat(over_training)
        for ax, (x, y), what in (
            (above, (mmd, [each.value for each in bits]), f"{len(paper)} codecs, all {clips} test clips"),
            (below, (steps["mmd"], steps["mutual_information"]), f"{len(steps)} snapshots, some of the test clips"),
        ):
            rho = statistics.rank_correlation(np.asarray(x), np.asarray(y)).rho
            ax.set_title(f"{where.capitalize()}, {what},\nSpearman's $\\rho$ = {rho:.2f}")
            ax.set_xlabel("MMD above its floor")
            ax.set_ylabel("mutual information,\nsum of pairs (bits)")
            if np.min(x) > 0 and np.max(x) > DECADE * np.min(x):
                ax.set_xscale("log")
                _plain_ticks(ax.xaxis)
    _legend(figure, looks, columns=6)
    figure.suptitle(
        f"The criterion against mutual information, {results.confidence:.0%} intervals over tracks;\n"
        "lines follow a codec's training from the loss' start"
    )
    return figure


def scores(results: Results) -> Figure:
    """Scores of the codecs that have language models, by pattern, beside reconstructions, real and outside music.

    Each column of panels has one measure on one scale, to real music above and to the codec's own reconstruction below.
    """
    measures: dict[str, Callable[[str], Estimate | None]] = {
        "FAD-MTT,\nlower is better": results.fad,
        "KAD-MTT,\nlower is better": results.kad,
        "FAD-MTT to own reconstruction,\nlower is better": results.lower_is_better["FAD-MTT to own reconstruction"],
        "KAD-MTT to own reconstruction,\nlower is better": results.lower_is_better["KAD-MTT to own reconstruction"],
        "KL-MTT (nats),\nlower is better": results.kl,
        "agreement with captions,\nhigher is better": results.text,
    }
    patterns = list(dict.fromkeys(model.pattern for model in results.study.models))
    if not patterns:  # reconstructions are all that there is
        measures = {label: measure for label, measure in measures.items() if "own" not in label}
    rows = len(measures) // 2
    figure, axes = _figure(rows, 2, (10, 1 + 3 * rows))
    outside = results.study.outside
    codecs = list(results.study.modelled_codecs) or list(results.study.codecs)
    for ax, (label, measure) in zip(axes.flat, measures.items(), strict=True):
        real = measure(FLOOR)
        if measure == results.kl:  # music of other tracks has nothing to do with the clips that it is compared with
            ax.axhline(results.kl(FLOOR).value, color="#555555", linewidth=1, linestyle=":")
        elif real is not None:
            ax.axhspan(real.low, real.high, color="#bbbbbb", alpha=0.6, linewidth=0)
            ax.axhline(real.value, color="#555555", linewidth=1)
        for position, codec in enumerate(codecs):
            bounds = [measure(Run(codec, seed).system) for seed in results.study.seeds(codec)]
            _marks(ax, position - 0.36 * bool(patterns), bounds, "#555555", "_")
            for index, pattern in enumerate(patterns):
                models = [m for m in results.study.models if (m.pattern, m.codec) == (pattern, codec)]
                place = position - 0.1 + 0.44 * index / max(len(patterns) - 1, 1)
                _marks(ax, place, [measure(model.system) for model in models], COLOURS[index], MARKERS[index])
        for position, name in enumerate(outside, start=len(codecs)):
            system = f"{OUTSIDE}{name}"
            comparable = measure != results.kl or results.paired(system)
            _marks(ax, position, [measure(system)] if comparable else [], "#000000", "*")
        _categories(ax, [*codecs, *outside])
        if measure == results.text:
            ax.axhline(0.5, color="#555555", linewidth=1, linestyle=":")
        else:
            _from_zero(ax)
        ax.set_ylabel(label)
    for above, below in axes[:2].T if patterns else []:
        highest = max(above.get_ylim()[1], below.get_ylim()[1])
        above.set_ylim(top=highest)
        below.set_ylim(top=highest)
    entries = {f"LM, {pattern}": (COLOURS[i], MARKERS[i]) for i, pattern in enumerate(patterns)}
    if outside:
        entries["from outside"] = ("#000000", "*")
    entries |= {
        "codec's reconstruction": ("#555555", "_"),
        "real music of other tracks (dotted: chance)": ("#555555", ""),
    }
    _legend(figure, entries, columns=4)
    sizes = results.score(REFERENCE)
    figure.suptitle(
        f"Music scores, {sizes['clips']} clips a system, {sizes['tracks']} tracks; a mark a seed, in their order;\n"
        f"{results.confidence:.0%} intervals over tracks, wider than those of paired differences"
    )
    return figure


def likelihood(results: Results) -> Figure:
    """Held-out bits per frame by codec and pattern, and how many more each pattern needs than the joint model."""
    patterns = results.study.patterns
    figure, axes = _figure(1, 2, (WIDEST, 3.8))
    measures: dict[str, Callable[[Model], Estimate | None]] = {
        "held-out bits per frame,\nlower is better": results.bits,
        f"bits per frame above {JOINT}\non the same codec and seed": results.gap,
    }
    for ax, (label, measure) in zip(axes[0], measures.items(), strict=True):
        found = {model: estimate for model in results.study.models if (estimate := measure(model))}
        codecs = list(dict.fromkeys(model.codec for model in found))
        for position, codec in enumerate(codecs):
            for index, pattern in enumerate(patterns):
                marks = [e for m, e in found.items() if (m.pattern, m.codec) == (pattern, codec)]
                place = position + 0.75 / len(patterns) * (index - (len(patterns) - 1) / 2)
                _marks(ax, place, marks, COLOURS[index], MARKERS[index])
        _categories(ax, codecs)
        ax.set_ylabel(label)
    axes[0, 1].axhline(0, color="black", linewidth=0.8)
    _legend(figure, {pattern: (COLOURS[i], MARKERS[i]) for i, pattern in enumerate(patterns)})
    figure.suptitle(
        "Language models' likelihood, and the gap to the joint model at equal steps; "
        f"{results.confidence:.0%} intervals over tracks"
    )
    return figure


def learning(results: Results) -> Figure:
    """Validation bits per frame over the language models' training, a panel a codec, a line a seed; static entropy."""
    patterns = list(dict.fromkeys(model.pattern for model in results.study.trained_models))
    codecs = list(results.study.modelled_codecs)
    rows, columns = _wrapped(len(codecs), 3)
    figure, axes = _figure(rows, columns, (WIDEST, 1 + 2.8 * rows), sharey="all")
    for ax, codec in zip(_used(axes, len(codecs)), codecs, strict=True):
        for model in (model for model in results.study.trained_models if model.codec == codec):
            history, index = results.learning(model), patterns.index(model.pattern)
            ax.plot(history["step"], history["validation_static_bits"], color="#888888", linewidth=0.8, linestyle=":")
            ax.plot(
                history["step"],
                history["validation_bits_per_frame"],
                color=COLOURS[index],
                marker=MARKERS[index],
                markersize=3.5,
                linewidth=1.2,
            )
        ax.set_xscale("log")
        ax.set_xlabel("training step")
        ax.set_title(codec)
    for ax in axes[:, 0]:
        ax.set_ylabel("validation bits per frame,\nlower is better")
    entries = {pattern: (COLOURS[i], MARKERS[i]) for i, pattern in enumerate(patterns)}
    _legend(figure, {**entries, "static entropy (dotted)": ("#888888", "")})
    figure.suptitle("Language models' training, a line a seed")
    return figure


def price(results: Results) -> Figure:
    """What factorised models pay, by pattern and codec, with controls, and what made processes pay by their truth.

    Prices are compared under one pattern alone, so each pattern has an axis of its own.
    """
    patterns = list(dict.fromkeys(model.pattern for model in results.study.factorised))
    figure, axes = _figure(1, len(patterns) + 1, (WIDEST, 4))
    marks = ("_", "x", "+")
    for ax, pattern in zip(axes[0], patterns, strict=False):
        models = [model for model in results.study.factorised if model.pattern == pattern]
        codecs = list(dict.fromkeys(model.codec for model in models))
        for position, codec in enumerate(codecs):
            ours = [model for model in models if model.codec == codec]
            _marks(ax, position, [results.price_of_factorising(model) for model in ours], *_look(results, codec))
            for found in map(results.conditional, ours):
                controls = found["controls"]
                last = (found["by_codebook"][-1], controls["other_clip"], controls["other_frame"])
                for marker, each in zip(marks, last, strict=True):
                    ax.plot(position + 0.3, each["value"], marker, color="#888888", markersize=5)
        ax.axhline(0, color="black", linewidth=0.8)
        _categories(ax, codecs)
        ax.set_ylabel("price of factorising,\nlower bound (bits a step)")
        ax.set_title(pattern.capitalize())
    known = sorted(results.price_calibration, key=lambda process: process["truth"])
    truths = [process["truth"] for process in known]
    paid = [Estimate(**process["measured"], resamples=np.empty(0)) for process in known]
    ax = axes[0, -1]
    ax.plot([0, max(truths)], [0, max(truths)], color="black", linewidth=0.8)
    ax.errorbar(truths, [e.value for e in paid], yerr=_whiskers(paid), fmt="o-", color="#888888", capsize=2)
    ax.set_xlabel("truth (bits a step)")
    ax.set_ylabel("found (bits a step)")
    ax.set_title("Made processes")
    labels = ("of the last codebook alone", "that sees another clip (truth 0)", "that sees another frame")
    _legend(figure, {label: ("#888888", marker) for label, marker in zip(labels, marks, strict=True)})
    copied = [results.conditional(m)["controls"]["copied"] for m in results.study.factorised]
    share = min(each["value"] / each["truth"] for each in copied)
    figure.suptitle(
        f"Price of factorising, a mark a seed; {results.confidence:.0%} intervals over tracks;\n"
        f"of a copied codebook's bits, at least {share:.0%} is found"
    )
    return figure


def speed(results: Results) -> Figure:
    """Steps a clip and real-time factor of generation by pattern and codec."""
    patterns, codecs = results.study.patterns, list(results.study.modelled_codecs)
    figure, axes = _figure(1, 2, (8, 3.6))
    width = 0.8 / max(len(patterns), 1)
    for ax, key, label in zip(
        axes[0], ("steps", "real_time_factor"), ("LM steps a clip", "real-time factor, higher is faster"), strict=True
    ):
        for position, codec in enumerate(codecs):
            for index, pattern in enumerate(patterns):
                timings = [
                    results.timing(m)[key] for m in results.study.models if (m.pattern, m.codec) == (pattern, codec)
                ]
                if timings:
                    offset = width * (index - (len(patterns) - 1) / 2)
                    ax.bar(position + offset, np.mean(timings), 0.9 * width, **_bar(index))
                    ax.plot([position + offset] * len(timings), timings, ".", color="black", markersize=4)
        _categories(ax, codecs)
        ax.set_ylabel(label)
    patches = [Patch(label=pattern, **_bar(index)) for index, pattern in enumerate(patterns)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6))
    timing = results.timing(results.study.models[0])
    figure.suptitle(f"Generation of {timing['clips']} clips; bars average seeds, dots are seeds")
    return figure


def patterns(results: Results) -> Figure:
    """Seconds of music a second by codebook pattern, the same weights throughout, one panel a batch size."""
    timed = results.patterns()
    sizes = list(dict.fromkeys(timing["batch_size"] for timing in timed))
    figure, axes = _figure(1, max(len(sizes), 1), (4.5 * max(len(sizes), 1), 3.6))
    for ax, size in zip(axes[0], sizes, strict=False):
        rows = [timing for timing in timed if timing["batch_size"] == size]
        for position, row in enumerate(rows):
            median = row["real_time_factor"]
            rates = [median * np.median(row["seconds"]) / seconds for seconds in row["seconds"]]
            ax.bar(position, median, 0.6, color=COLOURS[position])
            ax.plot([position] * len(rates), rates, ".", color="black", markersize=4)
        _categories(ax, [f"{row['pattern']}\n{row['steps']} steps" for row in rows])
        ax.tick_params(axis="x", labelrotation=60)
        ax.set_ylabel("seconds of music a second")
        ax.set_title(f"{size} clip{'s' * (size > 1)} at once")
    figure.suptitle("Generation by codebook pattern, one model's weights; bars are medians, dots repeats")
    return figure


def training(results: Results) -> Figure:
    """Validation log-mel distance and both MMDs over the codecs' training, one line a seed."""
    columns = {
        "validation_log_mel": "validation log-mel distance",
        "validation_si_sdr": "validation SI-SDR (dB)",
        "validation_mmd_equal_time": "validation MMD, equal time",
        "validation_mmd_delayed": "validation MMD, delay shift",
    }
    figure, axes = _figure(2, 2, (8, 5.6))
    looks = {codec: (COLOURS[i], LINES[i]) for i, codec in enumerate(results.study.trained)}
    for ax, (column, label) in zip(axes.flat, columns.items(), strict=True):
        for codec, (colour, line) in looks.items():
            for seed in results.study.seeds(codec):
                history = results.history(codec, seed).dropna(subset=[column])
                ax.plot(history["step"], history[column], linestyle=line, color=colour, linewidth=1.2, alpha=0.8)
        ax.set_xlabel("training step")
        ax.set_ylabel(label)
    lines = [Line2D([], [], color=colour, linestyle=line, label=codec) for codec, (colour, line) in looks.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 4))
    figure.suptitle(
        "Codec training, a line a seed;\n"
        "codecs of an architecture, quantizer and seed are one run until the loss starts"
    )
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes `figure` to `path` with each suffix of `FORMATS`, without a date."""
    FigureCanvasAgg(figure)
    for suffix in FORMATS:
        with files.atomic(path.with_suffix(f".{suffix}")) as temporary:
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            figure.savefig(temporary, dpi=150, metadata=metadata)


def _figure(
    rows: int, columns: int, size: tuple[float, float], sharex: Shared = "none", sharey: Shared = "none"
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `[rows, columns]`. Axes are shared here, before anything sets their limits."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)


def _wrapped(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns of so many panels, at most so many side by side."""
    columns = min(panels, most)
    return math.ceil(panels / columns), columns


def _used(axes: np.ndarray, panels: int) -> list[Axes]:
    """The first of the axes `[rows, columns]`, row by row; the rest is hidden."""
    for ax in axes.flat[panels:]:
        ax.set_axis_off()
    return list(axes.flat[:panels])


def _look(results: Results, codec: str) -> tuple[str, str]:
    """Colour and marker of a codec, the same in every figure."""
    index = list(results.study.codecs).index(codec)
    return COLOURS[index], MARKERS[index]


def _bar(index: int) -> dict[str, Any]:
    """How a bar looks, in grey too."""
    return {"facecolor": COLOURS[index], "edgecolor": "white", "hatch": HATCHES[index % len(HATCHES)]}


def _matrix(results: Results, codec: str, seed: int, alignment: str) -> np.ndarray:
    """Pairwise mutual information `[K, K]`, NaN on the diagonal."""
    result = results.dependence(codec, seed)["alignments"][alignment]
    codebooks = len(result["perplexity"])
    matrix = np.full((codebooks, codebooks), np.nan)
    values = result["estimators"][results.estimator]["mutual_information"]
    for (a, b), information in zip(result["pairs"], values, strict=True):
        matrix[a, b] = matrix[b, a] = information["value"]
    return matrix


def _marks(ax: Axes, position: float, estimates: Sequence[Estimate | None], colour: str, marker: str = "o") -> None:
    """A mark and whisker for each estimate that is there, side by side about `position`."""
    there = [estimate for estimate in estimates if estimate]
    if not there:
        return
    offsets = 0.08 * (np.arange(len(there)) - (len(there) - 1) / 2)
    values = [estimate.value for estimate in there]
    ax.errorbar(position + offsets, values, yerr=_whiskers(there), fmt=marker, color=colour, capsize=2, markersize=5)


def _whiskers(estimates: list[Estimate]) -> np.ndarray:
    """Lengths of whiskers below and above, `[2, n]`; rounding may put a value outside of its interval."""
    return np.transpose([(e.value - e.low, e.high - e.value) for e in estimates]).clip(0)


def _categories(ax: Axes, names: list[str]) -> None:
    ax.set_xticks(range(len(names)), names)
    if len(names) > MANY:
        for label in ax.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right")
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(visible=False, axis="x")


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, at 1, 2 and 5 of each decade; of many decades at 1 and 3."""
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1, 3) if high > DECADE**2 * low else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bend(ax: Axes, changes: Sequence[float]) -> None:
    """Makes the y axis logarithmic far from 0 where one change, of a codec that broke, dwarfs the others.

    Few changes do not tell what is usual, and leave the axis as it is.
    """
    sizes = np.sort(np.abs(changes))[::-1]
    if np.count_nonzero(sizes) < FEWEST:
        return
    usual = sizes[len(sizes) // 10 + 1 :].max(initial=0)
    if usual > 0 and sizes[0] > DECADE * usual:
        ax.set_yscale("symlog", linthresh=usual)
        decades = 10.0 ** np.arange(np.ceil(np.log10(usual / 2)), np.log10(sizes[0]))
        ax.yaxis.set_major_locator(FixedLocator([*-decades, 0, *decades]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _from_zero(ax: Axes) -> None:
    """Starts the axis at 0, or below it where estimates are negative: those of a quantity that is 0 can be."""
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))


def _legend(figure: Figure, entries: dict[str, tuple[str, str]], columns: int = 6) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="" if marker else "-", label=label)
        for label, (colour, marker) in entries.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), columns))


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "verdicts": verdicts,
    "dependence": dependence,
    "dependence_matrices": dependence_matrices,
    "dependence_by_lag": dependence_by_lag,
    "total_correlation": total_correlation,
    "calibration": calibration,
    "reconstruction_dependence": reconstruction_dependence,
    "criterion": criterion,
    "scores": scores,
    "likelihood": likelihood,
    "learning": learning,
    "price": price,
    "speed": speed,
    "patterns": patterns,
    "training": training,
}


def main() -> None:
    """Draws every figure."""
    parser = job.parser("Draw the study's figures.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    args = parser.parse_args()
    job.prepare(args)
    results = Results(args.study, args.params)
    with mpl.rc_context(STYLE):
        for name in results.study.figures:
            save(FIGURES[name](results), args.out / name)


if __name__ == "__main__":
    job.run(main)
