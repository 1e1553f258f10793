"""Flags: a person asks that somebody look at a question; its state stays what it is."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Text
from app.errors import NothingToUndo
from app.services import answers, leases, retractions


def flag(
    session: Session,
    question_id: str,
    *,
    labeler_id: str,
    reason: str | None = None,
    lease_token: str | None = None,
) -> Text:
    """Ask that somebody look at a question. Who flags it keeps what they hold; a second flag of theirs adds nothing.

    Raises:
        NotFound, NoTexts, LeaseLost.
    """
    text = answers.text_for_update(session, question_id)
    answers.domain_of(session, text)
    leases.refuse_token(session, text, labeler_id, lease_token)
    if any(raised.labeler_id == labeler_id for raised in standing(session, [text.id]).get(text.id, ())):
        return text
    session.add(
        Annotation(
            domain_id=text.domain_id,
            text_id=text.id,
            question_id=question_id,
            labeler_id=labeler_id,
            revision=answers.next_revision(session, text.id, labeler_id),
            kind="flag",
            reason=reason,
        )
    )
    text.is_flagged = True
    session.flush()
    return text


def lower(session: Session, question_id: str, *, labeler_id: str) -> Text:
    """Somebody has looked: all flags of the question are taken down, whoever raised them.

    Raises:
        NotFound.
        NothingToUndo: it is not flagged.
    """
    text = answers.text_for_update(session, question_id)
    if not text.is_flagged:
        raise NothingToUndo("this question is not flagged")
    revision = answers.next_revision(session, text.id, labeler_id)
    for place, raised in enumerate(standing(session, [text.id]).get(text.id, ())):
        session.add(
            Annotation(
                domain_id=text.domain_id,
                text_id=text.id,
                question_id=question_id,
                labeler_id=labeler_id,
                revision=revision + place,
                kind="retract",
                supersedes_id=raised.id,
            )
        )
    text.is_flagged = False
    session.flush()
    return text


def page(session: Session, domain_id: int, *, before: int | None, limit: int) -> Sequence[Text]:
    """The flagged texts of a domain that can be shown, the newest first."""
    statement = select(Text).where(
        Text.domain_id == domain_id, Text.is_flagged.is_(True), Text.question_id.is_not(None), Text.text.is_not(None)
    )
    if before is not None:
        statement = statement.where(Text.id < before)
    return session.scalars(statement.order_by(Text.id.desc()).limit(limit)).all()


def standing(session: Session, text_ids: Sequence[int]) -> dict[int, list[Annotation]]:
    """The flags of these texts that were not taken down, the earliest first."""
    found: dict[int, list[Annotation]] = {}
    rows = session.scalars(
        select(Annotation)
        .where(Annotation.text_id.in_(text_ids), Annotation.kind == "flag", retractions.stands())
        .order_by(Annotation.id)
    )
    for row in rows:
        found.setdefault(row.text_id, []).append(row)
    return found
