"""Every table and figure from made-up results: all there, the same bytes twice, and one seed is enough."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pipeline import files, params, statistics
from pipeline.report import claims, figures, page, tables
from pipeline.report.results import Results
from pipeline.statistics import Estimate
from pipeline.study import FIGURE_NAMES, OF_FACTORISED, OF_MODELS, PATTERNS, SCORES, TABLE_NAMES

CAPTIONS = Path(__file__).parents[2] / "rules" / "captions"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root, whole = tmp_path_factory.mktemp("study"), synthetic.parameters(seeds=(0,))
    synthetic.write(root, whole)
    return root, json.dumps({name: whole[name] for name in ("study", "evaluation", "report", "lm")})


TABLE_FILES = {f"{name}.{suffix}" for name in TABLE_NAMES for suffix in tables.FORMATS}
TABLE_FILES |= {"tables.tex", "provenance.json"}
FIGURE_FILES = {f"{name}.{suffix}" for name in FIGURE_NAMES for suffix in figures.FORMATS}


def _run(module: ModuleType, study: tuple[Path, str], out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    root, argument = study
    argv = ["report", "--params", argument, "--study", str(root), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    module.main()
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _metrics(study: tuple[Path, str]) -> set[str]:
    return {f"metrics/{name}.json" for name in Results(*study).study.metrics}


def test_tables_are_complete_and_the_same_twice(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = _run(tables, study, tmp_path / "a", monkeypatch)
    assert set(written) == TABLE_FILES | _metrics(study)
    assert written == _run(tables, study, tmp_path / "b", monkeypatch)
    metrics = json.loads(written["metrics/lm/delay-mmd.json"])
    assert metrics["fad_mtt"] == pytest.approx(7, abs=0.2)
    assert metrics.keys() == json.loads(written["metrics/lm/parallel-baseline.json"]).keys()
    scores = pd.read_csv(tmp_path / "a" / "scores.csv")
    assert len(scores) == 1 + 8 + 8
    assert (scores["FAD-MTT low"] <= scores["FAD-MTT"]).all()
    assert "FAD" not in {column.split(",")[0] for column in scores}  # never without the name of its model
    assert scores[["KAD-MTT", "FAD-CDPAM", "KAD-CDPAM", "FAD-CDPAM to FMA-Pop", "KL-MTT (nats)"]].notna().all(None)
    assert scores[["FAD-VGGish", "KL-PaSST (nats)", "CLAP score"]].isna().all(None)
    assert scores["agreement with captions"].notna().all()
    assert pd.read_csv(tmp_path / "a" / "claims.csv")["verdict"].notna().all()
    assert written["claims.tex"].startswith(b"\\begin{tabular}")
    document = written["tables.tex"].decode()
    assert re.findall(r"\\input{(\w+)}", document) == list(TABLE_NAMES)
    assert document.count("{") == document.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_the_tables_compile_by_themselves(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tables, study, tmp_path, monkeypatch)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


@pytest.mark.parametrize("alone", [False, True], ids=["beside trained ones", "alone"])
def test_codecs_that_come_trained_have_rows_and_decide_no_claim(
    *, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = synthetic.parameters(seeds=(0,))
    theirs = {"theirs": {"pretrained": "/theirs", "codebooks": 4}}
    if alone:
        whole["study"] |= {"codecs": theirs, "language_models": {}}
    else:
        whole["study"]["codecs"] |= theirs
        whole["study"]["language_models"]["delay"]["codecs"]["theirs"] = [0]
    synthetic.write(tmp_path / "root", whole)
    study = tmp_path / "root", json.dumps(whole)
    _run(tables, study, tmp_path / "tables", monkeypatch)
    drawn = _run(figures, study, tmp_path / "figures", monkeypatch)
    assert ("criterion.png" in drawn) is not alone
    for name in ("reconstruction", "dependence", "estimators"):
        assert "theirs" in pd.read_csv(tmp_path / "tables" / f"{name}.csv")["codec"].tolist()
    found = (tmp_path / "tables" / "findings.csv").read_text()
    assert "theirs" not in found
    claims = pd.read_csv(tmp_path / "tables" / "claims.csv").set_index("claim")["verdict"]
    if alone:
        assert set(claims) == {"not tested"}


def test_every_embedder_that_was_asked_has_columns_under_its_label(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole)
    path = tmp_path / f"{SCORES.format(system='floor')}.json"
    score = files.read_json(path)
    for measure, name in (("fad", "toy"), ("kad", "toy"), ("fma_pop", "toy"), ("fad", "bare"), ("kad", "bare")):
        score[measure][name] = score["fad"]["cdpam"]
    score["embedders"]["toy"] = {"label": "Toy", "divergence": "kl_toy", "cosine": "clap_toy"}
    score |= {"kl_toy": score["kl"], "clap_toy": score["text"]}
    files.write_json(path, score)
    with np.load(path.with_suffix(".npz")) as arrays:
        values = dict(arrays)
    np.savez(path.with_suffix(".npz"), **values, kl_toy=2 * values["kl"], clap_toy=values["text"])
    row = tables.scores(Results(tmp_path, json.dumps(whole)))[0]
    assert row["FAD-Toy"].value == row["KAD-Toy"].value == row["FAD-Toy to FMA-Pop"].value == 1.5
    assert row["KL-Toy (nats)"].value == pytest.approx(2 * row["KL-MTT (nats)"].value)
    assert row["Toy score"].value == row["agreement with captions"].value
    assert row["FAD-bare"].value == row["KAD-bare"].value == 1.5  # an embedder without a label goes by its name
    assert "FAD-bare to FMA-Pop" not in row


def test_clips_that_are_not_paired_have_no_divergence(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    whole["evaluation"]["systems"] = {"theirs": {"folder": "theirs", "captions": ""}}
    synthetic.write(tmp_path, whole)
    for suffix in ("json", "npz"):
        ours, theirs = (tmp_path / f"{SCORES.format(system=name)}.{suffix}" for name in ("floor", "outside/theirs"))
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_bytes(ours.read_bytes())
    path = tmp_path / f"{SCORES.format(system='outside/theirs')}.json"
    score = files.read_json(path)
    files.write_json(path, score | {"kl": score["kl"] | {"paired": False}})
    row = tables.scores(Results(tmp_path, json.dumps(whole)))[-1]
    assert (row["system"], row["KL-MTT (nats)"], row["FAD-MTT"].value) == ("theirs", "n/a", 1.5)


def test_bandtoks_dependence_is_published_beside_musicgens_scores(study: tuple[Path, str]) -> None:
    rows = tables.published(Results(*study))
    assert len({tuple(row) for row in rows}) == 1
    found = {row["system"]: row[tables.NORMALISED] for row in rows if row["source"] == tables.BANDTOK}
    assert found == {"residual levels": "about 0.77", "bands, of one codebook": "0.50 to 0.71"}
    assert {row[tables.NORMALISED] for row in rows if row["source"] == tables.MUSICGEN} == {"n/a"}


def test_scores_stand_beside_the_published_ones_of_their_pattern(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    models = {"codecs": {"mmd": [0]}, "seeds": [0]}
    whole["study"]["language_models"] = {"partial-delay": models, "valle": models}
    synthetic.write(tmp_path, whole)
    rows = {row["system"]: row for row in tables.scores(Results(tmp_path, json.dumps(whole)))}
    published = "published (VGGish, PaSST, CLAP)"
    assert rows["LM, partial-delay"][published].startswith("1.51 0.54 0.32 (MusicGen")
    assert rows["LM, valle"][published] == "n/a"


def test_a_pattern_that_musicgen_did_not_publish_has_no_scores_of_it(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole)
    path = tmp_path / PATTERNS
    [known, *_] = timed = files.read_json(path)["patterns"]
    files.write_json(path, {"patterns": [*timed, {**known, "pattern": "toy"}]})
    rows = {row["pattern"]: row for row in tables.patterns(Results(tmp_path, json.dumps(whole)))}
    scores = ("MusicGen: steps", "MusicGen: FAD (VGGish)", "MusicGen: KL (PaSST)", "MusicGen: CLAP score")
    assert [rows["partial-delay"][column] for column in scores] == [1500, 1.51, 0.54, 0.32]
    assert [rows["toy"][column] for column in (*scores, "MusicGen's source")] == ["n/a"] * 5
    assert rows["toy"]["steps a clip"] == known["steps"]


def test_a_study_that_decides_no_claim_has_empty_tables_of_them(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    whole["report"]["claims"] = []
    assessed = claims.assess(Results(tmp_path, json.dumps(whole)))
    for suffix in tables.FORMATS:
        tables.write(tables.claim_rows(assessed), tmp_path / "claims")
        assert (tmp_path / f"claims.{suffix}").exists()


def test_seeds_get_a_mean_row(tmp_path: Path) -> None:
    whole = synthetic.parameters()
    synthetic.write(tmp_path, whole)
    rows = tables.reconstruction(Results(tmp_path, json.dumps(whole)))
    assert [row["seed"] for row in rows[:3]] == [0, 1, "mean"]
    first, second, mean = (row["SI-SDR (dB)"].value for row in rows[:3])
    assert mean == pytest.approx((first + second) / 2)


def test_tables_show_intervals_and_escape_latex(tmp_path: Path) -> None:
    rows = [{"a_b": "5 % & more", "n": 3, "x": 0.12345}]
    tables.write(rows, tmp_path / "table")
    assert (tmp_path / "table.csv").read_text() == "a_b,n,x\n5 % & more,3,0.12345\n"
    assert "0.123" in (tmp_path / "table.md").read_text()
    tex = (tmp_path / "table.tex").read_text()
    assert r"5 \% \& more" in tex
    assert r"a\_b" in tex


def test_the_best_is_marked_where_it_is_clear(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0, 1, 2))
    synthetic.write(tmp_path, whole)
    results = Results(tmp_path, json.dumps(whole))
    rows = tables.systems(results)
    marked = {(row["made by"], row["codec"]) for row in rows if isinstance(row["FAD-MTT"], tables.Best)}
    for made_by, codec in marked:
        rivals = {row["codec"] for row in rows if row["made by"] == made_by} - {codec}
        assert rivals
        for rival in rivals:
            ours, theirs = (tables._by_codec(results.study)[made_by][name] for name in (codec, rival))
            steps = [results.difference(results.fad(ours[s][0]), results.fad(theirs[s][0])) for s in (0, 1, 2)]
            assert statistics.over_seeds(steps, results.confidence).estimate.high < 0
    assert ("LM, delay", "baseline") not in marked
    assert any(made_by.startswith("LM") for made_by, _ in marked)


def test_nothing_is_best_of_fewer_seeds_or_by_a_score_that_found_no_order(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0, 1))
    synthetic.write(tmp_path, whole)
    rows = tables.systems(Results(tmp_path, json.dumps(whole)))
    assert not any(isinstance(value, tables.Best) for row in rows for value in row.values())
    assert {row["seeds"] for row in rows} >= {2}


def test_what_is_best_is_bold_in_every_format(tmp_path: Path) -> None:
    low, high = (Estimate(value, value - 0.1, value + 0.1, np.empty(0)) for value in (1.0, 2.0))
    tables.write([{"a": "x & y", "FAD": tables.Best(low)}, {"a": "z", "FAD": high}], tmp_path / "table")
    assert "**1.00 [0.90, 1.10]**" in (tmp_path / "table.md").read_text()
    tex = (tmp_path / "table.tex").read_text()
    assert r"\textbf{1.00 [0.90, 1.10]}" in tex
    assert r"x \& y & \textbf" in tex
    csv = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert csv["FAD best"].tolist() == ["yes", ""]
    shown = page.table(tmp_path / "table.csv")
    assert shown["columns"] == ["a", "FAD"]
    assert [row["b1"] for row in shown["rows"]] == [True, False]


def test_figures_are_complete_and_the_same_twice(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = _run(figures, study, tmp_path / "a", monkeypatch)
    assert set(written) == FIGURE_FILES
    root, argument = study
    with mpl.rc_context(figures.STYLE):
        figures.save(figures.scores(Results(root, argument)), tmp_path / "again")
    assert [(tmp_path / f"again.{suffix}").read_bytes() for suffix in figures.FORMATS] == [
        written[f"scores.{suffix}"] for suffix in figures.FORMATS
    ]


def _cut_off(figure: Figure) -> list[np.ndarray]:
    """Plotted points that lie beyond the limits of their axes: of lines, whiskers, bands and bars."""
    points = []
    for ax in figure.axes:
        vertices = [np.asarray(line.get_xydata()) for line in ax.lines if line.get_transform() == ax.transData]
        for collection in ax.collections:
            if collection.get_transform() == ax.transData:
                vertices += [np.asarray(path.vertices) for path in collection.get_paths()]
        for bars in ax.containers:
            if isinstance(bars, BarContainer):
                vertices += [bar.get_bbox().get_points() for bar in bars]
        limits = np.sort(np.transpose([ax.get_xlim(), ax.get_ylim()]), axis=0)
        points += [
            point for each in vertices for point in each if (point < limits[0]).any() or (point > limits[1]).any()
        ]
    return points


@pytest.mark.parametrize("draw", figures.FIGURES.values(), ids=figures.FIGURES)
def test_every_point_lies_within_its_axes(study: tuple[Path, str], draw: Callable[[Results], Figure]) -> None:
    root, argument = study
    with mpl.rc_context(figures.STYLE):
        assert not _cut_off(draw(Results(root, argument)))


def test_the_table_of_the_calibration_names_both_conditions(study: tuple[Path, str]) -> None:
    rows = tables.calibration(Results(study[0], study[1]))
    assert {(row["codes"], row["frames"]) for row in rows} == {(synthetic.SIZE, 6_000), (2048, 20_000)}
    (used,) = [row for row in rows if row["verdict"]]
    assert (used["codes"], used["distribution"], used["estimator"]) == (
        synthetic.SIZE,
        "worst case",
        "shuffled baseline",
    )


def test_every_table_and_figure_has_its_code_and_a_caption() -> None:
    assert set(tables.TABLES) == set(TABLE_NAMES)
    assert set(figures.FIGURES) == set(FIGURE_NAMES)
    for name in (*TABLE_NAMES, *FIGURE_NAMES):
        template = jinja2.Template((CAPTIONS / f"{name}.rst").read_text(), undefined=jinja2.StrictUndefined)
        text = template.render(snakemake=SimpleNamespace(config=synthetic.parameters()))
        assert text.strip(), name
        assert "{" not in text, name


def test_a_study_of_codecs_alone_has_no_music_to_report(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, argument = study
    whole = json.loads(argument)
    whole["study"]["language_models"] = {}
    alone = (root, json.dumps(whole))
    for module, names in ((tables, TABLE_FILES | _metrics(alone)), (figures, FIGURE_FILES)):
        written = _run(module, alone, tmp_path / module.__name__, monkeypatch)
        assert set(written) == {name for name in names if not name.startswith((*OF_MODELS, *OF_FACTORISED))}
    scored = pd.read_csv(tmp_path / tables.__name__ / "scores.csv")
    assert set(scored["codec"].dropna()) == set(codecs := whole["study"]["codecs"])
    assert len(scored) == 1 + sum(len(codec["seeds"]) for codec in codecs.values())
    verdicts = pd.read_csv(tmp_path / tables.__name__ / "claims.csv").set_index("claim")["verdict"]
    assert (verdicts[["C3", "C4", "C5"]] == "not tested").all()
    assert verdicts["C1"] == "supported"


def test_every_deciding_difference_is_a_line_of_the_verdicts(study: tuple[Path, str]) -> None:
    results = Results(study[0], study[1])
    deciding = [f for claim in claims.assess(results).values() for f in claim.findings if f.verdict]
    axes = figures.verdicts(results).axes
    lines = [label.get_text() for ax in axes for label in ax.get_yticklabels()]
    assert lines == [f"{finding.measure}, {finding.of}" for finding in deciding]
    texts = [text.get_text() for ax in axes for text in ax.texts]
    by_p = [text for text in texts if text.endswith("by its p")]
    assert by_p == [f"{finding.verdict}, by its p" for finding in deciding if finding.low is None]
    assert [t.split()[0] for t in texts if t not in by_p] == [f"{finding.value:.3g}" for finding in deciding]


@pytest.mark.parametrize("value", [0.9, 1.5, 2.1])
def test_a_value_outside_of_its_interval_is_drawn(value: float) -> None:
    ax = Figure().subplots()
    figures._from_margin(ax, 0, claims.Finding("ratio", "a", "0", value, 1.0, 2.0, claims.SUPPORTED))
    assert [text.get_text() for text in ax.texts] == [f"{value:.3g} [1, 2]"]


@pytest.fixture(scope="module")
def every_pattern(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of a study with every codebook pattern, whose legends are the longest."""
    root, whole = tmp_path_factory.mktemp("patterns"), synthetic.parameters(seeds=(0,))
    models = whole["study"]["language_models"]
    whole["study"]["language_models"] = {name: models["delay"] for name in params.choices("PATTERNS")} | models
    whole["study"]["depth"] = [0]
    synthetic.write(root, whole)
    return Results(root, json.dumps(whole))


