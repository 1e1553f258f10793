"""What is counted of questions, texts and annotations, and under which names."""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import bindparam, event, func, inspect, select
from sqlalchemy.orm import LoaderCallableStatus, Session

from app.db.tables import Annotation, Label, Text, now
from app.intent.latency import bucket_of
from app.services import counters

# What happens, by day and in all. Keys in brackets.
METHOD: Final = "method"  # questions [by the deciding tier]
SOURCE: Final = "source"  # questions [served or external]
ANSWER: Final = "answer"  # questions that got a label [its id, or OUTSIDE]
STANDS: Final = "stands"  # served questions whose answer stands, at or above τ
TO_PERSON: Final = "to_person"  # served questions that a person should look at
LLM: Final = "llm"  # questions for which the LLM was asked
LATENCY: Final = "latency"  # served questions [bucket of the time that the answer took]
ANNOTATED: Final = "annotated"  # what people, imports and the system wrote [source, or skip, discard, flag or retract]
JUDGED: Final = "judged"  # texts of the random slice that a person labelled [version that had answered]
AGREED: Final = "agreed"  # those of them whose label was the answer [version]

# How many there are now.
TEXT: Final = "text"  # texts [state, with /gold where it is held out]
QUEUED: Final = "queued"  # texts that wait for a person
FLAGGED: Final = "flagged"  # texts that a person asked somebody to look at
SUSPECT: Final = "suspect"  # labelled texts whose label waits for a review
LABELLED: Final = "labelled"  # questions whose text is labelled
TEXT_LABEL: Final = "text_label"  # labelled texts [label id]
CHOSEN_BY: Final = "chosen_by"  # texts that people labelled [strategy by which they were asked]
TRAINABLE: Final = "trainable"  # texts that may be trained on [training status / label id]

OUTSIDE: Final = "outside"
"""The key of answers with a label that the taxonomy does not have: predictions made elsewhere."""

GOLD: Final = "/gold"

Standing = Mapping[tuple[str, str], int]
"""What one text adds to the levels, by name and key."""

_COLUMNS: Final = (
    "domain_id", "state", "is_gold", "priority", "count", "label_id", "train_allowed", "text", "proposed_label",
    "training_status", "strategy", "label_source", "is_flagged", "suspicion",
)  # fmt: skip


def asked(session: Session, questions: Sequence[Any]) -> None:
    """Count questions that are being folded: each is folded once, so each is counted once."""
    labels = _label_ids(session, questions)
    tally: Tally[Any] = Tally()
    for question in questions:
        where = (question.domain_id, counters.day_of(session, question.asked_at))
        tally.update((*where, *what) for what in of_question(question, labels))
    for (domain_id, day, name, key), value in tally.items():
        counters.add(session, domain_id, name, key, value, day=day)


def of_question(question: Any, labels: Mapping[tuple[int, str], int]) -> list[tuple[str, str]]:
    """Everything that one question counts for. `labels`: the ids of a domain's labels by their paths."""
    found = [(METHOD, question.method), (SOURCE, question.source)]
    if question.intents:
        label_id = labels.get((question.domain_id, question.intents[0]))
        found.append((ANSWER, OUTSIDE if label_id is None else str(label_id)))
    if question.source == "served":
        found.append((TO_PERSON if question.trigger_check else STANDS, ""))
        if question.latency_ms is not None:
            found.append((LATENCY, bucket_of(question.latency_ms)))
    if "llm" in question.route_used:
        found.append((LLM, ""))
    return found


def _label_ids(session: Session, questions: Iterable[Any]) -> dict[tuple[int, str], int]:
    """A path from outside may be anything, and is no key: a counter for each would be a table without end."""
    paths = {(question.domain_id, question.intents[0]) for question in questions if question.intents}
    if not paths:
        return {}
    owners = list({owner for owner, _ in paths})
    rows = session.execute(_LABELS, {"domain_ids": owners, "paths": list({path for _, path in paths})})
    found = {(domain_id, path): label_id for domain_id, path, label_id in rows}
    return found if paths <= found.keys() else former_labels(session, owners) | found


def former_labels(session: Session, domain_ids: Sequence[int]) -> dict[tuple[int, str], int]:
    """The ids of renamed labels by what they were called: for answers of before, and of services a moment behind."""
    rows = session.execute(
        select(Label.domain_id, Label.id, Label.former_paths)
        .where(Label.domain_id.in_(domain_ids), Label.former_paths.is_not(None))
        .order_by(Label.id)
    )
    return {(domain_id, path): label_id for domain_id, label_id, paths in rows for path in paths or ()}


