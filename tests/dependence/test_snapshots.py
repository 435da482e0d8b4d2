"""Snapshots of a codec: its numbers are those of the codec that the last one is, and copied codebooks share all."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small
import torch
from safetensors.torch import save_file

from pipeline import params
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.codec import seanet
from pipeline.codec.reconstruction import criterion
from pipeline.dependence import snapshots

PARAMS = Path(__file__).parents[2] / "params.yaml"
DEPENDENCE = params.load(PARAMS).dependence.model_dump() | {"shuffles": 2, "snapshot_clips": 3}


def test_each_snapshot_is_measured_at_both_alignments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small.write_corpus(Path("corpus"))
    torch.manual_seed(0)
    settings = small.settings()
    codec = codecs.Codec(codecs.configuration(settings, small.RATE, "residual")).eval()
    seanet.scale_to_data(codec.encoder, torch.from_numpy(to_float(small.music()))[:, None], 1.0)
    codec.quantizer.codebooks.normal_(0, 0.5)
    codecs.save(codec, Path("codec"))
    last = codec.state_dict()
    # The earlier one has a single code a codebook: it says nothing, so it shares nothing.
    earlier = {**last, "quantizer.codebooks": torch.zeros_like(last["quantizer.codebooks"])}
    kept = {"6": earlier, "12": last}
    save_file(
        {f"{step}.{name}": value.clone() for step, state in kept.items() for name, value in state.items()},
        "codec/snapshots.safetensors",
    )
    sections = json.dumps({"codec": small.CODEC, "dependence": DEPENDENCE})
    places = ["--codec", "codec", "--corpus", "corpus", "--out", "found/snapshots.csv"]
    monkeypatch.setattr(sys, "argv", ["snapshots", "--params", sections, *places])
    snapshots.main()

    found = pd.read_csv("found/snapshots.csv").set_index(["step", "alignment"])
    found = found[found["estimator"] == "plug_in"]
    assert list(found.index) == [(step, name) for step in (6, 12) for name in ("equal_time", "delayed")]
    assert found.loc[6, ["mutual_information", "entropy"]].abs().max(axis=None) < 1e-9
    rows = [6, 8, 9]  # of the test split's 6 to 9, evenly spread
    codes = codec.encode(torch.from_numpy(to_float(np.load("corpus/audio.npy")[rows])))
    expected = criterion(codec, codes, settings.independence)
    for name, value in expected.items():
        assert found.loc[(12, name), "mmd"] == pytest.approx(value)
    measured = snapshots.measure(
        codes.numpy(), codec, settings.independence, params.Dependence.model_validate(DEPENDENCE)
    )
    assert found.loc[12, "entropy"].tolist() == pytest.approx(
        [row["entropy"] for row in measured if row["estimator"] == "plug_in"]
    )
    assert (found.loc[12, "entropy"] > 0).all()


def test_codebooks_that_are_copies_share_their_whole_entropy() -> None:
    codec = codecs.Codec(codecs.configuration(small.settings(), small.RATE, "residual"))
    codec.quantizer.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    one = np.random.default_rng(0).integers(small.C, size=(40, 1, 200))
    settings = params.Dependence.model_validate(DEPENDENCE)
    copied = snapshots.measure(one.repeat(small.K, axis=1), codec, small.settings().independence, settings)
    fresh = np.random.default_rng(1).integers(small.C, size=(40, small.K, 200))
    free = snapshots.measure(fresh, codec, small.settings().independence, settings)
    pairs = small.K * (small.K - 1) / 2
    equal_time, delayed = (row for row in copied if row["estimator"] == "plug_in")
    assert equal_time["mutual_information"] == pytest.approx(pairs * np.log2(small.C), rel=0.02)
    assert delayed["mutual_information"] < 0.05
    assert equal_time["mmd"] > 10 * abs(free[0]["mmd"])
