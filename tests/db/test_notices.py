"""Notices of flips: with the commit, to every listener, again after a broken connection, and nowhere else."""

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, text

from app.db import notices
from app.db.guard import Guard
from app.db.notices import FLIPS, Listener, announce
from app.db.session import UnitOfWork, connect


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


@pytest.fixture
def heard() -> list[float]:
    return []


@pytest.fixture
def listener(engine: Engine, heard: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(notices, "PING_SECONDS", 0.1)
    monkeypatch.setattr(notices, "RECONNECT_SECONDS", 0.05)
    made = Listener(engine, FLIPS, lambda: heard.append(time.monotonic()))
    made.start()
    yield made
    made.stop()


def test_flip_is_heard_when_it_is_committed_and_not_when_it_fails(
    listener: Listener, work: UnitOfWork, heard: list[float]
) -> None:
    if work.engine.dialect.name != "postgresql":
        # No notices there: announcing does nothing, and nobody believes to be listening.
        work(announce, FLIPS)
        assert not listener.is_listening
        assert heard == []
        return
    # Once for what came before it listened.
    until(lambda: heard and listener.is_listening)
    before = len(heard)

    def fail(session: object) -> None:
        announce(session, FLIPS)  # type: ignore[arg-type]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work(fail)
    work(announce, "another_channel")
    assert len(heard) == before
    work(announce, FLIPS)
    until(lambda: len(heard) > before)


def test_broken_connection_is_made_again_and_heard_as_a_flip_that_may_have_been_missed(
    listener: Listener, work: UnitOfWork, heard: list[float]
) -> None:
    if work.engine.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL has notices")
    until(lambda: listener.is_listening)
    before = len(heard)
    with work.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE (query LIKE 'LISTEN%' OR query = 'SELECT 1') AND pid <> pg_backend_pid()"
            )
        )
    until(lambda: len(heard) > before)
    until(lambda: listener.is_listening)
    before = len(heard)
    work(announce, FLIPS)
    until(lambda: len(heard) > before)


def test_guard_lets_go_of_a_connection_that_listens(listener: Listener, engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        return
    until(lambda: listener.is_listening)
    watched = connect(engine.url.render_as_string(hide_password=False), serving=True)
    guard = Guard(watched, connect(engine.url.render_as_string(hide_password=False), asking=True))
    other = Listener(watched, FLIPS, lambda: None)
    other.start()
    until(lambda: other.is_listening)
    # A connection that is out for long is taken for one that hangs: it would be asked after for ever.
    assert not guard._out
    other.stop()
    watched.dispose()
