"""Read a file of labelled texts, one row at a time: JSON lines, a JSON array or CSV, plain or gzipped.

Three forms are known, told by their keys: `text` and `label` (the whole path in one string), `text` and
`labels` (the levels of one label, joined here by " > "), `user_input` and `intent_code`.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.exchange.pieces import (
    MAX_FILE_BYTES,
    MAX_PIECE_BYTES,
    BadRow,
    Piece,
    Source,
    UnreadableFile,
    array_elements,
    lines,
)
from app.intent.taxonomy import SEPARATOR
from app.intent.text import TextEmpty, TextTooLong, clean, normalise

__all__ = ["FORMS", "BadRow", "LabelledRow", "UnreadableFile", "read_labelled"]

FORMS: Final = (("text", "label"), ("text", "labels"), ("user_input", "intent_code"))
"""The keys of the text and of its label; the first form that a row has is taken."""

_DELIMITERS = (",", "\t", ";")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TYPES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A text as it stands in the file, and its label: normalised levels joined by " > ". `line`: from 1."""

    line: int
    text: str
    label: str


def read_labelled(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> Iterator[LabelledRow | BadRow]:
    """Open the file and return its rows, in order; blank lines are no rows.

    Memory is bounded by one row (1 MB), the whole by `max_bytes` after decompression. A row that cannot be
    used becomes a `BadRow`, never an exception.

    Raises:
        UnreadableFile: the file cannot be opened, is empty, is neither JSON nor CSV with known columns, or is
            not UTF-8; later, while rows are read: the gzip data is damaged or unpacks to too much.
    """
    source = Source(path, max_bytes)
    try:
        if _looks_like_csv(path, source.head):
            rows = _csv_rows(source, *_csv_header(source))
        else:
            rows = _json_rows(array_elements(source) if source.head.startswith(b"[") else lines(source))
    except UnreadableFile:
        source.close()
        raise
    return _closing(source, rows)


def _closing(source: Source, rows: Iterator[LabelledRow | BadRow]) -> Iterator[LabelledRow | BadRow]:
    try:
        yield from rows
    finally:
        source.close()


def _looks_like_csv(path: Path, head: bytes) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return bool({".csv", ".tsv"} & set(suffixes)) or not head.startswith((b"{", b"["))


def _json_rows(pieces: Iterator[Piece | BadRow]) -> Iterator[LabelledRow | BadRow]:
    for piece in pieces:
        if isinstance(piece, BadRow):
            yield piece
        elif piece.text.strip():
            yield _json_row(piece)


def _json_row(piece: Piece) -> LabelledRow | BadRow:
    try:
        parsed = json.loads(piece.text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else None
        return BadRow(piece.line, f"not JSON: {said}" if said else "not JSON that can be read")
    if not isinstance(parsed, dict):
        return BadRow(piece.line, f"{_type_of(parsed)} instead of an object")
    return _row(piece.line, parsed)


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON", "", 0)


def _csv_header(source: Source) -> tuple[list[str], str]:
    """The column names, lower case, and the delimiter that parts them."""
    first = next(lines(source))
    if isinstance(first, BadRow):
        raise UnreadableFile(f"the first line of {source.name} is {first.reason}")
    for delimiter in _DELIMITERS:
        try:
            header = [name.strip().lower() for name in next(csv.reader([first.text], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if any({text, label} <= set(header) for text, label in FORMS):
            return header, delimiter
    known = ", ".join(f"{text}/{label}" for text, label in FORMS)
    raise UnreadableFile(f"{source.name} is neither JSON nor CSV with one of these pairs of columns: {known}")


class _CsvLines:
    """The lines of a CSV file for `csv.reader`: where a record begins, and a bound on what it may swallow."""

    def __init__(self, source: Source) -> None:
        self._lines = lines(source)
        self.bad: list[BadRow] = []
        self.number = 1  # the header
        self.begins = 1
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for piece in self._lines:
            self.number += 1
            if isinstance(piece, BadRow):
                self.bad.append(BadRow(self.number, piece.reason))
                continue
            self.begins = self.begins or self.number
            self.size += len(piece.text)
            if self.size > MAX_PIECE_BYTES:
                raise csv.Error(f"longer than {MAX_PIECE_BYTES} characters")
            return piece.text + "\n"
        raise StopIteration


def _csv_rows(source: Source, header: list[str], delimiter: str) -> Iterator[LabelledRow | BadRow]:
    fed = _CsvLines(source)
    reader = csv.reader(fed, delimiter=delimiter, strict=True)
    while True:
        fed.begins = fed.size = 0
        try:
            cells = next(reader, None)
            broken = None
        except csv.Error as error:
            cells, broken = [], str(error)
        yield from fed.bad
        fed.bad.clear()
        if cells is None:
            return
        if broken:
            yield BadRow(fed.begins, f"not CSV: {broken}")
        elif any(cell.strip() for cell in cells):
            yield _csv_row(fed.begins, header, cells)


def _csv_row(line: int, header: list[str], cells: list[str]) -> LabelledRow | BadRow:
    if len(cells) != len(header):
        return BadRow(line, f"{len(cells)} columns, the header has {len(header)}")
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    if row.get("labels", "").lstrip().startswith("["):
        try:
            row["labels"] = json.loads(row["labels"])
        except (ValueError, RecursionError):
            return BadRow(line, "labels is not a JSON list")
    elif "labels" in row:
        row["labels"] = row["labels"].split(SEPARATOR)
    return _row(line, row)


def _row(line: int, row: Mapping[str, Any]) -> LabelledRow | BadRow:
    """One row by the first form whose keys it has."""
    for text_key, label_key in FORMS:
        if text_key in row and label_key in row:
            break
    else:
        return BadRow(line, "neither text and label, nor text and labels, nor user_input and intent_code")
    text, label = row[text_key], row[label_key]
    levels = label if label_key == "labels" else [label]
    if not isinstance(levels, list) or not levels:
        return BadRow(line, f"{label_key} is {_type_of(label) if label != [] else 'empty'} instead of a list of levels")
    for key, value in ((text_key, text), *((label_key, level) for level in levels)):
        if reason := _refusal(value):
            return BadRow(line, f"{key} {reason}")
    levels = [normalise(level) for level in levels]
    if len(levels) > 1 and any(SEPARATOR in level for level in levels):
        return BadRow(line, f"a level of labels holds {SEPARATOR!r}, which parts levels")
    return LabelledRow(line, text, SEPARATOR.join(levels))


def _refusal(value: object) -> str | None:
    """Why this cannot be a text or a level, or None."""
    if not isinstance(value, str):
        return f"is {_type_of(value)} instead of a string"
    if _UNSTORABLE.search(value):
        return "holds NUL or half a character (a lone surrogate)"
    try:
        clean(value)
    except TextEmpty:
        return "is empty"
    except TextTooLong as error:
        return f"is too long: {error}"
    return None


def _type_of(value: object) -> str:
    return _TYPES.get(type(value), "null")
