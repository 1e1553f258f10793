"""A label that grew out of a scenario trains from its number of texts on: until then they wait and start nothing."""

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import BatchItem, Label, Text, TrainingBatch
from app.errors import NothingNew
from app.services import batches, counters, domains, members, mining, taxonomy, trainable
from app.services.batches import OpeningRule
from app.services.trainable import Trainable
from tests.builders import ask, column, domain_id, domain_of, gold_text, label, make_labelled_texts, trainable_text
from tests.services.together import in_threads

NEW, LEAST = "退运费", 6
RULE = OpeningRule(labels=4, share=0.0)


def add_label(work: UnitOfWork) -> None:
    def add(session: Session) -> None:
        taxonomy.add(session, domains.locked(session, "default"), NEW, trains_from=LEAST)

    work(add)


def give(work: UnitOfWork, count: int, *, gold: bool = False) -> list[str]:
    questions = ask(work, *[(gold_text if gold else trainable_text)(NEW) for _ in range(count)])
    for question in questions:
        label(work, question, NEW)
    return questions


def train(work: UnitOfWork, **changes: object) -> TrainingBatch:
    """Open a batch, and let it end as if it had been trained."""
    batch = work(batches.open_batch, "default", opened_by="ana", **changes)
    work(members.end_claim, batch.id, "used")
    return batch


def held(work: UnitOfWork, batch: TrainingBatch) -> list[tuple[str, str]]:
    rows = column(work, BatchItem.role, BatchItem.label, BatchItem.batch_id)
    return sorted({(role, path) for role, path, owner in rows if owner == batch.id})


def known(work: UnitOfWork) -> Trainable:
    """What there is to train on; the counters must say what the rows say."""
    owner = domain_id(work)
    by_rows = work.read(trainable.looked_up, owner)
    by_counters = work.read(lambda session: trainable.from_counters(session, owner, counters.totals(session, owner)))
    assert by_counters == by_rows
    return by_rows


def due(work: UnitOfWork) -> bool:
    return work.read(lambda session: batches.whether_due(session, domain_of(session), RULE)).open


@pytest.fixture
def trained(work: UnitOfWork) -> UnitOfWork:
    """A domain with a batch behind it, and a new label."""
    make_labelled_texts(work, {"甲": 3, "乙": 3}, gold=1)
    train(work)
    add_label(work)
    return work


def test_too_few_texts_start_no_batch_and_enough_do(trained: UnitOfWork) -> None:
    give(trained, LEAST - 1)
    assert not due(trained)
    assert (known(trained).new, known(trained).total, known(trained).oldest) == (0, 6, None)
    with pytest.raises(NothingNew):
        train(trained)
    give(trained, 1)
    assert due(trained)
    assert known(trained).new == LEAST
    assert ("new", NEW) in held(trained, train(trained))
    assert known(trained).new == 0


def test_a_batch_of_other_labels_leaves_them_out_with_their_gold(trained: UnitOfWork) -> None:
    give(trained, LEAST - 1)
    give(trained, 2, gold=True)
    make_labelled_texts(trained, {"甲": 4})
    assert known(trained).new == 4
    batch = train(trained)
    assert held(trained, batch) == [
        ("gold", "乙"), ("gold", "甲"), ("new", "甲"), ("replay", "乙"), ("replay", "甲")
    ]  # fmt: skip
    new_id = dict(column(trained, Label.path, Label.id))[NEW]
    rows = column(trained, Text.label_id, Text.training_status)
    waiting = [status for label_id, status in rows if label_id == new_id]
    assert sorted(waiting) == ["pending"] * (LEAST - 1) + ["skipped"] * 2
    give(trained, 1)
    assert {("new", NEW), ("gold", NEW)} <= set(held(trained, train(trained)))


def test_once_trained_a_label_waits_no_more(trained: UnitOfWork) -> None:
    questions = give(trained, LEAST)
    train(trained)
    for question in questions[:4]:
        label(trained, question, "甲")
    give(trained, 1)
    assert known(trained).new == 5
    assert {("new", NEW), ("replay", NEW)} <= set(held(trained, train(trained)))


def test_what_came_beside_a_batch_that_failed_is_trained_with_it(trained: UnitOfWork) -> None:
    give(trained, LEAST)
    batch = trained(batches.open_batch, "default", opened_by="ana")
    give(trained, 1)
    # Were it taken now, a batch would know the label by one text.
    assert known(trained).new == 0
    trained(members.end_claim, batch.id, "pending")
    assert known(trained).new == LEAST + 1
    assert held(trained, train(trained)).count(("new", NEW)) == 1


def test_a_failed_batch_is_not_tried_again_for_labels_that_wait(trained: UnitOfWork) -> None:
    make_labelled_texts(trained, {"甲": 4})
    batch = trained(batches.open_batch, "default", opened_by="clock")
    trained(members.end_claim, batch.id, "pending")
    give(trained, 1)
    beside = trained.read(lambda session: members.has_label_beside(session, domain_of(session), batch))
    assert beside is False
    give(trained, LEAST)
    beside = trained.read(lambda session: members.has_label_beside(session, domain_of(session), batch))
    assert beside is True


def test_rules_are_not_mined_from_them(trained: UnitOfWork) -> None:
    give(trained, LEAST - 1)
    assert len(trained.read(lambda session: mining.material(session, domain_of(session))).texts) == 6
    give(trained, 1)
    assert len(trained.read(lambda session: mining.material(session, domain_of(session))).texts) == 6 + LEAST


def test_a_label_of_the_taxonomy_trains_as_before(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2, "丙": 1})
    assert set(column(work, Label.trains_from)) == {2}
    assert known(work).new == 5
    assert ("new", "丙") in held(work, train(work))


def test_a_retired_label_waits_for_nothing(trained: UnitOfWork) -> None:
    give(trained, 2)
    trained(lambda session: session.execute(update(Label).where(Label.path == NEW).values(status="retired")))
    assert trained.read(members.waiting_labels, domain_id(trained)) == frozenset()
    assert known(trained).new == 0


def test_answers_at_the_moment_of_opening_never_bring_in_a_label_with_too_few(trained: UnitOfWork) -> None:
    questions = give(trained, LEAST + 2)
    make_labelled_texts(trained, {"甲": 4})

    def act(number: int) -> object:
        if number == 0:
            return trained(batches.open_batch, "default", opened_by="ana")
        return label(trained, questions[number], "甲")

    batch, *_ = in_threads(5, act)
    rows = column(trained, BatchItem.batch_id, BatchItem.label)
    assert len([path for owner, path in rows if (owner, path) == (batch.id, NEW)]) in (0, *range(LEAST, LEAST + 3))
