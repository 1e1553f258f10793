"""Let deleted rows leave the disk: a database keeps their bytes until it needs the space."""

import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, Table

from app.db.sqlite_library import DRIVER

PAUSE_SECONDS = 0.1
# Writing so much anew takes a few seconds, for which writers wait without giving up.
REWRITTEN_BY_ITSELF_BYTES = 256 * 2**20


def rewritten_by_itself(engine: Engine) -> bool:
    """Whether deleted text must be followed by a rewrite, and may be: an SQLite file that is not large.

    `secure_delete` zeroes what is deleted, and not the copies that stayed behind when rows moved to other pages
    before: of 2,200 deleted texts, three were still in the file (measured, SQLite 3.40).
    """
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path or not Path(path).exists():
        return False
    return Path(path).stat().st_size <= REWRITTEN_BY_ITSELF_BYTES


def rewrite(engine: Engine, tables: Sequence[Table]) -> None:
    """Write the tables (on SQLite the whole file) anew without what was deleted. Who writes waits meanwhile.

    On PostgreSQL, MySQL and MariaDB who reads these tables waits, too.
    """
    quote = engine.dialect.identifier_preparer.format_table
    if engine.dialect.name == "sqlite":
        _run(engine, "VACUUM")
    elif engine.dialect.name == "postgresql":
        for table in tables:
            _run(engine, f"VACUUM (FULL, ANALYZE) {quote(table)}")
    else:
        for table in tables:
            _run(engine, f"OPTIMIZE TABLE {quote(table)}")


def empty_write_ahead_log(engine: Engine, *, timeout_seconds: float = 15.0) -> bool:
    """Fold SQLite's write-ahead log into the file and cut it to nothing; deleted text may stand in old pages of it.

    False when a reader kept it busy for so long. True on servers, whose logs are theirs to recycle.
    """
    if engine.dialect.name != "sqlite":
        return True
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            busy, *_ = _run(engine, "PRAGMA wal_checkpoint(TRUNCATE)") or (1,)
        except DRIVER.OperationalError:  # a writer kept it from even beginning
            busy = 1
        if not busy:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)


def _run(engine: Engine, statement: str) -> Sequence[object] | None:
    """One statement outside of any transaction, and the first row of what it says."""
    if engine.dialect.name != "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            result = connection.exec_driver_sql(statement)
            return result.fetchone() if result.returns_rows else None
    with engine.connect() as connection:
        # SQLAlchemy would open a transaction first, in which SQLite does neither of the two.
        driver = connection.connection.driver_connection
        assert driver is not None
        row: Sequence[object] | None = driver.execute(statement).fetchone()
        return row
