"""Truths in closed form and by other integration, draws that have them, and the rule that chooses."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import mutual_info_score

from pipeline import params
from pipeline.dependence import calibration
from pipeline.dependence.information import ESTIMATORS, histograms, information
from pipeline.report.results import DISTRIBUTIONS
from pipeline.report.results import ESTIMATORS as SHOWN

SETTINGS = params.Calibration(draws=2, copied=0.4, repeated=0.5, correlation=0.9)


def test_a_noisy_copy_of_even_codes_has_its_closed_form() -> None:
    size, kept = 32, 0.3
    same, other = kept + (1 - kept) / size, (1 - kept) / size
    expected = np.log2(size) + same * np.log2(same) + (size - 1) * other * np.log2(other)
    assert calibration.noisy_copy_information(np.full(size, 1 / size), kept) == pytest.approx(expected)


def test_the_gaussians_truth_agrees_with_another_integration() -> None:
    """Four bins: probabilities of the corners from the bivariate normal distribution's own function."""
    normal = multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]])
    edges = [-9, -1.5, 0, 1.5, 9]
    corners = np.array([[normal.cdf([a, b]) for b in edges] for a in edges])
    joint = np.diff(np.diff(corners, axis=0), axis=1)
    expected = calibration.mutual_information(joint / joint.sum())
    assert calibration.gaussian_information(4, 0.9) == pytest.approx(expected, abs=1e-4)


def test_fine_bins_of_a_gaussian_share_what_the_scalars_share() -> None:
    """-log2(1 - rho^2) / 2 bits, less what lies beyond the bins and within them."""
    assert calibration.gaussian_information(512, 0.8) == pytest.approx(-0.5 * np.log2(1 - 0.64), abs=0.005)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws_have_the_truth_that_is_stated(name: str) -> None:
    pair = calibration.known(8, SETTINGS)[name]
    codes = pair.draw(400_000, np.random.default_rng(0))
    assert codes.shape == (2, 400_000)
    estimate = information(histograms(codes, 8))["chao_wang_jost"].mutual[0]
    assert estimate == pytest.approx(pair.truth, abs=0.01)


def test_the_markov_pair_repeats_as_stated() -> None:
    codes = calibration.known(256, SETTINGS)["markov_pair"].draw(50_000, np.random.default_rng(0))
    assert (codes[0, 1:] == codes[0, :-1]).mean() == pytest.approx(0.5, abs=0.02)


def test_the_least_worst_error_is_chosen_among_histograms() -> None:
    worst = {name: 1.0 for name in ESTIMATORS} | {"grassberger": 0.2, calibration.LEARNED: 0.1}
    assert calibration.chosen(worst) == "grassberger"


def test_errors_of_the_plug_in_agree_with_scikit_learn() -> None:
    settings = params.load(Path("params.yaml")).dependence
    settings = settings.model_copy(update={"shuffles": 1, "calibration": SETTINGS})
    result = calibration.errors({"test": 500}, 200, settings)
    assert list(result["worst"]) == list(ESTIMATORS)  # nothing to learn the bound from
    values = []
    for draw in range(2):
        codes = calibration.known(200, SETTINGS)["independent"].draw(500, np.random.default_rng([0, 0, draw]))
        values.append(mutual_info_score(*codes) / np.log(2))
    plug_in = result["distributions"]["independent"]["estimators"]["plug_in"]
    assert plug_in["bias"] == pytest.approx(np.mean(values))
    assert plug_in["spread"] == pytest.approx(np.std(values, ddof=1))


def test_few_frames_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: 0.1 for name in ESTIMATORS} | {"chao_wang_jost": 0.05}
    few = {name: 9.0 for name in ESTIMATORS} | {"shuffled_baseline": 1.0}
    by_size = {256: {"worst": own}, calibration.PAPER_CODES: {"worst": few}}
    monkeypatch.setattr(calibration, "errors", lambda frames, size, settings: by_size[size])
    result = calibration.calibrate({"test": 100_000}, 256, params.load(Path("params.yaml")).dependence)
    assert result["chosen"] == "chao_wang_jost"
    assert result["few_frames"]["worst"] == few


def test_main_calibrates_at_the_studys_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ["train"] * 8 + ["validation"] * 2 + ["test"] * 4
    pd.DataFrame({"split": split}).to_parquet(tmp_path / "m.parquet")
    whole = params.load(Path("params.yaml")).model_dump(mode="json")
    whole["codec"]["codebook_size"] = 16
    learned = {"hidden": 8, "steps": 4, "batch_size": 16, "learning_rate": 1e-2}
    whole["dependence"] |= {"shuffles": 1, "learned": learned}
    whole["dependence"]["calibration"]["draws"] = 2
    argv = ["--params", json.dumps(whole), "--manifest", "m.parquet", "--out", "out.json"]
    monkeypatch.setattr(sys, "argv", ["calibration", *argv])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "PAPER_CODES", 64)
    monkeypatch.setattr(calibration, "FEW_FRAMES", 200)
    calibration.main()
    written = json.loads(Path("out.json").read_text())
    assert written["frames"] == {"train": 2000, "validation": 500, "test": 1000}
    assert list(written["distributions"]) == list(DISTRIBUTIONS)
    assert list(written["worst"]) == list(SHOWN)
    for name, worst in written["worst"].items():
        errors = [known["estimators"][name]["error"] for known in written["distributions"].values()]
        assert worst == max(errors)
    assert written["worst"][written["chosen"]] == min(written["worst"][name] for name in ESTIMATORS)
    assert written["few_frames"]["codebook_size"] == 64
    assert written["few_frames"]["frames"] == {"test": 200}
    assert list(written["few_frames"]["worst"]) == list(ESTIMATORS)
    again = Path("out.json").read_bytes()
    calibration.main()
    assert Path("out.json").read_bytes() == again
