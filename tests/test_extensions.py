"""Adding one of each: a file in its package and a line of params.yaml, and the whole study runs with it."""

import shutil
from pathlib import Path
from typing import Any

import outside_codecs
import pandas as pd
import pytest
import yaml
from studies import ROOT, Study

from pipeline import params, provenance

EXTENSIONS = Path(__file__).parent / "extensions"
TABLES = {path.parent.name + "/" + path.name for path in EXTENSIONS.glob("*/*.py")}
LOSS = {"delay": False, "stream": "quantized", "estimator": "closed_form"}
CHANGES: dict[str, Any] = {
    "corpus": {"source": "tones"},
    "codec": {"frames": {"hop_length": 640, "width": 16}},  # and the training of `stft`
    "study": {
        "codecs": {
            "plain": {"architecture": "frames", "quantizer": "halves", "seeds": [0], "loss": {"weight": 0, **LOSS}},
            "theirs": {"pretrained": "their codec", "codebooks": 3},
            "with": {"architecture": "frames", "quantizer": "halves", "seeds": [0], "loss": {"weight": 10, **LOSS}},
        },
        "language_models": {"pairs": {"codecs": {"plain": [0], "theirs": [0]}, "seeds": [0]}},
    },
    "generation": {"decoding": "likeliest"},
    "evaluation": {"embedders": {"levels": 8, "cdpam": 0}, "seconds": 4.5},
    "report": {"claims": ["C1", "C6", "LOUD"]},
}


@pytest.mark.slow
def test_a_study_runs_with_one_new_entry_of_each_kind(tmp_path: Path) -> None:
    study = Study.new(tmp_path / "a study")
    study.configure(yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text()))
    config = yaml.safe_load((study.folder / "params.yaml").read_text())
    study.configure({"study": {"codecs": dict.fromkeys(config["study"]["codecs"])}})
    study.configure({"runtime": {"downloads": str(ROOT / ".cache" / "downloads")}})
    study.configure({"study": {"language_models": dict.fromkeys(("delay", "flatten", "parallel"))}})
    study.configure(CHANGES)
    study.configure({"codec": {"frames": {"training": config["codec"]["stft"]["training"]}}})
    outside_codecs.saved("dac", study.folder / "their codec", sampling_rate=8000, downsampling_ratios=[8, 8, 5])
    of_their_kind = study.folder / "their codec" / "config.json"
    of_their_kind.write_text(of_their_kind.read_text().replace('"model_type": "dac"', '"model_type": "levelled"'))
    said = study.run("snakemake", "--dry-run", fails=True)
    assert "corpus.source: 'tones' is not one of" in said
    shutil.copytree(EXTENSIONS, study.folder / "pipeline", dirs_exist_ok=True)
    study.snakemake()
    assert study.pending() == set()

    tables = study.folder / "results" / "tables"
    claims = pd.read_csv(tables / "claims.csv").set_index("claim")
    assert claims.index.tolist() == ["C1", "C6", "LOUD"]
    assert claims.loc["LOUD", "verdict"] == "supported"
    scores = pd.read_csv(tables / "scores.csv")
    assert scores["FAD-Levels"].notna().all()
    assert "LM, pairs" in scores["system"].tolist()
    patterns = pd.read_csv(tables / "patterns.csv")
    assert patterns.loc[patterns["pattern"] == "pairs", "steps a clip"].tolist() == [250, 250]
    assert patterns["MusicGen: FAD (VGGish)"].isna().any()
    dependence = pd.read_csv(tables / "dependence.csv").set_index("codec")
    assert dependence.loc["theirs", ["codebooks", "codes"]].to_numpy().tolist() == [[3, 16], [3, 16]]
    assert {"theirs", "plain"} <= set(scores.loc[scores["system"] == "LM, pairs", "codec"])

    # What is chosen decides, and what is not does not.
    for path in sorted(study.folder.glob("pipeline/*/*.py")):
        if f"{path.parent.name}/{path.name}" in TABLES:
            path.write_text(path.read_text() + "\nADDED = 1\n")
    assert {Path(path).parts[1] for path in study.pending() if path.startswith("results")} >= {"corpus", "evaluation"}


def test_every_kind_of_choice_is_tried() -> None:
    tried = {table for path in EXTENSIONS.glob("*/*.py") for table in params.TABLES if table in path.read_text()}
    assert tried == set(params.TABLES)


def test_imports_run_one_way() -> None:
    """A package imports packages of earlier phases alone, and of those no more than these; the ground floor none.

    `pipeline/try.py`, which nothing imports, may use them all.
    """
    order = ["pretrained", "corpus", "codec", "lm", "dependence", "generation", "evaluation", "exchange", "report"]
    allowed: dict[str, set[str]] = {
        "pretrained": set(),
        "corpus": {"pretrained"},
        "codec": set(),
        "lm": set(),
        "dependence": {"codec", "lm"},
        "generation": {"codec", "dependence", "lm"},
        "evaluation": {"pretrained", "corpus"},
        "exchange": {"codec", "lm"},
        "report": {"codec", "evaluation"},
    }
    folders = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert folders == set(order) == set(allowed)
    for path in (ROOT / "pipeline").rglob("*.py"):
        package = path.parent.name if path.parent != ROOT / "pipeline" else ""
        imported = {name.split(".")[1] for name in provenance._imports(path) if name.startswith("pipeline.")}
        above = imported & folders - {package}
        assert "try" not in imported
        assert path.name == "try.py" or above <= allowed.get(package, set()), (
            f"{path.relative_to(ROOT)} imports {sorted(above)}"
        )
    for package, below in allowed.items():
        assert all(order.index(name) < order.index(package) for name in below)


def test_no_package_re_exports() -> None:
    for path in (ROOT / "pipeline").rglob("__init__.py"):
        assert path.read_text() == ""
