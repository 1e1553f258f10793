"""Texts: how much a label of one would teach, and the label's way to all questions that asked it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, func, select, true, update
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Label, Text, UserQuestion
from app.intent.selection import frequency_weighted, margin_from_topk, random_priority

WINDOW = 5000
# Questions that the clock brings their labels in one transaction: those of many texts, or of one that very many ask.
MOST_DUE = 1000
# Asked again because their label left: what they say of it to a labeler outlives every later answer of a model.
ASKED_AGAIN: Final = ("split", "retire")

TWIN: Final = "twin"
"""The strategy of a text that waits until a near twin of it was asked."""

NEW_SCENARIO: Final = "new_scenario"
"""The strategy of texts that somebody accepted as a new label: they keep their place until they are answered."""

OF_PEOPLE: Final = (NEW_SCENARIO, *ASKED_AGAIN)
"""The strategies by which people had texts asked: all of these are asked, whatever the clock would choose."""

SELECTED: Final = 1.0
"""What was selected has a priority in (1, 2], above all that was not: those lie in [0, 1]."""


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
    """How much a label of this text would teach, in [0, 1], and why; once it is selected, above 1."""

    value: float | None
    strategy: str | None
    reason: str | None


def fresh_priority(text_hash: str, count: int, topk: Sequence[Sequence[Any]]) -> Priority:
    """The priority of a text by the answer it got; without an answer a draw weighted by how often it is asked."""
    if not topk:
        drawn = float(random_priority([text_hash], [count])[0])
        return Priority(drawn, "random", f"no model answered it: drawn at random, {asked_times(count)}")
    margin = margin_from_topk(topk)
    best = ", ".join(f"{_leaf(str(label))} {probability:.2f}" for label, probability in topk[:2])
    return Priority(frequency_weighted(margin, count), "margin", f"unsure: {best}; {asked_times(count)}")


def asked_times(count: int) -> str:
    """The end of a reason: by how often it is asked a text was weighed."""
    return f"asked {count} times"


def is_selected(priority: float | None) -> bool:
    """Whether a text of this priority, which is not gold, was selected and waits for its answer."""
    return priority is not None and priority > SELECTED


def _leaf(path: str) -> str:
    return path.rsplit(" > ", 1)[-1][:60]


def may_be_asked(state: str, has_words: bool, train_allowed: bool) -> bool:
    """Whether a person's answer about a text is wanted: it has none, it can be shown, and it may be trained on."""
    return state == "unlabelled" and has_words and train_allowed


class Projected(Protocol):
    """What a text gives to its questions."""

    @property
    def id(self) -> int | None: ...
    @property
    def state(self) -> str: ...
    @property
    def training_status(self) -> str: ...
    @property
    def label_id(self) -> int | None: ...
    @property
    def annotation_id(self) -> int | None: ...
    @property
    def labelled_at(self) -> datetime | None: ...


UNLABELLED: Final[Mapping[str, Any]] = {
    "is_labeled": False,
    "correct_intent": None,
    "correct_time_intent": None,
    "labeler_id": None,
    "labeled_at": None,
}
"""The label's columns of a question whose text has none."""


def of_question(training_status: str) -> str:
    """The training status of the questions of a text with this one."""
    return "pending" if training_status == "claimed" else training_status


def projections(session: Session, texts: Sequence[Projected]) -> dict[int | None, dict[str, Any]]:
    """What each of these texts gives to its questions, by its id."""
    if not texts:
        return {}
    # Into the session at once, so that `projection` finds each without a query of its own.
    session.scalars(select(Annotation).where(Annotation.id.in_([text.annotation_id for text in texts]))).all()
    return {text.id: projection(session, text) for text in texts}


def projection(session: Session, text: Projected) -> dict[str, Any]:
    """The label's columns of every question that asked this text."""
    told = {**UNLABELLED, "training_status": of_question(text.training_status)}
    if text.state != "labelled":
        return told
    annotation = session.get(Annotation, text.annotation_id)
    label = session.get(Label, text.label_id)
    if annotation is None or label is None:
        raise AssertionError(f"text {text.id} is labelled without an annotation")
    return told | {
        "is_labeled": True,
        "correct_intent": [label.path],
        "correct_time_intent": annotation.time_intent,
        "labeler_id": annotation.labeler_id,
        "labeled_at": text.labelled_at,
    }


def project(session: Session, text: Text) -> int:
    """Bring a text's label to all questions that asked it, and return how many they are."""
    values = projection(session, text)
    result = session.execute(update(UserQuestion).where(UserQuestion.text_id == text.id).values(values))
    text.projection_due = False
    return int(result.rowcount)  # type: ignore[attr-defined]


def is_due(session: Session) -> bool:
    """Whether `project_due` would find any: a look that locks nothing."""
    return session.scalar(select(Text.id).where(Text.projection_due == true()).limit(1)) is not None


def project_due(session: Session, *, limit: int = 100) -> int:
    """Bring the labels of some texts to their questions: the part that whoever changed them did not wait for."""
    texts = session.scalars(
        # Compared, not "IS true": MariaDB would not use the index.
        select(Text).where(Text.projection_due == true()).limit(limit).with_for_update(key_share=True, skip_locked=True)
    ).all()
    done = 0
    for text in texts:
        done += max(1, project(session, text))
        if done >= MOST_DUE:
            break
    return done
