"""Write many rows of one table at the driver's speed: columns in one order, each turned for the driver as a whole.

The ORM, and the dictionaries of Core too, turn row by row what here is turned column by column: at a thousand rows that
is more than the database takes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import JSON, Column, Connection, Dialect, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db import json_columns
from app.db.scope import refuse_foreign
from app.db.tables import Base

Processor = Callable[[Any], Any]
Columns = Mapping[str, Sequence[Any]]

# COPY takes PostgreSQL less for each row, and one more round for the statement.
MOST_IN_A_DOCUMENT: Final = 32
# Of one statement: SQLite takes 500 parts of a query, and MySQL reads each statement anew.
MOST_AT_ONCE: Final = 128


@dataclass(frozen=True, slots=True)
class Insertion:
    """Rows on their way into a table, turned for the driver: what is left to do is the database's."""

    plan: "_InsertPlan"
    rows: Sequence[tuple[Any, ...]]
    domain_ids: Sequence[int]

    def run(self, session: Session) -> None:
        """Insert them.

        Raises:
            OutOfScope: a bounded session was about to write into another domain.
        """
        refuse_foreign(session, self.domain_ids)
        connection = session.connection()
        plan = self.plan
        if plan.document is not None and len(self.rows) <= MOST_IN_A_DOCUMENT:
            document = json_columns.written([dict(zip(plan.names, row, strict=True)) for row in self.rows])
            connection.exec_driver_sql(plan.document, (document,))
        elif plan.document is not None:
            _copy(connection, f"COPY {plan.into} FROM STDIN", self.rows)
        else:
            for some in _slices(self.rows):
                places = ", ".join([plan.row] * len(some))
                connection.exec_driver_sql(f"INSERT INTO {plan.into} VALUES {places}", _flat(some))  # noqa: S608


@dataclass(frozen=True, slots=True)
class Change:
    """Changes of rows by a unique key, turned for the driver."""

    statement: str
    first: str
    row: str
    names: Sequence[str]
    rows: Sequence[tuple[Any, ...]]

    def run(self, session: Session) -> None:
        """Change those of them that are there, in no order: the caller holds them, or nobody else changes them."""
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            document = json_columns.written([dict(zip(self.names, row, strict=True)) for row in self.rows])
            connection.exec_driver_sql(self.statement.format(given="json_to_recordset(%s::json)"), (document,))
            return
        for some in _slices(self.rows):
            given = " UNION ALL ".join([self.first, *([self.row] * (len(some) - 1))])
            connection.exec_driver_sql(self.statement.format(given=f"({given})"), _flat(some))


def insertion(dialect: Dialect, mapped: type[Base], columns: Columns) -> Insertion:
    """Rows that stand as columns, all of one length. Columns that are not named take their default.

    Nothing is returned when they are inserted: the caller makes the keys, or reads them afterwards.
    """
    plan = _insert_plan(mapped, tuple(columns), dialect)
    count = len(next(iter(columns.values())))
    rows = _turned(columns, plan.processors, [[default()] * count for default in plan.defaults])
    return Insertion(plan, rows, columns.get("domain_id", ()))


def change(dialect: Dialect, mapped: type[Base], key: str, columns: Columns) -> Change:
    """Changes that stand as columns, one of which is the key."""
    plan = _update_plan(mapped, key, tuple(columns), dialect)
    return Change(plan.statement, plan.first, plan.row, tuple(columns), _turned(columns, plan.processors, []))


def insert_rows(session: Session, mapped: type[Base], columns: Columns) -> None:
    """Insert rows that stand as columns: `insertion`, at once."""
    insertion(session.get_bind().dialect, mapped, columns).run(session)


def update_rows(session: Session, mapped: type[Base], key: str, columns: Columns) -> None:
    """Change rows by a key, by changes that stand as columns: `change`, at once."""
    change(session.get_bind().dialect, mapped, key, columns).run(session)