@pytest.mark.parametrize("draw", figures.FIGURES.values(), ids=figures.FIGURES)
def test_titles_and_legends_lie_within_the_figure(every_pattern: Results, draw: Callable[[Results], Figure]) -> None:
    with mpl.rc_context(figures.STYLE):
        figure = draw(every_pattern)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        titles = [figure._suptitle, *(title for ax in figure.axes for title in (ax.title, ax._left_title))]
        legends = [text for legend in figure.legends for text in legend.get_texts()]
        for text in filter(lambda text: text and text.get_text(), [*titles, *legends]):
            extent = text.get_window_extent()
            assert extent.x0 >= 0, text
            assert extent.x1 <= figure.bbox.x1, text


@pytest.mark.parametrize("draw", figures.FIGURES.values(), ids=figures.FIGURES)
def test_labels_of_ticks_do_not_overlap(every_pattern: Results, draw: Callable[[Results], Figure]) -> None:
    with mpl.rc_context(figures.STYLE):
        figure = draw(every_pattern)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        for ax in figure.axes:
            labels = [*ax.get_xticklabels(), *ax.get_xticklabels(minor=True)]
            level = [label for label in labels if label.get_text() and label.get_rotation() == 0]
            extents = sorted((label.get_window_extent() for label in level), key=lambda extent: extent.x0)
            assert all(left.x1 <= right.x0 for left, right in pairwise(extents)), [each.get_text() for each in level]


