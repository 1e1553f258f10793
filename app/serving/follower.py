"""Do what may follow a commit on a thread of its own, soon after it was asked for and again after every crash."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

HELD_ON_SECONDS = 0.5
"""Who sends list after list is back within this time."""

MOST_HELD_SECONDS = 2.0
"""However many hold it, it does one piece of work in this time: what it follows must not wait for ever."""


class Follower:
    """Runs `work` when nudged and at least every `every_seconds`, and on as long as it says that more of it waits."""

    def __init__(
        self,
        work: Callable[[], bool],
        *,
        every_seconds: float,
        name: str,
        gather_seconds: float = 0.0,
        rest: float = 0.0,
    ) -> None:
        """`gather_seconds`: how long it waits after a nudge for more to do in one go.

        `rest`: how long it rests after each piece of work, as a share of the time that the piece took. What follows a
        commit must not stand in the way of the next one.
        """
        self._work = work
        self._every_seconds = every_seconds
        self._gather_seconds = gather_seconds
        self._rest = rest
        self._nudged = threading.Event()
        self._stopping = threading.Event()
        self._holding = threading.Condition()
        self._holders = 0
        self._held_until = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier process left undone."""
        self._nudged.set()
        self._thread.start()

    def nudge(self) -> None:
        """There is something to do."""
        self._nudged.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it begin nothing while the block runs, and for a moment after: somebody waits, and may come again."""
        with self._holding:
            self._holders += 1
        try:
            yield
        finally:
            with self._holding:
                self._holders -= 1
                self._held_until = time.monotonic() + HELD_ON_SECONDS
                self._holding.notify_all()

    def stop(self) -> None:
        """Finish what is there, then end the thread."""
        self._stopping.set()
        self._nudged.set()
        with self._holding:
            self._holding.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            if self._nudged.wait(self._every_seconds):
                self._stopping.wait(self._gather_seconds)
            self._nudged.clear()
            last = self._stopping.is_set()
            try:
                self._wait_for_holders()
                while self._worked():
                    self._wait_for_holders()
            except Exception as error:  # The edge of the thread: what is undone is found again the next time.
                logger.warning("%s will try again: %s", self._thread.name, type(error).__name__)
            if last:
                return

    def _worked(self) -> bool:
        started = time.perf_counter()
        more = self._work()
        if more and self._rest:
            self._stopping.wait((time.perf_counter() - started) * self._rest)
        return more

    def _wait_for_holders(self) -> None:
        deadline = time.monotonic() + MOST_HELD_SECONDS
        with self._holding:
            while not self._stopping.is_set():
                now = time.monotonic()
                until = deadline if self._holders else min(deadline, self._held_until)
                if now >= until:
                    return
                self._holding.wait(until - now)