def _slices(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Lists of few lengths, so that the driver prepares few statements.

    One statement for many rows: SQLite's driver lets go of the interpreter for each, and gets it back behind all other
    threads of a process that answers, while the database is locked.
    """
    at = 0
    while at < len(rows):
        size = min(MOST_AT_ONCE, 1 << (len(rows) - at).bit_length() - 1)
        yield rows[at : at + size]
        at += size


def _flat(rows: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    return tuple(value for row in rows for value in row)


def _turned(
    columns: Columns, processors: Sequence[Processor | None], others: Iterable[Sequence[Any]]
) -> list[tuple[Any, ...]]:
    turned: list[Sequence[Any]] = [
        values if processor is None else [processor(value) for value in values]
        for values, processor in zip(columns.values(), processors, strict=True)
    ]
    return list(zip(*turned, *others, strict=True))


class _InsertPlan:
    """How rows with these columns are inserted: where, as what, and what turns each column's values."""

    def __init__(self, table: Table, given: Sequence[str], dialect: Dialect) -> None:
        known = {name: table.columns[name] for name in given}
        others = [column for column in table.columns if column.name not in known and column.default is not None]
        quote = dialect.identifier_preparer.quote
        columns = [*known.values(), *others]
        self.names = [column.name for column in columns]
        self.into = f"{quote(table.name)} ({', '.join(map(quote, self.names))})"
        self.row = f"({', '.join([_place(dialect)] * len(columns))})"
        self.document: str | None = None
        if dialect.name == "postgresql":
            # What is JSON by now is a string within the document.
            taken = ", ".join(
                f"given.{quote(column.name)}{'::json' if isinstance(column.type, JSON) else ''}" for column in columns
            )
            types = (
                f"{quote(column.name)} {'text' if isinstance(column.type, JSON) else column.type.compile(dialect)}"
                for column in columns
            )
            self.document = (
                f"INSERT INTO {self.into} SELECT {taken} "  # noqa: S608
                f"FROM json_to_recordset(%s::json) AS given ({', '.join(types)})"
            )
        self.processors = [_processor(column, dialect) for column in known.values()]
        self.defaults = [_default(column, dialect) for column in others]


class _UpdatePlan:
    """How rows are changed by their key: one statement with the rows beside it, what turns each column's values.

    Each row by itself would be planned, sent and answered, which costs more than the change.
    """

    def __init__(self, table: Table, key: str, given: Sequence[str], dialect: Dialect) -> None:
        quote = dialect.identifier_preparer.quote
        name, columns = quote(table.name), [table.columns[one] for one in given]
        changed = [quote(one) for one in given if one != key]
        found = f"{name}.{quote(key)} = given.{quote(key)}"
        # For places of a query that stands in for a table.
        self.first = f"SELECT {', '.join(f'{_place(dialect)} AS {quote(one)}' for one in given)}"
        self.row = f"SELECT {', '.join([_place(dialect)] * len(given))}"
        turn = _for_json if dialect.name == "postgresql" else _processor
        self.processors = [turn(column, dialect) for column in columns]
        if dialect.name in ("mysql", "mariadb"):
            changes = ", ".join(f"{name}.{one} = given.{one}" for one in changed)
            self.statement = f"UPDATE {name} JOIN {{given}} AS given ON {found} SET {changes}"  # noqa: S608
            return
        types = (f"{quote(column.name)} {column.type.compile(dialect)}" for column in columns)
        typed = f" ({', '.join(types)})" if dialect.name == "postgresql" else ""
        changes = ", ".join(f"{one} = given.{one}" for one in changed)
        self.statement = f"UPDATE {name} SET {changes} FROM {{given}} AS given{typed} WHERE {found}"  # noqa: S608


@lru_cache(maxsize=32)
def _insert_plan(mapped: type[Base], given: tuple[str, ...], dialect: Dialect) -> _InsertPlan:
    return _InsertPlan(_table(mapped), given, dialect)


@lru_cache(maxsize=32)
def _update_plan(mapped: type[Base], key: str, given: tuple[str, ...], dialect: Dialect) -> _UpdatePlan:
    return _UpdatePlan(_table(mapped), key, given, dialect)


def _copy(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """Insert by COPY: a third of what as many INSERTs take. Its errors are raised as those of any statement."""
    driver: Any = connection.dialect
    errors = driver.loaded_dbapi.Error
    taken = connection.connection
    try:
        with taken.cursor() as cursor, cursor.copy(statement) as copy:  # type: ignore[attr-defined]
            for row in rows:
                copy.write_row(row)
    except errors as error:
        lost = driver.is_disconnect(error, taken.dbapi_connection, None)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, errors, hide_parameters=True, connection_invalidated=lost, dialect=driver
        ) from error


def _table(mapped: type[Base]) -> Table:
    table = mapped.__table__
    assert isinstance(table, Table)
    return table


def _place(dialect: Dialect) -> str:
    return "?" if dialect.paramstyle == "qmark" else "%s"


def _processor(column: Column[Any], dialect: Dialect) -> Processor | None:
    if isinstance(column.type, JSON):
        # All three databases read a JSON column from its text.
        return _as_json
    turn: Processor | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    return turn


def _for_json(column: Column[Any], dialect: Dialect) -> Processor | None:
    """What turns a value that stands in a JSON document itself."""
    return None if isinstance(column.type, JSON) else _processor(column, dialect)


def _as_json(value: Any) -> str | None:
    if value is None:
        return None
    # Most lists of a logged question are empty.
    return "[]" if value == [] else json_columns.written(value)


def _default(column: Column[Any], dialect: Dialect) -> Callable[[], Any]:
    """What gives a column's default, turned for the driver: one value for all rows of a statement."""
    default: Any = column.default
    turn = _processor(column, dialect)

    def value() -> Any:
        raw = default.arg(None) if default.is_callable else default.arg
        return raw if turn is None else turn(raw)

    return value
