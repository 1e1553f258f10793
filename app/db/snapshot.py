"""Read the whole database as it was at one moment, while others write; and set a copy up to be written on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, func, select, text

from app.db.session import READ_ONLY

ROWS_AT_ONCE = 1000


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection on which every statement sees the database as the first one saw it; no writer waits for it.

    SQLite's readers see one moment anyway (and while this one reads, the write-ahead log only grows); on the servers it
    takes REPEATABLE READ.
    """
    options: dict[str, Any] = {READ_ONLY: True}
    if engine.dialect.name != "sqlite":
        options["isolation_level"] = "REPEATABLE READ"
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def rows_of(connection: Connection, table: Table) -> Iterator[Row[Any]]:
    """Every row of a table in the order of its key, a thousand at a time in memory."""
    statement = select(*table.columns).order_by(*table.primary_key.columns)
    # Without `stream_results` the drivers of both servers would fetch the whole table first.
    return iter(connection.execute(statement, execution_options={"yield_per": ROWS_AT_ONCE, "stream_results": True}))


def number_on(connection: Connection, table: Table) -> None:
    """Let the database number new rows after those that were inserted with their ids.

    SQLite, MySQL and MariaDB do so by themselves; PostgreSQL's sequences know nothing of such rows.
    """
    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        name = {"table": table.name, "column": column.name}
        sequence = connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), name).scalar()
        if sequence is not None and (last := connection.execute(select(func.max(column))).scalar()) is not None:
            connection.execute(
                text("SELECT setval(CAST(:sequence AS regclass), :last)"), {"sequence": sequence, "last": last}
            )
