"""Do much in many transactions, and let those who write in between them."""

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

LONGEST_PAUSE_SECONDS: Final = 0.2


def slices(step: Callable[[], T | None], *, going_on: Callable[[], bool] = lambda: True) -> Iterator[T]:
    """What each call of `step`, a transaction of its own, gives, until one gives nothing.

    Between two of them as much time passes as one took. Who finds SQLite busy sleeps and asks again, for at most 0.1 s:
    without a pause the next slice would be there first each time, and nobody else could write to the end.
    """
    while going_on():
        start = time.monotonic()
        done = step()
        took = time.monotonic() - start
        if not done:
            return
        yield done
        time.sleep(min(LONGEST_PAUSE_SECONDS, took))
