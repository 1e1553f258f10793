"""Fold logged questions into distinct texts: count them, put new ones in the queue, give later twins their label.

It runs beside every answer and costs as much as logging it. So columns are read and written here, not objects; and on
SQLite nobody answers while a slice is written.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Dialect, bindparam, select, type_coerce
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from app.db.bulk import Change, Insertion, change, insertion, update_rows
from app.db.tables import Label, Text, UserQuestion
from app.intent.selection import is_gold_candidate
from app.services import counters, counting, rule_usage
from app.services.texts import (
    TWIN,
    UNLABELLED,
    fresh_priority,
    is_selected,
    may_be_asked,
    of_question,
    projections,
)

FOLD_SIZE: Final = 1000

Key = tuple[int, str]
"""A domain's id and the hash of a text."""

_READ: Final = (
    "question_id", "domain_id", "text_hash", "question", "asked_at", "train_allowed", "source", "method", "intents",
    "confidence", "topk", "verdicts", "route_used", "trigger_check", "model_version", "latency_ms",
)  # fmt: skip


class Stale(Exception):
    """Somebody changed what a slice was prepared from."""


def fold(session: Session, *, limit: int = FOLD_SIZE) -> int:
    """Give up to `limit` questions their text, and return how many.

    Questions that another process is folding are left to it. Nothing is lost by a crash between the log's commit and
    this one: an unfolded question is one without `text_id`, and the next fold finds it.
    """
    slice_ = prepare(session, limit=limit)
    if slice_ is None:
        return 0
    slice_.write(session)
    return len(slice_.question_ids)


