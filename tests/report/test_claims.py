"""Verdicts that follow from made-up results where the answer is known, and the rule that combines them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

import pipeline.report
from pipeline import params
from pipeline.report import claims, tables
from pipeline.report.claims import NOT_SUPPORTED, NOT_TESTED, SUPPORTED, UNDECIDED
from pipeline.report.results import Results
from pipeline.statistics import Estimate
from pipeline.study import CODEC, DEPENDENCE, FLOOR, Model


def _verdicts(root: Path, whole: dict[str, Any]) -> dict[str, str]:
    return {name: claim.verdict for name, claim in claims.assess(Results(root, json.dumps(whole))).items()}


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root, whole = tmp_path_factory.mktemp("helped"), synthetic.parameters()
    synthetic.write(root, whole)
    return root, whole


def test_a_loss_that_helps_is_supported(helped: tuple[Path, dict[str, Any]]) -> None:
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


def _moved(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.value + by, estimate.low + by, estimate.high + by, estimate.resamples + by)


def test_seeds_that_disagree_leave_the_music_undecided(
    helped: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole = helped
    results = Results(root, json.dumps(whole))
    read = results.fad
    worse = Model("delay", "mmd", 1, 0).system
    monkeypatch.setattr(results, "fad", lambda system: _moved(read(system), 2.0 * (system == worse)))
    third = claims.assess(results)["C3"]
    of_mmd = [f for f in third.findings if (f.measure, f.of) == ("FAD-MTT", "mmd - baseline")]
    assert [(f.seed, f.verdict) for f in of_mmd] == [("all", UNDECIDED), ("0", ""), ("1", "")]
    (_, better, worse_seed) = of_mmd
    assert better.high is not None
    assert worse_seed.low is not None
    assert better.high < 0 < worse_seed.low
    assert third.verdict == UNDECIDED


def test_lost_entropy_is_named_and_normalised_values_decide(
    helped: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole = helped
    results = Results(root, json.dumps(whole))
    read = results.dependence

    def poorer(codec: str, seed: int) -> dict[str, Any]:
        result = json.loads(json.dumps(read(codec, seed)))
        if codec == "mmd":
            for alignment in result["alignments"].values():
                entropy = alignment["estimators"][results.estimator]["total"]["entropy"]
                entropy["value"] *= 0.9
                entropy["resamples"] = [0.9 * value for value in entropy["resamples"]]
        return result

    monkeypatch.setattr(results, "dependence", poorer)
    first = claims.assess(results)["C1"]
    assert first.verdict == f"{SUPPORTED}, at an entropy cost"
    deciding = {finding.of: finding.measure for finding in first.findings if finding.verdict}
    assert "over sum of entropies" in deciding["mmd - baseline"]
    assert "bits" in deciding["mmd-delay - baseline"]


def test_a_study_of_less_tests_less(helped: tuple[Path, dict[str, Any]]) -> None:
    root, whole = helped
    less = json.loads(json.dumps(whole))
    del less["study"]["codecs"]["mmd-delay"], less["study"]["language_models"]["flatten"]
    del less["study"]["codecs"]["grouped-mmd"]
    less["study"]["language_models"]["delay"] = {"codecs": {"mmd": [0]}, "seeds": [0]}
    verdicts = _verdicts(root, less)
    assert verdicts["C1"] == SUPPORTED
    assert [verdicts[claim] for claim in ("C3", "C4", "C5", "C7")] == [NOT_TESTED] * 4


def test_reconstruction_beyond_the_margin_is_not_supported(
    helped: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole = helped
    results = Results(root, json.dumps(whole))
    read = results.reconstruction

    def worse(codec: str, seed: int, measure: str) -> Estimate:
        return _moved(read(codec, seed, measure), -1.0 * (codec != "baseline" and measure == "si_sdr"))

    monkeypatch.setattr(results, "reconstruction", worse)
    sixth = claims.assess(results)["C6"]
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


NINTH = """
from pipeline.report.claims import Claim, Finding, _claim

def c9(results):
    bits = results.total("mmd", 0, "equal_time", "entropy")
    finding = Finding("summed entropy (bits)", "mmd", "0", bits.value, bits.low, bits.high, "supported")
    return _claim("Codes carry information", "summed entropy", "a toy", [finding])

CLAIMS = {"C9": c9}
"""


@pytest.fixture
def ninth_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the report that defines one more claim."""
    package, report = tmp_path / "pipeline", tmp_path / "pipeline" / "report"
    report.mkdir(parents=True)
    for folder in set(params.TABLES.values()) - {"report"}:
        (package / folder).symlink_to(params.PACKAGE / folder)
    (report / "claims.py").symlink_to(claims.__file__)
    (report / "ninth.py").write_text(NINTH)
    monkeypatch.setattr(params, "PACKAGE", package)
    monkeypatch.setattr(pipeline.report, "__path__", [*pipeline.report.__path__, str(report)])
    params.choices.cache_clear()
    yield
    params.choices.cache_clear()


@pytest.mark.usefixtures("ninth_claim")
def test_a_claim_is_added_by_a_module_of_its_own(helped: tuple[Path, dict[str, Any]]) -> None:
    root, whole = helped
    more = whole | {"report": whole["report"] | {"claims": ["C9", "C4"]}}
    [ninth, fourth] = tables.claim_rows(claims.assess(Results(root, json.dumps(more))))
    assert (ninth["claim"], ninth["says"], ninth["verdict"]) == ("C9", "Codes carry information", SUPPORTED)
    assert (fourth["claim"], fourth["verdict"]) == ("C4", SUPPORTED)


def test_every_claim_states_its_rule() -> None:
    for name, decide in claims.CLAIMS.items():
        assert (decide.__doc__ or "").startswith(f"{name}: ")
        assert "Decided" in (decide.__doc__ or "")


def test_values_that_are_not_finite_are_no_results(tmp_path: Path) -> None:
    whole = synthetic.parameters(seeds=(0,))
    synthetic.write(tmp_path, whole)
    path = tmp_path / CODEC.format(codec="mmd", seed=0) / "metrics.npz"
    with np.load(path) as arrays:
        broken = dict(arrays)
    broken["si_sdr"][3] = np.nan
    np.savez(path, **broken)
    results = Results(tmp_path, json.dumps(whole))
    with pytest.raises(ValueError, match="1 of 60 clips' values are not finite"):
        results.reconstruction("mmd", 0, "si_sdr")
    agreement = results.text(FLOOR)  # of 59 captions: one names no tag
    assert agreement is not None
    assert agreement.value > 0


def test_missing_and_broken_results_are_named(tmp_path: Path) -> None:
    results = Results(tmp_path, json.dumps(synthetic.parameters()))
    with pytest.raises(ValueError, match=r"dependence/mmd-seed0\.json is missing; run the study again"):
        results.dependence("mmd", 0)
    path = tmp_path / DEPENDENCE.format(codec="mmd", seed=0)
    path.parent.mkdir(parents=True)
    path.write_text('{"codec": ')
    with pytest.raises(ValueError, match="is not whole"):
        results.dependence("mmd", 0)
    path = tmp_path / CODEC.format(codec="mmd", seed=0) / "metrics.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, track_id=np.array(["a"]))
    with pytest.raises(ValueError, match=r"metrics\.npz lacks si_sdr: older code made it"):
        results.reconstruction("mmd", 0, "si_sdr")