def test_scores_of_codecs_alone_have_no_empty_panel(tmp_path: Path) -> None:
    whole = synthetic.parameters()
    whole["study"] |= {"language_models": {}, "shuffled": []}
    synthetic.write(tmp_path, whole)
    axes = figures.scores(Results(tmp_path, json.dumps(whole))).axes
    assert len(axes) == 4
    codecs = len(whole["study"]["codecs"])
    for ax in axes:
        places = sorted({round(float(bar.lines[0].get_xdata()[0])) for bar in ax.containers})
        assert places == list(range(codecs))


def test_a_logarithmic_axis_has_few_and_plain_labels() -> None:
    ax = Figure().subplots()
    ax.set_xscale("log")
    ax.set_xlim(1.5e-4, 1.2e-2)
    figures._plain_ticks(ax.xaxis)
    ax.figure.draw_without_rendering()
    within = [label for label in ax.get_xticklabels() if 1.5e-4 <= label.get_position()[0] <= 1.2e-2]
    assert [label.get_text() for label in within] == ["0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01"]
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))


def test_an_axis_of_many_decades_has_fewer_labels() -> None:
    ax = Figure().subplots()
    ax.plot([1e-4, 2e-2], [0, 1])
    ax.set_xscale("log")
    figures._plain_ticks(ax.xaxis)
    ax.figure.draw_without_rendering()
    within = [label for label in ax.get_xticklabels() if 1e-4 <= label.get_position()[0] <= 2e-2]
    assert [label.get_text() for label in within] == ["0.0001", "0.0003", "0.001", "0.003", "0.01"]


def test_one_codec_that_broke_does_not_hide_the_others() -> None:
    usual, broken, few = Figure().subplots(), Figure().subplots(), Figure().subplots()
    changes = [0.0, 0.5, -1.0, 1.5, 2.0]
    figures._bend(usual, changes)
    figures._bend(broken, [*changes, -45.0])
    figures._bend(few, [0.0, 0.25, 0.0, -0.01])
    assert usual.get_yscale() == few.get_yscale() == "linear"
    assert broken.get_yscale() == "symlog"
    assert sorted(broken.get_yticks()) == [-10, -1, 0, 1, 10]


def test_the_criterion_has_such_an_axis_where_its_values_spread(
    every_pattern: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DECADE", 1.0)  # values of the made study lie close together
    axes = figures.criterion(every_pattern).axes
    assert [ax.get_xscale() for ax in axes] == ["log"] * 4
    assert all(isinstance(ax.xaxis.get_minor_formatter(), NullFormatter) for ax in axes)