_LABELS: Final = select(Label.domain_id, Label.path, Label.id).where(
    Label.domain_id.in_(bindparam("domain_ids", expanding=True)), Label.path.in_(bindparam("paths", expanding=True))
)


def standing(text: Mapping[str, Any]) -> Standing:
    """What a text with these columns adds to the levels."""
    state = text.get("state", "unlabelled")
    figures = {(TEXT, state + (GOLD if text["is_gold"] else "")): 1}
    if text.get("is_flagged"):
        figures[FLAGGED, ""] = 1
    if state == "unlabelled" and text.get("priority") is not None:
        figures[QUEUED, ""] = 1
    elif state == "labelled":
        figures[LABELLED, ""] = text.get("count", 0)
        figures[TEXT_LABEL, str(text["label_id"])] = 1
        if text.get("strategy") is not None and text.get("label_source") == "labeler":
            figures[CHOSEN_BY, text["strategy"]] = 1
        if text.get("suspicion") is not None:
            figures[SUSPECT, ""] = 1
        if (
            text.get("train_allowed", True)
            and text.get("text") is not None
            and text.get("proposed_label") is None
            and not text["is_gold"]
        ):
            figures[TRAINABLE, f"{text.get('training_status', 'pending')}/{text['label_id']}"] = 1
    return figures


@event.listens_for(Session, "before_flush")
def _follow_rows(session: Session, *_: Any) -> None:
    """Count annotations, and texts from one level to the other, as their rows are written, whichever service does it.

    Statements that change many rows at once pass this by: `arrived`, `trained`, `queued` and `gone` are for them.
    """
    for row in session.new:
        if isinstance(row, Text):
            moved(session, row.domain_id, {}, standing({"is_gold": False} | row.__dict__))
        elif isinstance(row, Annotation):
            _annotated(session, row)
    for row in session.dirty:
        if isinstance(row, Text):
            before = inspect(row).committed_state
            if not before.keys().isdisjoint(_COLUMNS):
                after = {name: getattr(row, name) for name in _COLUMNS}
                moved(session, row.domain_id, standing(after | _before(session, row)), standing(after))
    for row in session.deleted:
        if isinstance(row, Text):
            gone(session, [row])


def _before(session: Session, text: Text) -> dict[str, Any]:
    """What the changed columns of a text held before."""
    replaced = inspect(text).committed_state
    known: dict[str, Any] = {name: replaced[name] for name in _COLUMNS if name in replaced}
    if LoaderCallableStatus.NO_VALUE in known.values():
        # Written over before it was read: the row still has it.
        columns = [getattr(Text, name) for name in known]
        row = session.connection().execute(select(*columns).where(Text.id == text.id)).one()
        known = dict(zip(known, row, strict=True))
    return known


def arrived(session: Session, rows: Iterable[Mapping[str, Any]]) -> None:
    """Count texts that one statement inserts, by their columns."""
    for row in rows:
        moved(session, row["domain_id"], {}, standing(row))


def gone(session: Session, texts: Iterable[Text]) -> None:
    """Take texts out of the levels: call it before a statement deletes their rows."""
    for text in texts:
        moved(session, text.domain_id, standing({name: getattr(text, name) for name in _COLUMNS}), {})


def moved(session: Session, domain_id: int, before: Standing, after: Standing) -> None:
    """Count a text from what it added to the levels to what it adds now."""
    if before == after:
        return
    for name, key in before.keys() | after.keys():
        if change := after.get((name, key), 0) - before.get((name, key), 0):
            counters.add(session, domain_id, name, key, change)


def queued(session: Session, domain_id: int, count: int) -> None:
    """Count texts that one statement brings into the queue."""
    counters.add(session, domain_id, QUEUED, value=count)


def trained(session: Session, text_ids: Sequence[int], status: str) -> None:
    """Count texts that one statement is about to give this training status. The caller has locked them."""
    rows = session.execute(
        select(Text.domain_id, Text.training_status, Text.label_id, func.count())
        .where(
            Text.id.in_(text_ids),
            Text.state == "labelled",
            Text.train_allowed.is_(True),
            Text.text.is_not(None),
            Text.proposed_label.is_(None),
            Text.is_gold.is_(False),
        )
        .group_by(Text.domain_id, Text.training_status, Text.label_id)
    )
    for domain_id, before, label_id, count in rows:
        counters.add(session, domain_id, TRAINABLE, f"{before}/{label_id}", -count)
        counters.add(session, domain_id, TRAINABLE, f"{status}/{label_id}", count)


