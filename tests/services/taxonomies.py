"""What the tests of changes of a taxonomy begin with, and what they compare."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, KeywordRule, Label, Text, UserQuestion
from app.intent.taxonomy_changes import Wanted
from app.services import counters, recounting, taxonomy_changes, taxonomy_undo
from app.services.audit import COMMAND_LINE
from app.services.taxonomy_changes import Made
from app.services.taxonomy_undo import Undone
from tests.builders import column, domain_id, domain_of


def change(
    work: UnitOfWork,
    kind: str,
    *labels: str,
    to: str | None = None,
    into: tuple[str, ...] = (),
    texts: str = "keep",
    dry_run: bool = False,
) -> Made:
    """Make a change of the domain `default`, or only try it."""
    wanted = Wanted(kind, labels, to, into, texts)
    return work(taxonomy_changes.make, "default", wanted, by=COMMAND_LINE, dry_run=dry_run)


def undo(work: UnitOfWork, change_id: int | None) -> Undone:
    """Take a change back."""
    assert change_id is not None
    return work(taxonomy_undo.undo, change_id, by=COMMAND_LINE)


def active(work: UnitOfWork) -> list[str]:
    """The labels that are given today."""
    return sorted(path for path, status in column(work, Label.path, Label.status) if status == "active")


def labels_of_texts(work: UnitOfWork) -> list[tuple[str, str | None]]:
    """Each text with the path of its label."""

    def read(session: Session) -> list[Any]:
        return [
            tuple(row)
            for row in session.execute(
                select(Text.text, Label.path).outerjoin(Label, Label.id == Text.label_id).order_by(Text.id)
            )
        ]

    return work.read(read)


def everything(work: UnitOfWork) -> dict[str, Any]:
    """All that a change may touch and that undoing it must bring back; labels that it made are left out."""

    def confusion_pairs(session: Session) -> Any:
        return domain_of(session).confusion_pairs

    kept = ("id", "state", "label_id", "annotation_id", "labelled_at", "label_source", "training_status", "strategy",
            "is_gold", "intents", "topk")  # fmt: skip
    questions = ("question_id", "is_labeled", "correct_intent", "correct_time_intent", "labeler_id", "labeled_at",
                 "training_status")  # fmt: skip
    rules = ("id", "label_id", "intent", "status", "judged_count", "success_count")
    return {
        "labels": [
            row
            for row in column(work, Label.path, Label.id, Label.status, Label.position, Label.merged_into_id)
            if row[2] == "active"
        ],
        "texts": column(work, *(getattr(Text, name) for name in kept)),
        "questions": column(work, *(getattr(UserQuestion, name) for name in questions)),
        "rules": column(work, *(getattr(KeywordRule, name) for name in rules)),
        "pairs": work.read(confusion_pairs),
        "counted": {
            key: value
            for key, value in work.read(counters.of_domain, domain_id(work)).items()
            # Answers are never taken away: what the system wrote is written.
            if key[1] != "annotated"
        },
    }


def assert_counters_are_right(work: UnitOfWork) -> None:
    """The counters say what the rows say, and every question shows what its text has."""
    owner = domain_id(work)
    assert work.read(counters.of_domain, owner) == work.read(recounting.counted, owner)

    def differing(session: Session) -> list[Any]:
        rows = session.execute(
            select(UserQuestion.correct_intent, Label.path, UserQuestion.labeler_id, Annotation.labeler_id)
            .join(Text, Text.id == UserQuestion.text_id)
            .outerjoin(Label, Label.id == Text.label_id)
            .outerjoin(Annotation, Annotation.id == Text.annotation_id)
            .where(Text.projection_due.is_(False))
        )
        return [row for row in rows if (row[0] or [None])[0] != row[1] or row[2] != row[3]]

    assert work.read(differing) == []
