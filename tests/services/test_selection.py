"""People are asked what the present model is unsure of, and gold as a uniform sample that nobody can tell from it."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Text
from app.services import annotations, domains, selection
from tests.builders import (
    ask,
    column,
    domain_id,
    domain_of,
    gold_text,
    label,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.together import in_threads


def _draw(session: Session, size: int, seed: int = 0) -> selection.Draw:
    domain = domains.locked(session, "default")
    return selection.draw_gold(session, domain, size=size, rng=np.random.default_rng(seed))


def _pool(work: UnitOfWork, *, gold: int, others: int) -> tuple[list[str], list[str]]:
    set_taxonomy(work, ["甲"])
    return (
        ask(work, *[gold_text("甲") for _ in range(gold)]),
        ask(work, *[trainable_text("甲") for _ in range(others)]),
    )


def _drawn(work: UnitOfWork) -> list[int]:
    return [text_id for text_id, strategy in column(work, Text.id, Text.strategy) if strategy == "gold"]


def test_the_draw_of_gold_is_uniform(sqlite_work: UnitOfWork) -> None:
    _pool(sqlite_work, gold=12, others=20)
    times: Counter[int] = Counter()

    class Back(Exception):
        pass

    def draw(session: Session, seed: int) -> None:
        # 0.15 of 20: three of the twelve.
        assert _draw(session, 20, seed) == selection.Draw(3, 12, 0.25)
        times.update(
            text.id for text in session.query(Text).where(Text.strategy == "gold", Text.sampling_probability == 0.25)
        )
        raise Back

    for seed in range(400):
        with pytest.raises(Back):
            sqlite_work(draw, seed)

    assert sum(times.values()) == 1200
    assert len(times) == 12
    assert stats.chisquare(list(times.values())).pvalue > 1e-4


def test_gold_takes_random_places_of_the_queue(sqlite_work: UnitOfWork) -> None:
    gold, others = _pool(sqlite_work, gold=30, others=100)
    sqlite_work(_draw, 100)
    rows = column(sqlite_work, Text.is_gold, Text.priority)
    places = sorted(priority for is_gold, priority in rows if is_gold and priority is not None)
    taken = {priority for is_gold, priority in rows if not is_gold}
    assert len(places) == 15
    assert set(places) <= taken
    # One in each fifteenth of the queue: neither at the top nor at the bottom together.
    middle = float(np.median(sorted(taken)))
    assert 6 <= sum(place > middle for place in places) <= 9
    assert len(gold) + len(others) == 130


def test_the_quota_is_never_exceeded_however_often_gold_is_drawn(work: UnitOfWork) -> None:
    _pool(work, gold=12, others=20)
    in_threads(5, lambda number: work(_draw, 20, number))
    assert len(_drawn(work)) == 3
    assert work(_draw, 20) == selection.Draw(0, 9, 0.0)


def test_gold_that_others_have_passed_gets_a_new_place_at_the_next_draw(sqlite_work: UnitOfWork) -> None:
    _pool(sqlite_work, gold=3, others=20)
    sqlite_work(_draw, 20)
    drawn = _drawn(sqlite_work)
    passed = sqlite_work(lambda session: session.execute(update(Text).where(Text.id.in_(drawn)).values(priority=0.0)))
    assert passed is not None

    sqlite_work(_draw, 20, seed=1)

    places = [priority for text_id, priority in column(sqlite_work, Text.id, Text.priority) if text_id in drawn]
    assert _drawn(sqlite_work) == drawn
    assert min(places) > 0.0


def test_labelled_gold_makes_room_for_more(sqlite_work: UnitOfWork) -> None:
    gold, _ = _pool(sqlite_work, gold=8, others=20)
    sqlite_work(_draw, 20)
    drawn = set(_drawn(sqlite_work))
    (one, *_) = [question_id for question_id in gold if sqlite_work.read(text_of, question_id).id in drawn]
    label(sqlite_work, one, "甲")
    assert sqlite_work(_draw, 20) == selection.Draw(1, 5, 0.2)


def test_the_share_shrinks_once_much_gold_is_labelled(sqlite_work: UnitOfWork) -> None:
    gold, _ = _pool(sqlite_work, gold=215, others=20)
    label(sqlite_work, gold[0], "甲")
    example = sqlite_work.read(text_of, gold[0])

    def say_labelled(session: Session) -> None:
        ids = [text_of(session, question_id).id for question_id in gold[:200]]
        session.execute(
            update(Text).where(Text.id.in_(ids)).values(state="labelled", label_id=example.label_id, priority=None)
        )

    sqlite_work(say_labelled)
    # 0.10 of 20 instead of 0.15.
    assert sqlite_work(_draw, 20).drawn == 2


def test_where_nothing_else_waits_all_that_is_asked_is_gold(sqlite_work: UnitOfWork) -> None:
    _pool(sqlite_work, gold=5, others=0)
    assert sqlite_work(_draw, 3) == selection.Draw(3, 5, 0.6)
    assert all(0 <= priority < 1 for priority in column(sqlite_work, Text.priority) if priority is not None)


def test_what_may_not_be_trained_on_or_was_answered_is_no_candidate(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    ask(sqlite_work, gold_text("甲"), train_allowed=False)
    labelled, skipped = ask(sqlite_work, gold_text("甲"), gold_text("甲"))
    label(sqlite_work, labelled, "甲")
    for labeler in ("ana", "bo"):
        sqlite_work(annotations.skip, skipped, labeler_id=labeler)
    assert sqlite_work(_draw, 100) == selection.Draw(0, 0, 0.0)


def test_stale_pages_through_what_another_version_answered(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    words = [trainable_text("甲") for _ in range(5)]
    ids = ask(sqlite_work, *words)
    ask(sqlite_work, trainable_text("甲"), model_version="v2", topk=[["甲", 0.9]], method="local_model")
    ask(sqlite_work, gold_text("甲"))
    label(sqlite_work, ids[0], "甲")

    seen, after = [], 0
    while page := sqlite_work.read(selection.stale, domain_id(sqlite_work), "v2", limit=2, after=after):
        seen += page
        after = page[-1].text_id

    assert sorted(text.text for text in seen) == sorted(words[1:])
    assert [text.text_id for text in seen] == sorted(text.text_id for text in seen)


def test_rescoring_orders_the_queue_by_what_the_version_is_unsure_of(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    ask(work, *[trainable_text("甲") for _ in range(3)])
    waiting = work.read(selection.stale, domain_id(work), "v1", limit=10)
    topk = [[["甲", best], ["乙", 1 - best]] for best in (0.95, 0.55, 0.75)]

    assert work(selection.rescore, waiting, topk, version="v1") == 3

    rows = {row[0]: row[1:] for row in column(work, Text.id, Text.priority, Text.scored_by, Text.topk, Text.strategy)}
    assert [text.text_id for text in sorted(waiting, key=lambda text: -rows[text.text_id][0])] == [
        waiting[place].text_id for place in (1, 2, 0)
    ]
    assert rows[waiting[1].text_id] == (pytest.approx(0.9), "v1", topk[1], "margin")
    assert work.read(selection.stale, domain_id(work), "v1", limit=10) == []


def test_drawn_gold_keeps_its_place_when_it_is_scored_again(sqlite_work: UnitOfWork) -> None:
    _pool(sqlite_work, gold=4, others=20)
    sqlite_work(_draw, 20)
    before = column(sqlite_work, Text.id, Text.is_gold, Text.priority, Text.strategy, Text.sampling_probability)
    waiting = sqlite_work.read(selection.stale, domain_id(sqlite_work), "v1", limit=50)
    sqlite_work(selection.rescore, waiting, [[["甲", 0.99]]] * len(waiting), version="v1")
    after = column(sqlite_work, Text.id, Text.is_gold, Text.priority, Text.strategy, Text.sampling_probability)
    assert [row for row in after if row[1]] == [row for row in before if row[1]]
    assert {row[3] for row in after if not row[1]} == {"margin"}
    assert sorted(column(sqlite_work, Text.scored_by), key=str).count("v1") == 23


def test_what_was_answered_while_it_was_scored_stays_out_of_the_queue(sqlite_work: UnitOfWork) -> None:
    _, (question_id, _) = _pool(sqlite_work, gold=0, others=2)
    waiting = sqlite_work.read(selection.stale, domain_id(sqlite_work), "v1", limit=10)
    label(sqlite_work, question_id, "甲")
    assert sqlite_work(selection.rescore, waiting, [[["甲", 0.9]]] * 2, version="v1") == 1
    text = sqlite_work.read(text_of, question_id)
    assert (text.priority, text.scored_by) == (None, None)
    assert sqlite_work.read(domain_of).name == "default"
