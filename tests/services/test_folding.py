"""On SQLite a slice is prepared before the writer's turn: what others do meanwhile is never overwritten."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.answer_log import fold_aside
from app.db.session import UnitOfWork
from app.db.tables import Text, UserQuestion
from app.services import annotations, folding, intake
from app.services.folding import Slice, Stale
from tests.builders import ask, asked, column, domain_id, label, set_taxonomy, trainable_text
from tests.services.taxonomies import change
from tests.services.test_counters import ANSWERED, anew, kept
from tests.services.together import in_threads


def _prepared(work: UnitOfWork) -> Slice:
    slice_ = work.read(folding.prepare, limit=100, aside=True)
    assert slice_ is not None
    return slice_


def _asks_again(work: UnitOfWork, *texts: str) -> list[str]:
    rows = [asked(text, domain_id=domain_id(work), **ANSWERED) for text in texts]
    work(intake.record, rows)
    return [row.question_id for row in rows]


def test_what_was_prepared_is_written_as_it_would_have_been_at_once(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    old, new = trainable_text("甲"), trainable_text("乙")
    (first,) = ask(sqlite_work, old)
    label(sqlite_work, first, "甲")
    _asks_again(sqlite_work, old, new, new)

    assert fold_aside(sqlite_work, nullcontext(), limit=100) == 3
    assert fold_aside(sqlite_work, nullcontext(), limit=100) == 0

    assert sorted(column(sqlite_work, Text.text, Text.count)) == sorted([(old, 2), (new, 2)])
    assert column(sqlite_work, UserQuestion.is_labeled).count(True) == 2
    assert kept(sqlite_work) == anew(sqlite_work)


def _label(work: UnitOfWork, question_id: str) -> None:
    work(annotations.submit, question_id, correct_intent=["甲"], labeler_id="ana")


def _forgotten(session: Session, question_id: str) -> None:
    session.execute(delete(UserQuestion).where(UserQuestion.question_id == question_id))


MEANWHILE: dict[str, Callable[[UnitOfWork, str, str], object]] = {
    "its text is labelled": lambda work, first, _: _label(work, first),
    "its text is asked by others": lambda work, _, __: work(
        lambda session: session.execute(update(Text).values(count=Text.count + 1))
    ),
    "its text gets another priority": lambda work, _, __: work(
        lambda session: session.execute(update(Text).values(priority=0.25))
    ),
    "it is folded": lambda work, _, __: work(folding.fold),
    "it is gone": lambda work, _, later: work(_forgotten, later),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
def test_slice_that_is_stale_writes_nothing_and_is_folded_anew(
    sqlite_work: UnitOfWork, meanwhile: Callable[[UnitOfWork, str, str], object]
) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    text = trainable_text("甲")
    (first,) = ask(sqlite_work, text)
    later, _ = _asks_again(sqlite_work, text, trainable_text("乙"))

    @contextmanager
    def turn():
        meanwhile(sqlite_work, first, later)
        before = _everything(sqlite_work)
        with pytest.raises(Stale):
            sqlite_work(stale.write)
        assert _everything(sqlite_work) == before
        yield

    stale = _prepared(sqlite_work)
    fold_aside(sqlite_work, turn(), limit=100)

    assert None not in column(sqlite_work, UserQuestion.text_id)
    labelled = set(column(sqlite_work, Text.label_id)) != {None}
    assert sum(column(sqlite_work, UserQuestion.is_labeled)) == (2 if labelled else 0)
    if labelled:
        assert kept(sqlite_work) == anew(sqlite_work)


def _everything(work: UnitOfWork) -> list[object]:
    return [
        sorted(column(work, Text.text, Text.count, Text.priority, Text.label_id), key=str),
        sorted(column(work, UserQuestion.question_id, UserQuestion.text_id, UserQuestion.is_labeled)),
        kept(work),
    ]


def test_text_that_another_one_made_meanwhile_is_found(sqlite_work: UnitOfWork) -> None:
    text = trainable_text("甲")
    _asks_again(sqlite_work, text)
    stale = _prepared(sqlite_work)
    sqlite_work(folding.fold)
    _asks_again(sqlite_work, text)
    with pytest.raises(Stale):
        sqlite_work(stale.write)
    assert fold_aside(sqlite_work, nullcontext(), limit=100) == 1
    assert column(sqlite_work, Text.text, Text.count) == [(text, 2)]


def test_slice_whose_label_was_renamed_meanwhile_is_stale(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    text = trainable_text("甲")
    _label(sqlite_work, ask(sqlite_work, text)[0])
    _asks_again(sqlite_work, text)
    stale = _prepared(sqlite_work)
    change(sqlite_work, "rename", "甲", to="乙")
    with pytest.raises(Stale):
        sqlite_work(stale.write)
    assert fold_aside(sqlite_work, nullcontext(), limit=100) == 1
    assert column(sqlite_work, UserQuestion.correct_intent) == [["乙"]] * 2


def test_many_who_fold_aside_and_label_at_once_count_everything_once(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    words = [trainable_text("甲") for _ in range(12)]
    firsts = ask(sqlite_work, *words)

    def disturb(number: int) -> None:
        for place, text in enumerate(words):
            _asks_again(sqlite_work, text)
            fold_aside(sqlite_work, nullcontext(), limit=5)
            if place % 4 == number:
                _label(sqlite_work, firsts[place])

    in_threads(4, disturb)
    while fold_aside(sqlite_work, nullcontext(), limit=5):
        pass
    assert column(sqlite_work, Text.count) == [5] * 12
    assert all(column(sqlite_work, UserQuestion.is_labeled))
    assert kept(sqlite_work) == anew(sqlite_work)
