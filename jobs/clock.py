"""Keep time: submit each job at its slots, train what is queued, and say every few seconds that the clock is alive.

APScheduler only ticks; the truth about what ran lies in our tables, so two clocks on one database run each slot once.
"""

import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from apscheduler.events import EVENT_JOB_SUBMITTED, JobSubmissionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from app.services import batches, runs
from jobs.context import JobContext
from jobs.ledger import Ledger
from jobs.timetable import MISFIRE_GRACE_SECONDS, TIMETABLE, latest_slot, trigger
from jobs.training import train_next

T = TypeVar("T")

logger = logging.getLogger(__name__)

TRAIN_POLL_SECONDS = 0.5
REPORT_SECONDS = 3.0


class Clock:
    """One per process. Starting a second on the same database is safe, and a standby."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._ledger = Ledger(context)
        self._slots: dict[str, queue.Queue[datetime]] = {name: queue.Queue() for name in TIMETABLE}
        self._threads: list[threading.Thread] = []
        self._scheduler = BackgroundScheduler(
            timezone=context.settings.zone,
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": MISFIRE_GRACE_SECONDS,
            },
        )

    def start(self) -> None:
        """Begin to keep time, first with the slots that were missed while no clock ran."""
        self._scheduler.add_listener(self._submitted, EVENT_JOB_SUBMITTED)
        for name, entry in TIMETABLE.items():
            when = trigger(entry.cron(self._context.settings), self._context.settings.zone)
            self._catch_up(name, when)
            # The scheduler's own call does nothing: it cannot tell a job its slot, its event can.
            self._scheduler.add_job(_tick, when, id=name)
        self._start_thread("training", self._train)
        self._start_thread("alive", self._report)
        for name in TIMETABLE:
            self._start_thread(name, lambda name=name: self._work_off(name))  # type: ignore[misc]
        self._scheduler.start()

    def stop(self) -> None:
        """Stop cleanly: what trains is given back whole."""
        self._context.stopping.set()
        self._scheduler.shutdown(wait=False)
        for thread in self._threads:
            thread.join(timeout=30)

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _catch_up(self, name: str, when: CronTrigger) -> None:
        slot = latest_slot(when, datetime.now(UTC))
        last = self._context.work.read(runs.last_slot, name)
        if slot is not None and (last is None or last < slot):
            self._slots[name].put(slot)

    def _submitted(self, event: JobSubmissionEvent) -> None:
        for slot in event.scheduled_run_times:
            self._slots[event.job_id].put(slot.astimezone(UTC))

    def _work_off(self, name: str) -> None:
        slots = self._slots[name]
        while not self._context.stopping.is_set():
            try:
                slot = slots.get(timeout=0.5)
            except queue.Empty:
                continue
            # While a job ran long, its later slots came due: they are one run, the latest.
            while not slots.empty():
                slot = max(slot, slots.get())
            self._guarded(lambda slot=slot: self._ledger.run(name, slot))  # type: ignore[misc]

    def _train(self) -> None:
        while not self._context.stopping.is_set():
            if not self._guarded(lambda: train_next(self._context)):
                self._context.stopping.wait(TRAIN_POLL_SECONDS)

    def _report(self) -> None:
        lost_after = self._context.settings.lost_after_seconds
        while True:
            self._guarded(self._ledger.beat)
            self._guarded(lambda: self._context.work(runs.report_replica, self._context.worker, role="clock"))
            for batch_id in (
                self._guarded(lambda: self._context.work(batches.fail_lost, lost_after_seconds=lost_after)) or []
            ):
                logger.warning("batch %s was lost with its worker; its labels wait for the next one", batch_id)
            died = self._guarded(lambda: self._context.work(runs.reap, lost_after_seconds=lost_after))
            if died:
                logger.warning("%d runs of jobs died with their clock", died)
            if self._context.stopping.wait(min(REPORT_SECONDS, lost_after / 3)):
                return

    def _guarded(self, act: Callable[[], T]) -> T | None:
        """Run one step of a thread that must live on; a database that is away is tried again at the next."""
        try:
            return act()
        except Exception as error:
            logger.warning("%s: %s: %s", threading.current_thread().name, type(error).__name__, error)
            return None


def _tick() -> None:
    """Nothing: what a slot does is decided by whoever takes it from the ledger."""
