"""Reach the database, and run one unit of work in one transaction: the only place that commits."""

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Executable, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool

from app.db import json_columns
from app.db.guard import DatabaseAway, Guard
from app.db.scope import OF_NO_DOMAIN, ScopedSession
from app.db.sqlite_library import DRIVER

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

READ_ONLY = "intentloop_read_only"
TRIES = 6
LONGEST_PAUSE_SECONDS = 2.0
# A caller that waited for a lock until the database gave up has waited long enough: no second wait of that length.
LAST_RETRY_SECONDS = 5.0
SQLITE_BUSY_SECONDS = 10.0
POOL_SIZE = 20
CONNECT_SECONDS = 3
# Of a service: nobody who asks it waits longer than ten seconds in all.
SERVICE_BUSY_SECONDS = 7.0
SERVICE_POOL_SECONDS = 3.0
REQUEST_SECONDS = 8.0
STATEMENT_SECONDS = 60
ASKING_SECONDS = 2

# What the same transaction, run again, may well not meet again: serialisation failure and deadlock (PostgreSQL);
# deadlock and lock wait timeout (MySQL).
_TRANSIENT_SQLSTATES = {"40001", "40P01"}
_TRANSIENT_MYSQL_CODES = {1213, 1205, 1020}
_UNIQUE_SQLSTATE = "23505"
_UNIQUE_MYSQL_CODE = 1062

# What says that the database is away, locked, full or read-only, and nothing against the rows. PostgreSQL, by class and
# by state: connection, authorisation, resources, intervention, system; read-only transaction, lock not available, no
# such database, no such table yet, not ours to write.
_OUTAGE_CLASSES = {"08", "28", "53", "57", "58"}
_OUTAGE_SQLSTATES = {"25006", "55P03", "3D000", "42P01", "42501"} | _TRANSIENT_SQLSTATES
# MySQL and MariaDB: the client's own (2xxx), no such table, too many connections, access denied, shutting down, disk or
# table full, read-only, killed, statement time exceeded, I/O.
_OUTAGE_MYSQL_CODES = {3, 5, 1142, 1146, 1021, 1030, 1040, 1044, 1045, 1049, 1053, 1077, 1114, 1129, 1203, 1226}
_OUTAGE_MYSQL_CODES |= {1290, 1317, 1792, 1836, 1927, 1969, 3024} | _TRANSIENT_MYSQL_CODES
# SQLite's primary result codes: perm, busy, locked, nomem, readonly, interrupt, ioerr, corrupt, full, cantopen,
# protocol, notadb.
_OUTAGE_SQLITE_CODES = {3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26}


def connect(url: str, *, serving: bool = False, asking: bool = False) -> Engine:
    """An engine for this URL, set up so that what was committed is kept and what is read is what was committed.

    `serving`: people wait for its answers, so nothing in it waits long; a `Guard` watches it. `asking`: only to find
    out whether the database is there.
    """
    parsed = make_url(url)
    if parsed.drivername in ("mysql", "mariadb"):
        parsed = parsed.set(drivername=f"{parsed.drivername}+pymysql")
    options: dict[str, Any] = {
        "json_serializer": json_columns.written,
        "json_deserializer": json_columns.read,
        # Parameters are people's texts: an error that is logged must not carry them.
        "hide_parameters": True,
        # A service's guard asks by itself.
        "pool_pre_ping": not serving,
        "pool_size": POOL_SIZE,
        "pool_timeout": SERVICE_POOL_SECONDS if serving else 10,
    }
    if asking:
        options = {"hide_parameters": True, "poolclass": NullPool}
    backend = parsed.get_backend_name()
    patience = ASKING_SECONDS if asking else CONNECT_SECONDS
    if backend == "sqlite":
        options["module"] = DRIVER
        busy = SERVICE_BUSY_SECONDS if serving else SQLITE_BUSY_SECONDS
        options["connect_args"] = {"timeout": ASKING_SECONDS if asking else busy}
    elif backend == "postgresql":
        options["isolation_level"] = "READ COMMITTED"
        options["connect_args"] = _for_postgresql(patience, serving=serving)
    else:
        options["isolation_level"] = "READ COMMITTED"
        if not asking:
            options["pool_recycle"] = 1800
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
        options["connect_args"] = _for_mysql(patience)
    engine = create_engine(parsed, **options)
    if backend == "sqlite":
        _prepare_sqlite(engine)
    elif backend != "postgresql" and not asking:
        _prepare_mysql(engine)
    return engine


