"""Who writes to an SQLite file next: the writers of services stand in line, in one process and among all of a machine.

SQLite has one writer, and who finds it busy sleeps and asks again, up to a tenth of a second at a time: under load some
wait long beside others who come and go. Here the next one asks every half millisecond. Who does not stand in line (a
command, the clock) waits as SQLite lets it, and who has stood in line for too long goes on without: the file's own lock
decides then.
"""

import contextlib
import fcntl
import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Final

from sqlalchemy import Engine

ASK_AGAIN_SECONDS: Final = 0.0005
# Who holds it may have been stopped by a signal: that must not stop the others.
PATIENCE_SECONDS: Final = 2.0


class Turn:
    """A lock of this process's threads and, by a file beside the database, of all processes that take it."""

    def __init__(self, file: Path | None, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._lock = threading.Lock()
        self._patience_seconds = patience_seconds
        self._descriptor: int | None = None
        if file is not None:
            # It holds nothing, and its name stays: two processes that do not mean the same file would not be in line.
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        """Take it."""
        self._lock.acquire()
        try:
            if self._descriptor is not None:
                self._stand_in_line(self._descriptor)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back; the kernel does that for a process that dies."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._lock.release()

    def _stand_in_line(self, descriptor: int) -> None:
        give_up_at = time.monotonic() + self._patience_seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > give_up_at:
                return
            time.sleep(ASK_AGAIN_SECONDS)


def turn_of(engine: Engine) -> AbstractContextManager[None]:
    """How the writers of this database stand in line; servers order theirs themselves."""
    if engine.dialect.name != "sqlite":
        return nullcontext()
    database = engine.url.database
    return Turn(Path(f"{database}.turn") if database and database != ":memory:" else None)
