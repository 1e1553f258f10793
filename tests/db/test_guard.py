"""What is an outage, and what is not; and nobody waits for a database that is paused."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db.guard import HOPEFUL, DatabaseAway, Guard
from app.db.session import UnitOfWork, connect, is_outage
from app.db.sqlite_library import DRIVER
from app.db.tables import UserQuestion
from app.services import intake
from bench.result import CannotRun
from tests.serving.spooling import question
from tests.torture.victims import Victim, victim


@contextmanager
def harmed(kind: str) -> Iterator[Victim]:
    """A private server that tests may pause; a clear skip where there is none."""
    try:
        with tempfile.TemporaryDirectory() as folder, victim(kind, Path(folder)) as place:
            yield place
    except CannotRun as error:
        pytest.skip(str(error))


@contextmanager
def guarded(url: str) -> Iterator[UnitOfWork]:
    engine = connect(url, serving=True)
    guard = Guard(engine, connect(url, asking=True))
    guard.start()
    try:
        yield UnitOfWork(engine, guard=guard)
    finally:
        guard.stop()
        engine.dispose()


def until(condition: object, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def raised(work: UnitOfWork, statement: str, **values: object) -> BaseException:
    with pytest.raises(DBAPIError) as caught:
        work(lambda session: session.execute(text(statement), values))
    return caught.value


def test_what_rows_are_refused_for_is_no_outage(work: UnitOfWork) -> None:
    for broken in (question(1, method="guessed"), question(1, confidence=2.0), question(1, source="x")):
        with pytest.raises(DBAPIError) as caught:
            work(intake.record, [broken])
        assert not is_outage(caught.value)
    assert not is_outage(raised(work, "SELEC 1"))
    assert not is_outage(ValueError())


def test_a_table_that_is_not_there_is_an_outage(work: UnitOfWork) -> None:
    assert is_outage(raised(work, "SELECT * FROM intent_nothing"))


def test_a_locked_file_is_an_outage(sqlite_url: str) -> None:
    engine = connect(sqlite_url, asking=True)
    holder = DRIVER.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DBAPIError) as caught, Session(engine) as session:
        session.execute(text("SELECT 1"))
    holder.close()
    assert is_outage(caught.value)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_servers_that_are_read_only_paused_or_gone(kind: str) -> None:
    with harmed(kind) as place, guarded(place.url) as work:
        work(intake.record, [question(1)])
        place.harm("read_only")
        # A server takes up its new settings when it comes to it.
        until(lambda: not _writes(work))
        for _ in range(2):
            with pytest.raises(DBAPIError) as caught:
                work(intake.record, [question(2)])
            assert is_outage(caught.value)
        place.heal()
        until(lambda: _writes(work))
        _check_paused(place, work)
        place.harm("stopped")
        with pytest.raises(DBAPIError) as caught:
            work(intake.record, [question(4)])
        assert is_outage(caught.value)
        place.heal()
        until(lambda: _writes(work))


def _writes(work: UnitOfWork) -> bool:
    try:
        work(intake.ready)
    except (DBAPIError, DatabaseAway):
        return False
    return True


def _check_paused(place: Victim, work: UnitOfWork) -> None:
    """More callers than may wait: some are cut off, the others hear at once, and the pool is whole afterwards."""
    asking = UnitOfWork(work.engine, guard=work.guard, seconds=2.0)
    ended: list[tuple[float, BaseException | None]] = []

    def ask() -> None:
        started = time.monotonic()
        try:
            asking(intake.ready)
        except (DBAPIError, DatabaseAway) as error:
            ended.append((time.monotonic() - started, error))
        else:
            ended.append((time.monotonic() - started, None))

    def all_ask(count: int) -> None:
        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    place.harm("paused")
    all_ask(5)
    assert len(ended) == 5
    assert all(error is not None and is_outage(error) for _, error in ended)
    until(lambda: work.guard is not None and work.guard.away_since is not None)
    ended.clear()
    all_ask(HOPEFUL + 4)
    assert sum(isinstance(error, DatabaseAway) for _, error in ended) >= 4
    place.heal()
    until(lambda: work.guard is not None and work.guard.away_since is None)
    ended.clear()
    all_ask(10)
    assert [error for _, error in ended] == [None] * 10
    assert work.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert work.read(lambda session: session.get(UserQuestion, "nothing")) is None
