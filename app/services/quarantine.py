"""Keep what was answered while the database was away and cannot be logged, and forget it like everything else."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from app.db.tables import QuarantinedQuestion
from app.intent.questions import AskedQuestion

# Reasons; the codes never change.
CONFLICT = "request_id_conflict"
DOMAIN_GONE = "domain_gone"
REFUSED = "refused"


def keep(session: Session, question: AskedQuestion, *, reason: str) -> int:
    """Keep one, once however often it comes; how many rows that made."""
    if session.get(QuarantinedQuestion, question.question_id) is not None:
        return 0
    frame = asdict(question)
    frame["asked_at"] = question.asked_at.isoformat()
    session.add(
        QuarantinedQuestion(
            question_id=question.question_id,
            domain_id=None if reason == DOMAIN_GONE else question.domain_id,
            request_id=question.request_id,
            body_hash=question.body_hash,
            user_hash=question.user_hash,
            asked_at=question.asked_at,
            reason=reason,
            frame=frame,
        )
    )
    session.flush()
    return 1


def count(session: Session) -> dict[str, int]:
    """How many are kept, by reason."""
    number = func.count()
    rows = session.execute(select(QuarantinedQuestion.reason, number).group_by(QuarantinedQuestion.reason))
    return {row[0]: row[1] for row in rows}


def forget_question(session: Session, question_id: str) -> int:
    """Forget one; how many that were."""
    return _forget(session, QuarantinedQuestion.question_id == question_id)


def forget_user(session: Session, user_hash: str, domain_id: int | None, until: datetime) -> int:
    """Forget those of a user that were asked by then, in one domain, or in all and in those that are gone."""
    return _forget(
        session,
        (QuarantinedQuestion.user_hash == user_hash) & (QuarantinedQuestion.asked_at <= until),
        domain_id,
    )


def forget_before(session: Session, line: datetime, domain_id: int | None = None) -> int:
    """Forget those that were asked before a time, in one domain, or in all and in those that are gone."""
    return _forget(session, QuarantinedQuestion.asked_at < line, domain_id)


def _forget(session: Session, condition: ColumnElement[bool], domain_id: int | None = None) -> int:
    if domain_id is not None:
        condition &= QuarantinedQuestion.domain_id == domain_id
    result: Any = session.execute(
        delete(QuarantinedQuestion).where(condition), execution_options={"synchronize_session": False}
    )
    return int(result.rowcount)
