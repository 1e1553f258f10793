"""Each text is with one labeler at a time, the ones most worth their time first."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Lease, Text
from app.errors import Malformed, NoTexts
from app.services import annotations, domains, folding, queue, undoing
from tests.builders import ask, column, domain_of, expire_leases, label, set_taxonomy, text_of, trainable_text
from tests.services.together import in_processes, in_threads


def _next(session: Session, labeler: str | None, limit: int = 100, **changes: object) -> list[queue.QueueItem]:
    return queue.unlabelled(session, domain_of(session), limit=limit, labeler_id=labeler, **changes)  # type: ignore[arg-type]


def _ids(items: list[queue.QueueItem]) -> list[str]:
    return [item.question_id for item in items]


def _waiting(work: UnitOfWork, count: int) -> list[str]:
    """So many texts in the queue; the first has the highest priority."""
    set_taxonomy(work, ["甲", "乙"])
    ids = ask(work, *[trainable_text("甲") for _ in range(count)])

    def order(session: Session) -> None:
        for place, question_id in enumerate(ids):
            text_of(session, question_id).priority = 1.0 - place / (count + 1)

    work(order)
    return ids


def test_the_highest_priority_comes_first_and_the_newest_of_equals(work: UnitOfWork) -> None:
    ids = _waiting(work, 4)
    assert _ids(work(_next, "ana", 3)) == ids[:3]

    def level(session: Session) -> None:
        session.execute(update(Text).values(priority=0.5, leased_until=None))

    work(level)
    by_age = sorted(ids, key=lambda question_id: work.read(text_of, question_id).id)
    assert _ids(work.read(_next, None)) == by_age[::-1]


def test_an_item_shows_the_answer_that_the_text_has(sqlite_work: UnitOfWork) -> None:
    text = trainable_text("甲")
    ask(sqlite_work, text, text, topk=[["甲", 0.5], ["乙", 0.25]], intents=["甲"], confidence=0.5, method="local_model")
    (item,) = sqlite_work(_next, "ana")
    assert (item.question, item.count, item.intents, item.confidence) == (text, 2, ["甲"], 0.5)
    assert (item.topk, item.strategy) == ([["甲", 0.5], ["乙", 0.25]], "margin")
    assert item.lease_token is not None
    assert item.lease_expires_at is not None


def test_a_look_without_a_labeler_takes_nothing(work: UnitOfWork) -> None:
    ids = _waiting(work, 3)
    for _ in range(2):
        seen = work.read(_next, None)
        assert _ids(seen) == ids
        assert {item.lease_token for item in seen} == {None}
    assert column(work, Lease.text_id) == []


def test_a_look_does_not_show_what_somebody_holds(sqlite_work: UnitOfWork) -> None:
    ids = _waiting(sqlite_work, 3)
    sqlite_work(_next, "ana", 1)
    assert _ids(sqlite_work.read(_next, None)) == ids[1:]


def test_a_labeler_gets_what_they_hold_first_under_the_same_token(work: UnitOfWork) -> None:
    ids = _waiting(work, 6)
    first = work(_next, "ana", 2, lease_seconds=60)
    assert _ids(work(_next, "bo", 2)) == ids[2:4]

    second = work(_next, "ana", 4, lease_seconds=900)

    assert _ids(second) == [*ids[:2], *ids[4:]]
    assert [item.lease_token for item in second[:2]] == [item.lease_token for item in first]
    before, after = first[0].lease_expires_at, second[0].lease_expires_at
    assert before is not None
    assert after is not None
    assert timedelta(seconds=800) < after - before < timedelta(seconds=900)


def test_a_renewal_never_shortens_a_lease(sqlite_work: UnitOfWork) -> None:
    _waiting(sqlite_work, 1)
    (long,) = sqlite_work(_next, "ana", 1, lease_seconds=900)
    (short,) = sqlite_work(_next, "ana", 1, lease_seconds=60)
    assert short.lease_expires_at == long.lease_expires_at


def test_a_hundred_texts_can_be_held_and_no_more(sqlite_work: UnitOfWork) -> None:
    _waiting(sqlite_work, 105)
    assert len(sqlite_work(_next, "ana", 500)) == 100
    assert len(sqlite_work(_next, "ana", 500)) == 100
    assert len(column(sqlite_work, Lease.text_id)) == 100
    assert len(sqlite_work.read(_next, None, 500)) == 5


def test_an_expired_lease_is_free_for_others_under_another_token(work: UnitOfWork) -> None:
    ids = _waiting(work, 2)
    old = work(_next, "ana", 2)
    assert work(_next, "bo", 2) == []

    expire_leases(work)
    new = work(_next, "bo", 2)

    assert _ids(new) == ids
    assert not {item.lease_token for item in old} & {item.lease_token for item in new}
    assert work(_next, "ana", 2) == []


def test_skipping_hides_a_text_from_that_labeler_alone(work: UnitOfWork) -> None:
    ids = _waiting(work, 2)
    work(annotations.skip, ids[0], labeler_id="ana")
    assert _ids(work(_next, "ana")) == [ids[1]]
    assert _ids(work(_next, "bo")) == [ids[0]]


def test_a_skip_that_is_taken_back_hides_nothing(sqlite_work: UnitOfWork) -> None:
    ids = _waiting(sqlite_work, 1)
    sqlite_work(annotations.skip, ids[0], labeler_id="ana")
    sqlite_work(undoing.undo, ids[0], labeler_id="ana")
    assert _ids(sqlite_work(_next, "ana")) == ids


def test_labelled_texts_leave_the_queue(sqlite_work: UnitOfWork) -> None:
    ids = _waiting(sqlite_work, 2)
    label(sqlite_work, ids[0], "甲")
    assert _ids(sqlite_work(_next, "bo")) == [ids[1]]
    assert sqlite_work.read(lambda session: queue.length(session, domain_of(session).id)) == 1


def test_random_order_never_comes_up_short(work: UnitOfWork) -> None:
    ids = _waiting(work, 12)
    for _ in range(10):
        assert sorted(_ids(work.read(_next, None, 12, strategy="random"))) == sorted(ids)
    assert sorted(_ids(work(_next, "ana", 12, strategy="random"))) == sorted(ids)


def _with_a_stretch_of(work: UnitOfWork, share: float) -> set[str]:
    """The questions whose texts come next after at least this share of all hashes."""
    texts_by_hash = sorted(zip(column(work, Text.text_hash), column(work, Text.question_id), strict=True))
    places = [int(text_hash, 16) / 2**256 for text_hash, _ in texts_by_hash]
    before = [place - (places[i - 1] if i else places[-1] - 1.0) for i, place in enumerate(places)]
    return {question_id for (_, question_id), width in zip(texts_by_hash, before, strict=True) if width >= share}


def test_random_order_begins_anywhere(sqlite_work: UnitOfWork) -> None:
    ids = _waiting(sqlite_work, 5)
    first = {_ids(sqlite_work.read(_next, None, 1, strategy="random"))[0] for _ in range(300)}
    # Whoever has a twentieth of all hashes before it is missed by 300 draws in one run of five million. One such
    # stretch is always there, and with one at the top alone the others' would never be hit.
    wide = _with_a_stretch_of(sqlite_work, 1 / 20)
    assert wide <= first
    assert len(first) > 1
    assert first <= set(ids)


def test_unknown_strategy_and_a_domain_without_texts_are_refused(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(Malformed, match="priority, random"):
        sqlite_work.read(_next, None, strategy="best")
    sqlite_work(domains.create, "secret", keep_text=False)
    with pytest.raises(NoTexts):
        sqlite_work.read(lambda session: queue.unlabelled(session, domain_of(session, "secret"), limit=1))


def test_domains_have_queues_of_their_own(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "shop")
    ask(sqlite_work, trainable_text("甲"), domain="shop")
    assert sqlite_work(_next, "ana") == []


def test_twelve_labelers_at_once_get_disjoint_texts(work: UnitOfWork) -> None:
    ids = _waiting(work, 60)

    taken = in_threads(12, lambda number: _ids(work(_next, f"labeler-{number}", 5)))

    everything = [question_id for one in taken for question_id in one]
    assert len(everything) == len(set(everything))
    # Nobody waits for another, so one may find others' rows locked and get fewer; what is left is there to be taken.
    assert all(taken)
    rest = _ids(work(_next, "last", 60))
    assert sorted([*everything, *rest]) == sorted(ids)


def _label_the_queue(work: UnitOfWork, number: int) -> list[str]:
    done: list[str] = []
    for _ in range(40):
        items = work(_next, f"labeler-{number}", 3)
        if not items:
            return done
        for item in items:
            label(work, item.question_id, "甲", by=f"labeler-{number}")
            done.append(item.question_id)
    return done


def test_labelers_in_processes_of_their_own_label_each_text_once(database_url: str, work: UnitOfWork) -> None:
    ids = _waiting(work, 48)
    done = [question_id for one in in_processes(6, _label_the_queue, database_url) for question_id in one]
    assert len(done) == len(set(done))
    assert sorted([*done, *_label_the_queue(work, 99)]) == sorted(ids)
    assert column(work, Lease.text_id) == []


def test_a_labeler_may_answer_while_their_own_list_is_refreshed(work: UnitOfWork) -> None:
    ids = _waiting(work, 20)
    work(_next, "ana", 20)

    def act(number: int) -> None:
        for question_id in ids:
            if number == 0:
                label(work, question_id, "甲")
            else:
                work(_next, "ana", 20)

    in_threads(3, act)

    assert column(work, Text.state) == ["labelled"] * 20
    assert column(work, Lease.text_id) == []


def test_folding_goes_on_while_the_queue_is_taken(sqlite_work: UnitOfWork) -> None:
    ids = _waiting(sqlite_work, 1)
    (item,) = sqlite_work(_next, "ana")
    ask(sqlite_work, item.question)
    assert sqlite_work(folding.fold) == 0
    assert _ids(sqlite_work(_next, "ana")) == ids
    assert sqlite_work(_next, "bo") == []
