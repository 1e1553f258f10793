"""Read a file of labelled texts, one row at a time, whichever of the known tools wrote it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.exchange.columns import MAGIC, parquet_rows
from app.exchange.delimited import delimited_rows
from app.exchange.pieces import MAX_FILE_BYTES, BadRow, Piece, Source, UnreadableFile, array_elements, lines
from app.exchange.rasa import MAX_YAML_BYTES, looks_like_rasa, rasa_rows
from app.exchange.records import FORMS, read_record
from app.exchange.rows import LabelledRow, Row

__all__ = ["FORMATS", "BadRow", "LabelledRow", "UnreadableFile", "read_labelled"]

FORMATS: Final = (*FORMS, "csv", "rasa", "parquet")
"""The names of what can be read. Those of JSON are told apart row by row, the others by how the file begins."""


def read_labelled(
    path: Path, *, form: str | None = None, guesses: bool = False, max_bytes: int = MAX_FILE_BYTES
) -> Iterator[LabelledRow | BadRow]:
    """Open the file and return its rows, in order; blank lines are no rows.

    Memory is bounded by one row (1 MB) of JSON or CSV, one intent of YAML and some hundred rows of Parquet, the whole
    by `max_bytes` after decompression (YAML by 64 MiB). A row that cannot be used becomes a `BadRow`, never an
    exception. `form`: one of `FORMATS`, instead of what the content speaks of. `guesses`: take what a model
    suggested where no person answered.

    Raises:
        UnreadableFile: the file cannot be opened, is empty, is in no known format, or is not UTF-8; later, while rows
            are read: the gzip data is damaged or unpacks to too much, or the YAML or Parquet ends being one.
    """
    if form == "parquet" or (form is None and _is_parquet(path)):
        return _parquet(path, guesses, max_bytes)
    source = Source(path, max_bytes)
    try:
        if form == "rasa" or (form is None and _looks_like_yaml(path, source.head)):
            source.allow_only(MAX_YAML_BYTES)
            rows = rasa_rows(source)
        elif form == "csv" or (form is None and _looks_like_csv(path, source.head)):
            rows = delimited_rows(source)
        else:
            pieces = array_elements(source) if source.head.startswith(b"[") else lines(source)
            rows = _json_rows(pieces, form, guesses)
    except UnreadableFile:
        source.close()
        raise
    return _closing(source, rows)


def _closing(source: Source, rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    finally:
        source.close()


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False  # said in words by whoever opens it next


def _parquet(path: Path, guesses: bool, max_bytes: int) -> Iterator[Row]:
    if not _is_parquet(path):
        raise UnreadableFile(f"{path.name} is no Parquet file that can be read")
    return parquet_rows(path, guesses, max_bytes)


def _suffixes(path: Path) -> set[str]:
    return {suffix.lower() for suffix in path.suffixes}


def _looks_like_yaml(path: Path, head: bytes) -> bool:
    return bool({".yml", ".yaml"} & _suffixes(path)) or looks_like_rasa(head)


def _looks_like_csv(path: Path, head: bytes) -> bool:
    return bool({".csv", ".tsv"} & _suffixes(path)) or not head.startswith((b"{", b"["))


def _json_rows(pieces: Iterator[Piece | BadRow], form: str | None, guesses: bool) -> Iterator[Row]:
    for piece in pieces:
        if isinstance(piece, BadRow):
            yield piece
        elif piece.text.strip():
            yield from _json_row(piece, form, guesses)


def _json_row(piece: Piece, form: str | None, guesses: bool) -> Iterator[Row]:
    try:
        record = json.loads(piece.text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else None
        yield BadRow(piece.line, f"not JSON: {said}" if said else "not JSON that can be read")
        return
    yield from read_record(piece.line, record, form, guesses)


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON", "", 0)
