"""Forget what was asked: questions go, and with them every text that nobody else asked; labels and counts stay."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, delete, exists, func, select, update
from sqlalchemy.orm import Session

from app.db.tables import Annotation, BatchItem, KeywordRule, Lease, ModelVersion, Text, TrainingBatch, UserQuestion
from app.services import counting, scenario_withdrawal, texts, twins
from app.services.batches import LIVE

SLICE = 500
# A text that more questions ask is not counted again from them, slice after slice.
MOST_RECOUNTED = 100

# The rows are not in the session: there is nothing to bring up to date.
_BLIND = {"synchronize_session": False}


@dataclass(slots=True)
class Forgotten:
    """What one slice, or all of them, took away. `trained`: the versions that learned from it, and from how many texts;
    `training`: the batches that do at this moment.
    """

    questions: int = 0
    texts: int = 0
    # Texts that stay because others asked them too.
    kept_texts: int = 0
    text_ids: list[int] = field(default_factory=list)
    trained: Counter[str] = field(default_factory=Counter)
    training: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Forgotten") -> None:
        """Count another slice in."""
        self.questions += other.questions
        self.texts += other.texts
        self.kept_texts += other.kept_texts
        self.text_ids += other.text_ids
        self.trained += other.trained
        self.training += other.training


def of_user(user_hash: str, domain_id: int | None, until: datetime | None = None) -> ColumnElement[bool]:
    """The questions of a user, by the keyed hash; `until`: those that were here at that time."""
    condition = UserQuestion.user_hash == user_hash
    if domain_id is not None:
        condition &= UserQuestion.domain_id == domain_id
    return condition if until is None else condition & (UserQuestion.created_at <= until)


def of_question(question_id: str) -> ColumnElement[bool]:
    """One question."""
    return UserQuestion.question_id == question_id


def asked_before(domain_id: int, line: datetime) -> ColumnElement[bool]:
    """What was asked in a domain before a time."""
    return (UserQuestion.domain_id == domain_id) & (UserQuestion.asked_at < line)


@dataclass(frozen=True, slots=True)
class Outlived:
    """Some texts that nobody labelled and that came, or were asked, last before a time."""

    asked: Sequence[int]
    # No question asks them: an import taken back.
    unasked: Sequence[int]
    last_id: int
    line: datetime

    def questions(self) -> ColumnElement[bool]:
        """The questions that asked them, while nobody labels them or asks them again."""
        still = select(Text.id).where(
            Text.id.in_(self.asked), Text.state == "unlabelled", Text.last_asked_at < self.line
        )
        return UserQuestion.text_id.in_(still)


def outlived(session: Session, domain_id: int, line: datetime, *, after: int) -> Outlived | None:
    """The next of them by id from `after` on; None when there are none. All pages together read the table once."""
    for window in texts.windows(session, domain_id, after=after):
        rows = session.execute(
            select(Text.id, Text.count)
            .where(window, Text.state == "unlabelled", Text.last_asked_at < line)
            .order_by(Text.id)
            .limit(SLICE)
        ).all()
        if rows:
            asked = [text_id for text_id, count in rows if count]
            return Outlived(asked, [text_id for text_id, count in rows if not count], rows[-1][0], line)
    return None


def forget_unasked(session: Session, text_ids: Sequence[int], line: datetime) -> Forgotten:
    """Forget those of these texts that still no question asks, nobody labelled, and that came before a time."""
    if not text_ids:
        return Forgotten()
    left = (Text.state == "unlabelled") & (Text.last_asked_at < line) & (Text.count == 0)
    return forget_texts(
        session,
        session.scalars(
            select(Text)
            .where(Text.id.in_(text_ids), left)
            .order_by(Text.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all(),
    )


def forget_slice(session: Session, condition: ColumnElement[bool], *, limit: int = SLICE) -> Forgotten:
    """Forget up to `limit` of these questions; nothing is left when it says 0 questions.

    A text stays, with fewer questions, when others ask it too. Otherwise it is forgotten: its row goes, or stays
    without text and hash where annotations and batches refer to it, to tell what was learned from it.
    """
    found = session.scalars(select(UserQuestion.question_id).where(condition).limit(limit)).all()
    # Found first and locked by their ids, in order: whoever folds one of them at this moment has given it its text.
    rows = session.execute(
        select(UserQuestion.question_id, UserQuestion.text_id)
        .where(UserQuestion.question_id.in_(found))
        .order_by(UserQuestion.question_id)
        .with_for_update()
    ).all()
    if not rows:
        return Forgotten()
    ids = [question_id for question_id, _ in rows]
    taken = Counter(text_id for _, text_id in rows if text_id is not None)
    session.execute(delete(UserQuestion).where(UserQuestion.question_id.in_(ids)), execution_options=_BLIND)
    # By their texts, whose index leads to them; one has no text where nobody answered.
    session.execute(
        update(Annotation)
        .where(Annotation.text_id.in_(list(taken)), Annotation.question_id.in_(ids))
        .values(question_id=None),
        execution_options=_BLIND,
    )
    asked = session.scalars(
        select(Text)
        .where(Text.id.in_(list(taken)))
        .order_by(Text.id)
        # Whole, key and all: the hash changes, or the row goes.
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    popular = [text for text in asked if text.count - taken[text.id] > MOST_RECOUNTED]
    remaining = _remaining(session, [text.id for text in asked if text not in popular])
    remaining |= {text.id: _remaining_of_many(session, text, taken[text.id]) for text in popular}
    for text in asked:
        if text.id in remaining:
            _count_anew(text, *remaining[text.id])
    gone = [text for text in asked if text.id not in remaining]
    forgotten = forget_texts(session, gone)
    forgotten.questions, forgotten.kept_texts = len(ids), len(asked) - len(gone)
    return forgotten


def _remaining(session: Session, text_ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Of each text that others still ask: how often, first and last, by which question, and whether to train on it."""
    rows = session.execute(
        select(
            UserQuestion.text_id,
            func.count(),
            func.min(UserQuestion.asked_at),
            func.max(UserQuestion.asked_at),
            func.min(UserQuestion.question_id),
            func.max(case((UserQuestion.train_allowed.is_(True), 1), else_=0)),
        )
        .where(UserQuestion.text_id.in_(text_ids))
        .group_by(UserQuestion.text_id)
    )
    return {text_id: tuple(figures) for text_id, *figures in rows if text_id is not None}


