"""Do the same thing many times at once: in threads of this process, or in processes of their own."""

import multiprocessing
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from app.db.session import UnitOfWork, connect

WAIT_SECONDS = 90

# Imports the services once, and forks from there: eight imports of SQLAlchemy would be most of a test's time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["app.services.statistics", "app.services.selection", "psycopg", "pymysql"])


def in_threads(count: int, act: Callable[[int], Any]) -> list[Any]:
    """`act(0)` … `act(count - 1)`, all let go at the same moment; their results in order."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait(WAIT_SECONDS)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def in_processes(count: int, act: Callable[..., Any], url: str, *args: Any) -> list[Any]:
    """`act(work, number, *args)` in so many processes, each with an engine of its own; their results in order.

    `act` must be a function of a module, for the other process to find it.
    """
    barrier = PROCESSES.Barrier(count)
    started = []
    for number in range(count):
        ours, theirs = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=_one, args=(theirs, barrier, act, url, number, args))
        process.start()
        theirs.close()
        started.append((process, ours))
    results = []
    for process, ours in started:
        assert ours.poll(WAIT_SECONDS), "a process said nothing for so long"
        good, value = ours.recv()
        process.join(WAIT_SECONDS)
        assert good, value
        results.append(value)
    return results


def _one(
    answer: Connection, barrier: Barrier, act: Callable[..., Any], url: str, number: int, args: tuple[Any, ...]
) -> None:
    engine = connect(url)
    try:
        work = UnitOfWork(engine)
        with engine.connect():
            pass
        barrier.wait(WAIT_SECONDS)
        answer.send((True, act(work, number, *args)))
    except BaseException:
        answer.send((False, traceback.format_exc()))
    finally:
        engine.dispose()