def imported(session: Session, domain_id: int, moment: datetime, count: int) -> None:
    """Count annotations that one statement inserts for an import."""
    annotated_many(session, domain_id, "import", moment, count)


def annotated_many(session: Session, domain_id: int, what: str, moment: datetime, count: int) -> None:
    """Count annotations that one statement inserts. `what`: as `annotated_by` says."""
    counters.add(session, domain_id, ANNOTATED, what, count, day=counters.day_of(session, moment))


def levels(session: Session, *conditions: Any) -> Standing:
    """What the texts of these conditions add to the levels together, read a group at a time."""
    queued = Text.priority.is_not(None)
    kept, proposed, suspect = Text.text.is_not(None), Text.proposed_label.is_not(None), Text.suspicion.is_not(None)
    shape = (
        Text.state, Text.is_gold, queued, Text.train_allowed, kept, proposed, Text.training_status, Text.label_id,
        Text.strategy, Text.label_source, Text.is_flagged, suspect,
    )  # fmt: skip
    groups = session.execute(select(*shape, func.count(), func.sum(Text.count)).where(*conditions).group_by(*shape))
    found: Tally[tuple[str, str]] = Tally()
    for (
        state, is_gold, waits, allowed, has_text, is_proposal, status, label_id, *chosen, flagged, is_suspect, texts,
        questions,
    ) in groups:  # fmt: skip
        one = standing(
            {
                "state": state,
                "is_gold": bool(is_gold),
                "priority": 0.0 if waits else None,
                "train_allowed": bool(allowed),
                "text": "" if has_text else None,
                "proposed_label": "" if is_proposal else None,
                "training_status": status,
                "label_id": label_id,
                "strategy": chosen[0],
                "label_source": chosen[1],
                "is_flagged": bool(flagged),
                "suspicion": 1.0 if is_suspect else None,
                "count": 0,
            }
        )
        for name, key in one:
            found[name, key] += int(questions) if name == LABELLED else texts
    return found


@contextmanager
def changing(session: Session, domain_id: int, text_ids: Sequence[int]) -> Iterator[None]:
    """Count these texts, which the caller has locked, from what they are to what statements make of them meanwhile."""
    these = Text.id.in_(text_ids)
    before = levels(session, these)
    yield
    moved(session, domain_id, before, levels(session, these))


def _annotated(session: Session, annotation: Annotation) -> None:
    # As the columns' defaults will be, which are not there before the row is.
    annotation.created_at = annotation.created_at or now()
    day = counters.day_of(session, annotation.created_at)
    counters.add(session, annotation.domain_id, ANNOTATED, annotated_by(annotation), day=day)


def annotated_by(annotation: Annotation) -> str:
    """What an annotation counts as: the source of a label, or what else it is."""
    kind = annotation.kind or "label"
    return (annotation.source or "labeler") if kind == "label" else kind


def judge(annotation: Annotation, text: Text) -> None:
    """Keep beside a label which version had answered the text, and whether it had said the same."""
    if text.scored_by is not None and text.intents:
        annotation.answered_by = text.scored_by
        annotation.agreed = text.intents[:1] == annotation.answer


def judged(session: Session, text: Text, annotation: Annotation | None) -> None:
    """Count that a text of the random slice is about to have this label, or none, in place of the one it has.

    What is taken back leaves the day on which it was counted, so that no day falls below zero.
    """
    if not in_random_slice(text.is_gold, text.strategy):
        return
    if text.annotation_id is not None:
        judge_by(session, text.domain_id, session.get(Annotation, text.annotation_id), -1)
    judge_by(session, text.domain_id, annotation, 1)


class Judgement(Protocol):
    """What an annotation says about the answer that the text had."""

    @property
    def answered_by(self) -> str | None: ...
    @property
    def agreed(self) -> bool | None: ...
    @property
    def source(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...


def judge_by(session: Session, domain_id: int, annotation: Judgement | None, value: int) -> None:
    """Count that the label of a text of the random slice is this one (1), or is so no longer (-1)."""
    # What a file says of a text was not said about an answer.
    if annotation is None or annotation.answered_by is None or annotation.source == "import":
        return
    day = counters.day_of(session, annotation.created_at)
    counters.add(session, domain_id, JUDGED, annotation.answered_by, value, day=day)
    if annotation.agreed:
        counters.add(session, domain_id, AGREED, annotation.answered_by, value, day=day)


def in_random_slice(is_gold: bool, strategy: str | None) -> bool:
    """Whether a text was drawn uniformly: only then does it speak for all that is asked."""
    return is_gold and strategy == "gold"
