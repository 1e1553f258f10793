"""Write asked questions into the log, each request once."""

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.inserting import insert_rows
from app.db.tables import UserQuestion
from app.errors import NotFound, RequestIdConflict
from app.intent.questions import AskedQuestion

# What the log holds of one question: the value just written, the row written before, or why neither.
Logged = AskedQuestion | UserQuestion | RequestIdConflict

_FIELDS: Final = tuple(field.name for field in fields(AskedQuestion))
_COLUMNS: Final = tuple("question" if name == "text" else name for name in _FIELDS)
_values: Final = attrgetter(*_FIELDS)


def record(session: Session, asked: Sequence[AskedQuestion]) -> list[Logged]:
    """Insert the questions that are new; for a repeated request id give what was answered first.

    One result per question, in order. Two concurrent transactions with one request id meet at the unique key: the
    second is repeated by its unit of work, and then finds the first one's row.
    """
    earlier = _earlier(session, asked)
    fresh: dict[tuple[int, str], AskedQuestion] = {}
    results: list[Logged] = []
    new: list[AskedQuestion] = []
    for question in asked:
        key = (question.domain_id, question.request_id or question.question_id)
        first = earlier.get(key) or fresh.get(key)
        if first is None:
            fresh[key] = question
            new.append(question)
            results.append(question)
        elif first.body_hash == question.body_hash:
            results.append(first)
        else:
            results.append(RequestIdConflict("this request_id was used before, with another body"))
    if new:
        # In one order for everybody: two callers who send the same ids in different orders would wait for each other.
        new.sort(key=lambda question: (question.domain_id, question.request_id or question.question_id))
        insert_rows(
            session,
            UserQuestion,
            dict(zip(_COLUMNS, zip(*map(_values, new), strict=True), strict=True)),
        )
    return results


def _earlier(session: Session, asked: Sequence[AskedQuestion]) -> dict[tuple[int, str], UserQuestion]:
    by_domain: dict[int, list[str]] = {}
    for question in asked:
        if question.request_id is not None:
            by_domain.setdefault(question.domain_id, []).append(question.request_id)
    found: dict[tuple[int, str], UserQuestion] = {}
    for domain_id, request_ids in by_domain.items():
        rows = session.scalars(
            select(UserQuestion).where(UserQuestion.domain_id == domain_id, UserQuestion.request_id.in_(request_ids))
        )
        found.update({(domain_id, str(row.request_id)): row for row in rows})
    return found


def find(session: Session, question_id: str) -> UserQuestion:
    """One question.

    Raises:
        NotFound: there is none of this id.
    """
    question = session.get(UserQuestion, question_id)
    if question is None:
        raise NotFound("there is no question of this id")
    return question