def prepare(session: Session, *, limit: int, aside: bool = False) -> "Slice | None":
    """Read up to `limit` questions without a text, and everything that follows from them; None if there are none.

    On a server they and their texts are locked from here on. `aside`: it is written in another transaction.
    """
    questions = session.execute(
        select(*(getattr(UserQuestion, name) for name in _READ))
        .where(UserQuestion.text_id.is_(None))
        .order_by(UserQuestion.question_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    groups: dict[Key, list[Any]] = {}
    for question in questions:
        groups.setdefault((question.domain_id, question.text_hash), []).append(question)
    if not groups:
        return None
    old = {(text.domain_id, text.text_hash): text for text in map(_read, _of_keys(session, _OLD_ONES, groups))}
    texts = {key: old.get(key) or _new(asked[0]) for key, asked in groups.items()}
    for key, text in texts.items():
        before = {} if text.id is None else text.standing()
        text.count_in(groups[key])
        counting.moved(session, text.domain_id, before, text.standing())
    counting.asked(session, questions)
    # By their keys, so that two folders who make the same texts never wait for each other in a ring.
    new = [texts[key] for key in sorted(texts) if texts[key].id is None]
    dialect = session.get_bind().dialect
    return Slice(
        question_ids=[question.question_id for question in questions],
        keys=list(groups),
        stored=_of_keys(session, _AS_STORED, groups) if aside else None,
        paths=_paths_of(session, texts.values()) if aside else {},
        changes=_changes(dialect, list(old.values())),
        new=new,
        addition=_addition(dialect, new) if new else None,
        asked=[(text, [question.question_id for question in groups[key]]) for key, text in texts.items()],
        labels=projections(session, [text for text in texts.values() if text.label_id is not None]),
        counted=counters.taken(session),
        usage=rule_usage.usage_of(questions),
    )


@dataclass(frozen=True, slots=True)
class Slice:
    """Questions to be folded, and all that is to be written for them."""

    question_ids: Sequence[str]
    keys: Sequence[Key]
    stored: Sequence[Any] | None
    """Where others may change them until it is written: the texts as they were."""
    paths: Mapping[int, str]
    """There too: what their labels were called."""
    changes: Sequence[Change]
    new: Sequence["_Folded"]
    addition: Insertion | None
    asked: Sequence[tuple["_Folded", Sequence[str]]]
    """Each text with the ids of its questions."""
    labels: Mapping[int | None, Mapping[str, Any]]
    counted: counters.Gathered
    usage: Counter[tuple[int, int]]

    def write(self, session: Session) -> None:
        """Write all of it.

        Raises:
            Stale: what it was prepared from is no longer so.
        """
        if self.stored is not None and not self._still_holds(session, self.stored):
            raise Stale
        for changed in self.changes:
            changed.run(session)
        if self.addition is not None:
            self.addition.run(session)
            new = {(text.domain_id, text.text_hash): text for text in self.new}
            for domain_id, text_hash, text_id in _of_keys(session, _IDS, new):
                new[domain_id, text_hash].id = text_id
        self._point(session)
        counters.give(session, self.counted)
        rule_usage.count_usage(session, self.usage)
        session.expire_all()

    def _still_holds(self, session: Session, stored: Sequence[Any]) -> bool:
        left = session.scalars(_UNFOLDED, {"last": self.question_ids[-1]})
        return (
            set(left) >= set(self.question_ids)
            and _of_keys(session, _AS_STORED, self.keys) == stored
            and _paths(session, self.paths) == self.paths
        )

    def _point(self, session: Session) -> None:
        """Write what the questions take from their texts. Most are born as they are: their other columns stay."""
        short: list[tuple[Any, ...]] = []
        others: list[tuple[Any, ...]] = []
        for text, question_ids in self.asked:
            common = (text.id, text.priority, text.reason)
            told = self.labels.get(text.id) or {
                **UNLABELLED,
                "training_status": of_question(text.training_status),
            }
            if told == _BORN:
                short.extend((question_id, *common) for question_id in question_ids)
            else:
                others.extend((question_id, *common, *told.values()) for question_id in question_ids)
        for names, rows in ((_POINTER, short), ((*_POINTER, *_BORN), others)):
            if rows:
                columns = dict(zip(names, zip(*rows, strict=True), strict=True))
                update_rows(session, UserQuestion, "question_id", columns)


@dataclass(slots=True)
class _Folded:
    """The columns of a text that folding reads or changes; what is not here has its default in a new one."""

    domain_id: int
    text_hash: str
    question_id: str | None
    is_gold: bool
    has_words: bool
    id: int | None = None
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
    annotation_id: int | None = None
    labelled_at: datetime | None = None
    proposed_label: str | None = None
    rule_hits: list[int] | None = None
    topk: list[list[Any]] = field(default_factory=list)
    intents: list[str] = field(default_factory=list)
    confidence: float | None = None
    scored_by: str | None = None
    words: str | None = None
    """Of a new one: those of an old one are not read."""

    @property
    def may_be_asked(self) -> bool:
        """Whether a person's answer about it is wanted."""
        return may_be_asked(self.state, self.has_words, self.train_allowed)

    def standing(self) -> counting.Standing:
        """What it adds to the levels."""
        return counting.standing(
            {
                "state": self.state,
                "is_gold": self.is_gold,
                "priority": self.priority,
                "count": self.count,
                "label_id": self.label_id,
                "train_allowed": self.train_allowed,
                "text": self.has_words or None,
                "proposed_label": self.proposed_label,
                "training_status": self.training_status,
            }
        )

    def count_in(self, asked: Sequence[Any]) -> None:
        """Count these questions, the oldest first, of which it is the text."""
        times = [question.asked_at for question in asked]
        self.count += len(asked)
        self.first_asked_at = min([*times, *([self.first_asked_at] if self.first_asked_at else [])])
        self.last_asked_at = max([*times, *([self.last_asked_at] if self.last_asked_at else [])])
        # A text may be trained on when at least one of those who asked it allowed that.
        self.train_allowed = self.train_allowed or any(question.train_allowed for question in asked)
        if self.question_id is None:
            self.question_id = asked[0].question_id
        newest = asked[-1]
        # Frozen by a label: a rule is judged by the labels that came after it had matched, never by those it was
        # mined on.
        if self.state != "labelled" and (hits := rule_usage.newest_hits(asked)) is not None:
            self.rule_hits = hits
        if newest.topk or not self.topk:
            self.topk = newest.topk
            self.intents, self.confidence = newest.intents, newest.confidence
            self.scored_by = newest.model_version
        # Gold enters the queue only by the uniform draw of select_questions; what waits behind a near twin stays there.
        # What was selected keeps its place until the next selection, however often it is asked meanwhile.
        behind = self.strategy == TWIN and self.priority is not None
        if not self.is_gold and not behind and self.may_be_asked and not is_selected(self.priority):
            priority = fresh_priority(self.text_hash, self.count, self.topk)
            self.priority, self.strategy, self.reason = priority.value, priority.strategy, priority.reason


_OLD: Final = tuple(one.name for one in fields(_Folded) if one.name not in ("has_words", "words"))
_COUNTED: Final = (
    "id", "count", "first_asked_at", "last_asked_at", "train_allowed", "question_id", "rule_hits", "topk", "intents",
    "confidence", "scored_by",
)  # fmt: skip
_QUEUED: Final = (*_COUNTED, "priority", "strategy", "reason")
_NEW: Final = (*(name for name in _QUEUED if name != "id"), "domain_id", "text_hash", "is_gold")


def _of_keys(session: Session, statement: Any, keys: Iterable[Key]) -> list[Any]:
    """What a statement finds for the texts of these keys, domain by domain."""
    by_domain: dict[int, list[str]] = {}
    for domain_id, text_hash in keys:
        by_domain.setdefault(domain_id, []).append(text_hash)
    found: list[Any] = []
    for domain_id, hashes in by_domain.items():
        found += session.execute(statement, {"domain_id": domain_id, "hashes": hashes})
    return found


# Statements that are made once: a list of values within a statement is turned value by value each time.
_THESE: Final = (Text.domain_id == bindparam("domain_id"), Text.text_hash.in_(bindparam("hashes", expanding=True)))
# Locked in the order of their ids, so that two folders never wait for each other.
_OLD_ONES: Final = (
    select(Text.text.is_not(None), *(getattr(Text, name) for name in _OLD))
    .where(*_THESE)
    .order_by(Text.id)
    .with_for_update(key_share=True, of=Text)
)
# As the file has them: to compare them they need not be read.
_AS_STORED: Final = (
    select(Text.text.is_not(None), *(type_coerce(getattr(Text, name), NullType()) for name in _OLD))
    .where(*_THESE)
    .order_by(Text.id)
)
_IDS: Final = select(Text.domain_id, Text.text_hash, Text.id).where(*_THESE)
_UNFOLDED: Final = (
    select(UserQuestion.question_id)
    .where(UserQuestion.text_id.is_(None), UserQuestion.question_id <= bindparam("last"))
    .order_by(UserQuestion.question_id)
)


def _paths_of(session: Session, texts: Iterable["_Folded"]) -> dict[int, str]:
    return _paths(session, {text.label_id for text in texts if text.label_id is not None})


def _paths(session: Session, label_ids: Iterable[int]) -> dict[int, str]:
    """What these labels are called now."""
    if not (wanted := list(label_ids)):
        return {}
    return dict(session.execute(select(Label.id, Label.path).where(Label.id.in_(wanted))).all())


def _read(row: Any) -> "_Folded":
    has_words, *values = row
    return _Folded(has_words=bool(has_words), **dict(zip(_OLD, values, strict=True)))


def _new(question: Any) -> "_Folded":
    return _Folded(
        domain_id=question.domain_id,
        text_hash=question.text_hash,
        question_id=question.question_id,
        is_gold=is_gold_candidate(question.text_hash),
        has_words=question.question is not None,
        words=question.question,
    )


def _changes(dialect: Dialect, old: Sequence["_Folded"]) -> list[Change]:
    """What changed of texts that were there: of those that wait for nobody without the columns of the queue."""
    return [
        change(dialect, Text, "id", {name: [getattr(text, name) for text in some] for name in names})
        for names, some in (
            (_QUEUED, [text for text in old if text.may_be_asked and not text.is_gold]),
            (_COUNTED, [text for text in old if text.is_gold or not text.may_be_asked]),
        )
        if some
    ]


def _addition(dialect: Dialect, new: Sequence["_Folded"]) -> Insertion:
    columns: dict[str, Sequence[Any]] = {name: [getattr(text, name) for text in new] for name in _NEW}
    columns |= {"text": [text.words for text in new], "group_hash": columns["text_hash"]}
    return insertion(dialect, Text, columns)


_POINTER: Final = ("question_id", "text_id", "priority", "priority_reason")
_BORN: Final = {**UNLABELLED, "training_status": "pending"}