def _for_postgresql(patience: int, *, serving: bool) -> dict[str, Any]:
    limits = "-c idle_in_transaction_session_timeout=60000 -c lock_timeout=10000"
    if serving:
        # What was cut off here would go on over there.
        limits += f" -c statement_timeout={STATEMENT_SECONDS * 1000}"
    return {
        "connect_timeout": patience,
        "options": limits,
        # A server whose machine is gone says nothing at all.
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,  # milliseconds
    }


def _for_mysql(patience: int) -> dict[str, Any]:
    return {
        "connect_timeout": patience,
        # The driver's greeting has no timeout but this; see _prepare_mysql.
        "read_timeout": patience,
        "init_command": "SET SESSION sql_mode='STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,"
        "NO_ENGINE_SUBSTITUTION', time_zone='+00:00', innodb_lock_wait_timeout=10",
    }


def _prepare_mysql(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _greeted(connection: Any, _: Any) -> None:
        # A statement may take longer than a greeting.
        connection._read_timeout = None


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _: Any) -> None:
        # The driver would begin transactions by itself, late and DEFERRED; _begin does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        # Kept in the file, and asked first: setting it needs a lock for which SQLite does not wait.
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode=WAL")
        # NORMAL would lose the last commits at a power cut, and they were answered with 2xx.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        # Without it, deleted text stays readable in the file.
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that turns writer half way fails at once when another wrote in between: the busy timeout cannot help
        # it. So who may write says so at the start, and waits in line.
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def transaction(
    engine: Engine, *, read_only: bool = False, domain_ids: frozenset[int] | None = None
) -> Iterator[Session]:
    """One unit of work: commit when the block ends, roll back when it raises. `domain_ids` bounds what it sees."""
    bind = engine.execution_options(**{READ_ONLY: True}) if read_only else engine
    opened = Session(bind, expire_on_commit=False) if domain_ids is None else ScopedSession(bind, domain_ids)
    with opened as session, session.begin():
        yield session


