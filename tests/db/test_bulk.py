"""Rows that go in, or change, as columns are the rows that the ORM would have written."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app.db import bulk
from app.db.bulk import MOST_AT_ONCE, insert_rows, update_rows
from app.db.scope import OutOfScope
from app.db.session import UnitOfWork, connect, is_outage
from app.db.tables import UserQuestion
from tests.conftest import Databases

MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
ODD = {
    "question": ["a'b\"c\\d %s ? :x", "🙂\n\t" + "长" * 19_000, None],
    "request_id": ["r%", None, None],
    "asked_at": [MOMENT, MOMENT.astimezone(timezone(timedelta(hours=5, minutes=45))), MOMENT],
    "intents": [["a > b", "引号\"'"], [], ["\\"]],
    "confidence": [0.1 + 0.2, None, 1.0],
    "topk": [[["a", 1e-300], ["b", 0]], [], []],
    "verdicts": [[{"tier": "rules", "rules": [1], "x": None}], [], []],
    "train_allowed": [True, False, True],
    "latency_ms": [1.5, None, 1e10],
    "user_hash": [None, "", "ab"],
}


def _columns(prefix: str, **changes: object) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        "question_id": [f"{prefix}{number}" for number in range(3)],
        "domain_id": [1, 1, 2],
        "body_hash": ["0"] * 3,
        "text_hash": ["1"] * 3,
        "method": ["none"] * 3,
        "route_used": [["rules"], [], []],
        **ODD,
    }
    return columns | changes  # type: ignore[operator,return-value]


@pytest.mark.parametrize("most", [bulk.MOST_IN_A_DOCUMENT, 0], ids=["few", "many"])
def test_every_type_of_value_comes_back_as_the_orm_would_give_it(
    work: UnitOfWork, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(bulk, "MOST_IN_A_DOCUMENT", most)
    columns = _columns("b", request_id=["q%", None, None])
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def write(session: Session) -> None:
        insert_rows(session, UserQuestion, _columns("a"))
        session.execute(insert(UserQuestion), rows, execution_options={"render_nulls": True})

    work(write)
    found = work.read(lambda session: session.scalars(select(UserQuestion).order_by(UserQuestion.question_id)).all())

    assert [row.question_id for row in found] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    for ours, orm in zip(found[:3], found[3:], strict=True):
        for column in [column.name for column in UserQuestion.__table__.columns]:
            if column not in ("question_id", "request_id", "created_at"):
                assert getattr(ours, column) == getattr(orm, column), column
    assert found[0].created_at.tzinfo is UTC
    assert abs(found[0].created_at - found[3].created_at) < timedelta(minutes=5)
    assert (found[0].source, found[0].is_labeled, found[0].training_status) == ("served", False, "pending")


@pytest.mark.parametrize("most", [bulk.MOST_IN_A_DOCUMENT, 0], ids=["few", "many"])
def test_key_that_is_taken_leaves_nothing_of_the_rows(
    work: UnitOfWork, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(bulk, "MOST_IN_A_DOCUMENT", most)
    work(lambda session: insert_rows(session, UserQuestion, _columns("a", request_id=[None] * 3)))
    with pytest.raises(IntegrityError):
        work(lambda session: insert_rows(session, UserQuestion, _columns("a", question_id=["new", "newer", "a1"])))
    assert len(work.read(lambda session: session.scalars(select(UserQuestion)).all())) == 3


def test_bounded_session_puts_no_row_into_another_domain(sqlite_url: str) -> None:
    bounded = UnitOfWork(connect(sqlite_url), domain_ids=frozenset({1}))
    with pytest.raises(OutOfScope):
        bounded(lambda session: insert_rows(session, UserQuestion, _columns("a")))
    bounded(lambda session: insert_rows(session, UserQuestion, _columns("a", domain_id=[1, 1, 1])))
    bounded.engine.dispose()


@pytest.mark.parametrize("how", ["ended by the server", "known to be closed"])
@pytest.mark.parametrize("most", [bulk.MOST_IN_A_DOCUMENT, 0], ids=["few", "many"])
def test_lost_connection_is_an_outage_and_no_fault_of_the_rows(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, how: str
) -> None:
    monkeypatch.setattr(bulk, "MOST_IN_A_DOCUMENT", most)
    work = UnitOfWork(connect(databases.fresh("postgresql", tmp_path)))

    def write(session: Session) -> None:
        own = session.scalar(text("SELECT pg_backend_pid()"))
        work.read(lambda other: other.execute(text(f"SELECT pg_terminate_backend({own})")))
        if how == "known to be closed":
            driver: Any = session.connection().connection.driver_connection
            driver.close()
        insert_rows(session, UserQuestion, _columns("a"))

    with pytest.raises(DBAPIError) as caught:
        work(write)
    assert is_outage(caught.value)
    assert caught.value.connection_invalidated
    work(lambda session: insert_rows(session, UserQuestion, _columns("a")))
    work.engine.dispose()


def test_rows_are_changed_by_their_key_and_others_stay(work: UnitOfWork) -> None:
    count = MOST_AT_ONCE + 5
    ids = [f"q{number:04d}" for number in range(count)]
    row = {name: values[:1] * count for name, values in _columns("a", request_id=[None]).items()}
    work(lambda session: insert_rows(session, UserQuestion, row | {"question_id": ids}))
    changes = {
        "priority": [number / 7 for number in range(count - 1)],
        "priority_reason": ["%s ? :x 'q\"", *[None] * (count - 2)],
        "question_id": [*ids[:-2], "nowhere"],
        "correct_intent": [["a > b"], None] * ((count - 1) // 2),
        "labeled_at": [MOMENT.astimezone(timezone(timedelta(hours=8))), None] * ((count - 1) // 2),
        "is_labeled": [True, False] * ((count - 1) // 2),
    }

    work(lambda session: update_rows(session, UserQuestion, "question_id", changes))

    found = work.read(lambda session: session.scalars(select(UserQuestion).order_by(UserQuestion.question_id)).all())
    assert [one.question_id for one in found] == ids
    for number, one in enumerate(found[:-2]):
        assert one.priority == pytest.approx(number / 7)
        assert (one.correct_intent, one.labeled_at) == ((None, None) if number % 2 else (["a > b"], MOMENT))
        assert one.is_labeled is not bool(number % 2)
        assert one.priority_reason == ("%s ? :x 'q\"" if number == 0 else None)
        assert one.topk == ODD["topk"][0]
    assert [(one.priority, one.is_labeled) for one in found[-2:]] == [(None, False)] * 2


def test_value_that_is_no_json_is_refused_before_it_is_stored(sqlite_url: str) -> None:
    work = UnitOfWork(connect(sqlite_url))
    with pytest.raises(ValueError, match="not JSON compliant"):
        work(lambda session: insert_rows(session, UserQuestion, _columns("a", topk=[[["a", float("nan")]], [], []])))
    work.engine.dispose()
