"""The study as one page, `results/index.html`: claims, what decided them, clips to hear, figures, tables, the study.

It needs no network, opens from disk, and can be published as it is with the folder of the gallery beside it. Tables are
Tabulator's and players wavesurfer's, both of which lie in `vendor/`; Jinja fills the template.

    python -m pipeline.report.page --study runs/smoke --params '{"study": ..., "report": ..., ...}' \
        --out runs/smoke/results/index.html
"""

import base64
import inspect
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup, escape

from pipeline import files, job, params, provenance
from pipeline import study as place
from pipeline.report import claims
from pipeline.report.tables import BESIDE, shown
from pipeline.study import Study

HERE = Path(__file__).parent
CAPTIONS = HERE.parents[1] / "rules" / "captions"
DEFAULTS = HERE.parents[1] / "params.yaml"
SCRIPTS, STYLES = ("tabulator.min.js", "wavesurfer.min.js"), ("tabulator_simple.min.css",)

# What stands behind each claim, beside its findings: (figures, tables).
BEHIND: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "C1": (("dependence", "dependence_by_lag", "total_correlation"), ("dependence", "total_correlation")),
    "C2": (("criterion",), ("dependence",)),
    "C3": (("scores", "learning"), ("scores", "orders", "shuffles")),
    "C4": (("speed", "patterns"), ("speed", "patterns")),
    "C5": (("scores", "dependence"), ("scores",)),
    "C6": (("reconstruction_dependence",), ("reconstruction",)),
    "C7": (("dependence",), ("dependence",)),
    "C8": (("price",), ("price", "likelihood")),
    "C9": (("price", "reconstruction_dependence"), ("price", "reconstruction", "dependence")),
}


def captions(config: dict[str, Any], names: list[str]) -> dict[str, Markup]:
    """What each table and figure shows, as Snakemake's report says it too, its ``literals`` as HTML's."""
    about = SimpleNamespace(config=config)
    texts = {name: jinja2.Template((CAPTIONS / f"{name}.rst").read_text()).render(snakemake=about) for name in names}
    return {name: literals(text) for name, text in texts.items()}


def literals(text: str) -> Markup:
    """A text with its literals, between one or two backquotes, as HTML's."""
    return Markup(re.sub("(``?)(.+?)\\1", r"<code>\2</code>", str(escape(text))))


def table(path: Path) -> dict[str, Any]:
    """A table for Tabulator: its columns, and rows of values `c0`, `c1` and so on, of what is shown, `t0`, and `b0`.

    Columns of an interval's ends join the column of its value, and so does the one that marks the best, as `b0`.
    """
    cells = read_cells(path)
    ends = {f"{name} {end}" for name in cells for end in ("low", "high", "best") if f"{name} low" in cells}
    names = [name for name in cells if name not in ends]
    rows = []
    for _, row in cells.iterrows():
        record: dict[str, Any] = {}
        for index, name in enumerate(names):
            interval = [number(row[f"{name} {end}"]) for end in ("low", "high")] if f"{name} low" in ends else []
            record[f"c{index}"], record[f"t{index}"] = number(row[name]), text(row[name], interval)
            if f"{name} best" in cells:
                record[f"b{index}"] = bool(row[f"{name} best"])
        rows.append(record)
    return {"columns": names, "rows": rows}


def read_cells(path: Path) -> pd.DataFrame:
    """A table's cells as text; none of one without rows."""
    try:
        return pd.read_csv(path, keep_default_na=False, dtype=str)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def number(cell: str) -> float | str:
    """A cell as a number, or as text where it is none or not finite."""
    try:
        return float(cell) if math.isfinite(float(cell)) else cell
    except ValueError:
        return cell


def text(cell: str, interval: list[float | str]) -> str:
    """A cell as it is shown: whole numbers and words as they are, others rounded to their interval if they have one."""
    value = number(cell)
    if isinstance(value, str) or cell.lstrip("-").isdigit():
        return cell
    low, high = interval or ("", "")
    return shown(value, (low, high)) if isinstance(low, float) and isinstance(high, float) else shown(value)


