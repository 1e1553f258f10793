"""Take answers back: one labeler's last about a question, or their last ones in a domain."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Text
from app.errors import NothingToUndo
from app.services import answers, blind_answers, retractions, taxonomy

ANSWERS = ("label", "skip", "discard")


@dataclass(frozen=True, slots=True)
class TakenBack:
    """One answer that no longer counts. `state`: that of its text now."""

    question_id: str
    annotation_id: int
    kind: str
    state: str


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer that another replaced since: it is left as it is. `annotation_id`: the one that counts."""

    question_id: str
    annotation_id: int | None


@dataclass(slots=True)
class Undone:
    """What became of a labeler's last answers, the newest first."""

    taken_back: list[TakenBack] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


def undo(session: Session, question_id: str, *, labeler_id: str) -> Text:
    """Take back this labeler's last answer, skip or discard: what counted before it counts again.

    Raises:
        NotFound: no such question.
        NothingToUndo: the labeler has no answer here, or another's replaced it since.
    """
    text = answers.text_for_update(session, question_id)
    last = session.scalar(
        select(Annotation)
        .where(Annotation.text_id == text.id, _standing(labeler_id))
        .order_by(Annotation.revision.desc())
        .limit(1)
    )
    if last is None:
        raise NothingToUndo("this labeler has no answer about this question to take back")
    if _is_replaced(session, text, last):
        raise NothingToUndo("another answer has replaced this labeler's", annotation_id=text.annotation_id)
    _take_back(session, text, last, question_id)
    return text


def undo_last(session: Session, domain: Domain, *, labeler_id: str, count: int) -> Undone:
    """Take back the last `count` answers of a labeler in a domain, the newest first, in this one transaction.

    One that another's answer replaced since is told and left alone.
    """
    mine = select(Annotation.id, Annotation.text_id).where(Annotation.domain_id == domain.id, _standing(labeler_id))
    # What was forgotten has no question to ask again.
    shown = mine.join(Text, Text.id == Annotation.text_id).where(Text.question_id.is_not(None))
    rows = session.execute(shown.order_by(Annotation.id.desc()).limit(count)).all()
    # All of them before the first is changed, in the order in which everybody locks them.
    texts = {
        text.id: text
        for text in session.scalars(
            select(Text)
            .where(Text.id.in_({text_id for _, text_id in rows}))
            .order_by(Text.id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
    }
    last: Sequence[Annotation] = session.scalars(
        select(Annotation)
        .where(Annotation.id.in_([annotation_id for annotation_id, _ in rows]), _standing(labeler_id))
        .order_by(Annotation.id.desc())
    ).all()
    undone = Undone()
    for annotation in last:
        text = texts[annotation.text_id]
        question_id = annotation.question_id or text.question_id or ""
        if _is_replaced(session, text, annotation):
            undone.kept.append(Kept(question_id, text.annotation_id))
        else:
            _take_back(session, text, annotation, question_id)
            undone.taken_back.append(TakenBack(question_id, annotation.id, annotation.kind, text.state))
    return undone


def _standing(labeler_id: str) -> ColumnElement[bool]:
    """A labeler's answers that were not taken back."""
    return (Annotation.labeler_id == labeler_id) & Annotation.kind.in_(ANSWERS) & retractions.stands()


def _is_replaced(session: Session, text: Text, last: Annotation) -> bool:
    if last.kind != "label" or text.annotation_id == last.id:
        return False
    if not last.is_blind:
        return True
    # Its part in what was decided can be taken back while the decision is that of the blind answers.
    current = session.get(Annotation, text.annotation_id) if text.annotation_id is not None else None
    return current is not None and not current.is_blind


def _take_back(session: Session, text: Text, last: Annotation, question_id: str) -> None:
    session.add(
        Annotation(
            domain_id=text.domain_id,
            text_id=text.id,
            question_id=question_id,
            labeler_id=last.labeler_id,
            revision=answers.next_revision(session, text.id, last.labeler_id),
            kind="retract",
            supersedes_id=last.id,
        )
    )
    session.flush()
    domain = session.get(Domain, text.domain_id)
    if domain is None:
        raise AssertionError(f"text {text.id} has lost its domain")
    if last.kind == "label":
        _without_label(session, text, domain, last)
    elif last.kind == "discard":
        if text.state == "discarded":
            _ask_again(session, text, domain)
    elif text.state == "skipped" and len(answers.labelers_of(session, text.id, "skip")) < answers.SKIPS_THAT_RETIRE:
        _ask_again(session, text, domain)


def _without_label(session: Session, text: Text, domain: Domain, last: Annotation) -> None:
    together = blind_answers.wanted(domain, text) > 1
    if last.is_blind:
        if text.state in ("labelled", "disputed"):
            _settle(session, text, domain, together=together)
        return
    before = _standing_before(session, last)
    if before is not None and not (before.is_blind and together):
        answers.apply(session, text, before)
    else:
        _settle(session, text, domain, together=together)


def _settle(session: Session, text: Text, domain: Domain, *, together: bool) -> None:
    answers.clear(session, text)
    if together:
        blind_answers.settle(session, text, domain)


def _ask_again(session: Session, text: Text, domain: Domain) -> None:
    text.state, text.training_status = "unlabelled", "pending"
    answers.requeue(text)
    answers.project(session, text)
    if blind_answers.wanted(domain, text) > 1:
        blind_answers.settle(session, text, domain)


def _standing_before(session: Session, annotation: Annotation) -> Annotation | None:
    """What counted before this annotation and was not taken back."""
    earlier_id = annotation.supersedes_id
    while earlier_id is not None:
        earlier = session.get(Annotation, earlier_id)
        if earlier is None:
            return None
        taken_back = session.scalar(
            select(Annotation.id).where(Annotation.supersedes_id == earlier.id, Annotation.kind == "retract")
        )
        if taken_back is None:
            # A label that left the taxonomy meanwhile is nobody's answer any more.
            return earlier if earlier.label_id is None or taxonomy.is_given(session, earlier.label_id) else None
        earlier_id = earlier.supersedes_id
    return None
