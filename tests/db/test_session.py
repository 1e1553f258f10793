"""A unit of work is whole or nothing, is repeated when another was in its way, and only then."""

import time

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from app.db.schema import is_current, migrate
from app.db.session import TRIES, UnitOfWork, connect, database_lock, database_time, transaction
from app.db.tables import Domain, JobRun, Replica, now
from app.services import domains
from tests.builders import column
from tests.services.together import in_processes, in_threads


def test_what_raises_leaves_nothing_behind(work: UnitOfWork) -> None:
    def half(session: Session) -> None:
        domains.create(session, "shop")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        work(half)
    assert column(work, Domain.name) == ["default"]


def test_a_unique_key_that_another_took_repeats_the_whole_service(work: UnitOfWork) -> None:
    tries = []

    def create(session: Session) -> str:
        tries.append(1)
        if len(tries) == 1:
            session.add(Domain(name="default", recipe="ngram"))
        return domains.find(session, "default").name

    assert work(create) == "default"
    assert len(tries) == 2


def test_what_a_constraint_refuses_is_not_tried_again(work: UnitOfWork) -> None:
    tries = []

    def refuse(session: Session) -> None:
        tries.append(1)
        session.add(Domain(name="shop", recipe="ngram", gate="never"))
        session.flush()

    with pytest.raises(Exception, match="gate"):
        work(refuse)
    assert len(tries) == 1


def test_repeating_ends(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    tries = []

    def collide(session: Session) -> None:
        tries.append(1)
        session.add(Domain(name="default", recipe="ngram"))
        session.flush()

    with pytest.raises(IntegrityError):
        UnitOfWork(engine)(collide)
    assert len(tries) == TRIES
    engine.dispose()


def test_a_row_that_another_deleted_repeats_the_service(work: UnitOfWork) -> None:
    if work.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time: nobody can delete meanwhile")
    work(lambda session: session.add(Replica(replica="r", domain_id=0, role="clock", reported_at=now())))
    tries = []

    def report(session: Session) -> bool:
        row = session.get(Replica, ("r", 0))
        tries.append(1)
        if row is None:
            return False
        with transaction(work.engine) as other:
            other.execute(text("DELETE FROM intent_replicas"))
        row.epoch = 7
        session.flush()
        return True

    assert work(report) is False
    assert len(tries) == 2


def test_two_who_lock_each_others_rows_both_finish(work: UnitOfWork) -> None:
    for name in ("a", "b"):
        work(domains.create, name)

    def act(number: int) -> None:
        first, second = ("a", "b") if number else ("b", "a")

        def lock(session: Session) -> None:
            domains.locked(session, first).epoch += 1
            session.flush()
            time.sleep(0.05)
            domains.locked(session, second).epoch += 1

        work(lock)

    in_threads(2, act)
    assert column(work, Domain.name, Domain.epoch) == [("default", 0), ("a", 2), ("b", 2)]


def _count_up(work: UnitOfWork, _: int) -> None:
    def one_more(session: Session) -> None:
        domains.locked(session, "default").epoch += 1

    for _ in range(10):
        work(one_more)


def test_read_then_write_loses_no_update(database_url: str, work: UnitOfWork) -> None:
    in_processes(4, _count_up, database_url)
    assert column(work, Domain.epoch) == [40]


def test_a_reader_on_sqlite_does_not_wait_for_a_writer(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    work = UnitOfWork(engine)
    with transaction(engine) as session:
        domains.create(session, "shop")
        assert [domain.name for domain in work.read(domains.listing)] == ["default"]
    engine.dispose()


def test_sqlite_keeps_what_it_acknowledged_and_its_keys(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}


def test_database_time_is_aware_and_goes_on_within_a_transaction(work: UnitOfWork) -> None:
    def twice(session: Session) -> float:
        first = database_time(session)
        time.sleep(0.01)
        assert abs((now() - first).total_seconds()) < 5
        return (database_time(session) - first).total_seconds()

    assert 0.009 < work.read(twice) < 5


def test_a_time_without_a_zone_is_refused(work: UnitOfWork) -> None:
    naive = now().replace(tzinfo=None)
    row = JobRun(job="x", scheduled_for=naive, worker="w", started_at=now(), heartbeat_at=now())
    with pytest.raises(StatementError, match="without a zone"):
        work(lambda session: session.add(row))


def test_a_database_lock_is_held_by_one(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("its migration holds the write lock")
    with database_lock(engine, "x"):
        with pytest.raises(TimeoutError), database_lock(engine, "x", timeout_seconds=0.2):
            pass
        with database_lock(engine, "y", timeout_seconds=0.2):
            pass
    with database_lock(engine, "x", timeout_seconds=0.2):
        pass


def _migrate(work: UnitOfWork, _: int) -> bool:
    migrate(work.engine)
    return is_current(work.engine)


def test_processes_that_migrate_at_once_wait_for_each_other(database_url: str, engine: Engine) -> None:
    migrate(engine, "base")
    assert in_processes(4, _migrate, database_url) == [True] * 4
    UnitOfWork(engine)(domains.ensure_default)
