"""Read Parquet files, with the extra `parquet`: some hundred rows at a time, as records."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from app.exchange.pieces import BadRow, UnreadableFile
from app.exchange.records import FORMS, read_record
from app.exchange.rows import Row

MAGIC: Final = b"PAR1"
MAX_ROWS: Final = 10_000_000
"""Most rows that are read: a few bytes of Parquet can stand for any number of equal rows."""

_ROWS_AT_A_TIME = 500
_NOT_UTF8 = object()
_KNOWN = frozenset({
    "text", "label", "labels", "user_input", "intent_code", "proposed_label", "input", "output", "instruction", "data",
    "annotations", "completions", "predictions", "meta", "fields", "responses", "suggestions", "annotation",
    "prediction", "inputs", "status",
})  # fmt: skip


def parquet_rows(path: Path, guesses: bool, max_bytes: int) -> Iterator[Row]:
    """Every row, numbered from 1; the file is opened and its columns are looked at before this returns.

    Raises:
        UnreadableFile: the extra is not installed, the file is damaged or too large, or no column is known.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UnreadableFile("reading Parquet needs the package pyarrow: install intentloop[parquet]") from error
    if path.stat().st_size > max_bytes:
        raise UnreadableFile(f"{path.name} is larger than {max_bytes} bytes")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema, meta = file.schema_arrow, file.metadata
        unpacked = sum(meta.row_group(number).total_byte_size for number in range(meta.num_row_groups))
        # As a dictionary: a long text that repeats a million times is held once.
        strings = [field.name for field in schema if str(field.type) in ("string", "large_string")]
        file = pyarrow.parquet.ParquetFile(path, read_dictionary=strings)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise UnreadableFile(f"{path.name} is no Parquet file that can be read") from error
    if unpacked > max_bytes or meta.num_rows > MAX_ROWS:
        raise UnreadableFile(f"{path.name} holds more than {max_bytes} bytes or {MAX_ROWS} rows once unpacked")
    names = [name for name in schema.names if name in _KNOWN or name.endswith((".responses", ".suggestion", ".status"))]
    if not names:
        known = "; ".join(known.keys for known in FORMS.values())
        raise UnreadableFile(f"{path.name} has none of the columns of a labelled text: {known}")
    return _rows(path, file, names, guesses)


def _rows(path: Path, file: Any, names: list[str], guesses: bool) -> Iterator[Row]:
    import pyarrow

    classes = _class_names(file.schema_arrow.metadata)
    line = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=names):
                for record in _records(batch):
                    line += 1
                    if record is None:
                        yield BadRow(line, "not UTF-8")
                    else:
                        yield from read_record(line, _named(record, classes), None, guesses)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UnreadableFile(f"{path.name} cannot be read from row {line + 1} on") from error


def _records(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows as records; None for one that is not UTF-8."""
    columns = [list(_values(column)) for column in batch.columns]
    for cells in zip(*columns, strict=True):
        broken = any(cell is _NOT_UTF8 for cell in cells)
        yield None if broken else dict(zip(batch.schema.names, cells, strict=True))


def _values(column: Any) -> Iterator[Any]:
    dictionary = getattr(column, "dictionary", None)
    if dictionary is not None:
        # One string for all the rows that hold it.
        strings = [*_values(dictionary), None]
        yield from (strings[-1 if index is None else index] for index in column.indices.to_pylist())
        return
    for value in column:
        try:
            yield value.as_py()
        except UnicodeDecodeError:
            yield _NOT_UTF8


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[Any]]:
    """The names of numbered labels by column, as Hugging Face's `datasets` notes them in a file it writes."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _named(record: dict[str, Any], classes: Mapping[str, list[Any]]) -> dict[str, Any]:
    for column, names in classes.items():
        number = record.get(column)
        if isinstance(number, int) and 0 <= number < len(names):
            record[column] = names[number]
    return record
