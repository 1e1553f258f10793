"""Bring back what many texts had before a change of the taxonomy gave them another label, or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import case, delete, select, update
from sqlalchemy.orm import Session

from app.db.bulk import insert_rows, update_rows
from app.db.tables import Annotation, Domain, Lease, Text, now
from app.services import counting
from app.services.label_projection import BLIND, MOST_TWINS, paged, postpone
from app.services.relabelling import annotations_of, judge_slice, of_ours
from app.services.texts import project

# Texts whose questions each take something else: one statement for each.
MOST_ONE_BY_ONE: Final = 500


@dataclass(frozen=True, slots=True)
class Former:
    """What a text had before it was given another label, or none."""

    text: Any
    annotation_id: int
    label_id: int
    training_status: str
    strategy: str | None
    labelled_at: datetime
    label_source: str


def bring_back(session: Session, domain: Domain, formers: Sequence[Former], *, reason: str) -> None:
    """Give these texts, which the caller holds, what they had: the label, the annotation, the place in training."""
    moment = now()
    for page in paged(formers):
        ids = [one.text.id for one in page]
        given = [one.text for one in page if one.text.annotation_id is not None]
        judge_slice(session, domain.id, given, -1)
        if given:
            retraction = of_ours(session, domain, given, moment, reason)
            retraction |= {
                "kind": ["retract"] * len(given),
                "supersedes_id": [text.annotation_id for text in given],
            }
            insert_rows(session, Annotation, retraction)
            counting.annotated_many(session, domain.id, "retract", moment, len(given))
        session.execute(delete(Lease).where(Lease.text_id.in_(ids)), execution_options=BLIND)
        with counting.changing(session, domain.id, ids):
            _write_back(session, page)
        for annotation in annotations_of(session, [one for one in page if _drawn(one)]).values():
            counting.judge_by(session, domain.id, annotation, 1)
    _bring_questions(session, formers)


def _drawn(one: Former) -> bool:
    return counting.in_random_slice(one.text.is_gold, one.strategy)


def _write_back(session: Session, formers: Sequence[Former]) -> None:
    ids = [one.text.id for one in formers]
    confirmed = Text.id.in_(ids) & (Text.confirmed_annotation_id == Text.annotation_id)
    again = session.scalars(select(Text.id).where(confirmed)).all()
    update_rows(
        session,
        Text,
        "id",
        {
            "id": ids,
            "state": ["labelled"] * len(ids),
            "label_id": [one.label_id for one in formers],
            "annotation_id": [one.annotation_id for one in formers],
            "training_status": [one.training_status for one in formers],
            "strategy": [one.strategy for one in formers],
            "labelled_at": [one.labelled_at for one in formers],
            "label_source": [one.label_source for one in formers],
        },
    )
    session.execute(
        update(Text)
        .where(Text.id.in_(ids))
        .values(
            priority=None, claimed_by=None, leased_until=None, suspicion=None, suspicion_evidence=None,
            confirmed_annotation_id=case((Text.id.in_(again), Text.annotation_id), else_=Text.confirmed_annotation_id),
        ),
        execution_options=BLIND,
    )  # fmt: skip


def _bring_questions(session: Session, formers: Sequence[Former]) -> None:
    """The questions of each take other columns: a few one by one, the others by the clock."""
    few = [one.text.id for one in formers if one.text.count <= MOST_TWINS][:MOST_ONE_BY_ONE]
    postpone(session, sorted({one.text.id for one in formers if one.text.count} - {*few}))
    for page in paged(few):
        found = select(Text).where(Text.id.in_(page)).order_by(Text.id).execution_options(populate_existing=True)
        for text in session.scalars(found):
            project(session, text)
    session.flush()
