"""Two studies side by side: parameters that differ, verdicts, and the numbers of `dvc metrics`.

python -m pipeline.report.compare . runs/short
python -m pipeline.report.compare runs/seanet runs/seanet-plain --out comparison.html
"""

import argparse
import html
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import files, job
from pipeline import study as place
from pipeline.report.page import differences

MORE = "second minus first"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: auto; padding: 1rem; color-scheme: light dark; }
div { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .25rem .8rem; border: 0; }
tr { border-bottom: 1px solid #8884; }
"""


def compare(ours: Path, theirs: Path) -> dict[str, pd.DataFrame]:
    """What differs in the parameters of two studies, and what came out of both, by title.

    Raises:
        ValueError: a study has no tables yet.
    """
    names = _names(ours, theirs)
    parameters = [files.read_json(_table(root, "parameters.json")) for root in (ours, theirs)]
    verdicts = [_verdicts(root) for root in (ours, theirs)]
    metrics = [_metrics(root) for root in (ours, theirs)]
    return {
        "Parameters that differ": pd.DataFrame(differences(*parameters), columns=["parameter", *names]),
        "Verdicts": _side_by_side("claim", names, *verdicts),
        "Numbers, means over seeds": _side_by_side("number", names, *metrics),
    }


def _names(ours: Path, theirs: Path) -> list[str]:
    names = [root.resolve().name for root in (ours, theirs)]
    return names if names[0] != names[1] else [str(ours), str(theirs)]


def _table(root: Path, name: str) -> Path:
    path = root / place.TABLES / name
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: give that of a study, such as runs/short, or . for the default one")
    if not path.is_file():
        raise ValueError(f"{path} is missing: run that study, or at least its target `report`, first")
    return path


def _verdicts(root: Path) -> dict[str, Any]:
    rows = pd.read_csv(_table(root, "claims.csv"), keep_default_na=False)
    return {f"{row['claim']} {row['says']}": row["verdict"] for _, row in rows.iterrows()}


def _metrics(root: Path) -> dict[str, Any]:
    folder = _table(root, "metrics/claims.json").parent
    return {
        f"{path.relative_to(folder).with_suffix('')}: {name}": value
        for path in sorted(folder.glob("*/*.json"))
        for name, value in files.read_json(path).items()
    }


def _side_by_side(what: str, names: list[str], ours: dict[str, Any], theirs: dict[str, Any]) -> pd.DataFrame:
    """A row for everything that either has, and for numbers that both have what the second has more."""
    rows = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        both = [ours.get(name, ""), theirs.get(name, "")]
        numbers = [value for value in both if isinstance(value, float)]
        row = {what: name, **dict(zip(names, map(_shown, both), strict=True))}
        rows.append(row | {MORE: f"{numbers[1] - numbers[0]:+.3f}" if len(numbers) == 2 else ""})
    frame = pd.DataFrame(rows, columns=[what, *names, MORE])
    return frame if frame[MORE].any() else frame.drop(columns=MORE)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def as_page(sections: dict[str, pd.DataFrame], title: str) -> str:
    """The comparison as a page of its own."""
    parts = [f"<h2>{html.escape(name)}</h2><div>{_html(frame)}</div>" for name, frame in sections.items()]
    name, viewport = html.escape(title), '<meta name="viewport" content="width=device-width">'
    head = f'<meta charset="utf-8">{viewport}<title>{name}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}<h1>{name}</h1>{"".join(parts)}</html>\n'


def _html(frame: pd.DataFrame) -> str:
    return "None." if frame.empty else frame.to_html(index=False, border=0, justify="left")


def main() -> None:
    """Prints the comparison and, where it is asked for, writes it as a page."""
    parser = argparse.ArgumentParser(description="Compare two studies: parameters, verdicts and numbers.")
    parser.add_argument("ours", type=Path, help="folder of a study, such as runs/smoke, or . for the default one")
    parser.add_argument("theirs", type=Path, help="folder of another study")
    parser.add_argument("--out", type=Path, help="also write the comparison as this page")
    args = parser.parse_args()
    sections = compare(args.ours, args.theirs)
    for title, frame in sections.items():
        print(f"\n{title}\n")
        print("None." if frame.empty else frame.to_markdown(index=False, disable_numparse=True))
    if args.out:
        with files.atomic(args.out) as temporary:
            temporary.write_text(as_page(sections, f"{args.ours} and {args.theirs}"))


if __name__ == "__main__":
    job.run(main)
