"""The one reader of a table that a person made, most often in a spreadsheet."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.naming import some
from edge.errors import InputError

SEPARATORS = ";\t,"  # where a header has as many of two, the first of them
_SEP_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # what a spreadsheet writes for itself
_LINE_END = re.compile(r"\r\n|\r|\n")
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of Excel and of LibreOffice


@dataclass(frozen=True)
class Row:
    """line: in the file, from 1. cells: stripped, by column; "" where there is nothing."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """columns: as the header names them. rows: those that hold anything."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path, needed: Sequence[str] = (), fix: str = "give a CSV file") -> Table:
    """A table with a line of column names. fix: what to do when there is no such file.

    Commas, semicolons or tabs, a line `sep=;` before the header; UTF-8 with or without a byte-order mark, or UTF-16 with one; any
    end of line. Rows of nothing, and columns without name and content, are left out. InputError names the line: other text, a
    quote that its line does not close, a cell too many, columns that are missing or given twice.
    """
    columns: tuple[str, ...] | None = None
    rows: list[Row] = []
    lines = _LINE_END.split(_text(path, fix))
    separator = ""
    for number, text in enumerate(lines, 1):
        if number == 1 and (own := _SEP_LINE.fullmatch(text.strip(" "))):
            separator = own[1]
            continue
        if not text.strip():
            continue
        if columns is None:
            bare = re.sub(r'"[^"]*"', "", text)
            separator = separator or max(SEPARATORS, key=bare.count)
            columns = tuple(_cells(path, number, text, separator))
            continue
        cells = _cells(path, number, text, separator)
        if not any(cells):
            continue
        if any(cells[len(columns) :]):
            raise InputError(f"{path}, line {number}: more cells than columns; quote a path that holds a comma")
        for at, (name, cell) in enumerate(zip(columns, cells, strict=False), 1):
            if cell and not name:
                raise InputError(f"{path}, line {number}: {cell!r} in column {at}, which has no name; name it, or empty it")
        cells += [""] * (len(columns) - len(cells))
        rows.append(Row(number, {name: cell for name, cell in zip(columns, cells, strict=False) if name}))
    named = tuple(name for name in columns or () if name)
    if missing := [name for name in needed if name not in named]:
        raise InputError(
            f"{path}: columns {some(named) or 'none'}; {some(missing)} missing; expected {','.join(needed)} "
            "in its first line (docs/data.md)"
        )
    if twice := [name for name, n in Counter(named).items() if n > 1]:
        raise InputError(f"{path}: columns {some(map(repr, twice))} given more than once; keep one each")
    return Table(path, named, rows)


def _text(path: Path, fix: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {fix}") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); give a CSV file that this user may read") from None
    if data.startswith(_WORKBOOKS):
        raise InputError(f"{path}: a spreadsheet's own file; save it as CSV UTF-8")
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise InputError(f"{path}: cut off in the middle of a letter; save it as CSV UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}, {chr(data[error.start])!r} in Latin-1); "
            "save it as CSV UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(f"{path}: not text, or UTF-16 without its mark; save it as CSV UTF-8")
    return text


def _cells(path: Path, line: int, text: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=separator, strict=True))]
    except csv.Error:  # a cell of several lines is taken for the same: none that is read has any
        raise InputError(f"{path}, line {line}: a quote that is not closed, or not alone; correct it, or leave it out") from None


def number(text: str) -> float | None:
    """A number with a decimal point or a decimal comma; None for anything else."""
    text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    try:
        return float(text)
    except ValueError:
        return None


# -- names of files in tables


_BYTE = re.compile("[\udc80-\udcff]")  # as Python keeps a byte of a name that is no UTF-8


def name_of(path: Path, folder: Path) -> str:
    """A file's name under `folder` as tables, reports and messages write it: `/` between its parts, letters composed (a Mac
    writes u and two dots, others one letter), and a byte that is no UTF-8 as <fc>."""
    return one_name(path.relative_to(folder).as_posix())


def one_name(text: str) -> str:
    """The same for a path as a table gives it."""
    text = _BYTE.sub(lambda byte: f"<{ord(byte[0]) - 0xDC00:02x}>", text)
    return unicodedata.normalize("NFC", text.replace("\\", "/")).removeprefix("./")


def find_named(folder: Path, name: str) -> Path:
    """The file under `folder` that `name_of` calls so; where there is none, the path as it is written."""
    path = folder / name
    if path.exists():
        return path
    at = folder
    for part in Path(one_name(name)).parts:
        try:
            same = [p for p in at.iterdir() if name_of(p, at) == part]
        except OSError:
            return path
        if not same:
            return path
        at = same[0]
    return at
