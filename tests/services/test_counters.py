"""Counters: exact whoever counts at once, written with what they count or not at all, and the same counted anew."""

from contextlib import suppress
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, transaction
from app.db.tables import Counter, Text, UserQuestion
from app.errors import IntentError
from app.intent.text import MaskedText
from app.services import (
    annotations,
    batches,
    counters,
    counting,
    domains,
    folding,
    imports,
    intake,
    recounting,
    selection,
    undoing,
)
from app.services.batches import OpeningRule
from tests.builders import (
    ask,
    asked,
    column,
    domain_id,
    domain_of,
    gold_text,
    label,
    make_labelled_texts,
    set_taxonomy,
    trainable_text,
)
from tests.services.together import in_processes, in_threads

ANSWERED = {
    "method": "local_model",
    "intents": ["甲"],
    "topk": [["甲", 0.9], ["乙", 0.1]],
    "confidence": 0.9,
    "model_version": "v1",
    "trigger_check": False,
    "latency_ms": 3.0,
    "route_used": ["discriminative"],
}


def kept(work: UnitOfWork, domain: str = "default") -> dict[tuple[date, str, str], int]:
    return work.read(counters.of_domain, domain_id(work, domain))


def anew(work: UnitOfWork, domain: str = "default") -> dict[tuple[date, str, str], int]:
    return work.read(recounting.counted, domain_id(work, domain))


def total(work: UnitOfWork, name: str, domain: str = "default") -> dict[str, int]:
    return dict(work.read(counters.totals, domain_id(work, domain)).get(name, {}))


# Questions