def rule(name: str) -> str:
    """A claim's decision rule, from the docstring of the function that decides it, as paragraphs."""
    return inspect.getdoc(params.choice("CLAIMS", name)) or ""


def differences(ours: Any, defaults: Any, name: str = "") -> list[tuple[str, str, str]]:
    """Parameters that differ from the defaults: dotted name, value here, default."""
    if isinstance(ours, dict) and isinstance(defaults, dict):
        keys = [*ours, *(key for key in defaults if key not in ours)]
        return [
            each for key in keys for each in differences(ours.get(key), defaults.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if ours == defaults else [(name, _text(ours), _text(defaults))]


def _text(value: Any) -> str:
    return "left out" if value is None else json.dumps(value) if isinstance(value, dict | list) else str(value)


def picture(path: Path) -> str:
    """An SVG figure as the address of an image that the page itself holds."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def script(path: Path) -> str:
    """A vendored script, without the address of its source map, for which browsers would ask."""
    return re.sub(r"//# sourceMappingURL=\S+|/\*# sourceMappingURL=.*?\*/", "", path.read_text())


def page(root: Path, config: dict[str, Any]) -> str:
    """The page of the study in folder `root`, whose parameters are `config`.

    Raises:
        ValueError: a result that the page shows is missing or not whole.
    """
    evaluation = params.Evaluation.model_validate(config["evaluation"])
    study = Study(params.Study.model_validate(config["study"]), evaluation.systems, [])
    tables = root / place.TABLES
    listed = pd.read_csv(tables / "claims.csv", keep_default_na=False).to_dict("records")
    findings = [
        {**row, "shown": text(row["value"], [number(row["low"]), number(row["high"])])}
        for row in read_cells(tables / "findings.csv").to_dict("records")
    ]
    defaults = yaml.safe_load(DEFAULTS.read_text())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    gallery = root / place.GALLERY / "gallery.json"
    return environment.get_template("page.html").render(
        claims=[
            claim
            | {
                "rule": literals(rule(claim["claim"])),
                "figures": [name for name in BEHIND.get(claim["claim"], ((), ()))[0] if name in study.figures],
                "tables": [name for name in BEHIND.get(claim["claim"], ((), ()))[1] if name in study.tables],
                "short": claim["verdict"].split(":")[0],
                "findings": sorted(  # what decides first
                    (finding for finding in findings if finding["claim"] == claim["claim"]),
                    key=lambda finding: finding["verdict"] == BESIDE,
                ),
            }
            for claim in listed
        ],
        rules=literals(inspect.getdoc(claims) or ""),
        captions=captions(config, [*study.tables, *study.figures]),
        figures={name: picture(root / place.FIGURES / f"{name}.svg") for name in study.figures},
        tables={name: table(tables / f"{name}.csv") for name in study.tables},
        gallery=files.read_json(gallery),
        corpus=files.read_json(root / place.CORPUS / "summary.json"),
        credits=pd.read_csv(root / place.CORPUS / "credits.csv", keep_default_na=False).to_dict("records"),
        provenance=files.read_json(tables / "provenance.json"),
        study=study,
        differences=differences(config, {name: defaults[name] for name in config}),
        digest=provenance.digest(config),
        scripts=[script(HERE / "vendor" / name) for name in SCRIPTS],
        styles=[script(HERE / "vendor" / name) for name in STYLES],
    )


def main() -> None:
    """Writes the page, and the study's parameters, by which `pipeline.report.compare` tells studies apart."""
    parser = job.parser("Write the study's page.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    args = parser.parse_args()
    job.prepare(args)
    config = params.given(args.params)
    text = page(args.study, config)
    files.write_json(args.study / place.TABLES / "parameters.json", config)
    with files.atomic(args.out) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    job.run(main)
