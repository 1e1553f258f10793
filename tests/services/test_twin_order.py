"""Of near twins one is asked first, the one that is asked most; the others come when a person has looked at it."""

import pytest

from app.db.session import UnitOfWork
from app.db.tables import Text
from app.services import annotations, queue, selection
from app.services.queue import QueueItem
from app.services.texts import TWIN
from tests.builders import ask, column, domain_id, domain_of, label, set_taxonomy, trainable_text
from tests.services.near import ask_one_by_one, group, near_texts, put_in_order
from tests.services.test_counters import anew, kept

UNSURE = {"topk": [["甲", 0.6], ["乙", 0.4]], "method": "local_model", "intents": ["甲"], "model_version": "v1"}
SURE = {"topk": [["甲", 0.999], ["乙", 0.001]], "method": "local_model", "intents": ["甲"], "model_version": "v1"}


@pytest.fixture(autouse=True)
def _labels(request: pytest.FixtureRequest) -> None:
    for name in {"work", "sqlite_work"} & set(request.fixturenames):
        set_taxonomy(request.getfixturevalue(name), ["甲", "乙"])


def _queue(work: UnitOfWork, **changes: object) -> list[QueueItem]:
    return work(lambda session: queue.unlabelled(session, domain_of(session), limit=50, **changes))  # type: ignore[arg-type]


def _texts(work: UnitOfWork) -> list[str]:
    return [item.question for item in _queue(work)]


def _clock(work: UnitOfWork) -> int:
    group(work)
    return put_in_order(work)


def test_the_one_asked_most_is_first_and_the_others_are_behind_everything_else(work: UnitOfWork) -> None:
    rare, frequent, third = near_texts(3)
    ask_one_by_one(work, [rare, frequent, frequent, third], **UNSURE)
    other = trainable_text("甲")
    ask(work, other, **SURE)
    assert _clock(work) == 3
    first, sure, *behind = _queue(work)
    assert (first.question, first.strategy, first.group_size, first.count) == (frequent, "margin", 3, 2)
    # Weighed by all four who asked one of the group.
    assert first.priority == pytest.approx(0.8 ** (1 / (1 + 1.3862943611198906)))
    assert first.reason == "unsure: 甲 0.60, 乙 0.40; asked 4 times"
    assert (sure.question, sure.group_size) == (other, 1)
    assert {item.question for item in behind} == {rare, third}
    for item in behind:
        assert (item.priority, item.strategy, item.group_size) == (0.0, TWIN, 3)
        assert item.reason == "near twin of a question that is asked first"
    # Once in order, there is nothing to do.
    assert _clock(work) == 0
    assert kept(work) == anew(work)


@pytest.mark.parametrize("what", ["label", "skip"])
def test_the_next_one_comes_when_a_person_has_looked_at_the_first(work: UnitOfWork, what: str) -> None:
    first, second, third = near_texts(3)
    question_id, *_ = ask_one_by_one(work, [first, second, second, third], **UNSURE)
    ask(work, first, first, **UNSURE)
    _clock(work)
    assert _texts(work)[0] == first
    if what == "label":
        label(work, question_id, "甲")
    else:
        for labeler in ("ana", "bo"):
            work(annotations.skip, question_id, labeler_id=labeler)
    assert {item.strategy for item in _queue(work)} == {TWIN}
    assert _clock(work) == 1
    assert [(item.question, item.strategy) for item in _queue(work)] == [(second, "margin"), (third, TWIN)]
    assert _queue(work)[0].reason == "unsure: 甲 0.60, 乙 0.40; asked 3 times"
    assert kept(work) == anew(work)


def test_of_equals_the_oldest_is_first(sqlite_work: UnitOfWork) -> None:
    words = near_texts(3)
    ask_one_by_one(sqlite_work, words, **UNSURE)
    _clock(sqlite_work)
    assert _texts(sqlite_work)[0] == words[0]


def test_a_text_behind_its_twin_stays_there_when_it_is_asked_again(sqlite_work: UnitOfWork) -> None:
    first, second = near_texts(2)
    ask_one_by_one(sqlite_work, [first, first, second], **UNSURE)
    _clock(sqlite_work)
    ask(sqlite_work, second, **UNSURE)
    assert [(item.question, item.count, item.strategy) for item in _queue(sqlite_work)] == [
        (first, 2, "margin"),
        (second, 2, TWIN),
    ]
    # Asked more often than the first by now, it takes its place.
    ask(sqlite_work, second, **UNSURE)
    assert _clock(sqlite_work) == 2
    assert _texts(sqlite_work) == [second, first]


def test_a_selection_scores_the_first_by_all_who_ask_and_the_others_not_at_all(work: UnitOfWork) -> None:
    first, second = near_texts(2)
    ask_one_by_one(work, [first, second, first], **UNSURE)
    _clock(work)
    (waiting,) = work.read(selection.stale, domain_id(work), "v2", limit=10)
    assert (waiting.text, waiting.count) == (first, 3)
    work(selection.rescore, [waiting], [[["乙", 0.6], ["甲", 0.4]]], version="v2")
    assert _queue(work)[0].reason == "unsure: 乙 0.60, 甲 0.40; asked 3 times"
    assert _clock(work) == 0


def test_gold_keeps_the_places_that_it_was_drawn_to(sqlite_work: UnitOfWork) -> None:
    ask_one_by_one(sqlite_work, near_texts(3, gold=True))

    def draw(session) -> None:
        for text in session.query(Text).where(Text.is_gold.is_(True)):
            text.strategy, text.priority = "gold", 0.5

    sqlite_work(draw)
    assert _clock(sqlite_work) == 0
    assert column(sqlite_work, Text.priority) == [0.5] * 3


def test_a_question_that_is_asked_500_times_is_first_among_equals(work: UnitOfWork) -> None:
    often = trainable_text("甲")
    ask(
        work,
        *[trainable_text("甲") for _ in range(5)],
        *([often] * 500),
        *[trainable_text("乙") for _ in range(5)],
        **UNSURE,
    )
    surer = trainable_text("乙")
    ask(work, *([surer] * 500), **(UNSURE | {"topk": [["甲", 0.95], ["乙", 0.05]]}))
    order = _texts(work)
    assert order[0] == often
    # Tempered: what the model is all but sure of is not asked before that for being frequent.
    places = {item.question: item.priority for item in _queue(work)}
    assert places[surer] < places[often] < 1.0
    assert len(order) == 12


def test_the_count_of_a_group_is_shown_with_a_lease_too(work: UnitOfWork) -> None:
    ask_one_by_one(work, near_texts(4), **UNSURE)
    _clock(work)
    assert [item.group_size for item in _queue(work, labeler_id="ana")] == [4] * 4
    assert [item.group_size for item in _queue(work, labeler_id="ana")] == [4] * 4
