"""Run a job for a slot, once among all clocks, and write down what became of it."""

import logging
import threading
from datetime import datetime
from typing import Any

from app.services import runs
from jobs.context import JobContext
from jobs.timetable import TIMETABLE

logger = logging.getLogger(__name__)


class Ledger:
    """What this process is running at the moment, and the way to run more."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def run(self, job: str, scheduled_for: datetime) -> dict[str, Any] | None:
        """Run a job unless its slot was taken. An error is written to the ledger and raised.

        Returns:
            What the job says of itself, or None when another clock has the slot.
        """
        work = self._context.work
        run_id = work(runs.begin, job, scheduled_for, worker=self._context.worker)
        if run_id is None:
            return None
        with self._lock:
            self._running.add(run_id)
        try:
            detail = TIMETABLE[job].run(self._context)
        except Exception as error:
            logger.exception("job %s failed", job)
            work(runs.finish, run_id, error=f"{type(error).__name__}: {error}")
            raise
        finally:
            with self._lock:
                self._running.discard(run_id)
        work(runs.finish, run_id, detail=detail)
        return detail

    def beat(self) -> None:
        """Say that what this process runs is alive."""
        with self._lock:
            running = sorted(self._running)
        if running:
            self._context.work(runs.beat, running)
