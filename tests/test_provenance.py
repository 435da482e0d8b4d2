"""What decides whether a result is up to date: formulas, not words about them."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from pipeline import provenance

FORMULA = '''"""Words."""

from pipeline.kernel import kappa


def loss(x: float) -> float:
    """More words."""
    # And a comment.
    return 2 * kappa(x)
'''
KERNEL = "def kappa(x: float) -> float:\n    return x + 1\n"


def forget() -> None:
    for remembered in (provenance.sources, provenance.source_digest, provenance._imports, provenance._code):
        remembered.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "formula.py").write_text(FORMULA)
    (folder / "kernel.py").write_text(KERNEL)
    (folder / "other.py").write_text("x = 1\n")
    (folder / "job.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    forget()
    yield folder
    forget()


def digest() -> str:
    forget()
    return provenance.source_digest("pipeline.formula")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# And a comment.", "# Another comment."),
        ('"""Words."""', '"""Other words."""'),
        ('    """More words."""\n', ""),
        ("2 * kappa(x)", "(2 *\n            kappa(x))"),
        ("\n\n\ndef", "\n\ndef"),
    ],
)
def test_words_and_layout_change_nothing(package: Path, old: str, new: str) -> None:
    before = digest()
    change(package / "formula.py", old, new)
    assert digest() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("formula.py", "2 *", "3 *"),
        ("formula.py", "def loss(x: float)", "def loss(x: float = 1)"),
        ("kernel.py", "x + 1", "x + 2"),
        ("kernel.py", "x + 1", "x - 1"),
    ],
)
def test_a_changed_formula_counts_wherever_it_is_imported(package: Path, name: str, old: str, new: str) -> None:
    before = digest()
    change(package / name, old, new)
    assert digest() != before


def test_a_module_that_is_not_imported_does_not_count(package: Path) -> None:
    before = digest()
    change(package / "other.py", "1", "2")
    assert digest() == before
    change(package / "formula.py", "from pipeline.kernel import kappa", "from pipeline import other\nkappa = abs")
    first = digest()
    change(package / "other.py", "2", "3")
    assert digest() != first


def test_plumbing_does_not_count(package: Path) -> None:
    change(package / "formula.py", "from pipeline.kernel", "from pipeline import job\nfrom pipeline.kernel")
    before = digest()
    change(package / "job.py", "1", "2")
    assert digest() == before


@pytest.mark.parametrize(
    "statement",
    [
        "from pipeline import kernel",
        "import pipeline.kernel",
        "from pipeline.kernel import kappa as k",
        "def late():\n    from pipeline import kernel",
    ],
)
def test_every_way_to_import_is_seen(package: Path, statement: str) -> None:
    (package / "formula.py").write_text(statement + "\n")
    forget()
    assert provenance.sources("pipeline.formula") == (package / "formula.py", package / "kernel.py")


def test_modules_that_import_each_other_are_each_seen_once(package: Path) -> None:
    change(package / "kernel.py", "def kappa", "import pipeline.formula\n\n\ndef kappa")
    forget()
    assert provenance.sources("pipeline.formula") == (package / "formula.py", package / "kernel.py")


def test_training_the_codec_counts_the_loss_and_not_the_language_model() -> None:
    names = {str(path.relative_to(provenance.ROOT / "pipeline")) for path in provenance.sources("pipeline.codec.train")}
    assert {"codec/train.py", "codec/model.py", "codec/quantizer.py", "codec/independence.py", "files.py"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"codec"}


def test_a_digest_of_several_modules_is_of_all_that_they_import(package: Path) -> None:
    alone = digest()
    both = provenance.source_digest("pipeline.formula", "pipeline.other")
    assert both != alone
    assert provenance.source_digest("pipeline.formula", "pipeline.kernel") == alone
    change(package / "other.py", "1", "2")
    forget()
    assert provenance.source_digest("pipeline.formula", "pipeline.other") != both


def test_a_folders_content_decides_and_not_its_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "repository")
    folder = tmp_path / "music"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.wav").write_bytes(b"abc")
    (folder / "y.wav").write_bytes(b"def")
    first = provenance.content_digest(folder)
    os.utime(folder / "y.wav", (1, 1))
    assert provenance.content_digest(folder) == first
    (folder / "y.wav").write_bytes(b"deg")  # as long as before
    os.utime(folder / "y.wav", (1, 1))
    second = provenance.content_digest(folder)
    assert second != first
    (folder / "y.wav").rename(folder / "z.wav")
    assert provenance.content_digest(folder) not in (first, second)
    (folder / "z.wav").rename(folder / "y.wav")
    assert provenance.content_digest(folder) == second
    assert provenance.content_digest(folder / "a" / "x.wav") != provenance.content_digest(folder / "y.wav")
    assert provenance.content_digest(tmp_path / "nowhere") == ""


def test_contents_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "repository")
    (tmp_path / "music").mkdir()
    for number in range(3):
        (tmp_path / "music" / f"{number}.wav").write_bytes(bytes(number))
    first = provenance.content_digest(tmp_path / "music")
    read: list[str] = []
    whole = provenance.file_digest
    monkeypatch.setattr(provenance, "file_digest", lambda path: read.append(path.name) or whole(path))
    assert provenance.content_digest(tmp_path / "music") == first
    assert read == []
    (tmp_path / "music" / "1.wav").write_bytes(b"other")
    assert provenance.content_digest(tmp_path / "music") != first
    assert read == ["1.wav"]


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert provenance.digest({"a": 1, "b": [2, 3]}) == provenance.digest({"b": [2, 3], "a": 1})
    assert provenance.digest({"a": 1}) != provenance.digest({"a": 2})
    assert provenance.digest([1, 2]) != provenance.digest([2, 1])


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert provenance.file_digest(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_record_is_json_and_complete() -> None:
    record = json.loads(json.dumps(provenance.record({"steps": 3}, seed=1)))
    assert record["params"] == {"steps": 3}
    assert record["params_sha256"] == provenance.digest({"steps": 3})
    assert (record["seed"], record["device"]) == (1, "cpu")
    assert set(record["packages"]) == set(provenance.PACKAGES)
    assert all(record["packages"].values())
    assert record["commit"]


def test_outside_git_the_commit_is_unknown(package: Path) -> None:
    assert provenance.commit() == "unknown"


def test_a_commit_is_dirty_where_sources_differ_and_not_results(package: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=A", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *words], cwd=provenance.ROOT, check=True, capture_output=True)

    (provenance.ROOT / "results").mkdir()
    (provenance.ROOT / "results" / "table.csv").write_text("1")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "-m", "All")
    clean = provenance.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (provenance.ROOT / "results" / "table.csv").write_text("2")
    assert provenance.commit() == clean
    module = next(package.rglob("*.py"))
    module.write_text(module.read_text() + "\n")
    assert provenance.commit() == f"{clean}-dirty"
