"""A labeler's last answers of a domain are taken back together, and what another replaced is left alone."""

from contextlib import suppress

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Text
from app.errors import AlreadyLabelled
from app.services import annotations, counters, domains, flags, forgetting, recounting, undoing
from tests.builders import ask, column, domain_of, label, set_taxonomy, text_of, trainable_text
from tests.services.together import in_threads


def _texts(work: UnitOfWork, count: int, domain: str = "default") -> list[str]:
    set_taxonomy(work, ["甲", "乙"], domain)
    return ask(work, *[trainable_text("甲") for _ in range(count)], domain=domain)


def _undo_last(session: Session, labeler: str, count: int) -> undoing.Undone:
    return undoing.undo_last(session, domain_of(session), labeler_id=labeler, count=count)


def _states(work: UnitOfWork, ids: list[str]) -> list[str]:
    return [work.read(text_of, question_id).state for question_id in ids]


def test_the_last_answers_are_taken_back_the_newest_first(work: UnitOfWork) -> None:
    ids = _texts(work, 4)
    label(work, ids[0], "甲")
    work(annotations.skip, ids[1], labeler_id="ana")
    work(annotations.discard, ids[2], labeler_id="ana")
    label(work, ids[3], "乙")
    assert _states(work, ids) == ["labelled", "unlabelled", "discarded", "labelled"]

    undone = work(_undo_last, "ana", 3)

    assert [(one.question_id, one.kind, one.state) for one in undone.taken_back] == [
        (ids[3], "label", "unlabelled"), (ids[2], "discard", "unlabelled"), (ids[1], "skip", "unlabelled"),
    ]  # fmt: skip
    assert undone.kept == []
    assert _states(work, ids) == ["labelled", "unlabelled", "unlabelled", "unlabelled"]
    assert column(work, Annotation.kind).count("retract") == 3
    assert [one.question_id for one in work(_undo_last, "ana", 100).taken_back] == [ids[0]]
    assert work(_undo_last, "ana", 100) == undoing.Undone()
    found = work.read(lambda session: domain_of(session).id)
    kept = work.read(counters.of_domain, found)
    assert {key: value for key, value in kept.items() if value} == work.read(recounting.counted, found)


def test_several_answers_about_one_text_go_one_after_the_other(sqlite_work: UnitOfWork) -> None:
    [question_id] = _texts(sqlite_work, 1)
    for path in ("甲", "乙", "甲"):
        label(sqlite_work, question_id, path)
    assert len(sqlite_work(_undo_last, "ana", 2).taken_back) == 2
    assert sqlite_work.read(text_of, question_id).annotation_id == column(sqlite_work, Annotation.id)[0]
    sqlite_work(_undo_last, "ana", 1)
    assert _states(sqlite_work, [question_id]) == ["unlabelled"]


def test_what_another_replaced_is_told_and_left_alone(sqlite_work: UnitOfWork) -> None:
    first, second = _texts(sqlite_work, 2)
    replaced = label(sqlite_work, first, "甲")
    label(sqlite_work, second, "甲")
    stands = label(sqlite_work, first, "乙", by="bo", supersedes=replaced.annotation_id)

    undone = sqlite_work(_undo_last, "ana", 5)

    assert [one.question_id for one in undone.taken_back] == [second]
    assert undone.kept == [undoing.Kept(first, stands.annotation_id)]
    assert sqlite_work.read(text_of, first).annotation_id == stands.annotation_id


def test_nothing_of_another_labeler_or_domain_and_no_flag_is_touched(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "shop")
    mine, others = _texts(sqlite_work, 2)
    [elsewhere] = _texts(sqlite_work, 1, "shop")
    sqlite_work(flags.flag, mine, labeler_id="ana")
    label(sqlite_work, mine, "甲")
    label(sqlite_work, others, "甲", by="bo")
    label(sqlite_work, elsewhere, "甲")
    assert [one.question_id for one in sqlite_work(_undo_last, "ana", 100).taken_back] == [mine]
    assert _states(sqlite_work, [mine, others, elsewhere]) == ["unlabelled", "labelled", "labelled"]
    assert sqlite_work.read(text_of, mine).is_flagged


def test_what_was_forgotten_stays_forgotten(sqlite_work: UnitOfWork) -> None:
    kept, gone = _texts(sqlite_work, 2)
    for question_id in (kept, gone):
        label(sqlite_work, question_id, "甲")
    sqlite_work(forgetting.forget_slice, forgetting.of_question(gone))
    assert [one.question_id for one in sqlite_work(_undo_last, "ana", 5).taken_back] == [kept]


def test_one_that_fails_leaves_all_as_they_were(sqlite_work: UnitOfWork) -> None:
    ids = _texts(sqlite_work, 3)
    for question_id in ids:
        label(sqlite_work, question_id, "甲")

    def fail(session: Session) -> None:
        _undo_last(session, "ana", 3)
        raise KeyError("after all of them")

    with pytest.raises(KeyError):
        sqlite_work(fail)
    assert _states(sqlite_work, ids) == ["labelled"] * 3


def test_labelers_who_take_back_while_others_answer_the_same_texts_meet_no_deadlock(work: UnitOfWork) -> None:
    ids = _texts(work, 8)

    def act(number: int) -> None:
        for question_id in ids if number % 2 else ids[::-1]:
            current = work.read(text_of, question_id).annotation_id
            with suppress(AlreadyLabelled):
                label(work, question_id, "甲", by=f"labeler-{number}", supersedes=current)
        work(_undo_last, f"labeler-{number}", 100)

    in_threads(4, act)

    retracted = {of for of, kind in column(work, Annotation.supersedes_id, Annotation.kind) if kind == "retract"}
    assert retracted
    # What counts was not taken back.
    assert not retracted & {one for one in column(work, Text.annotation_id) if one is not None}
