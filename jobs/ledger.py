"""Run a job for a slot, once among all clocks, and write down what became of it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from app.services import runs
from jobs.context import JobContext
from jobs.reasons import in_words
from jobs.timetable import TIMETABLE

logger = logging.getLogger(__name__)

BEAT_SECONDS = 3.0


class Ledger:
    """What this process is running at the moment, and the way to run more."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def take(self, job: str, scheduled_for: datetime) -> int | None:
        """The id of the run, or None when the slot was taken before."""
        return self._context.work(runs.begin, job, scheduled_for, worker=self._context.worker)

    def run(self, job: str, run_id: int) -> dict[str, Any]:
        """Run a job whose slot was taken, and return what it says of itself.

        An error is written to the ledger and raised.
        """
        with self._listed(run_id):
            try:
                detail = TIMETABLE[job].run(self._context)
            except Exception as error:
                self._context.work(runs.finish, run_id, error=in_words(error))
                raise
            self._context.work(runs.finish, run_id, detail=detail)
            return detail

    def beat(self) -> None:
        """Say that what this process runs is alive."""
        with self._lock:
            running = sorted(self._running)
        if running:
            self._context.work(runs.beat, running)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat from a thread of its own, for a process that is no clock."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(min(BEAT_SECONDS, self._context.settings.lost_after_seconds / 3)):
                try:
                    self.beat()
                except Exception as error:  # The database may be away for a moment: the next beat tries again.
                    logger.warning("heartbeat: %s", in_words(error))

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(timeout=10)

    @contextmanager
    def _listed(self, run_id: int) -> Iterator[None]:
        with self._lock:
            self._running.add(run_id)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(run_id)
