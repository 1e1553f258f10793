"""Work through a queue on a thread of its own, taking all that is waiting at once and never waiting for more.

A batch that waits to fill adds its wait to every answer; one that takes what is there grows by itself under load.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from app.errors import CallerGone, Overloaded, Unavailable

In = TypeVar("In")
Out = TypeVar("Out")

logger = logging.getLogger(__name__)

_delivering = threading.Lock()


class Call:
    """Items that came together: their results, and whoever waits for the last of them."""

    __slots__ = ("future", "gone", "left", "loop", "results")

    def __init__(self, count: int, gone: Callable[[], bool] | None) -> None:
        self.loop = asyncio.get_running_loop()
        # One for all of them: a future for each item costs as much as the rest of the way.
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.results: list[Any] = [None] * count
        self.left = count
        self.gone = gone

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.cancelled() or (self.gone is not None and self.gone())


class GreedyBatcher(Generic[In, Out]):
    """Hands queued items to `work` in lists of at most `size`, in order, from one thread.

    `work` returns one result per item; an exception in place of a result goes to that item's caller alone, an exception
    raised goes to all of the list.
    """

    def __init__(
        self,
        work: Callable[[Sequence[In]], Sequence[Out | Exception]],
        *,
        size: int,
        capacity: int,
        name: str,
        skips_abandoned: bool = False,
    ) -> None:
        """`skips_abandoned`: items whose caller went away while they waited are not worked on."""
        self._work = work
        self._size = size
        self._capacity = capacity
        self._name = name
        self._skips_abandoned = skips_abandoned
        self._waiting: deque[tuple[In, Call, int]] = deque()
        self._wake = threading.Condition(threading.Lock())
        self._idle = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items are queued."""
        return len(self._waiting)

    async def submit(self, items: Sequence[In], *, gone: Callable[[], bool] | None = None) -> list[Out | BaseException]:
        """The results of these items, in order, errors in place. `gone`: whether the caller has hung up, if known.

        Raises:
            Overloaded: the queue has no room for all of them: an answer now, not a slow one later.
        """
        call = Call(len(items), gone)
        with self._wake:
            if self._closed:
                raise Unavailable("the service is shutting down")
            if len(self._waiting) + len(items) > self._capacity:
                raise Overloaded(f"more than {self._capacity} questions are waiting")
            self._waiting.extend([(item, call, place) for place, item in enumerate(items)])
            # Only a thread that sleeps is woken: while it works, it looks for more by itself.
            if self._idle:
                self._idle = False
                self._wake.notify()
        if items:
            await call.future
        return call.results

    def close(self) -> None:
        """Finish what is queued, then stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._idle = True
                    self._wake.wait()
                self._idle = False
                taken, left = self._take()
            if not taken and not left:
                return
            results = self._results([item for item, _, _ in taken]) if taken else []
            deliver([*taken, *left], [*results, *(CallerGone("the caller hung up") for _ in left)])

    def _take(self) -> tuple[list[tuple[In, Call, int]], list[tuple[In, Call, int]]]:
        """The next list of items, and what nobody waits for any more."""
        taken: list[tuple[In, Call, int]] = []
        left: list[tuple[In, Call, int]] = []
        while self._waiting and len(taken) < self._size:
            entry = self._waiting.popleft()
            (left if self._skips_abandoned and entry[1].abandoned else taken).append(entry)
        return taken, left

    def _results(self, items: Sequence[In]) -> Sequence[Out | Exception]:
        try:
            results = self._work(items)
            if len(results) != len(items):
                raise RuntimeError(f"{self._name} gave {len(results)} results for {len(items)} items")
            return results
        except Exception as error:  # The edge of the thread: it must live on, and the callers must hear of it.
            logger.warning("%s failed for %d items: %s", self._name, len(items), type(error).__name__)
            return [error] * len(items)


def deliver(entries: Sequence[tuple[Any, Call, int]], results: Sequence[Any]) -> None:
    """Put results in their places, and wake those who have all of theirs, from a thread that is not their loop's."""
    whole: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    # Two threads may each have a part of one call: a count that one of them lost would leave its caller waiting.
    with _delivering:
        for (_, call, place), result in zip(entries, results, strict=True):
            call.results[place] = result
            call.left -= 1
            if not call.left:
                whole.setdefault(call.loop, []).append(call.future)
    for loop, futures in whole.items():
        # One call into the loop for the whole list: each call wakes the loop's selector. A loop that has closed has
        # nobody left who waits; the thread lives on for the others.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_wake, futures)


def _wake(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():  # its caller went away
            future.set_result(None)
