"""Look at the database: the right server, set up so that what was committed stays, with the schema of this release."""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from app.db.schema import is_current
from app.db.session import database_time, transaction
from app.db.sqlite_library import is_safe
from app.db.tables import Base
from app.operations.check_machine import sqlite_file
from app.operations.findings import Finding, Patient

# Beyond it, reading every page takes minutes: only when it is asked for.
LARGE_BYTES = 512 * 2**20
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 2.0, 60.0
OLDEST_POSTGRESQL, OLDEST_MYSQL, OLDEST_MARIADB = 15, (8, 0), (10, 11)


def there(patient: Patient) -> Iterator[Finding]:
    """SQLite would make the file that it does not find."""
    path = sqlite_file(patient)
    if path is not None and not path.exists():
        yield Finding("reach", "fail", f"there is no database at {path}", "run `intentloop migrate`")


def server(patient: Patient) -> Iterator[Finding]:
    """The kind of database, and what it is set to."""
    engine = patient.work.engine
    with engine.connect().execution_options(intentloop_read_only=True) as connection, connection.begin():
        yield from KINDS[engine.dialect.name](connection, patient)


def _sqlite(connection: Connection, patient: Patient) -> Iterator[Finding]:
    version = tuple(int(part) for part in _ask(connection, "SELECT sqlite_version()").split("."))
    shown = ".".join(map(str, version))
    if is_safe(version):
        yield Finding("database", "ok", f"SQLite {shown}")
    else:
        advice = (
            "install the package pysqlite3, or a Python with SQLite 3.51.3, 3.50.7 or 3.44.6; keep backups meanwhile"
        )
        yield Finding("database", "warn", f"SQLite {shown} can, rarely, damage a file at a checkpoint", advice)
    for name, wanted in (("journal_mode", "wal"), ("synchronous", "2"), ("foreign_keys", "1"), ("secure_delete", "1")):
        if (found := str(_ask(connection, f"PRAGMA {name}"))) != wanted:
            yield Finding("database", "fail", f"{name} is {found}, not {wanted}", "open it with intentloop alone")
    yield from _whole(connection, patient)


def _whole(connection: Connection, patient: Patient) -> Iterator[Finding]:
    path = sqlite_file(patient)
    large = path is not None and path.exists() and path.stat().st_size > LARGE_BYTES and not patient.thorough
    if large:
        yield Finding("integrity", "ok", "not checked: the file is large; `--thorough` does")
        return
    pragma = "integrity_check" if patient.thorough else "quick_check"
    if (said := _ask(connection, f"PRAGMA {pragma}(1)")) == "ok":
        yield Finding("integrity", "ok", f"{pragma} found nothing")
    else:
        # What it says names pages and tables, never what is in them.
        advice = "stop everything, keep the file, and restore the last backup"
        yield Finding("integrity", "fail", f"the file is damaged: {str(said)[:200]}", advice)


def _postgresql(connection: Connection, _: Patient) -> Iterator[Finding]:
    version = str(_ask(connection, "SHOW server_version"))
    old = int(version.split(".")[0]) < OLDEST_POSTGRESQL
    advice = f"use PostgreSQL {OLDEST_POSTGRESQL} or later" if old else ""
    yield Finding("database", "warn" if old else "ok", f"PostgreSQL {version}", advice)
    for name in ("fsync", "full_page_writes"):
        if _ask(connection, f"SHOW {name}") != "on":
            yield Finding("durability", "fail", f"{name} is off: a crash can damage everything", f"set {name} = on")
    if (synchronous := _ask(connection, "SHOW synchronous_commit")) == "off":
        advice = "set synchronous_commit = on"
        yield Finding("durability", "fail", f"synchronous_commit is {synchronous}: a crash loses answered rows", advice)
    if (encoding := _ask(connection, "SHOW server_encoding")) != "UTF8":
        yield Finding("database", "fail", f"its encoding is {encoding}", "make the database anew with ENCODING 'UTF8'")
    yield from _isolation(connection)


def _mysql(connection: Connection, _: Patient) -> Iterator[Finding]:
    version = str(_ask(connection, "SELECT @@version"))
    maria = "mariadb" in version.lower()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    old = numbers < (OLDEST_MARIADB if maria else OLDEST_MYSQL)
    advice = "use MySQL 8.0, MariaDB 10.11 or later" if old else ""
    yield Finding("database", "warn" if old else "ok", f"{'MariaDB' if maria else 'MySQL'} {version}", advice)
    if "STRICT_TRANS_TABLES" not in str(_ask(connection, "SELECT @@session.sql_mode")):
        yield Finding("database", "fail", "strict mode is off: values are cut silently", "let the user set sql_mode")
    if (characters := _ask(connection, "SELECT @@character_set_connection")) != "utf8mb4":
        yield Finding("database", "fail", f"the connection speaks {characters}", "leave `charset` out of the URL")
    if str(_ask(connection, "SELECT @@innodb_flush_log_at_trx_commit")) != "1":
        advice = "set innodb_flush_log_at_trx_commit = 1"
        yield Finding("durability", "fail", "a crash loses up to a second of answered rows", advice)
    if str(_ask(connection, "SELECT @@log_bin")) == "1" and str(_ask(connection, "SELECT @@sync_binlog")) != "1":
        yield Finding("durability", "warn", "the binary log can lose rows at a crash", "set sync_binlog = 1")
    if (packet := int(_ask(connection, "SELECT @@max_allowed_packet"))) < 16 * 2**20:
        advice = "set max_allowed_packet = 64M"
        yield Finding("database", "warn", f"max_allowed_packet is {packet} bytes: large slices fail", advice)
    yield from _mysql_tables(connection)
    yield from _isolation(connection)


def _mysql_tables(connection: Connection) -> Iterator[Finding]:
    rows = connection.exec_driver_sql(
        "SELECT TABLE_NAME, ENGINE, TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    ).all()
    for name, kind, collation in rows:
        if name in Base.metadata.tables and (kind != "InnoDB" or collation != "utf8mb4_bin"):
            advice = f"ALTER TABLE {name} ENGINE=InnoDB, CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            yield Finding("database", "fail", f"{name} is {kind} with {collation}", advice)


def _isolation(connection: Connection) -> Iterator[Finding]:
    if (level := connection.get_isolation_level()) != "READ COMMITTED":
        yield Finding("database", "fail", f"transactions are {level}", "let the user set the isolation level")


def _ask(connection: Connection, statement: str) -> Any:
    return connection.exec_driver_sql(statement).scalar_one()


KINDS: Mapping[str, Callable[[Connection, Patient], Iterator[Finding]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
}


def schema(patient: Patient) -> Iterator[Finding]:
    """The tables are those of this release."""
    if is_current(patient.work.engine):
        yield Finding("schema", "ok", "it is the one of this release")
    else:
        yield Finding(
            "schema", "fail", "it is the one of another release, or there is none", "run `intentloop migrate`"
        )


def clock_skew(patient: Patient) -> Iterator[Finding]:
    """The database and this machine agree on the time."""
    with transaction(patient.work.engine, read_only=True) as session:
        apart = abs((database_time(session) - datetime.now(UTC)).total_seconds())
    level = "fail" if apart > SKEW_FAIL_SECONDS else "warn" if apart > SKEW_WARN_SECONDS else "ok"
    advice = "let both follow a time server (NTP)" if level != "ok" else ""
    yield Finding("time", level, f"the database and this machine are {apart:.1f} s apart", advice)
