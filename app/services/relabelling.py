"""Give many texts another label at once, or put them back in the queue."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from app.db.bulk import insert_rows
from app.db.tables import Annotation, Domain, Label, Text, now
from app.services import counting
from app.services.answers import SYSTEM
from app.services.label_projection import BLIND, Projection, paged
from app.services.texts import UNLABELLED, of_question

# Above every text that waits for another reason.
AT_THE_TOP: Final = 1.5
LONGEST_REASON: Final = 255

_READ: Final = (
    Text.id, Text.label_id, Text.annotation_id, Text.training_status, Text.strategy, Text.count, Text.is_gold,
    Text.labelled_at, Text.label_source, Text.rule_hits, Text.state,
)  # fmt: skip


def hold(session: Session, domain: Domain, label_ids: Collection[int]) -> list[Any]:
    """The texts with these labels, by id, locked; and nobody gives these labels until the transaction ends.

    The texts first: whoever answers has a text, and then waits for its label. The labels next, and once more the texts:
    those that were given one of them meanwhile.
    """
    found = {row.id: row for row in locked(session, _ids_with(session, domain.id, label_ids))}
    session.execute(select(Label.id).where(Label.id.in_(label_ids)).order_by(Label.id).with_for_update()).all()
    late = [text_id for text_id in _ids_with(session, domain.id, label_ids) if text_id not in found]
    found |= {row.id: row for row in locked(session, late)}
    return [found[text_id] for text_id in sorted(found) if found[text_id].label_id in label_ids]


def _ids_with(session: Session, domain_id: int, label_ids: Collection[int]) -> Sequence[int]:
    return session.scalars(
        select(Text.id)
        .where(Text.domain_id == domain_id, Text.state == "labelled", Text.label_id.in_(label_ids))
        .order_by(Text.id)
    ).all()


def locked(session: Session, text_ids: Sequence[int]) -> Iterator[Any]:
    """These texts as they are, locked in the order of their ids, which are given in it."""
    for page in paged(text_ids):
        yield from session.execute(
            select(*_READ).where(Text.id.in_(page)).order_by(Text.id).with_for_update(key_share=True, of=Text)
        )


def give(session: Session, domain: Domain, texts: Sequence[Any], label: Label, *, reason: str) -> None:
    """Give these texts, which are held, this label: each gets one more annotation, and keeps the day of its label."""
    projection, moment = Projection(), now()
    for page in paged(texts):
        ids = [text.id for text in page]
        standing = annotations_of(session, page)
        _annotate(session, domain, page, standing, label, moment, reason)
        # The last one of ours is the one that was just written.
        newest = (
            select(func.max(Annotation.id))
            .where(Annotation.text_id == Text.id, Annotation.labeler_id == SYSTEM)
            .correlate(Text)
            .scalar_subquery()
        )
        these = Text.id.in_(ids)
        session.execute(
            update(Text)
            .where(these, Text.confirmed_annotation_id == Text.annotation_id)
            .values(confirmed_annotation_id=newest),
            execution_options=BLIND,
        )
        with counting.changing(session, domain.id, ids):
            session.execute(
                update(Text)
                .where(these)
                .values(
                    label_id=label.id,
                    annotation_id=newest,
                    # As for any label that changes: a batch that holds the old one keeps it, frozen.
                    training_status=case((Text.is_gold.is_(True), "skipped"), else_="pending"),
                    claimed_by=None,
                    suspicion=None,
                    suspicion_evidence=None,
                ),
                execution_options=BLIND,
            )
        for status in ("skipped", "pending"):
            these_texts = [text for text in page if text.is_gold == (status == "skipped")]
            projection.bring(
                session,
                these_texts,
                {"correct_intent": [label.path], "labeler_id": SYSTEM, "training_status": of_question(status)},
            )


def annotations_of(session: Session, texts: Sequence[Any]) -> dict[int, Any]:
    """What counts for these texts now, by its id."""
    columns = (
        Annotation.id, Annotation.label_id, Annotation.question_id, Annotation.labeler_id, Annotation.time_intent,
        Annotation.answered_by, Annotation.agreed, Annotation.source, Annotation.created_at,
        Annotation.supersedes_id,
    )  # fmt: skip
    rows = session.execute(select(*columns).where(Annotation.id.in_([text.annotation_id for text in texts])))
    return {row.id: row for row in rows}


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What a label says of the answer that its text had, told of another day."""

    answered_by: str | None
    agreed: bool | None
    source: str
    created_at: datetime


