"""A made-up study with its tables, music and page."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from pipeline import files
from pipeline import study as place
from pipeline.report import gallery, page, tables
from pipeline.report.results import Results

RATE, CLIPS = 16_000, 4
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 9"><text y="9">{name}</text></svg>'
LICENCES = ("CC-BY-SA-3.0", "GPL-2.0-or-later or CC-BY-NC-4.0", "CC-BY-NC-4.0", "public domain")


def write(root: Path) -> dict[str, Any]:
    """Writes the study to folder `root`, its figures but their names, and returns its parameters."""
    whole = synthetic.parameters(seeds=(0,))
    whole["generation"]["clips"] = CLIPS
    synthetic.write(root, whole)
    add_music(root, whole)
    (root / place.FIGURES).mkdir()
    for name in Results(root, json.dumps(whole)).study.figures:
        (root / place.FIGURES / f"{name}.svg").write_text(SVG.format(name=name))
    for module, out in {tables: place.TABLES, gallery: place.GALLERY, page: place.PAGE}.items():
        run(module, root, whole, root / out)
    return whole


def run(module: ModuleType, root: Path, whole: dict[str, Any], out: Path) -> None:
    """A stage of the report on a study in folder `root`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        argv = ["report", "--params", json.dumps(whole), "--study", str(root), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", argv)
        module.main()


def add_music(root: Path, whole: dict[str, Any]) -> None:
    """A corpus of four test clips of four tracks, and a clip of every system for each."""
    corpus = root / place.CORPUS
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((CLIPS, RATE)) * 3000).astype(np.int16)
    files.write_array(corpus / "audio.npy", noise)
    rows = pd.DataFrame({"clip_id": [f"clip{i}" for i in range(CLIPS)], "row": range(CLIPS), "split": "test"})
    rows = rows.assign(track_id=rows["clip_id"], caption_0=[f"Music <b>{i}</b>." for i in range(CLIPS)])
    rows = rows.assign(title="A & B", artist="Ann", collection="songs", licence=LICENCES, source_file="a.ogg")
    rows.to_parquet(corpus / "manifest.parquet")
    rows[["track_id", "title", "artist", "collection", "licence", "source_file"]].to_csv(corpus / "credits.csv")
    sizes = {"clips": CLIPS, "tracks": CLIPS, "hours": 0.1}
    files.write_json(corpus / "summary.json", {**sizes, "splits": {"test": sizes}})
    study = Results(root, json.dumps(whole)).study
    for each in study.shown[1:]:
        files.write_array(root / study.audio(each.system), np.roll(noise, len(each.system), axis=1))
