"""Answers that people give about one text without sight of each other, and what they come to."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Label, Text
from app.intent.overlap import answers_wanted, majority
from app.services import answers, leases, retractions


def wanted(domain: Domain, text: Text) -> int:
    """How many people answer this text: its label needs more than half of them."""
    return answers_wanted(text.text_hash, domain.overlap, domain.overlap_share)


def count_now() -> ColumnElement[bool]:
    """The blind answers that were not taken back, and whose label is still one: a condition on `Annotation`.

    Counted and not "exists", as the queue counts skips: MariaDB would list all retractions for each text it passes.
    """
    active = (
        select(func.count())
        .select_from(Label)
        .where(Label.id == Annotation.label_id, Label.status == "active")
        .correlate(Annotation)
        .scalar_subquery()
    )
    return (Annotation.is_blind.is_(True)) & (Annotation.kind == "label") & retractions.stands() & (active > 0)


def standing(session: Session, text_id: int) -> dict[str, Annotation]:
    """What each labeler answers about a text now, by their id: of several answers the last. The earliest come first."""
    rows = session.scalars(
        select(Annotation).where(Annotation.text_id == text_id, count_now()).order_by(Annotation.id)
    ).all()
    last = {answer.labeler_id: answer for answer in rows}
    return dict(sorted(last.items(), key=lambda item: item[1].id))


def labelers(session: Session, text_ids: Sequence[int]) -> dict[int, set[str]]:
    """Who answered each of these texts."""
    found: dict[int, set[str]] = {text_id: set() for text_id in text_ids}
    for text_id, labeler_id in session.execute(
        select(Annotation.text_id, Annotation.labeler_id).where(Annotation.text_id.in_(text_ids), count_now())
    ):
        found[text_id].add(labeler_id)
    return found


def open_slots(session: Session, domain: Domain, texts: Sequence[Text], labeler_id: str) -> dict[int, int]:
    """With how many people each of these locked texts may be now; without those that the labeler answered."""
    answered = labelers(session, [text.id for text in texts])
    # One that has its answers, since the domain wants fewer than it did, needs one more to be decided.
    return {
        text.id: max(1, wanted(domain, text) - len(answered[text.id]))
        for text in texts
        if labeler_id not in answered[text.id]
    }


def settle(session: Session, text: Text, domain: Domain) -> int:
    """Make of a locked text what its blind answers come to, and return how many questions carry the label.

    Labelled by the earliest answer of a strict majority, disputed without one, open while answers are missing.
    """
    given = list(standing(session, text.id).values())
    if len(given) < wanted(domain, text):
        if text.state in ("labelled", "disputed"):
            answers.clear(session, text)
        return 0
    chosen = majority([_what(answer) for answer in given])
    if chosen is not None:
        return answers.apply(session, text, next(answer for answer in given if _what(answer) == chosen))
    _dispute(session, text)
    return 0


def _what(answer: Annotation) -> Any:
    return answer.label_id, answer.proposed_label


def _dispute(session: Session, text: Text) -> None:
    if text.state == "labelled":
        answers.clear(session, text)
    text.state, text.training_status, text.priority = "disputed", "pending", None
    leases.end_all(session, text)
    session.flush()
