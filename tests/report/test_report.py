"""Every table and figure from made-up results: all there, the same bytes twice, and one seed is enough."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from pipeline.report import figures, tables
from pipeline.report.results import Results

CAPTIONS = Path(__file__).parents[2] / "rules" / "captions"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root, whole = tmp_path_factory.mktemp("study"), synthetic.parameters(seeds=(0,))
    synthetic.write(root / "results", whole)
    return root, json.dumps({name: whole[name] for name in ("study", "evaluation", "report")})


def _run(module: object, study: tuple[Path, str], out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    root, argument = study
    argv = ["report", "--params", argument, "--results", str(root / "results"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    module.main()
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_tables_are_complete_and_the_same_twice(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = _run(tables, study, tmp_path / "a", monkeypatch)
    assert set(written) == set(tables.FILES)
    assert written == _run(tables, study, tmp_path / "b", monkeypatch)
    metrics = json.loads(written["metrics.json"])
    assert metrics["lm"]["delay"]["mmd"]["fad_mtt"] == pytest.approx(7)
    found = pd.read_csv(tmp_path / "a" / "scores.csv")
    assert len(found) == 1 + 5 + 8
    assert (found["FAD-MTT low"] <= found["FAD-MTT"]).all()
    assert "FAD" not in {column.split(",")[0] for column in found}  # never without the name of its model
    assert found["FAD-VGGish"].isna().all()
    assert found["agreement with captions"].notna().all()
    assert pd.read_csv(tmp_path / "a" / "claims.csv")["verdict"].notna().all()
    assert written["claims.tex"].startswith(b"\\begin{tabular}")


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


def test_figures_are_complete_and_the_same_twice(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = _run(figures, study, tmp_path / "a", monkeypatch)
    assert set(written) == set(figures.FILES)
    root, argument = study
    with mpl.rc_context(figures.STYLE):
        figures.save(figures.scores(Results(root / "results", argument)), tmp_path / "again")
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


@pytest.mark.parametrize("draw", figures.DRAWN, ids=figures.FIGURES)
def test_every_point_lies_within_its_axes(study: tuple[Path, str], draw: Callable[[Results], Figure]) -> None:
    root, argument = study
    with mpl.rc_context(figures.STYLE):
        assert not _cut_off(draw(Results(root / "results", argument)))


def test_the_table_of_the_calibration_names_both_conditions(study: tuple[Path, str]) -> None:
    rows = tables.calibration(Results(study[0] / "results", study[1]))
    assert {(row["codes"], row["frames"]) for row in rows} == {(synthetic.SIZE, 6_000), (2048, 20_000)}
    (used,) = [row for row in rows if row["verdict"]]
    assert (used["codes"], used["distribution"], used["estimator"]) == (
        synthetic.SIZE,
        "worst case",
        "shuffled baseline",
    )


def test_every_table_and_figure_has_a_caption() -> None:
    for name in (*tables.TABLES, *figures.FIGURES):
        template = jinja2.Template((CAPTIONS / f"{name}.rst").read_text(), undefined=jinja2.StrictUndefined)
        text = template.render(snakemake=SimpleNamespace(config=synthetic.parameters()))
        assert text.strip(), name
        assert "{" not in text, name


def test_a_study_of_codecs_alone_has_no_music_to_report(
    study: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, argument = study
    whole = json.loads(argument)
    whole["study"]["language_models"] = {"delay": {"codecs": [], "seeds": [0]}}
    alone = (root, json.dumps(whole))
    left_out = ("total_correlation", "likelihood", "speed", "patterns")
    for module in (tables, figures):
        written = _run(module, alone, tmp_path / module.__name__, monkeypatch)
        assert set(written) == {name for name in module.FILES if not name.startswith(left_out)}
    scored = pd.read_csv(tmp_path / tables.__name__ / "scores.csv")
    assert set(scored["codec"].dropna()) == set(codecs := whole["study"]["codecs"])
    assert len(scored) == 1 + sum(len(codec["seeds"]) for codec in codecs.values())
    verdicts = pd.read_csv(tmp_path / tables.__name__ / "claims.csv").set_index("claim")["verdict"]
    assert (verdicts[["C3", "C4", "C5"]] == "not tested").all()
    assert verdicts["C1"] == "supported"


def test_codecs_that_differ_in_weight_make_a_line(study: tuple[Path, str]) -> None:
    root, argument = study
    whole = json.loads(argument)
    codecs = whole["study"]["codecs"]
    for weight in (10.0, 1e4):
        codecs[f"mmd-{weight:g}"] = {**codecs["mmd"], "loss": {**codecs["mmd"]["loss"], "weight": weight}}
    assert Results(root / "results", json.dumps(whole)).sweeps == {
        "residual, quantized, closed form": ["baseline", "mmd-10", "mmd", "mmd-10000"],
        "residual, quantized, closed form, delayed": ["baseline", "mmd-delay"],
        "grouped, quantized, closed form": ["grouped", "grouped-mmd"],
    }
