"""Replay of what was spooled: each question once, of two bodies the first, and what cannot be logged in quarantine."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from app.answer_log import record_each, replay_each
from app.db.session import UnitOfWork, database_time
from app.db.tables import Domain, QuarantinedQuestion, UserQuestion
from app.services import intake, quarantine, tombstones
from app.services.tombstones import Stone
from tests.serving.spooling import question


@pytest.fixture
def domain_id(work: UnitOfWork) -> int:
    found = work.read(lambda session: session.scalar(select(Domain.id)))
    assert found is not None
    return found


def rows(work: UnitOfWork) -> dict[str | None, UserQuestion]:
    return work.read(lambda session: {row.request_id: row for row in session.scalars(select(UserQuestion))})


def kept(work: UnitOfWork) -> list[tuple[str | None, int | None, str]]:
    found = work.read(lambda session: list(session.scalars(select(QuarantinedQuestion))))
    return sorted((row.request_id, row.domain_id, row.reason) for row in found)


def counts(done: intake.Replay) -> tuple[int, int, int, int]:
    return len(done.inserted), done.duplicates, done.quarantined, done.forgotten


def test_a_spooled_question_is_the_same_row_as_a_logged_one(work: UnitOfWork, domain_id: int) -> None:
    work(intake.record, [question(1, domain_id=domain_id)])
    assert counts(work(intake.replay, [question(2, domain_id=domain_id)])) == (1, 0, 0, 0)
    found = rows(work)
    columns = {column.key for column in UserQuestion.__table__.columns} - {
        "question_id", "request_id", "body_hash", "question", "created_at",
    }  # fmt: skip
    assert all(getattr(found["r1"], name) == getattr(found["r2"], name) for name in columns)
    assert (found["r2"].question, found["r2"].is_labeled, found["r2"].training_status) == (
        "怎么退货 😀 2",
        False,
        "pending",
    )


def test_however_often_it_is_handed_on_each_question_is_one_row(work: UnitOfWork, domain_id: int) -> None:
    spooled = [question(number, domain_id=domain_id) for number in range(5)]
    spooled += [question(9, domain_id=domain_id, request_id=None)]
    work(intake.replay, spooled[:3])
    assert counts(work(intake.replay, spooled)) == (3, 3, 0, 0)
    assert counts(work(intake.replay, spooled)) == (0, 6, 0, 0)
    assert len(rows(work)) == 6


def test_a_write_that_was_given_up_and_came_through_is_found(work: UnitOfWork, domain_id: int) -> None:
    """It commits while replay is at the same rows: the two meet at the keys."""
    spooled = [question(number, domain_id=domain_id) for number in range(50)]
    threads = [threading.Thread(target=work, args=(service, spooled)) for service in (intake.record, intake.replay)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(work(intake.replay, spooled)) == (0, 50, 0, 0)
    assert len(rows(work)) == 50


def test_of_two_bodies_the_first_row_wins_and_the_other_is_kept_once(work: UnitOfWork, domain_id: int) -> None:
    first = question(1, domain_id=domain_id)
    work(intake.record, [first])
    same = question(1, domain_id=domain_id)
    other = question(1, domain_id=domain_id, body_hash="f" * 64)
    two = [question(2, domain_id=domain_id), question(2, domain_id=domain_id, body_hash="e" * 64)]
    assert counts(work(intake.replay, [same, other, *two])) == (1, 1, 2, 0)
    assert counts(work(intake.replay, [same, other, *two])) == (0, 2, 0, 0)
    found = rows(work)
    assert (found["r1"].question_id, found["r2"].question_id) == (first.question_id, two[0].question_id)
    assert kept(work) == [("r1", domain_id, quarantine.CONFLICT), ("r2", domain_id, quarantine.CONFLICT)]
    assert work.read(quarantine.count) == {quarantine.CONFLICT: 2}


def test_what_no_database_takes_stops_nothing_and_is_kept(work: UnitOfWork, domain_id: int) -> None:
    broken = question(2, domain_id=domain_id, method="guessed")
    gone = question(3, domain_id=domain_id + 77)
    spooled = [question(1, domain_id=domain_id), broken, gone, question(4, domain_id=domain_id)]
    assert counts(replay_each(work, spooled)) == (2, 0, 2, 0)
    assert counts(replay_each(work, spooled)) == (0, 2, 0, 0)
    assert set(rows(work)) == {"r1", "r4"}
    assert kept(work) == [("r2", domain_id, quarantine.REFUSED), ("r3", None, quarantine.DOMAIN_GONE)]
    frame = work.read(lambda session: session.get(QuarantinedQuestion, broken.question_id)).frame
    assert (frame["method"], frame["text"]) == ("guessed", "怎么退货 😀 2")


def test_a_row_that_is_refused_takes_no_other_answer_with_it(work: UnitOfWork, domain_id: int) -> None:
    asked = [question(number, domain_id=domain_id) for number in range(3)]
    asked[1] = question(1, domain_id=domain_id, method="guessed")
    first, refused, third = record_each(work, asked)
    assert (first, third) == (asked[0], asked[2])
    assert isinstance(refused, DBAPIError)
    assert set(rows(work)) == {"r0", "r2"}


@pytest.mark.parametrize("kind", ["user", "user here", "question", "before", "before here"])
def test_what_was_to_be_forgotten_while_it_waited_is_never_a_row(work: UnitOfWork, domain_id: int, kind: str) -> None:
    now = datetime.now(UTC)
    old = question(1, domain_id=domain_id, user_hash="a" * 64, asked_at=now - timedelta(days=2))
    spooled = [
        old,
        # Somebody else's, and asked by the same person afterwards.
        question(2, domain_id=domain_id, user_hash="c" * 64, asked_at=now - timedelta(hours=1)),
        question(3, domain_id=domain_id, user_hash="a" * 64, asked_at=now + timedelta(minutes=1)),
    ]
    place = "default" if kind.endswith("here") else "*"
    value = {
        "user": f"{place}:{'a' * 64}",
        "question": old.question_id,
        "before": f"{place}:{(now - timedelta(days=1)).isoformat()}",
    }[kind.split()[0]]
    work(tombstones.lay, Stone(kind.split()[0], value, work.read(database_time)), by="test")
    assert counts(work(intake.replay, spooled)) == (2, 0, 0, 1)
    assert set(rows(work)) == {"r2", "r3"}


@pytest.mark.parametrize("kind", ["user", "user here", "question", "before", "before here", "before elsewhere"])
def test_what_is_in_quarantine_is_forgotten_like_everything_else(work: UnitOfWork, domain_id: int, kind: str) -> None:
    now = datetime.now(UTC)
    values = {"domain_id": domain_id, "method": "guessed", "asked_at": now - timedelta(days=2)}
    old = question(1, user_hash="a" * 64, **values)
    replay_each(work, [old, question(2, **(values | {"asked_at": now}))])
    place = {"here": "default", "elsewhere": "nowhere"}.get(kind.split()[-1], "*")
    value = {
        "user": f"{place}:{'a' * 64}",
        "question": old.question_id,
        "before": f"{place}:{(now - timedelta(days=1)).isoformat()}",
    }[kind.split()[0]]
    gone = work(tombstones.forget_quarantined, Stone(kind.split()[0], value, work.read(database_time)))
    assert gone == (0 if place == "nowhere" else 1)
    assert work.read(lambda session: session.scalar(select(func.count(QuarantinedQuestion.question_id)))) == 2 - gone