def test_a_question_is_counted_when_it_is_folded_and_by_what_answered_it(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    ask(work, *[trainable_text("甲")] * 3, **ANSWERED)
    ask(work, trainable_text("甲"), **(ANSWERED | {"trigger_check": True, "intents": ["乙"], "latency_ms": 50.0}))
    ask(work, trainable_text("甲"), **(ANSWERED | {"method": "llm_fallback", "route_used": ["discriminative", "llm"]}))
    ask(work, trainable_text("乙"), source="external", intents=["谁的标签"], method="local_model")
    ask(work, trainable_text("乙"))

    assert total(work, counting.METHOD) == {"local_model": 5, "llm_fallback": 1, "none": 1}
    assert total(work, counting.SOURCE) == {"served": 6, "external": 1}
    assert total(work, counting.STANDS) == {"": 4}
    assert total(work, counting.TO_PERSON) == {"": 2}
    assert total(work, counting.LLM) == {"": 1}
    assert sum(total(work, counting.LATENCY).values()) == 5
    answers = total(work, counting.ANSWER)
    assert answers.pop(counting.OUTSIDE) == 1
    assert sorted(answers.values()) == [1, 4]
    assert kept(work) == anew(work)


def test_a_question_counts_to_the_day_of_its_zone(sqlite_work: UnitOfWork) -> None:
    counters.keep_days_in(sqlite_work.engine, ZoneInfo("Asia/Shanghai"))
    late, early = datetime(2026, 3, 1, 15, 59, tzinfo=UTC), datetime(2026, 3, 1, 16, 0, tzinfo=UTC)
    for moment in (late, early):
        ask(sqlite_work, trainable_text("甲"), asked_at=moment)
    days = [date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
    found = sqlite_work.read(lambda session: counters.of_days(session, domain_id(sqlite_work), [counting.SOURCE], days))
    assert {day: figures[counting.SOURCE] for day, figures in found.items()} == {
        date(2026, 3, 1): {"served": 1},
        date(2026, 3, 2): {"served": 1},
    }


def test_counting_is_undone_with_what_it_counts(work: UnitOfWork) -> None:
    work(intake.record, [asked(trainable_text("甲"), domain_id=domain_id(work))])

    def fold_and_break(session: Session) -> None:
        assert folding.fold(session) == 1
        raise RuntimeError("the process is killed here")

    with pytest.raises(RuntimeError):
        work(fold_and_break)
    assert kept(work) == {}
    work(folding.fold)
    work(folding.fold)
    assert total(work, counting.SOURCE) == {"served": 1}


def _fold_and_sometimes_fail(work: UnitOfWork, number: int, owner: int, words: list[str]) -> None:
    for position, text in enumerate(words[:: 1 if number % 2 else -1]):
        work(intake.record, [asked(text, domain_id=owner, **ANSWERED)])
        if (position + number) % 3 == 0:
            # As when the process is killed between folding and commit, or fails in the middle.
            with Session(work.engine) as session, suppress(DBAPIError):
                folding.fold(session)
        work(folding.fold, limit=2)
    while work(folding.fold):
        pass


def test_processes_that_fold_at_once_count_each_question_once(database_url: str, work: UnitOfWork) -> None:
    words = [trainable_text("甲") for _ in range(12)]
    set_taxonomy(work, ["甲"])
    in_processes(4, _fold_and_sometimes_fail, database_url, domain_id(work), words)
    while work(folding.fold):
        pass
    assert total(work, counting.SOURCE) == {"served": 48}
    assert total(work, counting.METHOD) == {"local_model": 48}
    assert kept(work) == anew(work)


def test_labelers_importers_and_folders_count_exactly_at_once(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    owner = domain_id(work)
    words = [trainable_text("甲") for _ in range(8)] + [gold_text("甲") for _ in range(4)]
    ids = ask(work, *words, **ANSWERED)
    extra = [trainable_text("乙") for _ in range(6)]

    def act(number: int) -> None:
        if number == 0:
            for question_id in ids:
                label(work, question_id, "甲")
        elif number == 1:
            for question_id in reversed(ids):
                with suppress(IntentError):
                    work(annotations.skip, question_id, labeler_id="bo")
        elif number == 2:
            rows = [imports.ImportRow(line, text, "乙") for line, text in enumerate(extra)]  # type: ignore[arg-type]
            work(imports.take_in, "default", rows)
        else:
            for text in [*words, *extra]:
                work(intake.record, [asked(text, domain_id=owner, **ANSWERED)])
                work(folding.fold)

    in_threads(5, act)
    while work(folding.fold):
        pass
    assert total(work, counting.LABELLED) == {"": sum(column(work, UserQuestion.is_labeled))}
    assert kept(work) == anew(work)


# Texts


def test_levels_follow_a_text_through_its_life(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    first, *_ = ask(work, *[trainable_text("甲")] * 2, trainable_text("甲"), gold_text("甲"))
    assert total(work, counting.TEXT) == {"unlabelled": 2, "unlabelled/gold": 1}
    assert total(work, counting.QUEUED) == {"": 2}

    label(work, first, "甲")
    assert total(work, counting.TEXT) == {"unlabelled": 1, "labelled": 1, "unlabelled/gold": 1}
    assert total(work, counting.LABELLED) == {"": 2}
    assert list(total(work, counting.TRAINABLE).values()) == [1]

    label(work, first, "乙")
    assert total(work, counting.LABELLED) == {"": 2}
    assert kept(work) == anew(work)

    work(undoing.undo, first, labeler_id="ana")
    work(undoing.undo, first, labeler_id="ana")
    assert total(work, counting.LABELLED) == {}
    assert total(work, counting.TRAINABLE) == {}
    assert total(work, counting.ANNOTATED) == {"labeler": 2, "retract": 2}
    assert kept(work) == anew(work)


def test_levels_follow_texts_through_selection_and_batches(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 4, "乙": 3}, gold=2)
    ask(work, *[gold_text("甲") for _ in range(6)])
    work(lambda session: selection.draw_gold(session, domain_of(session), size=20, rng=np.random.default_rng(1)))
    assert kept(work) == anew(work)

    batch = work(batches.open_due, "default", OpeningRule(labels=2, small_labels=0))
    assert batch is not None
    assert {key.split("/")[0] for key in total(work, counting.TRAINABLE)} == {"claimed"}
    assert kept(work) == anew(work)

    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    work(batches.fail, batch.id, claimed.token, error="x")
    assert {key.split("/")[0] for key in total(work, counting.TRAINABLE)} == {"pending"}
    work(batches.run, batch.batch_id)
    assert kept(work) == anew(work)


def test_proposals_wait_outside_of_training_until_they_are_labels(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    ids = ask(sqlite_work, *[trainable_text("丁") for _ in range(3)])
    for number, question_id in enumerate(ids):
        label(sqlite_work, question_id, "其他", proposed_label="丁", proposal_size=3)
        assert sum(total(sqlite_work, counting.TRAINABLE).values()) == (3 if number == 2 else 0)
        assert kept(sqlite_work) == anew(sqlite_work)


# The random slice


def _drawn(work: UnitOfWork, count: int, **answer: object) -> list[str]:
    ids = ask(work, *[gold_text("甲") for _ in range(count)], **(ANSWERED | answer))
    work(lambda session: selection.draw_gold(session, domain_of(session), size=100, rng=np.random.default_rng(1)))
    return ids


def test_a_label_of_the_random_slice_judges_the_answer_that_stood(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    right, wrong, undone = _drawn(work, 3)
    (later,) = _drawn(work, 1, model_version="v2")
    label(work, right, "甲")
    label(work, wrong, "乙")
    label(work, undone, "甲")
    label(work, later, "甲")
    # Not drawn, chosen for its uncertainty, and unanswered ones say nothing of what is asked.
    for question_id in ask(work, trainable_text("甲"), gold_text("甲"), **ANSWERED):
        label(work, question_id, "甲")
    (unanswered,) = _drawn(work, 1, topk=[], intents=[], model_version=None, method="none")
    label(work, unanswered, "甲")
    (taken_in,) = _drawn(work, 1)
    text = work.read(lambda session: intake.find(session, taken_in).question)
    assert text is not None
    rows = [imports.ImportRow(1, MaskedText(text), "甲")]
    assert work(imports.take_in, "default", rows).counts["imported"] == 1
    assert total(work, counting.JUDGED) == {"v1": 3, "v2": 1}
    assert total(work, counting.AGREED) == {"v1": 2, "v2": 1}

    label(work, wrong, "甲")
    work(undoing.undo, undone, labeler_id="ana")
    assert total(work, counting.JUDGED) == {"v1": 2, "v2": 1}
    assert total(work, counting.AGREED) == {"v1": 2, "v2": 1}

    work(undoing.undo, wrong, labeler_id="ana")
    assert total(work, counting.AGREED) == {"v1": 1, "v2": 1}
    assert kept(work) == anew(work)


# Counted anew


def test_rebuilding_repairs_whatever_was_wrong_and_may_be_repeated(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2})
    ask(work, trainable_text("甲"), **ANSWERED)
    before = kept(work)

    def spoil(session: Session) -> None:
        session.execute(update(Counter).where(Counter.name == counting.METHOD).values(value=999))
        counters.add(session, domains.find(session, "default").id, "nonsense", value=3)

    work(spoil)
    assert kept(work) != before
    for wrong in (True, False):
        assert bool(work(lambda session: recounting.rebuild(session, domain_of(session)))) is wrong
        assert kept(work) == before


def test_a_database_of_the_release_before_is_counted_once(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2})
    work(domains.create, "empty")
    before = kept(work)

    def forget(session: Session) -> None:
        session.execute(Counter.__table__.delete())  # type: ignore[attr-defined]

    work(forget)
    assert work(recounting.rebuild_missing) == ["default"]
    assert kept(work) == before
    assert work(recounting.rebuild_missing) == []


def test_rebuilding_beside_folders_loses_and_doubles_nothing(work: UnitOfWork) -> None:
    owner = domain_id(work)
    set_taxonomy(work, ["甲"])
    ask(work, *[trainable_text("甲") for _ in range(20)], **ANSWERED)

    def act(number: int) -> None:
        for _ in range(6):
            if number == 0:
                work(lambda session: recounting.rebuild(session, domain_of(session)))
            else:
                work(intake.record, [asked(trainable_text("甲"), domain_id=owner, **ANSWERED) for _ in range(4)])
                work(folding.fold)

    in_threads(4, act)
    while work(folding.fold):
        pass
    assert total(work, counting.SOURCE) == {"served": 20 + 3 * 6 * 4}
    assert kept(work) == anew(work)


def test_a_text_changed_by_a_plain_session_is_followed_too(sqlite_work: UnitOfWork) -> None:
    (question_id,) = ask(sqlite_work, trainable_text("甲"))
    with transaction(sqlite_work.engine) as session:
        question = intake.find(session, question_id)
        text = session.get(Text, question.text_id)
        assert text is not None
        text.priority = None
    assert total(sqlite_work, counting.QUEUED) == {}
    assert kept(sqlite_work) == anew(sqlite_work)