def _annotate(
    session: Session,
    domain: Domain,
    texts: Sequence[Any],
    standing: Mapping[int, Any],
    label: Label,
    moment: datetime,
    reason: str,
) -> None:
    """One annotation of ours for each of these texts, with what its label said of the answer that the text had."""
    former = [standing[text.annotation_id] for text in texts]
    # What a file says of a text was not said about an answer.
    judged = [one if one.source != "import" else None for one in former]
    insert_rows(
        session,
        Annotation,
        {
            **of_ours(session, domain, texts, moment, reason),
            "kind": ["label"] * len(texts),
            "label_id": [label.id] * len(texts),
            "answer": [[label.path]] * len(texts),
            "time_intent": [one.time_intent for one in former],
            "question_id": [one.question_id for one in former],
            "answered_by": [one.answered_by if one else None for one in judged],
            "agreed": [one.agreed if one else None for one in judged],
            "supersedes_id": [one.id for one in former],
        },
    )
    counting.annotated_many(session, domain.id, "system", moment, len(texts))
    for text, one in zip(texts, former, strict=True):
        if counting.in_random_slice(text.is_gold, text.strategy):
            counting.judge_by(session, domain.id, one, -1)
            if one.source != "import":
                later = _Judgement(one.answered_by, one.agreed, "system", moment)
                counting.judge_by(session, domain.id, later, 1)


def of_ours(session: Session, domain: Domain, texts: Sequence[Any], moment: datetime, reason: str) -> dict[str, Any]:
    """The columns that each annotation of ours has."""
    ids = [text.id for text in texts]
    rows = session.execute(
        select(Annotation.text_id, func.max(Annotation.revision))
        .where(Annotation.text_id.in_(ids), Annotation.labeler_id == SYSTEM)
        .group_by(Annotation.text_id)
    )
    last = {text_id: revision for text_id, revision in rows}  # noqa: C416
    return {
        "domain_id": [domain.id] * len(ids),
        "text_id": ids,
        "labeler_id": [SYSTEM] * len(ids),
        "revision": [last.get(text_id, 0) + 1 for text_id in ids],
        "source": ["system"] * len(ids),
        "reason": [reason[:LONGEST_REASON]] * len(ids),
        "created_at": [moment] * len(ids),
    }


def requeue(session: Session, domain: Domain, texts: Sequence[Any], *, strategy: str, reason: str) -> None:
    """Let people label these texts, which are held, anew, before all others; `reason` is what they are told."""
    projection = Projection()
    askable = Text.text.is_not(None) & Text.train_allowed.is_(True)
    for page in paged(texts):
        ids = [text.id for text in page]
        judge_slice(session, domain.id, page, -1)
        with counting.changing(session, domain.id, ids):
            session.execute(
                update(Text)
                .where(Text.id.in_(ids))
                .values(
                    state="unlabelled",
                    label_id=None,
                    annotation_id=None,
                    labelled_at=None,
                    label_source=None,
                    proposed_label=None,
                    training_status="pending",
                    claimed_by=None,
                    priority=case((askable, AT_THE_TOP), else_=None),
                    reason=reason[:LONGEST_REASON],
                    # Gold that was drawn uniformly stays so: that it is asked again does not depend on what it is.
                    strategy=case((Text.is_gold.is_(True) & (Text.strategy == "gold"), "gold"), else_=strategy),
                    suspicion=None,
                    suspicion_evidence=None,
                ),
                execution_options=BLIND,
            )
        projection.bring(session, page, {**UNLABELLED, "training_status": "pending"})


def judge_slice(session: Session, domain_id: int, texts: Sequence[Any], value: int) -> None:
    """Count the judgements of those of these texts that were drawn uniformly, or count them no longer."""
    drawn = [text for text in texts if counting.in_random_slice(text.is_gold, text.strategy)]
    for annotation in annotations_of(session, drawn).values():
        counting.judge_by(session, domain_id, annotation, value)
