"""Several people answer one text without sight of each other: who is given it, and what their answers come to."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Lease, Text, UserQuestion
from app.errors import AlreadyLabelled, Discarded, Disputed, IntentError, Leased, LeaseLost, NotDisputed, NothingToUndo
from app.intent.overlap import answers_wanted
from app.services import (
    agreement,
    annotations,
    counters,
    domains,
    imports,
    intake,
    queue,
    recounting,
    taxonomy,
    undoing,
)
from tests.builders import ask, column, domain_of, expire_leases, label, set_taxonomy, text_of, trainable_text
from tests.services.together import in_threads


def _overlapping(work: UnitOfWork, overlap: int, texts: int = 1, share: float = 1.0) -> list[str]:
    """So many texts in a domain in which each is for so many people."""
    set_taxonomy(work, ["甲", "乙", "丙"])
    work(domains.change, "default", {"overlap": overlap, "overlap_share": share})
    return ask(work, *[trainable_text("甲") for _ in range(texts)])


def _next(session: Session, labeler: str | None, limit: int = 10) -> list[queue.QueueItem]:
    return queue.unlabelled(session, domain_of(session), limit=limit, labeler_id=labeler)


def _ids(items: list[queue.QueueItem]) -> set[str]:
    return {item.question_id for item in items}


def _state(work: UnitOfWork, question_id: str) -> str:
    return work.read(text_of, question_id).state


def _counted(work: UnitOfWork) -> None:
    """The counters say what the rows say."""

    def both(session: Session) -> tuple[Any, Any]:
        found = domain_of(session).id
        return counters.of_domain(session, found), recounting.counted(session, found)

    kept, counted = work.read(both)
    assert {key: value for key, value in kept.items() if value} == counted


def test_a_majority_labels_the_text_and_all_its_twins(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    work(domains.change, "default", {"overlap": 3})
    words = trainable_text("甲")
    first, twin = ask(work, words, words)

    ana = label(work, first, "甲", by="ana", time_intent={"type": "today"})
    assert (ana.label, ana.twins, ana.state, ana.supersedes) == ("甲", 0, "unlabelled", None)
    bo = label(work, twin, "乙", by="bo")
    assert (bo.label, bo.twins, bo.state) == ("乙", 0, "unlabelled")
    assert column(work, UserQuestion.is_labeled, UserQuestion.correct_intent) == [(False, None)] * 2
    cy = label(work, first, "甲", by="cy")

    assert (cy.label, cy.twins, cy.state) == ("甲", 2, "labelled")
    text = work.read(text_of, first)
    # The earliest of the majority speaks for it.
    assert (text.state, text.annotation_id, text.training_status) == ("labelled", ana.annotation_id, "pending")
    assert column(work, UserQuestion.correct_intent, UserQuestion.labeler_id) == [(["甲"], "ana")] * 2
    assert column(work, UserQuestion.correct_time_intent) == [{"type": "today"}] * 2
    assert column(work, Annotation.is_blind) == [True] * 3
    _counted(work)


def test_answers_without_a_majority_are_disputed(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 2)
    label(work, question_id, "甲", by="ana")
    late = label(work, question_id, "乙", by="bo")
    assert (late.state, late.twins) == ("disputed", 0)
    text = work.read(text_of, question_id)
    assert (text.state, text.label_id, text.priority) == ("disputed", None, None)
    for labeler in ("ana", "cy"):
        assert work(_next, labeler) == []
    _counted(work)


def test_a_text_is_with_as_many_people_as_are_to_answer_it(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 2)
    for labeler in ("ana", "bo"):
        [item] = work(_next, labeler)
        assert item.question_id == question_id
    assert work(_next, "cy") == []
    assert work.read(_next, None) == []
    assert column(work, Lease.slot, Lease.labeler_id) == [(1, "ana"), (2, "bo")]
    with pytest.raises(Leased):
        label(work, question_id, "甲", by="cy")

    # One slot is free again, and the other still held.
    work(annotations.release, question_id, labeler_id="ana")
    assert work.read(text_of, question_id).leased_until is None
    [item] = work(_next, "cy")
    assert column(work, Lease.slot, Lease.labeler_id) == [(1, "cy"), (2, "bo")]

    label(work, question_id, "甲", by="bo")
    # Two answers are wanted: one is in, and the other one is cy's to give.
    assert work.read(_next, None) == []
    assert work(_next, "dan") == []
    label(work, question_id, "甲", by="cy", lease_token=item.lease_token)
    assert _state(work, question_id) == "labelled"
    assert column(work, Lease.text_id) == []


def test_nobody_is_given_what_they_answered(work: UnitOfWork) -> None:
    first, second = _overlapping(work, 3, texts=2)
    label(work, first, "甲", by="ana")
    assert _ids(work(_next, "ana")) == {second}
    assert _ids(work(_next, "bo")) == {first, second}
    # Holding one slot they get no other of the same text.
    assert _ids(work(_next, "bo")) == {first, second}
    assert len(column(work, Lease.text_id)) == 3


def test_what_a_labeler_answered_or_holds_does_not_stand_in_the_way_of_the_rest(work: UnitOfWork) -> None:
    ids = _overlapping(work, 3, texts=4)
    ordered = [item.question_id for item in work.read(_next, None)]
    label(work, ordered[0], "甲", by="ana")
    assert [item.question_id for item in work(_next, "ana", 1)] == ordered[1:2]
    assert [item.question_id for item in work(_next, "ana", 2)] == ordered[1:3]
    assert _ids(work(_next, "ana", 10)) == set(ids) - {ordered[0]}


def test_a_lease_that_ran_out_gives_its_slot_to_another_and_its_token_is_worth_nothing(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 2)
    [old] = work(_next, "ana")
    work(_next, "bo")
    expire_leases(work)
    for labeler in ("cy", "dan"):
        assert _ids(work(_next, labeler)) == {question_id}

    for act in (annotations.skip, annotations.discard):
        with pytest.raises(Leased):
            work(act, question_id, labeler_id="ana", lease_token=old.lease_token)
    with pytest.raises(Leased):
        label(work, question_id, "甲", by="ana", lease_token=old.lease_token)
    label(work, question_id, "甲", by="cy")
    work(annotations.release, question_id, labeler_id="dan")
    # A slot is free, but it is not the one that the token was for.
    with pytest.raises(LeaseLost):
        label(work, question_id, "甲", by="ana", lease_token=old.lease_token)
    assert column(work, Annotation.labeler_id) == ["cy"]


def test_a_share_of_the_texts_is_for_several_and_the_others_for_one(sqlite_work: UnitOfWork) -> None:
    ids = _overlapping(sqlite_work, 2, texts=60, share=0.5)
    expected = {
        question_id: answers_wanted(sqlite_work.read(text_of, question_id).text_hash, 2, 0.5) for question_id in ids
    }
    assert set(expected.values()) == {1, 2}
    both = [_ids(sqlite_work(_next, labeler, 100)) for labeler in ("ana", "bo", "cy")]
    assert Counter(question_id for one in both for question_id in one) == expected
    single = next(question_id for question_id, wanted in expected.items() if wanted == 1)
    holder = next(name for name, held in zip(("ana", "bo", "cy"), both, strict=True) if single in held)
    assert label(sqlite_work, single, "甲", by=holder).state == "labelled"
    _counted(sqlite_work)


def test_a_second_answer_of_the_same_person_is_no_second_vote(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 2)
    first = label(work, question_id, "甲", by="ana")
    second = label(work, question_id, "乙", by="ana")
    assert (second.supersedes, second.state) == (first.annotation_id, "unlabelled")
    # Sent once more, since the answer was lost: nothing new.
    assert label(work, question_id, "乙", by="ana").annotation_id == second.annotation_id
    assert label(work, question_id, "乙", by="bo").state == "labelled"
    assert _state(work, question_id) == "labelled"
    assert column(work, Annotation.labeler_id) == ["ana", "ana", "bo"]


def test_what_decided_sent_once_more_is_answered_as_before(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 2)
    label(sqlite_work, question_id, "甲", by="ana")
    last = label(sqlite_work, question_id, "甲", by="bo")
    assert label(sqlite_work, question_id, "甲", by="bo") == last
    for labeler in ("ana", "bo", "cy"):
        with pytest.raises(AlreadyLabelled):
            label(sqlite_work, question_id, "乙", by=labeler)
    assert len(column(sqlite_work, Annotation.id)) == 2


def test_an_answer_of_another_cannot_be_superseded_while_it_is_blind(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 3)
    first = label(sqlite_work, question_id, "甲", by="ana")
    with pytest.raises(AlreadyLabelled) as caught:
        label(sqlite_work, question_id, "乙", by="bo", supersedes=first.annotation_id)
    # Not even that there is one is told.
    assert caught.value.details == {"annotation_id": None}
    assert label(sqlite_work, question_id, "乙", by="ana", supersedes=first.annotation_id).state == "unlabelled"


def test_taking_back_a_blind_answer_reopens_the_text(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 2)
    label(work, question_id, "甲", by="ana")
    label(work, question_id, "甲", by="bo")
    assert work(undoing.undo, question_id, labeler_id="bo").state == "unlabelled"
    text = work.read(text_of, question_id)
    assert (text.annotation_id, text.label_id, text.training_status) == (None, None, "pending")
    assert text.priority is not None
    assert column(work, UserQuestion.is_labeled) == [False]
    assert work(_next, "ana") == []
    assert _ids(work(_next, "bo")) == {question_id}
    assert label(work, question_id, "乙", by="bo").state == "disputed"

    work(undoing.undo, question_id, labeler_id="ana")
    assert _state(work, question_id) == "unlabelled"
    assert label(work, question_id, "乙", by="ana").state == "labelled"
    _counted(work)


def test_a_person_who_gave_none_of_them_decides_between_answers_that_differ(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 2)
    label(work, question_id, "甲", by="ana")
    with pytest.raises(NotDisputed):
        label(work, question_id, "丙", by="cy", adjudicate=True)
    label(work, question_id, "乙", by="bo")
    with pytest.raises(Disputed):
        label(work, question_id, "乙", by="cy")
    with pytest.raises(Disputed):
        label(work, question_id, "乙", by="ana", adjudicate=True)
    with pytest.raises(Disputed):
        work(annotations.skip, question_id, labeler_id="cy")

    decided = label(work, question_id, "丙", by="cy", adjudicate=True)
    assert (decided.state, decided.twins, decided.supersedes) == ("labelled", 1, None)
    assert work.read(intake.find, question_id).correct_intent == ["丙"]
    assert column(work, Annotation.is_blind) == [True, True, False]
    # Its part can no longer be taken out of what another decided.
    with pytest.raises(NothingToUndo):
        work(undoing.undo, question_id, labeler_id="ana")

    assert work(undoing.undo, question_id, labeler_id="cy").state == "disputed"
    assert label(work, question_id, "甲", by="ana", adjudicate=True, may_decide_own=True).state == "labelled"
    _counted(work)


def test_taking_back_what_replaced_a_majority_brings_it_back(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 2)
    first = label(sqlite_work, question_id, "甲", by="ana")
    label(sqlite_work, question_id, "甲", by="bo")
    label(sqlite_work, question_id, "乙", by="cy", supersedes=first.annotation_id)
    assert sqlite_work(undoing.undo, question_id, labeler_id="cy").annotation_id == first.annotation_id
    _counted(sqlite_work)


def test_a_discard_ends_it_for_all_and_undone_asks_for_what_was_missing(work: UnitOfWork) -> None:
    [question_id] = _overlapping(work, 4)
    label(work, question_id, "甲", by="ana")
    for labeler in ("bo", "cy"):
        work(_next, labeler)
    work(annotations.discard, question_id, labeler_id="bo", reason="spam")
    assert (_state(work, question_id), column(work, Lease.text_id)) == ("discarded", [])
    with pytest.raises(Discarded):
        label(work, question_id, "甲", by="cy")
    assert work(undoing.undo, question_id, labeler_id="bo").state == "unlabelled"
    states = [label(work, question_id, "甲", by=labeler).state for labeler in ("bo", "cy", "dan")]
    assert states == ["unlabelled", "unlabelled", "labelled"]
    _counted(work)


def test_a_disputed_text_may_turn_out_to_be_nothing(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 2)
    for labeler, path in (("ana", "甲"), ("bo", "乙")):
        label(sqlite_work, question_id, path, by=labeler)
    sqlite_work(annotations.discard, question_id, labeler_id="cy")
    assert sqlite_work(undoing.undo, question_id, labeler_id="cy").state == "disputed"
    _counted(sqlite_work)


def test_who_answered_blind_does_not_skip_beside_it(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 2)
    label(sqlite_work, question_id, "甲", by="ana")
    with pytest.raises(AlreadyLabelled):
        sqlite_work(annotations.skip, question_id, labeler_id="ana")
    sqlite_work(annotations.skip, question_id, labeler_id="bo")
    assert sqlite_work(_next, "bo") == []
    assert _ids(sqlite_work(_next, "cy")) != set()


def test_an_import_decides_what_is_open(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 2)
    sqlite_work(_next, "bo")
    label(sqlite_work, question_id, "甲", by="ana")
    words = sqlite_work.read(text_of, question_id).text
    sqlite_work(imports.take_in, "default", [imports.ImportRow(1, words, "乙")])  # type: ignore[arg-type]
    assert _state(sqlite_work, question_id) == "labelled"
    assert column(sqlite_work, Lease.text_id) == []
    with pytest.raises(AlreadyLabelled):
        label(sqlite_work, question_id, "甲", by="bo")
    _counted(sqlite_work)


def test_proposals_of_several_people_become_a_label(sqlite_work: UnitOfWork) -> None:
    ids = _overlapping(sqlite_work, 2, texts=2)
    for question_id in ids:
        for labeler in ("ana", "bo"):
            label(sqlite_work, question_id, taxonomy.OTHER, by=labeler, proposed_label="丁", proposal_size=2)
    assert [sqlite_work.read(intake.find, question_id).correct_intent for question_id in ids] == [["丁"]] * 2


def test_an_answer_with_a_label_that_was_retired_is_asked_for_again(sqlite_work: UnitOfWork) -> None:
    [question_id] = _overlapping(sqlite_work, 2)
    label(sqlite_work, question_id, "丙", by="ana")
    set_taxonomy(sqlite_work, ["甲", "乙"])
    assert _ids(sqlite_work(_next, "ana")) == {question_id}
    label(sqlite_work, question_id, "甲", by="bo")
    assert label(sqlite_work, question_id, "甲", by="ana").state == "labelled"


@pytest.mark.parametrize("fewer", [1, 2])
def test_a_domain_that_wants_fewer_answers_loses_none_and_gives_nothing_twice(
    sqlite_work: UnitOfWork, fewer: int
) -> None:
    [question_id] = _overlapping(sqlite_work, 4)
    label(sqlite_work, question_id, "甲", by="ana")
    tokens = {name: sqlite_work(_next, name)[0].lease_token for name in ("bo", "cy")}
    sqlite_work(domains.change, "default", {"overlap": fewer})
    # Those who hold it may answer; nobody else is given it.
    assert sqlite_work(_next, "dan") == []
    assert label(sqlite_work, question_id, "甲", by="cy", lease_token=tokens["cy"]).state == "labelled"
    with pytest.raises(AlreadyLabelled):
        label(sqlite_work, question_id, "乙", by="bo", lease_token=tokens["bo"])
    _counted(sqlite_work)


def test_one_answer_each_asks_the_database_nothing_about_answers_of_others(sqlite_work: UnitOfWork) -> None:
    asked: list[str] = []

    def note(*given: Any) -> None:
        asked.append(given[2])

    [single, shared] = _overlapping(sqlite_work, 1, texts=2)
    event.listen(sqlite_work.engine, "before_cursor_execute", note)
    sqlite_work(_next, "ana")
    label(sqlite_work, single, "甲")
    assert not [statement for statement in asked if "is_blind IS" in statement]
    sqlite_work(domains.change, "default", {"overlap": 2})
    label(sqlite_work, shared, "甲")
    assert [statement for statement in asked if "is_blind IS" in statement]


def _answer_the_queue(work: UnitOfWork, number: int, seen: list[tuple[str, str]]) -> None:
    labeler = f"labeler-{number}"
    for _ in range(60):
        items = work(_next, labeler, 3)
        if not items:
            return
        for item in items:
            try:
                label(work, item.question_id, ["甲", "乙"][number % 2], by=labeler, lease_token=item.lease_token)
                seen.append((item.question_id, labeler))
            except IntentError as error:
                raise AssertionError(f"{labeler} held it, and was refused: {error}") from error


def test_labelers_at_once_never_hold_or_answer_a_text_more_often_than_is_wanted(work: UnitOfWork) -> None:
    ids = _overlapping(work, 3, texts=12)
    seen: list[tuple[str, str]] = []

    in_threads(8, lambda number: _answer_the_queue(work, number, seen))
    # Rows that were locked at that moment were passed over; who comes later takes them.
    for number in range(8, 14):
        _answer_the_queue(work, number, seen)

    assert Counter(question_id for question_id, _ in seen) == dict.fromkeys(ids, 3)
    assert len(set(seen)) == len(seen)
    assert sorted(column(work, Annotation.question_id, Annotation.labeler_id)) == sorted(seen)
    assert set(column(work, Text.state)) == {"labelled"}
    assert column(work, Lease.text_id) == []
    _counted(work)


def test_agreement_is_that_of_the_answers_that_stand(sqlite_work: UnitOfWork) -> None:
    ids = _overlapping(sqlite_work, 2, texts=4)
    for question_id, other in zip(ids, ["甲", "甲", "乙", "乙"], strict=True):
        label(sqlite_work, question_id, "丙" if question_id == ids[0] else "甲", by="ana")
        label(sqlite_work, question_id, other, by="bo")
    sqlite_work(undoing.undo, ids[0], labeler_id="ana")
    label(sqlite_work, ids[0], "甲", by="ana")
    label(sqlite_work, ids[3], "丙", by="cy", adjudicate=True)

    def report(session: Session) -> agreement.Report:
        return agreement.of_domain(session, domain_of(session))

    found = sqlite_work.read(report)

    assert (found.texts, found.overall.answers, found.overall.share) == (4, 8, 0.5)
    # n = 8, 甲 six times and 乙 twice: 1 − 7 · 4 / (64 − 40).
    assert found.overall.alpha == pytest.approx(1 - 7 * 4 / (64 - 40))
    assert set(found.by_label) == {"甲", "乙"}
    assert set(found.by_labeler) == {"ana", "bo"}
    assert found.interval is not None