def _remaining_of_many(session: Session, text: Text, taken: int) -> tuple[Any, ...]:
    """The same of a text that very many ask, which no slice could count again: the first is of the oldest ids alone.

    The last time may be that of a question that went: later than it should be, and nothing is forgotten for it.
    """
    oldest = (
        select(UserQuestion.asked_at, UserQuestion.question_id)
        .where(UserQuestion.text_id == text.id)
        .order_by(UserQuestion.question_id)
        .limit(MOST_RECOUNTED)
        .subquery()
    )
    first, question_id = session.execute(select(func.min(oldest.c.asked_at), func.min(oldest.c.question_id))).one()
    allowed = text.train_allowed and session.scalar(
        select(exists().where(UserQuestion.text_id == text.id, UserQuestion.train_allowed.is_(True)))
    )
    return text.count - taken, first, text.last_asked_at, question_id, int(bool(allowed))


def _count_anew(text: Text, count: int, first: datetime, last: datetime, question_id: str, allowed: int) -> None:
    text.count, text.first_asked_at, text.last_asked_at = count, first, last
    # The one that it is shown by may have been forgotten.
    text.question_id = question_id
    # Whoever allowed training may be gone; a file that was taken in allowed it too.
    text.train_allowed = bool(allowed) or text.label_source == "import"
    if not text.train_allowed:
        text.priority = None


def forget_texts(session: Session, unasked: Sequence[Text]) -> Forgotten:
    """Forget these texts, which the caller has locked and which no question asks any more."""
    ids = [text.id for text in unasked]
    forgotten = Forgotten(
        texts=len(ids), text_ids=ids, trained=trained_on(session, ids), training=in_training(session, ids)
    )
    if not ids:
        return forgotten
    session.execute(delete(Lease).where(Lease.text_id.in_(ids)), execution_options=_BLIND)
    twins.drop_bands(session, ids)
    twins.hand_on(session, unasked)
    # What a labeler wrote beside the label may repeat what was asked.
    session.execute(
        update(Annotation)
        .where(Annotation.text_id.in_(ids))
        .values(reason=None, proposed_label=None, time_intent=None, question_id=None),
        execution_options=_BLIND,
    )
    if groups := {text.scenario_id for text in unasked if text.scenario_id is not None}:
        scenario_withdrawal.withdraw(session, groups, set(ids))
    referred = set(session.scalars(select(Annotation.text_id).where(Annotation.text_id.in_(ids)).distinct()))
    referred |= set(session.scalars(select(BatchItem.text_id).where(BatchItem.text_id.in_(ids)).distinct()))
    for text in unasked:
        if text.id in referred:
            _empty(text)
    session.flush()
    counting.gone(session, [text for text in unasked if text.id not in referred])
    session.execute(delete(Text).where(Text.id.in_(set(ids) - referred)), execution_options=_BLIND)
    return forgotten


