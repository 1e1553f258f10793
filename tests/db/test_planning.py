"""PostgreSQL is told of tables that grew at once, and of no others."""

import time
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.answer_log import LOOK_AT_TABLES, Folding
from app.db.planning import analyse_if_unknown
from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import UserQuestion
from app.services import domains, intake
from tests.builders import asked, domain_id
from tests.conftest import Databases
from tests.journeys.processes import wait_for

QUESTIONS = UserQuestion.__tablename__


@pytest.fixture
def work(databases: Databases) -> Iterator[UnitOfWork]:
    """On a database of its own: of the others the server knows what earlier tests have left."""
    server = connect(databases.server("postgresql"))
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE planning"))
        engine = connect(server.url.set(database="planning").render_as_string(hide_password=False))
        migrate(engine)
        made = UnitOfWork(engine)
        made(domains.ensure_default)
        yield made
        engine.dispose()
        connection.execute(text("DROP DATABASE planning"))
    server.dispose()


def _look(session: Session) -> list[str]:
    # Told at the end of a transaction, and not more often than once a second.
    session.execute(text("SELECT pg_stat_force_next_flush()"))
    return analyse_if_unknown(session, QUESTIONS, "intent_texts")


def test_table_that_grew_at_once_is_looked_at_once(work: UnitOfWork) -> None:
    owner = domain_id(work)
    rows = [asked(f"第{number}句", domain_id=owner) for number in range(1500)]
    work(intake.record, rows[:500])
    work(_look)
    assert work(_look) == []

    work(intake.record, rows[500:])
    work(_look)
    # Or the daemon of the server came by at this very moment.
    wait_for(lambda: work(_look) == [QUESTIONS] or _known(work) == 1500, seconds=10, what="the look")
    assert work(_look) == []
    assert _known(work) == 1500


def test_who_folds_lets_it_be_looked_at(work: UnitOfWork) -> None:
    owner = domain_id(work)
    fold = Folding(work, nullcontext())
    asked_so_far = 0
    while (_known(work) or 0) <= 0:
        assert asked_so_far < 10_000
        work(
            intake.record, [asked(f"第{asked_so_far + number}句", domain_id=owner) for number in range(LOOK_AT_TABLES)]
        )
        asked_so_far += LOOK_AT_TABLES
        while fold():
            pass
        # The server counts what was written once a second.
        time.sleep(1.1)


def _known(work: UnitOfWork) -> float | None:
    statement = text(f"SELECT reltuples FROM pg_class WHERE relname = '{QUESTIONS}'")
    return work.read(lambda session: session.scalar(statement))


def test_other_databases_are_asked_nothing(sqlite_url: str) -> None:
    work = UnitOfWork(connect(sqlite_url))
    assert work(analyse_if_unknown, QUESTIONS) == []
    work.engine.dispose()
