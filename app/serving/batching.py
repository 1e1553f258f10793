"""Work through a queue on a thread of its own, taking all that is waiting at once and never waiting for more.

A batch that waits to fill adds its wait to every answer; one that takes what is there grows by itself under load.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from app.errors import Overloaded, Unavailable

In = TypeVar("In")
Out = TypeVar("Out")

logger = logging.getLogger(__name__)


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
    ) -> None:
        self._work = work
        self._size = size
        self._capacity = capacity
        self._name = name
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items are queued."""
        return len(self._waiting)

    async def submit(self, items: Sequence[In]) -> list[Out | BaseException]:
        """The results of these items, in order, errors in place.

        Raises:
            Overloaded: the queue has no room for all of them: an answer now, not a slow one later.
        """
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Out]] = [loop.create_future() for _ in items]
        with self._wake:
            if self._closed:
                raise Unavailable("the service is shutting down")
            if len(self._waiting) + len(items) > self._capacity:
                raise Overloaded(f"more than {self._capacity} questions are waiting")
            self._waiting.extend(zip(items, futures, strict=True))
            self._wake.notify()
        return await asyncio.gather(*futures, return_exceptions=True)

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
                    self._wake.wait()
                taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            if not taken:
                return
            results = self._results([item for item, _ in taken])
            deliver([future for _, future in taken], results)

    def _results(self, items: Sequence[In]) -> Sequence[Out | Exception]:
        try:
            results = self._work(items)
            if len(results) != len(items):
                raise RuntimeError(f"{self._name} gave {len(results)} results for {len(items)} items")
            return results
        except Exception as error:  # The edge of the thread: it must live on, and the callers must hear of it.
            logger.warning("%s failed for %d items: %s", self._name, len(items), type(error).__name__)
            return [error] * len(items)


def deliver(futures: Sequence[asyncio.Future[Out]], results: Sequence[Out | Exception]) -> None:
    """Give each caller its result, from a thread that is not its loop's."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Out], Out | Exception]]] = {}
    for future, result in zip(futures, results, strict=True):
        by_loop.setdefault(future.get_loop(), []).append((future, result))
    for loop, pairs in by_loop.items():
        # One call into the loop for the whole list: each call wakes the loop's selector. A loop that has closed has
        # nobody left who waits; the thread lives on for the others.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_set, pairs)


def _set(pairs: Sequence[tuple[asyncio.Future[Out], Out | Exception]]) -> None:
    for future, result in pairs:
        if future.done():  # its caller went away
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
