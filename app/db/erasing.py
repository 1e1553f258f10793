"""Let deleted rows leave the disk: a database keeps their bytes until it needs the space."""

import time
from collections.abc import Sequence

from sqlalchemy import Engine, Table

PAUSE_SECONDS = 0.1


def empty_write_ahead_log(engine: Engine, *, timeout_seconds: float = 15.0) -> bool:
    """Fold SQLite's write-ahead log into the file and cut it to nothing; deleted text may stand in old pages of it.

    False when a reader kept it busy for so long. True on servers, whose logs are theirs to recycle.
    """
    if engine.dialect.name != "sqlite":
        return True
    deadline = time.monotonic() + timeout_seconds
    while True:
        busy, *_ = _run(engine, "PRAGMA wal_checkpoint(TRUNCATE)") or (1,)
        if not busy:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)


def rewrite(engine: Engine, tables: Sequence[Table]) -> None:
    """Write the tables (on SQLite the whole file) anew without what was deleted. Others wait meanwhile."""
    quote = engine.dialect.identifier_preparer.format_table
    if engine.dialect.name == "sqlite":
        _run(engine, "VACUUM")
    elif engine.dialect.name == "postgresql":
        for table in tables:
            _run(engine, f"VACUUM (FULL, ANALYZE) {quote(table)}")
    else:
        for table in tables:
            _run(engine, f"OPTIMIZE TABLE {quote(table)}")


def _run(engine: Engine, statement: str) -> Sequence[object] | None:
    """One statement outside of any transaction, and the first row of what it says."""
    if engine.dialect.name != "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            result = connection.exec_driver_sql(statement)
            return result.fetchone() if result.returns_rows else None
    # SQLAlchemy would open a transaction first, in which SQLite does neither of the two.
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute(statement)
        row: Sequence[object] | None = cursor.fetchone()
        cursor.close()
        return row
    finally:
        raw.close()
