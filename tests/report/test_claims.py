"""Verdicts that follow from made-up results where the answer is known, and the rule that combines them."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic

from pipeline import files
from pipeline.report import claims
from pipeline.report.claims import NOT_SUPPORTED, NOT_TESTED, SUPPORTED, UNDECIDED
from pipeline.report.results import Results
from pipeline.statistics import Estimate


def _verdicts(root: Path, whole: dict) -> dict[str, str]:
    return {claim.id: claim.verdict for claim in claims.assess(Results(root, json.dumps(whole)))}


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root, whole = tmp_path_factory.mktemp("helped"), synthetic.parameters()
    synthetic.write(root, whole)
    return root, whole


def test_a_loss_that_helps_is_supported(helped: tuple[Path, dict]) -> None:
    expected = dict.fromkeys(("C1", "C2", "C3", "C4", "C5", "C6", "C7"), SUPPORTED)
    assert _verdicts(*helped) == expected


def test_a_loss_that_harms_is_not_supported(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole, effect=-1)
    verdicts = _verdicts(tmp_path, whole)
    assert [verdicts[claim] for claim in ("C1", "C3", "C5", "C7")] == [NOT_SUPPORTED] * 4
    assert verdicts["C2"] == UNDECIDED  # three points cannot reach 5 %


def test_a_loss_that_does_nothing_is_undecided(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole, effect=0)
    verdicts = _verdicts(tmp_path, whole)
    assert [verdicts[claim] for claim in ("C1", "C2", "C3", "C5")] == [UNDECIDED] * 4


def test_seeds_that_disagree_leave_the_music_undecided(tmp_path: Path) -> None:
    whole = synthetic.parameters()
    synthetic.write(tmp_path, whole)
    results = Results(tmp_path, json.dumps(whole))
    read = results.fad

    def turned(system: str) -> Estimate:
        found, by = read(system), 2.0 * (system == "generation/delay/mmd-seed1")
        return Estimate(found.value + by, found.low + by, found.high + by, found.resamples + by)

    results.fad = turned
    third = claims.assess(results)[2]
    found = {(f.seed, f.verdict): f for f in third.findings if (f.measure, f.of) == ("FAD-MTT", "mmd - baseline")}
    assert list(found) == [("all", UNDECIDED), ("0", ""), ("1", "")]
    assert found["0", ""].high < 0 < found["1", ""].low
    assert third.verdict == UNDECIDED


def test_lost_entropy_is_named_and_normalised_values_decide(helped: tuple[Path, dict]) -> None:
    root, whole = helped
    results = Results(root, json.dumps(whole))
    read = results.dependence

    def poorer(codec: str, seed: int) -> dict:
        found = json.loads(json.dumps(read(codec, seed)))
        if codec == "mmd":
            for alignment in found["alignments"].values():
                entropy = alignment["estimators"][results.estimator]["total"]["entropy"]
                entropy["value"] *= 0.9
                entropy["resamples"] = [0.9 * value for value in entropy["resamples"]]
        return found

    results.dependence = poorer
    first = claims.assess(results)[0]
    assert first.verdict == f"{SUPPORTED}, at an entropy cost"
    deciding = {finding.of: finding.measure for finding in first.findings if finding.verdict}
    assert "over sum of entropies" in deciding["mmd - baseline"]
    assert "bits" in deciding["mmd-delay - baseline"]


def test_a_study_of_less_tests_less(helped: tuple[Path, dict]) -> None:
    root, whole = helped
    less = json.loads(json.dumps(whole))
    del less["study"]["codecs"]["mmd-delay"], less["study"]["language_models"]["flatten"]
    del less["study"]["codecs"]["grouped-mmd"]
    less["study"]["language_models"]["delay"] = {"codecs": ["mmd"], "seeds": [0]}
    verdicts = _verdicts(root, less)
    assert verdicts["C1"] == SUPPORTED
    assert [verdicts[claim] for claim in ("C3", "C4", "C5", "C7")] == [NOT_TESTED] * 4


def test_reconstruction_beyond_the_margin_is_not_supported(helped: tuple[Path, dict], tmp_path: Path) -> None:
    root, whole = helped
    results = Results(root, json.dumps(whole))
    read = results.reconstruction

    def worse(codec: str, seed: int, measure: str) -> Estimate:
        found, by = read(codec, seed, measure), 1.0 * (codec != "baseline" and measure == "si_sdr")
        return Estimate(found.value - by, found.low - by, found.high - by, found.resamples - by)

    results.reconstruction = worse
    sixth = claims.assess(results)[5]
    assert {f.verdict for f in sixth.findings if "SI-SDR" in f.measure} == {NOT_SUPPORTED}
    assert sixth.verdict == UNDECIDED  # log-mel stays within its margin


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], NOT_TESTED),
        ([SUPPORTED, SUPPORTED], SUPPORTED),
        ([SUPPORTED, UNDECIDED], UNDECIDED),
        ([NOT_SUPPORTED, UNDECIDED], NOT_SUPPORTED),
        ([NOT_SUPPORTED, SUPPORTED], UNDECIDED),
    ],
)
def test_verdicts_combine(verdicts: list[str], expected: str) -> None:
    assert claims.combine(verdicts) == expected


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [(-2, -1, 0, SUPPORTED), (-1, 1, 0, UNDECIDED), (1, 2, 0, NOT_SUPPORTED), (0.1, 0.2, 0.5, SUPPORTED)],
)
def test_an_interval_decides_against_its_margin(low: float, high: float, margin: float, expected: str) -> None:
    assert claims.lower(Estimate((low + high) / 2, low, high, np.array([low, high])), margin) == expected


def test_values_that_are_not_finite_are_no_results(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole)
    path = tmp_path / "codec" / "mmd-seed0" / "metrics.npz"
    with np.load(path) as arrays:
        broken = dict(arrays)
    broken["si_sdr"][3] = np.nan
    np.savez(path, **broken)
    results = Results(tmp_path, json.dumps(whole))
    with pytest.raises(ValueError, match="1 of 60 clips' values are not finite"):
        results.reconstruction("mmd", 0, "si_sdr")
    assert results.text("floor").value > 0  # of 59 captions: one names no tag


def test_missing_and_broken_results_are_named(tmp_path: Path) -> None:
    results = Results(tmp_path, json.dumps(synthetic.parameters()))
    with pytest.raises(ValueError, match=r"dependence/mmd-seed0\.json is missing; run the study again"):
        results.dependence("mmd", 0)
    files.write_json(tmp_path / "dependence/mmd-seed0.json", {})
    (tmp_path / "dependence/mmd-seed0.json").write_text('{"codec": ')
    with pytest.raises(ValueError, match="is not whole"):
        results.dependence("mmd", 0)
    path = tmp_path / "codec" / "mmd-seed0" / "metrics.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, track_id=np.array(["a"]))
    with pytest.raises(ValueError, match=r"metrics\.npz lacks si_sdr: older code made it"):
        results.reconstruction("mmd", 0, "si_sdr")
