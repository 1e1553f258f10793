"""Tell other processes that something was committed, where the database can: PostgreSQL's LISTEN and NOTIFY."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.db.scope import OF_NO_DOMAIN

logger = logging.getLogger(__name__)

FLIPS = "intentloop_flips"
# A connection that says nothing is asked so often whether it lives.
PING_SECONDS = 2.0
# And counts as dead when it did not answer for so long: a server that is paused does not hang up.
SILENT_SECONDS = 6.0
RECONNECT_SECONDS = 1.0


def announce(session: Session, channel: str) -> None:
    """Let every listener know when this transaction commits. On databases without notices nothing happens."""
    if session.get_bind().dialect.name == "postgresql":
        statement = text("SELECT pg_notify(:channel, '')").execution_options(**{OF_NO_DOMAIN: True})
        session.execute(statement, {"channel": channel})


class Listener:
    """Calls `heard` for every notice, on a thread and a connection of its own. Notices may be lost: poll as well."""

    def __init__(self, engine: Engine, channel: str, heard: Callable[[], None]) -> None:
        self._engine = engine
        self._channel = channel
        self._heard = heard
        self._alive_at = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    @property
    def is_listening(self) -> bool:
        """Whether the connection answered lately, so that a notice would be heard."""
        return time.monotonic() - self._alive_at < SILENT_SECONDS

    def start(self) -> None:
        """Begin, where the database has notices."""
        if self._engine.dialect.name == "postgresql":
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=PING_SECONDS + 1)

    def _run(self) -> None:
        told = False
        while not self._stopping.is_set():
            try:
                self._listen()
                told = False
            except Exception as error:  # The edge of the thread: the polls go on, and so do the tries.
                if not told and not self._stopping.is_set():
                    logger.warning("flips are not announced for now, and found by asking: %s", type(error).__name__)
                told = True
            self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with self._engine.connect() as pooled:
            connection: Any = pooled.connection.driver_connection
            # Its own from now on: it must take nothing from the pool, nor go back there listening.
            pooled.detach()
            # What SQLAlchemy began.
            connection.rollback()
            connection.autocommit = True
            # The channel is ours: no text from outside stands here.
            connection.execute(f"LISTEN {self._channel}")
            # Of what came before this moment no notice comes.
            self._heard()
            while not self._stopping.is_set():
                self._alive_at = time.monotonic()
                for _ in connection.notifies(timeout=PING_SECONDS, stop_after=1):
                    self._heard()
                connection.execute("SELECT 1")
