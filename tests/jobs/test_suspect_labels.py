"""After a training the labels that it contradicts wait for a review, with the evidence."""

import logging
import random

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import ModelVersion, Text
from app.intent.selection import is_gold_candidate
from app.intent.text import MaskedText, text_hash
from app.services import queue
from app.services.queue import QueueItem
from jobs import suspect_labels
from jobs.context import JobContext
from jobs.train_model import train_model
from jobs.training import train_next
from tests.builders import ask, column, domain_of, label, set_taxonomy
from tests.jobs.test_jobs import World, context_on
from tests.journeys.worlds import LABELS, label_texts, texts_of

EACH = 40


@pytest.fixture
def context(sqlite_url, tmp_path):
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False)
    yield made
    made.work.engine.dispose()


def mislabel(work: UnitOfWork, *, gold: bool = False, count: int = 3) -> list[str]:
    """Texts of the first label that somebody took for the second."""
    texts = (f"请问{text}" for text in texts_of(LABELS[0], 40 * count, seed=99))
    wanted = [text for text in texts if is_gold_candidate(text_hash(MaskedText(text))) == gold]
    ids = ask(work, *wanted[:count])
    for question_id in ids:
        label(work, question_id, LABELS[1], by="bo")
    return ids


def trained(context: JobContext) -> None:
    train_model(context)
    assert train_next(context) is not None


def reviews(context: JobContext) -> list[QueueItem]:
    return context.work.read(
        lambda session: queue.unlabelled(session, domain_of(session), limit=100, strategy="review")
    )


def test_labels_that_a_training_contradicts_wait_for_a_review(context):
    label_texts(World(context), EACH, gold=12)
    wrong = mislabel(context.work)
    trained(context)

    found = reviews(context)
    assert {item.question_id for item in found[:3]} == set(wrong)
    for item in found[:3]:
        assert item.review.label == LABELS[1]
        assert item.review.answer == LABELS[0]
        assert item.review.confidence > 0.5
        assert item.review.model_version == "default-v1"
        assert 1 <= len(item.review.neighbours) <= 3
        assert item.review.neighbours[0].label == LABELS[0]
        assert item.question not in [one.question for one in item.review.neighbours]
    assert len(found) <= len(column(context.work, Text.id)) * 0.1


def test_what_is_corrected_trains_again_and_what_is_confirmed_is_not_asked_again(context):
    label_texts(World(context), EACH, gold=12)
    wrong = mislabel(context.work)
    trained(context)
    context.work(
        lambda session: queue.unlabelled(session, domain_of(session), limit=100, strategy="review", labeler_id="cy")
    )
    label(context.work, wrong[0], LABELS[0], by="cy")
    label(context.work, wrong[1], LABELS[1], by="cy")

    for place, name in enumerate(LABELS):
        for question_id in ask(context.work, *[f"你好，{text}" for text in texts_of(name, 12, seed=200 + place)]):
            label(context.work, question_id, name)
    trained(context)

    asked = {item.question_id for item in reviews(context)}
    assert wrong[0] not in asked
    assert wrong[1] not in asked


def test_gold_is_doubted_by_the_answers_of_a_version_that_never_saw_it(context):
    label_texts(World(context), EACH, gold=20)
    wrong = mislabel(context.work, gold=True, count=1)
    trained(context)

    [item] = [item for item in reviews(context) if item.question_id in wrong]
    assert item.review.answer == LABELS[0]
    gold = context.work.read(lambda session: set(session.scalars(select(Text.text).where(Text.is_gold.is_(True)))))
    assert not gold.intersection(one.question for one in item.review.neighbours)


def test_more_texts_than_can_be_compared_are_doubted_by_the_probabilities(context, monkeypatch):
    label_texts(World(context), EACH, gold=12)
    wrong = mislabel(context.work)
    monkeypatch.setattr(suspect_labels, "MOST_COMPARED", 40)
    trained(context)

    found = reviews(context)
    assert found
    assert {item.question_id for item in found} <= set(wrong)
    assert all(item.question not in [one.question for one in item.review.neighbours] for item in found)


def test_a_version_that_was_refused_doubts_nobody(context):
    # Labels that have nothing to do with the texts, most of them one: nothing can be learned from them.
    set_taxonomy(context.work, LABELS)
    rng = random.Random(0)
    ids = ask(context.work, *[text for name in LABELS for text in texts_of(name, EACH, gold=False)])
    for question_id in ids:
        label(context.work, question_id, rng.choices(LABELS, (8, 1, 1))[0])
    trained(context)

    assert context.work.read(_statuses) == ["refused"]
    assert reviews(context) == []


def test_a_failure_to_look_is_none_of_the_batch(context, monkeypatch, caplog):
    label_texts(World(context), EACH, gold=12)

    def broken(*_):
        raise ValueError("no answers")

    monkeypatch.setattr(suspect_labels, "find_suspects", broken)
    with caplog.at_level(logging.WARNING):
        trained(context)

    assert context.work.read(_statuses) == ["passed"]
    assert "labels were not doubted" in caplog.text


def _statuses(session: Session) -> list[str]:
    return list(session.scalars(select(ModelVersion.status).order_by(ModelVersion.id)))