class UnitOfWork:
    """Runs a service function in a transaction of its own, and the whole of it again when the database says so."""

    def __init__(
        self,
        engine: Engine,
        *,
        domain_ids: frozenset[int] | None = None,
        guard: Guard | None = None,
        seconds: float | None = None,
    ) -> None:
        """`domain_ids`: the only domains that its services see and change; all of them without it.

        `guard` and `seconds`: of a service that answers people, how long one call may take at most.
        """
        self.engine = engine
        self.domain_ids = domain_ids
        self.guard = guard
        self.seconds = seconds

    def for_request(self, domain_ids: frozenset[int] | None = None) -> "UnitOfWork":
        """The same for somebody who waits: it ends in time, and sees these domains only."""
        return UnitOfWork(self.engine, domain_ids=domain_ids, guard=self.guard, seconds=REQUEST_SECONDS)

    def __call__(self, service: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`service(session, *args, **kwargs)`, committed.

        A deadlock, a serialisation failure, a unique key that another transaction took first or a row that it deleted
        repeats the whole service, which then sees what the other wrote. Statements are never repeated alone: half of a
        transaction is gone by then.
        """
        with self._admitted():
            return self._repeatedly(service, *args, **kwargs)

    def _repeatedly(self, service: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.monotonic()
        for attempt in range(1, TRIES + 1):
            try:
                with transaction(self.engine, domain_ids=self.domain_ids) as session:
                    return service(session, *args, **kwargs)
            except (DBAPIError, StaleDataError) as error:
                if attempt == TRIES or time.monotonic() - started > LAST_RETRY_SECONDS or not is_transient(error):
                    raise
                cause = error.orig if isinstance(error, DBAPIError) else error
                logger.info("transaction %s repeated: %s", _name(service), type(cause).__name__)
                # Full jitter, so that those who collided do not meet again.
                time.sleep(random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.01 * 2**attempt)))
        raise AssertionError("unreachable")

    def read(self, service: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`service(session, …)` without the right to write: on SQLite it waits for no writer."""
        with self._admitted(), transaction(self.engine, read_only=True, domain_ids=self.domain_ids) as session:
            return service(session, *args, **kwargs)

    def _admitted(self) -> AbstractContextManager[None]:
        return nullcontext() if self.guard is None else self.guard.admit(self.seconds)


def _name(service: Callable[..., Any]) -> str:
    return getattr(service, "__name__", type(service).__name__)


def is_transient(error: DBAPIError | StaleDataError) -> bool:
    """Whether the same transaction may succeed when it is run again."""
    if isinstance(error, StaleDataError):
        return True
    original = error.orig
    if isinstance(error, IntegrityError):
        return _is_unique_violation(original)
    if getattr(original, "sqlstate", None) in _TRANSIENT_SQLSTATES:
        return True
    code = original.args[0] if original is not None and original.args else None
    return code in _TRANSIENT_MYSQL_CODES or "database is locked" in str(original)


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, locked, full or read-only: it says nothing against what was to be written."""
    if isinstance(error, DatabaseAway | PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    original = error.orig
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    code = original.args[0] if original is not None and original.args else None
    if isinstance(code, int):
        return code in _OUTAGE_MYSQL_CODES or 2000 <= code < 3000
    if (state := getattr(original, "sqlstate", None)) is not None:
        return state in _OUTAGE_SQLSTATES or state[:2] in _OUTAGE_CLASSES
    if (number := getattr(original, "sqlite_errorcode", None)) is not None:
        return number & 0xFF in _OUTAGE_SQLITE_CODES or "no such table" in str(original)
    # psycopg, of a server that it cannot reach, knows a sentence only.
    return isinstance(error, OperationalError)


def _is_unique_violation(original: BaseException | None) -> bool:
    """Whether a unique key was taken; a value that a constraint refuses is refused again."""
    if original is None:
        return False
    code = original.args[0] if original.args else None
    return (
        getattr(original, "sqlstate", None) == _UNIQUE_SQLSTATE
        or code == _UNIQUE_MYSQL_CODE
        or "UNIQUE constraint failed" in str(original)
    )


def database_time(session: Session) -> datetime:
    """Now, by the clock that all replicas share: leases and heartbeats are never compared with a replica's own.

    An SQLite file lives on one machine, whose clock is the shared one.
    """
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        return datetime.now(UTC)
    if dialect == "postgresql":
        moment: datetime = session.execute(_time("SELECT clock_timestamp()")).scalar_one()
        return moment.astimezone(UTC)
    moment = session.execute(_time("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    return moment.replace(tzinfo=UTC)


def _time(statement: str) -> Executable:
    return text(statement).execution_options(**{OF_NO_DOMAIN: True})


@contextmanager
def database_lock(engine: Engine, name: str, *, timeout_seconds: float = 60.0) -> Iterator[None]:
    """Hold a lock that every process on this database respects; SQLite's is the write lock of its migration itself.

    The lock lives on a connection of its own, so that it can be kept until the work under it is committed.

    Raises:
        TimeoutError: another process held it for `timeout_seconds`.
    """
    dialect = engine.dialect.name
    if dialect == "sqlite":
        yield
        return
    # Without a transaction: one that idles while the work goes on would be ended by the server, and the lock with it.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as keeper:
        if dialect == "postgresql":
            take, give_back = "SELECT pg_try_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"
            key: int | str = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        else:
            take, give_back, key = "SELECT GET_LOCK(:key, 0)", "SELECT RELEASE_LOCK(:key)", name
        deadline = time.monotonic() + timeout_seconds
        while not keeper.execute(text(take), {"key": key}).scalar():
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process held the lock {name!r} for {timeout_seconds:g} s")
            time.sleep(0.1)
        try:
            yield
        finally:
            keeper.execute(text(give_back), {"key": key})
