"""Tables, JSON lines and folders as users bring them: what is read, and what is named with file and line."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import user_files
from pipeline.corpus.user_files import Row
from pipeline.job import JobError

# All but \r, \n and surrogates; among it what `str.splitlines` breaks at.
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\t\v\f\x1c\x1d\x1e\x85\u2028\u2029\ufeff"))


def file(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path) -> list[Row]:
    return list(user_files.table(path, "file"))


@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1), separator=st.sampled_from(",\t;"), bom=st.booleans())
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], separator: str, bom: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as stream:
        csv.writer(stream, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([("file", "x"), *cells])
    wanted = [[*pair] for pair in cells if any(map(str.strip, pair))]
    if wanted:
        assert [[*row.values.values()] for row in rows(path)] == wanted


@given(texts=st.lists(TEXT, min_size=1))
def test_json_lines_end_at_newlines_alone(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    lines = [json.dumps({"x": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    assert [row.values["x"] for row in user_files.json_lines(path)] == texts


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    """A form feed is no new line, a newline within quotes is one, and a blank line counts."""
    path = file(tmp_path, 'file,x\r\na.wav,"one\x0c\u2028\r\ntwo"\r\n\r\n,\r\nb.wav,three\r\n')
    assert [(row.where, row.values["x"]) for row in rows(path)] == [
        (f"{path}, line 2", "one\x0c\u2028\r\ntwo"),
        (f"{path}, line 6", "three"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "\ufefffile,caption\na.wav,Slow",
        " file , caption\na.wav, Slow ",
        "file\tcaption\na.wav\tSlow\n",
        "file;caption\na.wav;Slow\n",
        "file,caption\ra.wav,Slow\r",
        "file,caption,\na.wav,Slow,\n",
        "file,caption,,\n\n,,,\na.wav,Slow,,,,\n",
    ],
)
def test_harmless_differences_do_no_harm(content: str, tmp_path: Path) -> None:
    (row,) = rows(file(tmp_path, content))
    assert (row.text("file"), row.text("caption"), row.text("artist")) == ("a.wav", "Slow", "")


def test_a_short_row_has_empty_cells(tmp_path: Path) -> None:
    (row,) = rows(file(tmp_path, "file,caption,artist\na.wav\n"))
    assert row.values == {"file": "a.wav", "caption": "", "artist": ""}


def test_a_field_may_be_long(tmp_path: Path) -> None:
    (row,) = rows(file(tmp_path, f'file,x\na.wav,"{"x" * 200_000}"\n'))
    assert len(row.values["x"]) == 200_000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"table\.csv has no column file; it has none"),
        ("name,caption\na,b\n", "has no column file; it has name, caption"),
        ("file,caption,caption\na,b,c\n", "line 1: more than one column is called caption"),
        ("file,caption\n", "has no row under its header"),
        ("file,caption\n\na.wav,Slow, soft\n", "line 3: 3 values for 2 columns"),
        ('file,caption\na.wav,"Slow\nb.wav,Soft\n', "line 2: not a row of CSV .* quotation marks"),
        ("file,caption\na.wav,Slow\nb.wav,caf\xe9\n".encode("latin-1"), "line 3: not UTF-8"),
        ("file,caption\na.wav,Slow\n".encode("utf-16"), "line 1: not UTF-8 .* save the file as UTF-8"),
    ],
)
def test_a_wrong_table_is_named(content: str | bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=complaint):
        rows(file(tmp_path, content))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 3: not JSON"),
        ("[1]", r"line 3: \[1\] is no object"),
        ("NaN", "line 3: NaN is no object"),
        ('{"file": "a", "file": "b"}', r"line 3: not JSON \(`file` is there twice\)"),
        (b'{"file": "\xff"}', "line 3: not UTF-8"),
    ],
)
def test_a_wrong_line_of_json_is_named(line: str | bytes, complaint: str, tmp_path: Path) -> None:
    content = b'{"file": "a.wav"}\n\n' + (line.encode() if isinstance(line, str) else line)
    with pytest.raises(JobError, match=complaint):
        list(user_files.json_lines(file(tmp_path, content)))


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (None, []),
        ("", []),
        ("slow piano", ["slow piano"]),
        (["One.", " ", "Two. "], ["One.", "Two."]),
        ('["One.", "Two."]', ["One.", "Two."]),
        ("[live] slow piano", ["[live] slow piano"]),
        (311, ["311"]),
    ],
)
def test_texts_are_one_or_a_list(value: object, texts: list[str]) -> None:
    assert Row("here", {"captions": value}).texts("captions") == texts


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (float("nan"), "here: `captions` holds NaN where a text"),
        (True, "holds true"),
        (1.5, "holds 1.5"),
        ({"en": "slow"}, r'holds {"en": "slow"}'),
        (["slow", None, ["soft"]], r'holds \["soft"\]'),
        ("nan", "is nan, a missing number"),
        ("['slow', 'soft']", "is no list in JSON"),
        ("\ud83d", "half a character"),
    ],
)
def test_what_is_no_text_is_named(value: object, complaint: str) -> None:
    with pytest.raises(JobError, match=complaint):
        Row("here", {"captions": value}).texts("captions")


def test_hidden_files_and_folders_are_no_audio_files(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/c.flac", "._b.wav", ".trash/d.wav", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    assert user_files.audio_files(tmp_path) == [tmp_path / "a" / "c.flac", tmp_path / "b.WAV"]
