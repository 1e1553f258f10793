"""Questions fold into texts: each counted once, queued when it may be asked, born with the label of its twins."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Text, UserQuestion
from app.intent.selection import frequency_weighted, margin_from_topk
from app.services import annotations, domains, folding, intake, texts, undoing
from tests.builders import (
    ask,
    asked,
    column,
    domain_id,
    gold_text,
    label,
    make_labelled_texts,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.together import in_processes, in_threads


def _fold_all(work: UnitOfWork) -> int:
    folded = 0
    while slice_ := work(folding.fold, limit=7):
        folded += slice_
    return folded


def test_fold_counts_twins_in_one_text(work: UnitOfWork) -> None:
    text, other = trainable_text("甲"), trainable_text("乙")
    early, late, *_ = rows = [asked(words, domain_id=domain_id(work)) for words in (text, text, other, text)]
    work(intake.record, rows)

    assert work(folding.fold) == 4
    assert work(folding.fold) == 0

    counted = dict(column(work, Text.text, Text.count))
    assert counted == {text: 3, other: 1}
    found = work.read(text_of, late.question_id)
    assert found.question_id == early.question_id
    assert (found.first_asked_at, found.last_asked_at) == (rows[0].asked_at, rows[3].asked_at)


def test_fold_keeps_the_texts_of_two_domains_apart(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "shop")
    text = trainable_text("甲")
    ask(sqlite_work, text)
    ask(sqlite_work, text, domain="shop")
    assert column(sqlite_work, Text.count) == [1, 1]


def test_fold_counts_each_question_once_when_many_fold_at_once(work: UnitOfWork) -> None:
    words = [trainable_text("甲") for _ in range(10)]
    rows = [asked(text, domain_id=domain_id(work)) for _ in range(9) for text in words]
    work(intake.record, rows)

    in_threads(6, lambda _: _fold_all(work))
    _fold_all(work)

    assert column(work, Text.count) == [9] * 10
    assert None not in column(work, UserQuestion.text_id)


def _ask_and_fold(work: UnitOfWork, number: int, owner: int, words: list[str]) -> None:
    for text in words[:: 1 if number % 2 else -1]:
        work(intake.record, [asked(text, domain_id=owner)])
        work(folding.fold)


def test_fold_makes_a_text_once_when_processes_ask_it_first_at_once(database_url: str, work: UnitOfWork) -> None:
    words = [trainable_text("甲") for _ in range(15)]
    in_processes(4, _ask_and_fold, database_url, domain_id(work), words)
    _fold_all(work)
    assert sorted(column(work, Text.text, Text.count)) == sorted((text, 4) for text in words)


def test_an_unanswered_text_is_queued_at_random_and_an_answered_one_by_its_margin(sqlite_work: UnitOfWork) -> None:
    topk = [["甲", 0.55], ["乙", 0.45]]
    blank, unsure = trainable_text("甲"), trainable_text("甲")
    ask(sqlite_work, blank)
    ask(
        sqlite_work,
        unsure,
        unsure,
        topk=topk,
        intents=["甲"],
        confidence=0.55,
        method="local_model",
        model_version="v1",
    )

    rows = {row[0]: row[1:] for row in column(sqlite_work, Text.text, Text.priority, Text.strategy, Text.scored_by)}
    assert rows[blank][1:] == ("random", None)
    assert 0 < rows[blank][0] < 1
    assert rows[unsure] == (pytest.approx(frequency_weighted(margin_from_topk(topk), 2)), "margin", "v1")
    reasons = dict(column(sqlite_work, Text.text, Text.reason))
    assert "甲 0.55" in reasons[unsure]
    assert "asked 2 times" in reasons[unsure]


def test_a_question_carries_the_priority_of_its_text(sqlite_work: UnitOfWork) -> None:
    (question_id,) = ask(sqlite_work, trainable_text("甲"))
    row, text = sqlite_work.read(intake.find, question_id), sqlite_work.read(text_of, question_id)
    assert (row.priority, row.priority_reason) == (text.priority, text.reason)


def test_gold_is_never_queued_by_folding(sqlite_work: UnitOfWork) -> None:
    gold = gold_text("甲")
    ask(sqlite_work, gold, gold)
    assert column(sqlite_work, Text.is_gold, Text.priority, Text.count) == [(True, None, 2)]


def test_a_text_without_its_words_is_not_queued(sqlite_work: UnitOfWork) -> None:
    secret = sqlite_work(domains.create, "secret", keep_text=False).id
    sqlite_work(intake.record, [replace(asked(trainable_text("甲"), domain_id=secret), text=None)])
    sqlite_work(folding.fold)
    assert column(sqlite_work, Text.text, Text.priority, Text.count) == [(None, None, 1)]


def test_a_text_is_queued_once_somebody_who_asked_it_allowed_training(sqlite_work: UnitOfWork) -> None:
    text = trainable_text("甲")
    ask(sqlite_work, text, text, train_allowed=False)
    assert column(sqlite_work, Text.train_allowed, Text.priority) == [(False, None)]

    ask(sqlite_work, text)
    ((allowed, priority),) = column(sqlite_work, Text.train_allowed, Text.priority)
    assert allowed
    assert priority is not None

    ask(sqlite_work, text, train_allowed=False)
    assert column(sqlite_work, Text.train_allowed) == [True]


def test_later_twins_are_born_labelled(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    text = trainable_text("甲")
    (first,) = ask(work, text)
    label(work, first, "甲", time_intent={"type": "this_year", "target_years": [2026]})

    (later,) = ask(work, text)

    rows = [work.read(intake.find, question_id) for question_id in (first, later)]
    for row in rows:
        assert row.is_labeled
        assert row.correct_intent == ["甲"]
        assert row.correct_time_intent == {"type": "this_year", "target_years": [2026]}
        assert (row.labeler_id, row.training_status) == ("ana", "pending")
    assert rows[0].labeled_at == rows[1].labeled_at


def test_later_twins_of_a_skipped_text_are_born_skipped(sqlite_work: UnitOfWork) -> None:
    text = trainable_text("甲")
    (first,) = ask(sqlite_work, text)
    for labeler in ("ana", "bo"):
        sqlite_work(annotations.skip, first, labeler_id=labeler)
    (later,) = ask(sqlite_work, text)
    row = sqlite_work.read(intake.find, later)
    assert (row.is_labeled, row.training_status, row.priority) == (False, "skipped", None)


def _with_twins(work: UnitOfWork, count: int) -> str:
    """A text with very many twins, without asking it so often."""
    set_taxonomy(work, ["甲", "乙"])
    first, *_ = ask(work, *[trainable_text("甲")] * 3)

    def grow(session: Session) -> None:
        session.execute(update(Text).values(count=count))

    work(grow)
    return first


def _carried(work: UnitOfWork) -> list[Any]:
    return sorted(map(str, column(work, UserQuestion.correct_intent)))


def test_up_to_a_thousand_twins_carry_the_label_at_once(sqlite_work: UnitOfWork) -> None:
    assert label(sqlite_work, _with_twins(sqlite_work, 1000), "甲").twins == 3
    assert _carried(sqlite_work) == ["['甲']"] * 3


def test_beyond_a_thousand_twins_the_clock_brings_the_label(work: UnitOfWork) -> None:
    label(work, _with_twins(work, 1001), "甲")
    assert _carried(work) == ["None"] * 3

    assert work(texts.project_due) == 3
    assert _carried(work) == ["['甲']"] * 3
    assert work(texts.project_due) == 0


def test_a_label_of_very_many_twins_is_taken_back_everywhere_too(sqlite_work: UnitOfWork) -> None:
    question_id = _with_twins(sqlite_work, 1001)
    label(sqlite_work, question_id, "甲")
    sqlite_work(texts.project_due)
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    sqlite_work(texts.project_due)
    assert column(sqlite_work, UserQuestion.is_labeled) == [False] * 3
    assert _carried(sqlite_work) == ["None"] * 3


def test_twins_that_arrive_while_the_text_is_labelled_carry_the_label_all_the_same(work: UnitOfWork) -> None:
    made = make_labelled_texts(work, {"甲": 1})
    words = [trainable_text("甲") for _ in range(8)]
    ids = ask(work, *words)
    owner = domain_id(work)

    def act(number: int) -> None:
        if number % 2:
            for question_id in ids:
                label(work, question_id, "甲")
        else:
            for text in words:
                work(intake.record, [asked(text, domain_id=owner)])
                work(folding.fold)

    in_threads(2, act)
    _fold_all(work)

    assert column(work, UserQuestion.is_labeled) == [True] * 17
    assert work.read(lambda session: session.scalars(select(Text.count)).all().count(2)) == 8
    assert len(made) == 1
