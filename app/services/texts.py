"""Fold logged questions into distinct texts: count them, put new ones in the queue, bring labels to later twins."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, insert, select, true, update
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Label, Text, UserQuestion
from app.intent.selection import (
    frequency_weighted,
    is_gold_candidate,
    margin_from_topk,
    random_priority,
)
from app.services import counting, rule_usage

FOLD_SIZE = 1000
WINDOW = 5000


def windows(session: Session, domain_id: int, *, after: int = 0) -> Iterator[ColumnElement[bool]]:
    """Conditions that lead through all texts of a domain in the order of their ids, some thousand at a time.

    A page "by id from here on" would be read by an index of the domain and sorted, the whole queue for each page: the
    ids bound what is read, and an expression in place of the column keeps the planner from those indexes.
    """
    last = session.scalar(select(func.max(Text.id))) or 0
    for start in range(after, last, WINDOW):
        yield (Text.id > start) & (Text.id <= start + WINDOW) & (Text.domain_id + 0 == domain_id)


@dataclass(frozen=True, slots=True)
class Priority:
    """How much a label of this text would teach, in [0, 1], and why."""

    value: float | None
    strategy: str | None
    reason: str | None


def fresh_priority(text_hash: str, count: int, topk: Sequence[Sequence[Any]]) -> Priority:
    """The priority of a text by the answer it got; without an answer a draw weighted by how often it is asked."""
    if not topk:
        drawn = float(random_priority([text_hash], [count])[0])
        return Priority(drawn, "random", f"no model answered it: drawn at random, asked {count} times")
    margin = margin_from_topk(topk)
    best = ", ".join(f"{_leaf(str(label))} {probability:.2f}" for label, probability in topk[:2])
    return Priority(frequency_weighted(margin, count), "margin", f"unsure: {best}; asked {count} times")


def _leaf(path: str) -> str:
    return path.rsplit(" > ", 1)[-1][:60]


def fold(session: Session, *, limit: int = FOLD_SIZE) -> int:
    """Give up to `limit` questions their text, and return how many.

    Questions that another process is folding are left to it. Nothing is lost by a crash between the log's commit and
    this one: an unfolded question is one without `text_id`, and the next fold finds it.
    """
    # Columns, not objects: this runs beside every answer, and objects cost more than all the rest.
    questions = session.execute(
        select(*(getattr(UserQuestion, name) for name in _READ))
        .where(UserQuestion.text_id.is_(None))
        .order_by(UserQuestion.question_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    groups: dict[tuple[int, str], list[Any]] = {}
    for question in questions:
        groups.setdefault((question.domain_id, question.text_hash), []).append(question)
    if not groups:
        return 0
    texts = _texts_of(session, groups)
    for key, text in texts.items():
        _count(text, groups[key])
    labels = _projections(session, [text for text in texts.values() if text.label_id is not None])
    counting.asked(session, questions)
    ids = _written(session, texts)
    rows: list[dict[str, Any]] = []
    for key, asked in groups.items():
        text = texts[key]
        row = {"text_id": ids[key], "priority": text.priority, "priority_reason": text.reason}
        row |= labels.get(ids[key], _UNLABELLED | {"training_status": _of_question(text)})
        rows.extend(row | {"of_question": question.question_id} for question in asked)
    _point_at_texts(session, rows)
    rule_usage.count_usage(session, questions)
    session.expire_all()
    return len(questions)


_READ = (
    "question_id", "domain_id", "text_hash", "question", "asked_at", "train_allowed", "source", "method", "intents",
    "confidence", "topk", "verdicts", "route_used", "trigger_check", "model_version", "latency_ms",
)  # fmt: skip


def _written(session: Session, texts: Mapping[tuple[int, str], "Text | _New"]) -> dict[tuple[int, str], int]:
    """Write the texts as they now are; their ids."""
    session.flush()
    new = {key: text for key, text in texts.items() if isinstance(text, _New)}
    ids = {key: text.id for key, text in texts.items() if isinstance(text, Text)}
    if new:
        # By their keys, so that two folders who make the same texts never wait for each other in a ring.
        rows = [new[key].row() for key in sorted(new)]
        counting.arrived(session, rows)
        session.execute(insert(Text), rows, execution_options={"render_nulls": True})
        for domain_id in {domain_id for domain_id, _ in new}:
            hashes = [text_hash for owner, text_hash in new if owner == domain_id]
            found = session.execute(
                select(Text.text_hash, Text.id).where(Text.domain_id == domain_id, Text.text_hash.in_(hashes))
            )
            ids.update({(domain_id, text_hash): text_id for text_hash, text_id in found})
    return ids


def _point_at_texts(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what the questions take from their texts. Most are born as they are: their other columns stay."""
    table: Any = UserQuestion.__table__
    short = [row for row in rows if not row["is_labeled"] and row["training_status"] == "pending"]
    others = [row for row in rows if row["is_labeled"] or row["training_status"] != "pending"]
    for names, some in (
        (("text_id", "priority", "priority_reason"), short),
        (("text_id", "priority", "priority_reason", *_UNLABELLED, "training_status"), others),
    ):
        if some:
            statement = update(table).where(table.c.question_id == bindparam("of_question"))
            statement = statement.values({name: bindparam(f"new_{name}", type_=table.c[name].type) for name in names})
            parameters = [
                {"of_question": row["of_question"]} | {f"new_{name}": row[name] for name in names} for row in some
            ]
            session.connection().execute(statement, parameters)


