"""Suspect labels: what a training found about the labels that people gave, kept until a person has looked at it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Annotation, Domain, Text

MOST: Final = 1_000
"""More than so many never wait in a domain: the most suspect do."""

MOST_SHARE: Final = 0.1
"""A person is asked again about at most so many of the labels that a training has judged."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """One label that looks wrong.

    Args:
        label_id: the label that was judged; where the text has another by now, nothing is kept.
        suspicion: in [0, 1].
        answer_id: the label that is likelier.
        confidence: what the model, which had not seen the text, gives to that one.
        neighbour_ids: the nearest labelled texts, best first.
    """

    text_id: int
    label_id: int
    suspicion: float
    answer_id: int
    confidence: float
    neighbour_ids: tuple[int, ...] = ()


def most(judged: int) -> int:
    """How many of so many judged labels may be kept as suspect."""
    return min(MOST, int(judged * MOST_SHARE))


def replace(
    session: Session, domain: Domain, suspects: Sequence[Suspect], *, judged: Collection[int], version: str
) -> int:
    """Keep what looks wrong, in place of what earlier trainings found about the texts that were judged.

    What they found about others stays, as far as there is room. A text that a person is looking at is left alone, and
    a label that a person confirmed stands.

    Args:
        judged: the ids of the texts whose labels were judged.
        version: whose training it was.

    Returns:
        How many labels wait for a review now.
    """
    found = {suspect.text_id: suspect for suspect in suspects}
    earlier = session.scalars(select(Text.id).where(Text.domain_id == domain.id, Text.suspicion >= 0.0)).all()
    moment = database_time(session)
    rows = session.scalars(
        select(Text)
        .where(Text.id.in_({*earlier, *found}), Text.domain_id == domain.id)
        .order_by(Text.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for text in rows:
        if text.leased_until is not None and text.leased_until > moment:
            continue
        suspect = found.get(text.id)
        if suspect is not None and _may_be_asked(text, suspect):
            text.suspicion, text.suspicion_evidence = suspect.suspicion, _evidence(suspect, version)
        elif text.id in judged:
            settle(text)
    waiting = sorted((text for text in rows if text.suspicion is not None), key=_worth, reverse=True)
    for text in waiting[MOST:]:
        settle(text)
    session.flush()
    return len(waiting[:MOST])


def answered(text: Text, annotation: Annotation) -> None:
    """Settle what is doubted about a text that is about to have this label: who says the same again confirms it."""
    if text.suspicion is None:
        return
    same = (text.label_id, text.proposed_label) == (annotation.label_id, annotation.proposed_label)
    # An answer that comes back because one after it was taken back has confirmed nothing.
    if same and annotation.source == "labeler" and annotation.supersedes_id == text.annotation_id:
        text.confirmed_annotation_id = annotation.id
    settle(text)


def settle(text: Text) -> None:
    """Doubt the label of a text no longer."""
    if text.suspicion is not None:
        text.suspicion = text.suspicion_evidence = None


def _may_be_asked(text: Text, suspect: Suspect) -> bool:
    return (
        text.state == "labelled"
        and text.text is not None
        and text.label_id == suspect.label_id
        and text.confirmed_annotation_id != text.annotation_id
    )


def _evidence(suspect: Suspect, version: str) -> dict[str, object]:
    """Ids alone: the words of a neighbour go when it is forgotten, and its label may change."""
    return {
        "version": version,
        "answer": suspect.answer_id,
        "confidence": round(suspect.confidence, 4),
        "neighbours": list(suspect.neighbour_ids),
    }


def _worth(text: Text) -> tuple[float, int]:
    return text.suspicion or 0.0, text.id
