"""Insert many rows of one table at the driver's speed: columns in one order, each turned for the driver as a whole."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, Column, Dialect, Table
from sqlalchemy.orm import Session

from app.db.scope import refuse_foreign
from app.db.tables import Base

Processor = Callable[[Any], Any]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def insert_rows(session: Session, mapped: type[Base], columns: Mapping[str, Sequence[Any]]) -> None:
    """Insert rows that stand as columns, all of one length. Columns that are not named take their default.

    The ORM, and the dictionaries of Core too, turn row by row what here is turned column by column: at a thousand rows
    that is more than the database takes. Nothing is returned, so it is for tables whose key is made before the insert.

    Raises:
        OutOfScope: a bounded session was about to write into another domain.
    """
    if "domain_id" in columns:
        refuse_foreign(session, columns["domain_id"])
    connection = session.connection()
    names, statement, processors, defaults = _plan(mapped, tuple(columns), connection.dialect)
    count = len(next(iter(columns.values())))
    turned: list[Iterable[Any]] = [
        columns[name] if processor is None else [processor(value) for value in columns[name]]
        for name, processor in zip(names, processors, strict=True)
    ]
    turned.extend([default()] * count for default in defaults)
    connection.exec_driver_sql(statement, list(zip(*turned, strict=True)))


@lru_cache(maxsize=32)
def _plan(
    mapped: type[Base], given: tuple[str, ...], dialect: Dialect
) -> tuple[tuple[str, ...], str, tuple[Processor | None, ...], tuple[Callable[[], Any], ...]]:
    """The given names in their order, the statement, what turns each of their values, and the other columns' values."""
    table = mapped.__table__
    assert isinstance(table, Table)
    known = {name: table.columns[name] for name in given}
    with_default = [column for column in table.columns if column.name not in known and column.default is not None]
    quote = dialect.identifier_preparer.quote
    place = "?" if dialect.paramstyle == "qmark" else "%s"
    names = [*given, *(column.name for column in with_default)]
    statement = (
        f"INSERT INTO {quote(table.name)} ({', '.join(quote(name) for name in names)}) "  # noqa: S608
        f"VALUES ({', '.join([place] * len(names))})"
    )
    processors = tuple(_processor(column, dialect) for column in known.values())
    return given, statement, processors, tuple(_default(column, dialect) for column in with_default)


def _processor(column: Column[Any], dialect: Dialect) -> Processor | None:
    if isinstance(column.type, JSON):
        # All three databases read a JSON column from its text.
        return _as_json
    turn: Processor | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    return turn


def _as_json(value: Any) -> str | None:
    if value is None:
        return None
    # Most lists of a logged question are empty.
    return "[]" if value == [] else _encode(value)


def _default(column: Column[Any], dialect: Dialect) -> Callable[[], Any]:
    """What gives a column's default, turned for the driver: one value for all rows of a statement."""
    default: Any = column.default
    turn = _processor(column, dialect)

    def value() -> Any:
        raw = default.arg(None) if default.is_callable else default.arg
        return raw if turn is None else turn(raw)

    return value