_UNLABELLED: dict[str, Any] = {
    "is_labeled": False,
    "correct_intent": None,
    "correct_time_intent": None,
    "labeler_id": None,
    "labeled_at": None,
}


def _of_question(text: "Text | _New") -> str:
    return "pending" if text.training_status == "claimed" else text.training_status


def _texts_of(
    session: Session, groups: Mapping[tuple[int, str], Sequence[Any]]
) -> dict[tuple[int, str], "Text | _New"]:
    found: dict[tuple[int, str], Text] = {}
    for domain_id in {domain_id for domain_id, _ in groups}:
        hashes = [text_hash for owner, text_hash in groups if owner == domain_id]
        # Locked in the order of their ids, so that two folders never wait for each other.
        rows = session.scalars(
            select(Text)
            .where(Text.domain_id == domain_id, Text.text_hash.in_(hashes))
            .order_by(Text.id)
            .with_for_update(key_share=True)
        )
        found.update({(domain_id, text.text_hash): text for text in rows})
    return {key: found.get(key) or _New.of(asked[0]) for key, asked in groups.items()}


@dataclass(slots=True)
class _New:
    """A text that nobody asked before, until its row is written; the columns that are not here have their defaults."""

    domain_id: int
    text_hash: str
    text: str | None
    question_id: str | None
    is_gold: bool
    group_hash: str
    count: int = 0
    state: str = "unlabelled"
    training_status: str = "pending"
    train_allowed: bool = False
    first_asked_at: datetime | None = None
    last_asked_at: datetime | None = None
    priority: float | None = None
    strategy: str | None = None
    reason: str | None = None
    label_id: int | None = None
    proposed_label: str | None = None
    rule_hits: list[int] | None = None
    topk: list[list[Any]] = field(default_factory=list)
    intents: list[str] = field(default_factory=list)
    confidence: float | None = None
    scored_by: str | None = None

    @classmethod
    def of(cls, question: Any) -> "_New":
        """The text of a question."""
        return cls(
            domain_id=question.domain_id,
            text_hash=question.text_hash,
            text=question.question,
            question_id=question.question_id,
            is_gold=is_gold_candidate(question.text_hash),
            group_hash=question.text_hash,
        )

    def row(self) -> dict[str, Any]:
        """Its columns."""
        return {name: getattr(self, name) for name in self.__slots__}


def _count(text: "Text | _New", asked: Sequence[Any]) -> None:
    times = [question.asked_at for question in asked]
    text.count += len(asked)
    text.first_asked_at = min([*times, *([text.first_asked_at] if text.first_asked_at else [])])
    text.last_asked_at = max([*times, *([text.last_asked_at] if text.last_asked_at else [])])
    # A text may be trained on when at least one of those who asked it allowed that.
    text.train_allowed = text.train_allowed or any(question.train_allowed for question in asked)
    if text.question_id is None:
        text.question_id = asked[0].question_id
    newest = asked[-1]
    # Frozen by a label: a rule is judged by the labels that came after it had matched, never by those it was mined on.
    if text.state != "labelled" and (hits := rule_usage.newest_hits(asked)) is not None:
        text.rule_hits = hits
    if newest.topk or not text.topk:
        text.topk = newest.topk
        text.intents, text.confidence = newest.intents, newest.confidence
        text.scored_by = newest.model_version
    # Gold enters the queue only by the uniform draw of select_questions.
    if may_be_asked(text) and not text.is_gold:
        priority = fresh_priority(text.text_hash, text.count, text.topk)
        text.priority, text.strategy, text.reason = priority.value, priority.strategy, priority.reason


def may_be_asked(text: "Text | _New") -> bool:
    """Whether a person's answer about this text is wanted: it has none, it can be shown, and it may be trained on."""
    return text.state == "unlabelled" and text.text is not None and text.train_allowed


def _projections(session: Session, given: Iterable["Text | _New"]) -> dict[int, dict[str, Any]]:
    texts = [text for text in given if isinstance(text, Text)]
    if not texts:
        return {}
    # Into the session at once, so that `projection` finds each without a query of its own.
    session.scalars(select(Annotation).where(Annotation.id.in_([text.annotation_id for text in texts]))).all()
    return {text.id: projection(session, text) for text in texts}


def projection(session: Session, text: Text) -> dict[str, Any]:
    """The label's columns of every question that asked this text."""
    if text.state != "labelled":
        return _UNLABELLED | {"training_status": _of_question(text)}
    annotation = session.get(Annotation, text.annotation_id)
    label = session.get(Label, text.label_id)
    if annotation is None or label is None:
        raise AssertionError(f"text {text.id} is labelled without an annotation")
    return {
        "is_labeled": True,
        "correct_intent": [label.path],
        "correct_time_intent": annotation.time_intent,
        "labeler_id": annotation.labeler_id,
        "labeled_at": text.labelled_at,
        "training_status": _of_question(text),
    }


def project(session: Session, text: Text) -> int:
    """Bring a text's label to all questions that asked it, and return how many they are."""
    values = projection(session, text)
    result = session.execute(update(UserQuestion).where(UserQuestion.text_id == text.id).values(values))
    text.projection_due = False
    return int(result.rowcount)  # type: ignore[attr-defined]


def project_due(session: Session, *, limit: int = 1) -> int:
    """Bring the labels of texts with very many twins to their questions: the part that the labeler did not wait for."""
    texts = session.scalars(
        # Compared, not "IS true": MariaDB would not use the index.
        select(Text).where(Text.projection_due == true()).limit(limit).with_for_update(key_share=True, skip_locked=True)
    ).all()
    return sum(project(session, text) for text in texts)
