"""Rows that go in as columns are the rows that the ORM would have written."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.inserting import insert_rows
from app.db.scope import OutOfScope
from app.db.session import UnitOfWork, connect
from app.db.tables import UserQuestion

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


def test_every_type_of_value_comes_back_as_the_orm_would_give_it(work: UnitOfWork) -> None:
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


def test_key_that_is_taken_leaves_nothing_of_the_rows(work: UnitOfWork) -> None:
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


def test_value_that_is_no_json_is_refused_before_it_is_stored(sqlite_url: str) -> None:
    work = UnitOfWork(connect(sqlite_url))
    with pytest.raises(ValueError, match="not JSON compliant"):
        work(lambda session: insert_rows(session, UserQuestion, _columns("a", topk=[[["a", float("nan")]], [], []])))
    work.engine.dispose()
