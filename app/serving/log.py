"""Write answered questions into the log, all that waits in one commit; onto the disk while the database is away.

Two threads. `log` alone speaks with the database: it writes, and while the database is away it asks for it and hands on
what was spooled. `spooler` watches it: when a write takes longer than anybody should wait, and as long as the database
is away, it takes what waits and spools it. So a healthy write is handed to no other thread, and one that hangs holds
nobody.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from app.errors import Overloaded, RequestIdConflict, SpoolFull, Unavailable
from app.intent.questions import AskedQuestion
from app.logs import trace
from app.serving.batching import Call, deliver
from app.serving.spool import Key, Spool

Out = TypeVar("Out")

logger = logging.getLogger(__name__)

# How often the spooler looks whether a write hangs, as a share of the patience.
LOOKS = 4
ASK_SECONDS = 0.2
LONGEST_ASK_SECONDS = 0.5
ADOPT_SECONDS = 5.0
REPLAY_SIZE = 500
AWAY = "the database does not answer right now; try again"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A question whose answer is on the disk of this machine, and not yet in the database."""

    question: AskedQuestion


# A question, whose it is, and its place among theirs.
Entry = tuple[AskedQuestion, Call, int]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of questions that were handed on: new rows, rows that were there, rows that no database takes."""

    inserted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    forgotten: int = 0


@dataclass(slots=True)
class Tally:
    """What happened since the process began."""

    spooled: int = 0
    replayed: int = 0
    duplicates: int = 0
    quarantined: int = 0
    forgotten: int = 0
    degradations: int = 0


@dataclass(frozen=True, slots=True)
class Database(Generic[Out]):
    """What the log does with the database, each in one transaction.

    `write` gives one result a question; `replay` takes what was spooled, whatever it is; `ask` returns when the
    database takes writes again; `is_outage` tells an error of the database from one of the rows.
    """

    write: Callable[[Sequence[AskedQuestion]], Sequence[Out | Exception]]
    replay: Callable[[Sequence[AskedQuestion]], Replayed]
    ask: Callable[[], None]
    is_outage: Callable[[BaseException], bool]


class LogWriter(Generic[Out]):
    """The log of one process. What `submit` gives is committed, or on the disk (`Spooled`), or an error."""

    def __init__(
        self,
        database: Database[Out],
        *,
        spool: Spool | None,
        size: int,
        capacity: int,
        patience_seconds: float,
    ) -> None:
        """`spool`: None where nothing may be answered that is not in the database (strict)."""
        self._database = database
        self._spool = spool
        self._size = size
        self._capacity = capacity
        self._patience_seconds = patience_seconds
        self._waiting: deque[Entry] = deque()
        self._lock = threading.RLock()
        self._log_wakes = threading.Condition(self._lock)
        self._spooler_wakes = threading.Condition(self._lock)
        # Guarded by the lock.
        self._writing: list[Entry] | None = None
        self._writing_since = 0.0
        self._spooling = False
        self._holding_since: float | None = None
        self._closed = False
        self._degraded_since: datetime | None = None
        self._refusing = False
        self.tally = Tally()
        self._threads = [
            threading.Thread(target=self._run_log, name="log", daemon=True),
            threading.Thread(target=self._run_spooler, name="spooler", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many questions are queued."""
        return len(self._waiting)

    @property
    def degraded_since(self) -> datetime | None:
        """Since when answers go to the disk; None while they go to the database."""
        return self._degraded_since

    @property
    def spools(self) -> bool:
        """Whether it answers while the database is away."""
        return self._spool is not None

    @property
    def can_answer(self) -> bool:
        """Whether the next answer would be kept, as far as is known."""
        return self._degraded_since is None or (self._spool is not None and not self._refusing)

    @property
    def spooled(self) -> tuple[int, int]:
        """Questions that wait on the disk, and the bytes of all spools of this machine."""
        return (0, 0) if self._spool is None else (self._spool.rows, self._spool.bytes)

    @property
    def torn(self) -> int:
        """Torn last frames that were cut."""
        return 0 if self._spool is None else self._spool.torn

    async def submit(self, items: Sequence[AskedQuestion]) -> list[Out | Spooled | BaseException]:
        """What the log holds of these questions, in order, errors in place.

        Raises:
            Overloaded: the queue has no room for all of them: an answer now, not a slow one later.
            Unavailable: the service is shutting down.
        """
        call = Call(len(items), None)
        with self._lock:
            if self._closed:
                raise Unavailable("the service is shutting down")
            if len(self._waiting) + len(items) > self._capacity:
                raise Overloaded(f"more than {self._capacity} questions are waiting")
            self._waiting.extend([(item, call, place) for place, item in enumerate(items)])
            (self._log_wakes if self._degraded_since is None else self._spooler_wakes).notify()
        if items:
            await call.future
        return call.results

    def close(self) -> None:
        """Bring what is queued into the database or onto the disk, then stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._log_wakes.notify()
            self._spooler_wakes.notify()
        # One that hangs in the database is left behind: what it wrote was spooled.
        for thread in self._threads:
            thread.join(timeout=2 * self._patience_seconds + 1.0)
        if self._spool is not None and not self._threads[1].is_alive():
            self._spool.close()

    # The thread that speaks with the database.

    def _run_log(self) -> None:
        self._adopt()
        adopted_at = time.monotonic()
        pause = ASK_SECONDS
        while True:
            with self._lock:
                if not self._closed and self._degraded_since is None and not self._waiting:
                    self._log_wakes.wait(ADOPT_SECONDS)
                degraded = self._degraded_since is not None
                if self._closed and (degraded or not self._waiting):
                    return
                group = [] if degraded else self._take()
                if group:
                    self._writing, self._writing_since = group, time.monotonic()
            if group:
                self._write(group)
            elif degraded:
                pause = ASK_SECONDS if self._recover() else min(pause * 2, LONGEST_ASK_SECONDS)
                with self._lock:
                    self._log_wakes.wait_for(lambda: self._closed or self._degraded_since is None, pause)
            if not degraded and time.monotonic() - adopted_at >= ADOPT_SECONDS:
                self._adopt()
                adopted_at = time.monotonic()

    def _adopt(self) -> None:
        """What another process left was answered before anything that comes now, and goes first."""
        try:
            found = self._spool is not None and self._spool.adopt()
        except OSError as error:
            logger.error("the spools of other processes cannot be read: %s", error.strerror)
            return
        if found:
            self._degrade(f"{found} questions that another process spooled come first")

    def _take(self) -> list[Entry]:
        return [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]

    def _write(self, group: list[Entry]) -> None:
        failed: Exception | None = None
        results: Sequence[Out | Exception] = []
        try:
            results = self._database.write([question for question, _, _ in group])
        except Exception as error:  # The edge of the thread: it must live on, and the callers must hear of it.
            failed = error
        with self._lock:
            mine = self._writing is group
            if mine:
                self._writing = None
            if mine and failed is not None and self._database.is_outage(failed):
                self._waiting.extendleft(reversed(group))
                self._degrade(f"the database does not take them ({_cause(failed)})")
                return
        if not mine:
            # It hung, and its questions were spooled: if it was committed all the same, replay finds its rows.
            logger.info("a write that was given up has ended: %s", "committed" if failed is None else _cause(failed))
        elif failed is not None:
            logger.warning("log failed for %d questions: %s", len(group), _cause(failed))
            deliver(group, [failed] * len(group))
        else:
            deliver(group, results)

    def _recover(self) -> bool:
        """Ask for the database and hand on what waits; whether the log is in the database again."""
        try:
            self._database.ask()
            if self._spool is not None:
                self._hand_on(self._spool)
            return self._resume()
        except Exception as error:  # The edge of the thread: it asks again, for as long as it takes.
            if not self._database.is_outage(error):
                logger.error("what was spooled waits on: %s", trace(error))
            if self._refusing and self._spool is not None:
                self._refusing = not self._spool.has_room()
            return False
        finally:
            with self._lock:
                self._holding_since = None
                self._spooler_wakes.notify()

    def _hand_on(self, spool: Spool) -> None:
        while not self._closed:
            # Nothing is spooled while the last ones go: under load there would always be one more.
            if self._holding_since is None and spool.rows <= REPLAY_SIZE:
                with self._lock:
                    self._holding_since = time.monotonic()
                    self._log_wakes.wait_for(lambda: not self._spooling)
            questions = spool.peek(REPLAY_SIZE)
            if not questions:
                return
            self._count(self._database.replay(questions))
            spool.drop(len(questions))

    def _resume(self) -> bool:
        with self._lock:
            # The spooler held still only for as long as its patience lasts.
            if self._closed or self._spooling or (self._spool is not None and self._spool.rows):
                return False
            since, self._degraded_since = self._degraded_since, None
            self._refusing = False
        seconds = (datetime.now(UTC) - since).total_seconds() if since is not None else 0.0
        logger.warning("the log is in the database again, after %.1f s", seconds)
        return True

    def _count(self, found: Replayed) -> None:
        self.tally.replayed += found.inserted
        self.tally.duplicates += found.duplicates
        self.tally.quarantined += found.quarantined
        self.tally.forgotten += found.forgotten
        if found.quarantined:
            logger.error("%d spooled questions cannot be logged and are in quarantine", found.quarantined)

    # The thread that spools.

    def _run_spooler(self) -> None:
        while True:
            with self._lock:
                while not (group := self._due()):
                    if self._closed and not self._waiting and self._writing is None:
                        return
                    self._spooler_wakes.wait(self._patience_seconds / LOOKS)
                self._spooling = True
            try:
                results = self._kept(group)
            except Exception as error:  # The edge of the thread, as above.
                logger.error("spooling failed for %d questions: %s", len(group), _cause(error))
                results = [error] * len(group)
            with self._lock:
                self._spooling = False
                self._log_wakes.notify()
            deliver(group, results)

    def _due(self) -> list[Entry]:
        """What must not wait for the database any longer."""
        now = time.monotonic()
        if self._writing is not None and now - self._writing_since >= self._patience_seconds:
            group, self._writing = self._writing, None
            self._degrade(f"a write takes longer than {self._patience_seconds:g} s")
            return group
        held = self._holding_since is not None and now - self._holding_since < self._patience_seconds
        return [] if self._degraded_since is None or held else self._take()

    def _kept(self, group: Sequence[Entry]) -> Sequence[Out | Spooled | Exception]:
        spool = self._spool
        if spool is None:
            return [Unavailable(AWAY) for _ in group]
        new: dict[Key, AskedQuestion] = {}
        firsts: list[tuple[AskedQuestion, AskedQuestion]] = []
        for question, _, _ in group:
            key = (question.domain_id, question.request_id or question.question_id)
            first = new.get(key) or (spool.find(key) if question.request_id else None)
            firsts.append((question, first or new.setdefault(key, question)))
        refused: SpoolFull | None = None
        try:
            spool.append(list(new.values()))
            self.tally.spooled += len(new)
        except SpoolFull as error:
            refused = error
        self._refusing = refused is not None
        refusals = {first.question_id: refused for first in new.values() if refused is not None}
        return [refusals.get(first.question_id) or _repeated(question, first) for question, first in firsts]

    def _degrade(self, why: str) -> None:
        with self._lock:
            if self._degraded_since is None:
                self._degraded_since = datetime.now(UTC)
                self.tally.degradations += 1
                place = "refused" if self._spool is None else "spooled on this machine"
                logger.error("answers are %s: %s", place, why)
            self._spooler_wakes.notify()


def _repeated(question: AskedQuestion, first: AskedQuestion) -> Spooled | RequestIdConflict:
    """What a question is answered whose request id, or its own, was spooled with this first one."""
    if first.body_hash == question.body_hash:
        return Spooled(first)
    return RequestIdConflict("this request_id was used before, with another body")


def _cause(error: BaseException) -> str:
    # The kind alone: a message may quote a row.
    return type(getattr(error, "orig", None) or error).__name__
