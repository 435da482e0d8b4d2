"""Files from users: tables, JSON lines and folders of audio; errors in a text file name the line.

Lines are counted as in an editor. A byte-order mark, blank rows, unused columns and missing cells at the end of a row
are accepted.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.job import JobError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SEPARATORS = ",\t;"


class Row(NamedTuple):
    """A row of a table, or an object of JSON lines."""

    where: str  # file and line
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """The text under `key`, stripped of surrounding space; empty if there is none.

        Raises:
            JobError: the value is neither text nor a whole number.
        """
        return self._text(key, self.values.get(key))

    def texts(self, key: str) -> list[str]:
        """The texts under `key`: a list, one text, or one text that is a list in JSON; empty ones are left out.

        Raises:
            JobError: the value is anything else.
        """
        value = self.values.get(key)
        if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
            try:
                value = json.loads(value)
            except ValueError:
                raise JobError(
                    f'{self.where}: `{key}` is no list in JSON: write it as ["one text", "another"]'
                ) from None
        values = value if isinstance(value, list) else [value]
        return [text for text in (self._text(key, one) for one in values) if text]

    def _text(self, key: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise JobError(f"{self.where}: `{key}` holds {json.dumps(value)[:80]} where a text is expected")
        text = str(value).strip()
        if text in ("nan", "NaN"):
            raise JobError(f"{self.where}: `{key}` is {text}, a missing number: leave it empty instead")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise JobError(f"{self.where}: `{key}` holds half a character (a lone surrogate): write it anew")
        return text


def table(path: Path, *needed: str, header_lines: int = 1) -> Iterator[Row]:
    """The rows of a CSV or TSV file; the first `header_lines` lines, joined by `/`, name its columns.

    Raises:
        JobError: the file lacks a `needed` column, has two columns with the same name, has no rows, or has a row with
            more values than columns.
    """
    numbered = records(path)
    header = [cells for _, cells in itertools.islice(numbered, header_lines)]
    columns = ["/".join(filter(None, map(str.strip, names))) for names in itertools.zip_longest(*header, fillvalue="")]
    if repeated := [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]:
        raise JobError(f"{path}, line 1: more than one column is called {repeated[0]}: rename or remove one")
    if lacking := [name for name in needed if name not in columns]:
        raise JobError(f"{path} has no column {' and no column '.join(lacking)}; it has {', '.join(columns) or 'none'}")
    line = 0
    for line, cells in numbered:
        if any(cells[len(columns) :]):
            raise JobError(
                f"{path}, line {line}: {len(cells)} values for {len(columns)} columns: put a value that contains the "
                "separator in quotation marks"
            )
        # strict=False: cells may be missing at the end, and there may be extra empty ones.
        yield Row(f"{path}, line {line}", dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False)))
    if not line:
        raise JobError(f"{path} has no row under its header")


def records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a CSV or TSV file, with the line on which it begins; blank rows are skipped.

    The separator is comma, tab or semicolon, whichever is most frequent in the first line.

    Raises:
        JobError: the file is not UTF-8, or its quotation marks do not match.
    """
    csv.field_size_limit(2**31 - 1)  # set for the whole process; FMA's biographies may exceed the default
    first = next(_lines(path), (1, ""))[1]
    # Within a line that ends in \n, only a bare \r (old Macs) starts a new line.
    lines = itertools.chain.from_iterable(io.StringIO(line, newline="") for _, line in _lines(path))
    reader = csv.reader(lines, delimiter=max(SEPARATORS, key=first.count), strict=True)
    begin = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise JobError(f"{path}, line {begin}: not a row of CSV ({error}): check its quotation marks") from None


def json_lines(path: Path) -> Iterator[Row]:
    """The objects of a file with one JSON object per line.

    Raises:
        JobError: a line is anything else, or names a key twice.
    """
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_without_repeats)
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise JobError(f"{where}: not JSON ({reason}): write one object a line") from None
        if not isinstance(value, dict):
            raise JobError(f'{where}: {json.dumps(value)[:80]} is no object: write {{"name": value, ...}}')
        yield Row(where, value)


def audio_files(folder: Path) -> list[Path]:
    """Audio files in a folder and its subfolders, sorted, without hidden files such as macOS's `._x.wav`."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, split at newlines only; `str.splitlines` also splits at form feeds and U+2028."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise JobError(f"{path}, line {number}: not UTF-8 ({error.reason}): save the file as UTF-8") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"`{repeated[0]}` is there twice")
    return dict(pairs)
