"""Read CSV, with comma, tab or semicolon: a broken record costs only itself, and cells lose their formula guard."""

import csv
import json
from collections.abc import Iterator
from typing import Any, Final

from app.exchange.formulas import unguarded
from app.exchange.pieces import MAX_PIECE_BYTES, BadRow, Source, UnreadableFile, lines
from app.exchange.records import PAIRS, plain
from app.exchange.rows import Row, RowRefused
from app.intent.taxonomy import SEPARATOR

_DELIMITERS: Final = (",", "\t", ";")


def delimited_rows(source: Source) -> Iterator[Row]:
    """The rows below the header, which is read at once.

    Raises:
        UnreadableFile: the first line names no pair of columns that is known.
    """
    return _rows(source, *_header(source))


def _header(source: Source) -> tuple[list[str], str]:
    """The column names, lower case, and the delimiter that parts them."""
    first = next(lines(source))
    if isinstance(first, BadRow):
        raise UnreadableFile(f"the first line of {source.name} is {first.reason}")
    for delimiter in _DELIMITERS:
        try:
            header = [name.strip().lower() for name in next(csv.reader([first.text], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if any({text, label} <= set(header) for text, label in PAIRS):
            return header, delimiter
    known = ", ".join(f"{text}/{label}" for text, label in PAIRS)
    raise UnreadableFile(f"{source.name} is neither JSON nor CSV with one of these pairs of columns: {known}")


class _Lines:
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


def _rows(source: Source, header: list[str], delimiter: str) -> Iterator[Row]:
    fed = _Lines(source)
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
            yield _row(fed.begins, header, cells)


def _row(line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return BadRow(line, f"{len(cells)} columns, the header has {len(header)}")
    row: dict[str, Any] = dict(zip(header, map(unguarded, cells), strict=True))
    if row.get("labels", "").lstrip().startswith("["):
        try:
            row["labels"] = json.loads(row["labels"])
        except (ValueError, RecursionError):
            return BadRow(line, "labels is not a JSON list")
    elif "labels" in row:
        row["labels"] = row["labels"].split(SEPARATOR)
    try:
        return plain(line, row)
    except RowRefused as refused:
        return refused.at(line)
