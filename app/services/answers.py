"""What stands for a text: the answer that is its label, and its way back into the queue when there is none."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Text
from app.errors import NoTexts
from app.services import counting, folding, intake, leases, retractions, rule_usage, suspects, texts

SKIPS_THAT_RETIRE = 2
# The labeler of what no person answered.
SYSTEM = "intentloop"
# Beyond so many twins one statement would hold the labeler up: the clock brings them the label.
MOST_TWINS = 1000


def text_for_update(session: Session, question_id: str) -> Text:
    """The text that a question asked, held until the transaction ends; folded now if it was not."""
    question = intake.find(session, question_id)
    while question.text_id is None:
        # Logged a moment ago and not folded yet: the labeler need not wait for the clock.
        if folding.fold(session) == 0:
            # Another process is folding it; its lock ends with its transaction.
            session.refresh(question, with_for_update=True)
        else:
            session.refresh(question)
    text = session.get(Text, question.text_id, with_for_update={"key_share": True}, populate_existing=True)
    if text is None:
        raise AssertionError(f"question {question_id} has lost its text")
    return text


def domain_of(session: Session, text: Text) -> Domain:
    """The domain of a text that can be shown.

    Raises:
        NoTexts.
    """
    domain = session.get(Domain, text.domain_id)
    if domain is None:
        raise AssertionError(f"text {text.id} has lost its domain")
    if not domain.keep_text and text.text is None:
        raise NoTexts(f"domain {domain.name!r} keeps no text, so there is nothing to label")
    return domain


def next_revision(session: Session, text_id: int, labeler_id: str) -> int:
    """The number that this labeler's next answer about this text gets."""
    last = session.scalar(
        select(func.max(Annotation.revision)).where(Annotation.text_id == text_id, Annotation.labeler_id == labeler_id)
    )
    return (last or 0) + 1


def apply(session: Session, text: Text, annotation: Annotation) -> int:
    """Make this annotation the text's label, and return how many questions carry it."""
    if annotation.id is None:
        counting.judge(annotation, text)
        session.add(annotation)
        session.flush()
    counting.judged(session, text, annotation)
    before = rule_usage.label_of(text)
    suspects.answered(text, annotation)
    changed = text.label_id != annotation.label_id or text.proposed_label != annotation.proposed_label
    text.state = "labelled"
    text.label_id = annotation.label_id
    text.annotation_id = annotation.id
    text.proposed_label = annotation.proposed_label
    text.labelled_at = annotation.created_at
    text.label_source = annotation.source
    text.priority = None
    if text.is_gold:
        text.training_status = "skipped"
    elif changed:
        # A batch that holds the old label keeps it, frozen; the new one waits for the next batch.
        text.training_status, text.claimed_by = "pending", None
    leases.end_all(session, text)
    rule_usage.judge(session, text, before=before)
    return project(session, text)


def clear(session: Session, text: Text) -> None:
    """Take its label from a text: it waits for a person again."""
    before = rule_usage.label_of(text)
    counting.judged(session, text, None)
    text.state, text.label_id, text.annotation_id = "unlabelled", None, None
    text.labelled_at = text.label_source = text.proposed_label = None
    text.training_status, text.claimed_by = "pending", None
    suspects.settle(text)
    requeue(text)
    rule_usage.judge(session, text, before=before)
    project(session, text)


def requeue(text: Text) -> None:
    """Give a text the place in the queue that its answer is worth."""
    if not texts.may_be_asked(text.state, text.text is not None, text.train_allowed):
        text.priority = None
        return
    if text.is_gold:
        # It was drawn once, uniformly; taking an answer back does not change that.
        text.priority = 0.5 if text.strategy == "gold" else None
        return
    fresh = texts.fresh_priority(text.text_hash, max(text.count, 1), text.topk)
    text.priority, text.strategy, text.reason = fresh.value, fresh.strategy, fresh.reason
    text.sampling_probability = None


def project(session: Session, text: Text) -> int:
    """Bring the text's state to its questions, at once or, of very many, by the clock; how many they are now."""
    session.flush()
    if text.count == 0:
        return 0
    if text.count > MOST_TWINS:
        text.projection_due = True
        session.flush()
        return 0
    return texts.project(session, text)


def labelers_of(session: Session, text_id: int, kind: str) -> Sequence[str]:
    """Whose answer of this kind about a text was not taken back."""
    return session.scalars(
        select(Annotation.labeler_id)
        .where(Annotation.text_id == text_id, Annotation.kind == kind, retractions.stands())
        .distinct()
    ).all()
