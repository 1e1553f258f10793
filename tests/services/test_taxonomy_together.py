"""People answer while the taxonomy is changed: no answer is lost, and none is of a label that left."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Label, Text
from app.errors import AlreadyLabelled, ChangedSince, UnknownLabel
from app.services import folding, intake
from tests.builders import ask, asked, column, domain_id, label, set_taxonomy, trainable_text
from tests.services.taxonomies import assert_counters_are_right, change, undo
from tests.services.together import in_threads

LABELERS = 4
EACH_ANSWERS = 12


@pytest.mark.parametrize(
    ("kind", "more"), [("merge", {"to": "换货"}), ("split", {"into": ("质量", "七天")}), ("rename", {"to": "退钱"})]
)
def test_whoever_answers_while_the_taxonomy_changes_is_kept_or_told(
    work: UnitOfWork, kind: str, more: dict[str, object]
) -> None:
    set_taxonomy(work, ["退款", "换货", "物流"])
    texts = [trainable_text("退款") for _ in range(LABELERS * EACH_ANSWERS)]
    questions = ask(work, *texts)
    for question_id in questions[::3]:
        label(work, question_id, "退款", by="before")
    owner = domain_id(work)

    def act(number: int) -> list[tuple[str, int]]:
        if number == LABELERS:
            change(work, kind, "退款", **more)  # type: ignore[arg-type]
            return []
        if number > LABELERS:
            for text in texts:
                work(intake.record, [asked(text, domain_id=owner)])
                work(folding.fold, limit=3)
            return []
        kept = []
        for question_id in questions[number::LABELERS]:
            try:
                given = label(work, question_id, "退款", by=f"labeler {number}")
            except (UnknownLabel, AlreadyLabelled):
                continue
            kept.append((question_id, given.annotation_id))
        return kept

    answered = [one for some in in_threads(LABELERS + 2, act) for one in some]
    while work(folding.fold):
        pass
    assert {annotation_id for _, annotation_id in answered} <= set(column(work, Annotation.id))
    assert work.read(_with_retired_labels) == []
    assert column(work, Text.count) == [2] * len(texts)
    assert_counters_are_right(work)
    if kind == "merge":
        # Each answer counts still, as the label that it was merged into.
        assert {text_id for text_id, state in column(work, Text.id, Text.state) if state == "labelled"} >= {
            text_id for text_id, _ in column(work, Annotation.text_id, Annotation.id)
        }


def _with_retired_labels(session: Session) -> list[int]:
    return list(
        session.scalars(
            select(Text.id)
            .join(Label, Label.id == Text.label_id)
            .where(Text.state == "labelled", Label.status == "retired")
        )
    )


def test_of_several_changes_and_undos_at_once_each_sees_what_the_others_did(work: UnitOfWork) -> None:
    set_taxonomy(work, ["退款", "换货", "物流", "保修", "发票"])
    for path in ("退款", "换货", "物流", "保修"):
        for question_id in ask(work, *[trainable_text(path) for _ in range(4)]):
            label(work, question_id, path)

    def act(number: int) -> str:
        try:
            made = change(work, "merge", ("退款", "换货", "物流", "保修")[number], to="发票")
            if number % 2:
                undo(work, made.id)
        except (UnknownLabel, ChangedSince) as error:
            return error.code
        return "done"

    assert in_threads(4, act) == ["done"] * 4
    assert work.read(_with_retired_labels) == []
    assert_counters_are_right(work)
    assert sorted(path for path, status in column(work, Label.path, Label.status) if status == "active") == sorted(
        ["换货", "保修", "发票"]
    )
