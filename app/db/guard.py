"""Notice that the database is away, and let nobody wait for it for ever.

A server that is paused still acknowledges what it is sent, so no timeout of its own or of the network's ends a wait for
it. Only we can: by shutting down the socket on which a thread waits, which then hears of a lost connection.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
# Somebody has waited for so long: is it there?
SUSPICIOUS_SECONDS = 1.5
QUIET_SECONDS = 5.0
ANSWER_SECONDS = 3.0
# While it is away: what has been out for longer is cut.
AWAY_CUT_SECONDS = 5.0
# A connection that was used just now is not asked first whether it lives.
FRESH_SECONDS = 1.0
PING_SECONDS = 2.0
# So many may wait for a database that is known to be away; all others hear of it at once.
HOPEFUL = 8
HOPEFUL_SECONDS = 4.0

_own = threading.local()


class DatabaseAway(Exception):
    """The database is known not to answer, and enough callers wait for it."""


@dataclass(slots=True)
class Out:
    """A connection in somebody's hands: since when, and until when at most (both monotonic)."""

    connection: Any
    since: float
    deadline: float
    cut: bool = False


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Connections that this thread takes meanwhile are cut when the time is over."""
    former = getattr(_own, "deadline", None)
    _own.deadline = None if seconds is None else time.monotonic() + seconds
    try:
        yield
    finally:
        _own.deadline = former


class Guard:
    """Watches the connections of one engine from a thread of its own.

    `asking` is an engine to the same database whose connections are made anew each time and give up soon.
    """

    def __init__(self, engine: Engine, asking: Engine) -> None:
        self._asking = asking
        self._out: dict[int, Out] = {}
        self._lock = threading.Lock()
        self._hopeful = threading.BoundedSemaphore(HOPEFUL)
        self._stop = threading.Event()
        self._asked_at = float("-inf")
        self._away_since: datetime | None = None
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        event.listen(engine, "checkout", self._taken)
        event.listen(engine, "checkin", self._returned)
        event.listen(engine, "invalidate", self._returned)
        # Whoever takes a connection out of the pool for good looks after it.
        event.listen(engine, "detach", self._returned)

    @property
    def away_since(self) -> datetime | None:
        """Since when the database does not answer; None while it does."""
        return self._away_since

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=ANSWER_SECONDS + 1)
        self._asking.dispose()

    @contextmanager
    def admit(self, seconds: float | None) -> Iterator[None]:
        """One caller's work with the database, which takes `seconds` at most.

        Raises:
            DatabaseAway: it is away, and enough callers find out whether it comes back.
        """
        if self._away_since is None or seconds is None:
            with deadline(seconds):
                yield
            return
        if not self._hopeful.acquire(blocking=False):
            raise DatabaseAway("the database does not answer")
        try:
            with deadline(min(seconds, HOPEFUL_SECONDS)):
                yield
        finally:
            self._hopeful.release()

    # What the pool tells.

    def _taken(self, connection: Any, record: Any, _: Any) -> None:
        now = time.monotonic()
        latest = getattr(_own, "deadline", None)
        out = Out(connection, now, float("inf") if latest is None else latest)
        with self._lock:
            self._out[id(record)] = out
        used_at = record.info.get("used_at")
        if self._is_sqlite or used_at is None or now - used_at < FRESH_SECONDS:
            return
        # In place of the pool's own ping, which nobody could cut.
        out.deadline = min(out.deadline, now + PING_SECONDS)
        try:
            self._asking.dialect.do_ping(connection)
        except self._asking.dialect.loaded_dbapi.Error as error:
            self._returned(connection, record)
            raise InvalidatePoolError from error
        out.deadline = float("inf") if latest is None else latest

    def _returned(self, _: Any, record: Any, *__: Any) -> None:
        # Under the lock: once it is closed, its number may be another file's, which must not be cut in its place.
        with self._lock:
            self._out.pop(id(record), None)
        record.info["used_at"] = time.monotonic()

    # The thread.

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                waits = [now - out.since for out in self._out.values()]
            due = self._away_since is not None or max(waits, default=0.0) > SUSPICIOUS_SECONDS
            if now - self._asked_at > (2 * LOOK_SECONDS if due else QUIET_SECONDS):
                self._note(self._answers())
                self._asked_at = time.monotonic()
            self._cut_what_is_late()

    def _answers(self) -> bool:
        """Whether a new connection can be made and used."""
        made: list[Any] = []
        answered = threading.Event()

        def ask() -> None:
            try:
                with self._asking.connect() as connection:
                    made.append(connection.connection.driver_connection)
                    with connection.begin():
                        connection.exec_driver_sql("SELECT 1")
            except SQLAlchemyError as error:
                logger.debug("the database does not answer: %s", type(getattr(error, "orig", None) or error).__name__)
                return
            answered.set()

        asker = threading.Thread(target=ask, name="asker", daemon=True)
        asker.start()
        asker.join(ANSWER_SECONDS)
        if not answered.is_set() and made:
            _shut_down(made[0])
        return answered.is_set()

    def _note(self, answers: bool) -> None:
        if answers and self._away_since is not None:
            seconds = (datetime.now(UTC) - self._away_since).total_seconds()
            self._away_since = None
            logger.warning("the database answers again, after %.1f s", seconds)
        elif not answers and self._away_since is None:
            self._away_since = datetime.now(UTC)
            logger.error("the database does not answer")

    def _cut_what_is_late(self) -> None:
        if self._is_sqlite:
            return
        now = time.monotonic()
        away = self._away_since is not None
        with self._lock:
            for out in self._out.values():
                late = now > out.deadline or (away and now - out.since > AWAY_CUT_SECONDS)
                if late and not out.cut:
                    out.cut = True
                    logger.warning("a connection to the database is cut after %.1f s", now - out.since)
                    _shut_down(out.connection)


def _shut_down(connection: Any) -> None:
    """End what waits on a driver's connection, from another thread."""
    with suppress(Exception):  # It may just have closed by itself.
        number = connection.fileno() if hasattr(connection, "fileno") else connection._sock.fileno()
        # A second name for the same socket: closing it leaves the owner's own to the owner.
        with socket.socket(fileno=os.dup(number)) as twin:
            twin.shutdown(socket.SHUT_RDWR)
