"""What a mix chose lies on top of the queue until the next selection, and nothing is chosen anew without a reason."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, database_time
from app.db.tables import Domain, ModelVersion, Text
from app.services import (
    activations,
    counters,
    domains,
    mix_selection,
    queue,
    recounting,
    selection,
    undoing,
)
from app.services.mix_selection import Plan, Selected
from tests.builders import (
    ask,
    column,
    domain_id,
    domain_of,
    gold_text,
    label,
    make_labelled_texts,
    make_version,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.together import in_threads

ANSWER: dict[str, Any] = {
    "method": "local_model",
    "intents": ["甲"],
    "confidence": 0.8,
    "topk": [["甲", 0.8], ["乙", 0.2]],
}


def _plan(session: Session, size: int = 10, most: int = 1000) -> Plan | None:
    return mix_selection.plan(session, domain_of(session), size=size, most=most)


def _made(work: UnitOfWork, size: int = 10) -> Plan:
    made = work.read(_plan, size)
    assert made is not None
    return made


def _place(session: Session, made: Plan, text_ids: Sequence[int]) -> int | None:
    chosen = [Selected(text_id, "far", f"reason {text_id}", 1.0) for text_id in text_ids]
    return mix_selection.place(session, domains.locked(session, "default"), made, chosen, version="default-v1")


def _pool(work: UnitOfWork, count: int, **changes: Any) -> list[int]:
    """So many texts in the queue, by their ids."""
    set_taxonomy(work, ["甲", "乙"])
    ids = ask(work, *[trainable_text("甲") for _ in range(count)], **changes)
    return sorted(work.read(text_of, question_id).id for question_id in ids)


def _next(session: Session, **changes: Any) -> list[queue.QueueItem]:
    return queue.unlabelled(session, domain_of(session), limit=100, **changes)


def _ids(work: UnitOfWork, **changes: Any) -> list[int]:
    return [work.read(text_of, item.question_id).id for item in work.read(_next, **changes)]


def test_what_is_chosen_is_asked_first_in_its_order_and_says_why(work: UnitOfWork) -> None:
    texts = _pool(work, 6)
    chosen = [texts[3], texts[0], texts[4]]

    assert work(_place, _made(work), chosen) == 3

    items = work.read(_next)
    assert _ids(work)[:3] == chosen
    assert [(item.strategy, item.reason, item.sampling_probability) for item in items[:3]] == [
        ("far", f"reason {text_id}", 1.0) for text_id in chosen
    ]
    assert all(1.0 < item.priority <= 2.0 for item in items[:3])
    assert all(item.priority <= 1.0 and item.strategy == "random" for item in items[3:])


def test_what_was_selected_before_falls_back_to_its_own_priority(work: UnitOfWork) -> None:
    texts = _pool(work, 4, **ANSWER)
    before = dict(column(work, Text.id, Text.priority))
    work(_place, _made(work), texts[:2])
    work(lambda session: session.execute(update(Domain).values(last_selection=None)))

    assert work(_place, _made(work), texts[1:3]) == 2

    rows = {row[0]: row[1:] for row in column(work, Text.id, Text.priority, Text.strategy, Text.sampling_probability)}
    assert rows[texts[0]] == (pytest.approx(before[texts[0]]), "margin", None)
    assert rows[texts[1]] == (2.0, "far", 1.0)
    assert rows[texts[2]][0] == 1.5


def test_a_text_that_is_asked_again_keeps_its_selection(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    text = trainable_text("甲")
    (question_id, _) = ask(work, text, trainable_text("甲"))
    text_id = work.read(text_of, question_id).id
    work(_place, _made(work), [text_id])

    ask(work, text, text, **ANSWER)

    found = work.read(text_of, question_id)
    assert (found.count, found.topk) == (3, ANSWER["topk"])
    assert (found.priority, found.strategy, found.reason) == (2.0, "far", f"reason {text_id}")


def test_a_text_that_is_scored_again_keeps_its_selection(work: UnitOfWork) -> None:
    texts = _pool(work, 2)
    work(_place, _made(work), texts[:1])
    waiting = work.read(selection.stale, domain_id(work), "v1", limit=10)

    assert work(selection.rescore, waiting, [[["甲", 0.9]]] * 2, version="v1") == 2

    assert column(work, Text.priority, Text.strategy, Text.scored_by)[0] == (2.0, "far", "v1")
    assert column(work, Text.strategy)[1] == "margin"


def test_what_was_answered_meanwhile_is_passed_over(work: UnitOfWork) -> None:
    texts = _pool(work, 3)
    made = _made(work)
    (item,) = [item for item in work.read(_next) if work.read(text_of, item.question_id).id == texts[0]]
    label(work, item.question_id, "甲")

    assert work(_place, made, texts[:2]) == 1

    assert column(work, Text.state, Text.priority)[0] == ("labelled", None)
    assert work.read(domain_of).last_selection["by_strategy"] == {"far": 1}  # type: ignore[index]


def test_an_answer_that_is_taken_back_forgets_how_the_text_was_chosen(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    (question_id,) = ask(sqlite_work, trainable_text("甲"))
    sqlite_work(_place, _made(sqlite_work), [sqlite_work.read(text_of, question_id).id])
    label(sqlite_work, question_id, "甲")
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert column(sqlite_work, Text.strategy, Text.sampling_probability) == [("random", None)]


def test_what_a_labeler_holds_is_no_candidate_and_keeps_its_place(sqlite_work: UnitOfWork) -> None:
    texts = _pool(sqlite_work, 4)
    sqlite_work(_place, _made(sqlite_work), [texts[2]])
    sqlite_work(lambda session: queue.unlabelled(session, domain_of(session), limit=1, labeler_id="ana"))
    sqlite_work(lambda session: session.execute(update(Domain).values(last_selection=None)))

    made = _made(sqlite_work)

    assert list(made.candidates) == [text_id for text_id in texts if text_id != texts[2]]
    sqlite_work(_place, made, [texts[0]])
    assert column(sqlite_work, Text.priority)[2] == 2.0


def test_a_flip_meanwhile_makes_a_choice_worthless(sqlite_work: UnitOfWork) -> None:
    texts = _pool(sqlite_work, 3)
    made = _made(sqlite_work)
    version = sqlite_work(make_version).version
    sqlite_work(activations.activate, version, by="ana", reason="")
    assert sqlite_work(_place, made, texts) is None
    assert sqlite_work.read(domain_of).last_selection is None


def test_gold_is_spread_over_what_was_selected_and_never_chosen(sqlite_work: UnitOfWork) -> None:
    texts = _pool(sqlite_work, 30)
    ask(sqlite_work, *[gold_text("甲") for _ in range(10)])
    made = _made(sqlite_work, 20)
    # 0.15 of 20 places are for gold.
    assert (made.room, sorted(made.candidates)) == (17, sorted(texts))

    def both(session: Session) -> int:
        _place(session, made, list(made.candidates)[:17])
        domain = domains.locked(session, "default")
        return selection.draw_gold(session, domain, size=17, rng=np.random.default_rng(0)).drawn

    assert sqlite_work(both) == 3
    gold = [priority for strategy, priority in column(sqlite_work, Text.strategy, Text.priority) if strategy == "gold"]
    assert all(1.0 < priority <= 2.0 for priority in gold)


def test_of_a_long_queue_the_highest_and_a_random_part_are_candidates(work: UnitOfWork) -> None:
    texts = _pool(work, 40)

    def order(session: Session) -> None:
        for place, text_id in enumerate(texts):
            session.get_one(Text, text_id).priority = place / 40

    work(order)
    made = work.read(_plan, 10, 20)
    assert made is not None
    assert 15 <= len(made.candidates) <= 20
    highest = {text_id for text_id, share in made.candidates.items() if share == 1.0}
    assert highest == set(texts[-15:])
    # Five at a random place of the forty: each had this chance.
    assert {share for text_id, share in made.candidates.items() if text_id not in highest} <= {5 / 40}


def test_labelled_texts_are_known_with_their_labels_and_gold_is_not(work: UnitOfWork, monkeypatch: Any) -> None:
    make_labelled_texts(work, {"甲": 6, "乙": 2}, gold=2)
    ask(work, trainable_text("甲"))
    rows = {row[0]: row[1] for row in column(work, Text.id, Text.label_id, Text.is_gold, Text.state)
            if row[3] == "labelled" and not row[2]}  # fmt: skip
    assert dict(_made(work).known) == rows
    # Of more than are compared, as many of each label.
    monkeypatch.setattr(mix_selection, "MOST_KNOWN", 6)
    known = _made(work).known
    assert sorted([rows[text_id] for text_id, _ in known].count(label_id) for label_id in set(rows.values())) == [2, 3]


def test_labels_that_gold_confuses_are_pairs_beside_the_domains_own(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙", "丙", "丁"])
    ask(sqlite_work, trainable_text("甲"))
    evaluation = {
        "gold": {"confusions": [["甲", "乙", 1], ["乙", "甲", 1], ["甲", "丙", 1], ["走", "甲", 9], [None, "甲", 4]]}
    }
    version = sqlite_work(make_version, evaluation=evaluation).version
    sqlite_work(activations.activate, version, by="ana", reason="")
    sqlite_work(domains.change, "default", {"confusion_pairs": [["丁", "丙"]]})
    paths = sqlite_work.read(domains.label_paths, domain_id(sqlite_work))
    pairs = [{paths[one], paths[other]} for one, other in _made(sqlite_work).confusions]
    assert pairs == [{"丙", "丁"}, {"甲", "乙"}]
    assert column(sqlite_work, ModelVersion.version) == [version]


def test_nothing_is_chosen_anew_while_nothing_has_changed(work: UnitOfWork) -> None:
    texts = _pool(work, 40)
    work(_place, _made(work), texts[:8])
    assert work.read(_plan) is None
    # A few more questions, and a few answers, change little.
    ask(work, *[trainable_text("甲") for _ in range(3)])
    for item in work.read(_next)[:3]:
        label(work, item.question_id, "甲")
    assert work.read(_plan) is None


@pytest.mark.parametrize(
    "what", ["half is answered", "the queue has grown", "another mix", "another size", "a flip", "an hour"]
)
def test_a_selection_is_due_when(sqlite_work: UnitOfWork, what: str) -> None:
    texts = _pool(sqlite_work, 40)
    sqlite_work(_place, _made(sqlite_work), texts[:8])
    size = 10
    if what == "half is answered":
        for item in sqlite_work.read(_next)[:4]:
            label(sqlite_work, item.question_id, "甲")
    elif what == "the queue has grown":
        ask(sqlite_work, *[trainable_text("甲") for _ in range(6)])
    elif what == "another mix":
        sqlite_work(domains.change, "default", {"selection_mix": {"margin": 1.0}})
    elif what == "another size":
        size = 11
    elif what == "a flip":
        sqlite_work(activations.activate, sqlite_work(make_version).version, by="ana", reason="")
    else:
        ask(sqlite_work, trainable_text("甲"))
        assert sqlite_work.read(_plan) is None
        sqlite_work(_an_hour_later)
    assert sqlite_work.read(_plan, size) is not None


def _an_hour_later(session: Session) -> None:
    domain = domain_of(session)
    before = (database_time(session) - timedelta(hours=1, seconds=1)).isoformat()
    domain.last_selection = {**(domain.last_selection or {}), "selected_at": before}


def test_where_all_that_waits_was_selected_nothing_is_due(sqlite_work: UnitOfWork) -> None:
    texts = _pool(sqlite_work, 8)
    sqlite_work(_place, _made(sqlite_work), texts)
    for item in sqlite_work.read(_next)[:6]:
        label(sqlite_work, item.question_id, "甲")
    assert sqlite_work.read(_plan) is None


def test_clocks_and_labelers_at_once_neither_block_each_other_nor_lose_an_answer(work: UnitOfWork) -> None:
    texts = _pool(work, 24)
    made = _made(work)
    items = work.read(_next)[:12]

    def act(number: int) -> None:
        if number < 3:
            work(_place, made, texts[number * 4 : number * 4 + 12])
            return
        for item in items[number - 3 :: 3]:
            label(work, item.question_id, "甲", by=f"labeler-{number}")

    in_threads(6, act)

    rows = column(work, Text.state, Text.priority)
    assert sum(state == "labelled" for state, _ in rows) == 12
    assert all((priority is None) == (state == "labelled") for state, priority in rows)
    kept = work.read(counters.of_domain, domain_id(work))
    assert kept == work.read(recounting.counted, domain_id(work))


def test_labels_are_counted_by_the_strategy_that_asked_for_them(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    one, other, third = ask(work, *[trainable_text("甲") for _ in range(3)])
    work(_place, _made(work), [work.read(text_of, one).id, work.read(text_of, other).id])
    for question_id in (one, other, third):
        label(work, question_id, "甲")
    label(work, one, "乙")
    work(undoing.undo, other, labeler_id="ana")

    totals = work.read(counters.totals, domain_id(work))

    assert {name: count for name, count in totals["chosen_by"].items() if count} == {"far": 1, "random": 1}
    assert work.read(counters.of_domain, domain_id(work)) == work.read(recounting.counted, domain_id(work))


def test_the_queue_can_be_asked_for_what_one_strategy_selected(work: UnitOfWork) -> None:
    texts = _pool(work, 5)
    made = _made(work)
    chosen = [
        Selected(text_id, strategy, "why", 1.0)
        for text_id, strategy in zip(texts, ("far", "suspect", "far", "margin"), strict=False)
    ]
    work(lambda session: mix_selection.place(session, domains.locked(session, "default"), made, chosen, version=None))
    assert _ids(work, strategy="far") == [texts[0], texts[2]]
    assert [item.strategy for item in work(_next, strategy="suspect", labeler_id="ana")] == ["suspect"]
    assert _ids(work, strategy="rare") == []