def _empty(text: Text) -> None:
    """Take everything from a text that could tell what it was. Its label stays, and what was trained on it."""
    # Without the hash of the words, too: of a short text it can be guessed. A later twin is a new text.
    text.text_hash = text.group_hash = hashlib.sha256(f"forgotten {text.id}".encode()).hexdigest()
    text.text = text.question_id = text.proposed_label = None
    text.count, text.first_asked_at, text.last_asked_at = 0, None, None
    text.priority = text.reason = text.strategy = text.leased_until = None
    text.topk, text.intents, text.confidence, text.scored_by, text.rule_hits = [], [], None, None, None
    text.scenario_id = None
    text.suspicion = text.suspicion_evidence = None
    text.train_allowed = text.is_flagged = False
    # There is nothing to compare.
    text.is_grouped = True
    if text.state in ("unlabelled", "disputed"):
        # Somebody answered or skipped it, and it waits no longer.
        text.state = text.training_status = "skipped"


def trained_on(session: Session, text_ids: Sequence[int]) -> Counter[str]:
    """The versions that learned from these texts, by their batches, and from how many of them."""
    rows = session.execute(
        select(ModelVersion.version, func.count())
        .join(BatchItem, BatchItem.batch_id == ModelVersion.training_batch_id)
        .where(BatchItem.text_id.in_(text_ids), BatchItem.role != "gold")
        .group_by(ModelVersion.version)
    )
    return Counter(dict(rows.all()))


def in_training(session: Session, text_ids: Sequence[int]) -> Counter[str]:
    """The batches that train on these texts at this moment: their clock has read them already."""
    rows = session.execute(
        select(TrainingBatch.batch_id, func.count())
        .join(BatchItem, BatchItem.batch_id == TrainingBatch.id)
        .where(BatchItem.text_id.in_(text_ids), BatchItem.role != "gold", TrainingBatch.training_status.in_(LIVE))
        .group_by(TrainingBatch.batch_id)
    )
    return Counter(dict(rows.all()))


def foresee(session: Session, condition: ColumnElement[bool]) -> Forgotten:
    """What forgetting these questions would take away; nothing is changed."""
    questions = session.scalar(select(func.count()).select_from(UserQuestion).where(condition)) or 0
    theirs = (
        select(UserQuestion.text_id, func.count().label("asked"))
        .where(condition, UserQuestion.text_id.is_not(None))
        .group_by(UserQuestion.text_id)
        .subquery()
    )
    rows = session.execute(
        select(Text.id, case((Text.count <= theirs.c.asked, 1), else_=0)).join(theirs, theirs.c.text_id == Text.id)
    ).all()
    ids = [text_id for text_id, alone in rows if alone]
    forgotten = Forgotten(questions=questions, texts=len(ids), kept_texts=len(rows) - len(ids), text_ids=ids)
    for start in range(0, len(ids), SLICE):
        forgotten.trained += trained_on(session, ids[start : start + SLICE])
        forgotten.training += in_training(session, ids[start : start + SLICE])
    return forgotten


def drop_lost_examples(session: Session, *, after: int, limit: int = SLICE) -> int | None:
    """Take questions that are gone out of one page of rules' examples; the id to go on after, None at the end."""
    rules = session.scalars(
        select(KeywordRule)
        .where(KeywordRule.id > after, KeywordRule.examples.is_not(None))
        .order_by(KeywordRule.id)
        .limit(limit)
    ).all()
    named = {question_id for rule in rules for question_id in rule.examples or ()}
    there = _existing(session, named)
    for rule in rules:
        if (left := [example for example in rule.examples or () if example in there]) != rule.examples:
            rule.examples = left or None
    session.flush()
    return rules[-1].id if rules else None


def _existing(session: Session, question_ids: Iterable[str]) -> set[str]:
    listed, found = sorted(question_ids), set[str]()
    for start in range(0, len(listed), SLICE):
        page = listed[start : start + SLICE]
        found |= set(session.scalars(select(UserQuestion.question_id).where(UserQuestion.question_id.in_(page))))
    return found
