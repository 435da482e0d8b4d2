"""Two made-up studies side by side."""

import json
import sys
from pathlib import Path

import pages
import pytest

from pipeline import files
from pipeline import study as place
from pipeline.report import compare


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study, and the same with another parameter, verdict and number."""
    ours, theirs = (tmp_path_factory.mktemp(name) for name in ("ours", "theirs"))
    for root in (ours, theirs):
        pages.write(root)
    tables = theirs / place.TABLES
    parameters = files.read_json(tables / "parameters.json")
    parameters["codec"]["stft"]["training"]["steps"] += 1
    files.write_json(tables / "parameters.json", parameters)
    claims = (tables / "claims.csv").read_text()
    (tables / "claims.csv").write_text(claims.replace(",supported,", ",not supported,", 1))
    numbers = files.read_json(tables / "metrics" / "codec" / "mmd.json")
    files.write_json(tables / "metrics" / "codec" / "mmd.json", numbers | {"log_mel": numbers["log_mel"] + 0.5})
    (tables / "metrics" / "codec" / "seanet.json").unlink()
    return ours, theirs


def test_what_differs_stands_side_by_side(studies: tuple[Path, Path]) -> None:
    parameters, verdicts, numbers = compare.compare(*studies).values()
    [(name, ours, theirs)] = parameters.itertuples(index=False)
    assert name == "codec.stft.training.steps"
    assert int(theirs) == int(ours) + 1
    changed = verdicts[verdicts.iloc[:, 1] != verdicts.iloc[:, 2]]
    assert changed.iloc[:, 2].tolist() == ["not supported"]
    by_name = numbers.set_index("number")
    assert by_name.loc["codec/mmd: log_mel", compare.MORE] == "+0.500"
    assert by_name.loc["codec/mmd: si_sdr_db", compare.MORE] == "+0.000"
    assert by_name.loc["codec/seanet: log_mel"].iloc[1] == ""  # the second study lacks it
    assert by_name.loc["codec/seanet: log_mel", compare.MORE] == ""


def test_a_study_equals_itself(studies: tuple[Path, Path]) -> None:
    parameters, verdicts, numbers = compare.compare(studies[0], studies[0]).values()
    assert parameters.empty
    assert (verdicts.iloc[:, 1] == verdicts.iloc[:, 2]).all()
    assert set(numbers[compare.MORE]) == {"+0.000"}


def test_the_command_prints_and_writes_a_page(
    studies: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, studies), "--out", str(tmp_path / "page.html")])
    compare.main()
    said, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    for text in ("codec.stft.training.steps", "codec/mmd: log_mel", "+0.500", "C1"):
        assert text in said
        assert text in page


def test_a_study_without_tables_is_named(studies: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}/results/tables/parameters\.json is missing: run that study"):
        compare.compare(studies[0], tmp_path)


def test_parameters_are_those_of_the_study(studies: tuple[Path, Path]) -> None:
    written = json.loads((studies[0] / place.TABLES / "parameters.json").read_text())
    assert written["generation"]["clips"] == pages.CLIPS
