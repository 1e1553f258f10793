"""Keep time: submit each job at its slots, train what is queued, and say every few seconds that the clock is alive.

APScheduler only ticks; the truth about what ran lies in our tables, so two clocks on one database run each slot once.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from apscheduler.events import EVENT_JOB_SUBMITTED, JobSubmissionEvent
from apscheduler.schedulers.background import BackgroundScheduler

from app.db.sqlite_library import warn_if_broken
from app.services import batches, runs
from jobs.context import JobContext
from jobs.cron import MISFIRE_GRACE_SECONDS, Slots, latest_slot
from jobs.ledger import BEAT_SECONDS, Ledger
from jobs.mine_keywords import retire_failing
from jobs.reasons import in_words, is_of_database
from jobs.rule_proving import prove_next
from jobs.timetable import TIMETABLE
from jobs.training import train_next

T = TypeVar("T")

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
# Rules that people keep contradicting need not wait for the next mining.
FAILING_RULES_SECONDS = 30.0


class Clock:
    """One per process. Starting a second on the same database is safe, and a standby."""

    def __init__(self, context: JobContext) -> None:
        """Raises SetupError when a setting is no crontab."""
        self._context = context
        self._ledger = Ledger(context)
        self._when: dict[str, Slots] = {name: entry.slots(context.settings) for name, entry in TIMETABLE.items()}
        self._slots: dict[str, queue.Queue[datetime]] = {name: queue.Queue() for name in TIMETABLE}
        self._threads: list[threading.Thread] = []
        self._failing: set[str] = set()
        # When the rules of a domain were tried in vain: not again at once.
        self._tried: dict[str, float] = {}
        self._scheduler = BackgroundScheduler(
            # The slots know the zone. Local times cannot be compared on the day when clocks are put back.
            timezone=UTC,
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": MISFIRE_GRACE_SECONDS,
            },
        )

    def start(self) -> None:
        """Begin to keep time, with the slots too that were missed while no clock ran."""
        warn_if_broken(self._context.work.engine.dialect.name)
        self._scheduler.add_listener(self._submitted, EVENT_JOB_SUBMITTED)
        for name, when in self._when.items():
            # The scheduler's own call does nothing: it cannot tell a job its slot, its event can.
            self._scheduler.add_job(_tick, when, id=name)
        self._scheduler.start()
        # After the scheduler, so that no slot falls between the two; one that both name is run once.
        for name, when in self._when.items():
            self._catch_up(name, when)
        self._start_thread("training", self._train)
        self._start_thread("rules", self._prove_rules)
        self._start_thread("alive", self._report)
        for name in TIMETABLE:
            self._start_thread(name, lambda name=name: self._work_off(name))  # type: ignore[misc]

    def stop(self) -> None:
        """Stop cleanly: what trains is given back whole."""
        self._context.stopping.set()
        self._scheduler.shutdown(wait=False)
        for thread in self._threads:
            thread.join(timeout=30)
        self._guarded(lambda: self._context.work(runs.forget_replica, self._context.worker))

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _catch_up(self, name: str, when: Slots) -> None:
        slot = latest_slot(when, datetime.now(UTC))
        last = self._context.work.read(runs.last_slot, name)
        if slot is not None and (last is None or last < slot):
            self._slots[name].put(slot)

    def _submitted(self, event: JobSubmissionEvent) -> None:
        for slot in event.scheduled_run_times:
            self._slots[event.job_id].put(slot)

    def _work_off(self, name: str) -> None:
        due: datetime | None = None
        while not self._context.stopping.is_set():
            due = self._latest(name, due)
            if due is not None and self._ended(name, due):
                due = None

    def _latest(self, name: str, due: datetime | None) -> datetime | None:
        """The slot to run now. While a job ran long, its later slots came due: they are one run, the latest."""
        slots = self._slots[name]
        try:
            found = slots.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return due
        while not slots.empty():
            found = max(found, slots.get())
        return found if due is None else max(found, due)

    def _ended(self, name: str, slot: datetime) -> bool:
        """Run a slot that nobody took. False while the database is away: it is tried again until its grace is over."""
        taken = self._guarded(lambda: (self._ledger.take(name, slot),))
        if taken is None:
            return slot < datetime.now(UTC) - timedelta(seconds=MISFIRE_GRACE_SECONDS)
        (run_id,) = taken
        if run_id is not None:
            try:
                self._ledger.run(name, run_id)
            except Exception as error:  # The edge of the thread: the ledger has it, the next slot is a new try.
                logger.warning("job %s failed: %s", name, in_words(error), exc_info=not is_of_database(error))
        return True

    def _train(self) -> None:
        while not self._context.stopping.is_set():
            if not self._guarded(lambda: train_next(self._context)):
                self._context.stopping.wait(POLL_SECONDS)

    def _prove_rules(self) -> None:
        looked_at = float("-inf")
        while not self._context.stopping.is_set():
            if time.monotonic() - looked_at >= FAILING_RULES_SECONDS:
                looked_at = time.monotonic()
                self._guarded(lambda: retire_failing(self._context))
            if not self._guarded(lambda: prove_next(self._context, self._tried)):
                self._context.stopping.wait(POLL_SECONDS)

    def _report(self) -> None:
        while True:
            self._guarded(self._say_alive)
            if self._context.stopping.wait(min(BEAT_SECONDS, self._context.settings.lost_after_seconds / 3)):
                return

    def _say_alive(self) -> None:
        """Beat, and give up for lost what other workers left without a beat."""
        work, lost_after = self._context.work, self._context.settings.lost_after_seconds
        work(runs.report_replica, self._context.worker, role="clock")
        self._ledger.beat()
        for batch_id in work(batches.fail_lost, lost_after_seconds=lost_after):
            logger.warning("batch %s was lost with its worker; its labels wait for the next one", batch_id)
        if died := work(runs.reap, lost_after_seconds=lost_after):
            logger.warning("%d runs of jobs died with their clock", died)

    def _guarded(self, act: Callable[[], T]) -> T | None:
        """Run one step of a thread that must live on; a database that is away is tried again at the next."""
        thread = threading.current_thread().name
        try:
            done = act()
        except Exception as error:
            # Said once, not twice a second for as long as it lasts.
            if thread not in self._failing:
                self._failing.add(thread)
                logger.warning("%s waits: %s", thread, in_words(error), exc_info=not is_of_database(error))
            return None
        if thread in self._failing:
            self._failing.discard(thread)
            logger.info("%s goes on", thread)
        return done


def _tick() -> None:
    """Nothing: what a slot does is decided by whoever takes it from the ledger."""
