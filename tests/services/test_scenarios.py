"""Proposals live with their questions: they grow, go, are accepted or dismissed, and forget what is forgotten."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Label, Scenario, Text
from app.errors import Malformed, NotFound, ScenarioDecided, TaxonomyEmpty
from app.services import (
    domains,
    mix_selection,
    queue,
    recounting,
    scenario_material,
    scenarios,
    selection,
    taxonomy,
    texts,
    tombstones,
)
from app.services.audit import COMMAND_LINE
from app.services.scenarios import Group, Outcome
from tests.builders import (
    ask,
    column,
    domain_id,
    domain_of,
    gold_text,
    label,
    make_labelled_texts,
    set_taxonomy,
    text_of,
    trainable_text,
)

ANA = "a" * 64
NEW = "售后 > 退运费"


def unsure(work: UnitOfWork, count: int, *, subject: str = "运费", **changes: Any) -> list[str]:
    """Questions of which the model is not sure, each asked twice."""
    texts = [trainable_text(subject) for _ in range(count)]
    answer: dict[str, Any] = {
        "intents": ["物流"], "confidence": 0.2, "topk": [["物流", 0.2]], "method": "local_model"
    }  # fmt: skip
    ask(work, *texts, **(answer | changes))
    return ask(work, *texts, **(answer | changes))


def ids_of(work: UnitOfWork, questions: Sequence[str]) -> list[int]:
    return work.read(lambda session: [text_of(session, question).id for question in questions])


def owners(work: UnitOfWork, ids: Sequence[int]) -> list[int | None]:
    """The scenario that each of these texts names."""
    by_id = dict(column(work, Text.id, Text.scenario_id))
    return [by_id[text_id] for text_id in ids]


def store(work: UnitOfWork, *groups: Sequence[int], keywords: Sequence[str] = ("运费",)) -> Outcome:
    return work(scenarios.store, "default", [Group(list(group), list(keywords)) for group in groups])


def accept(work: UnitOfWork, scenario_id: int, path: str = NEW, **changes: Any) -> scenarios.Accepted:
    return work(scenarios.accept, scenario_id, path, **({"by": COMMAND_LINE, "trains_from": 50} | changes))


def shown(work: UnitOfWork, **wanted: Any) -> list[Scenario]:
    owner = domain_id(work)
    return list(work.read(scenarios.listing, owner, limit=50, **wanted))


def material(work: UnitOfWork, threshold: float = 0.5) -> scenario_material.Material:
    def read(session: Session) -> scenario_material.Material:
        return scenario_material.material(session, domain_of(session), threshold=threshold)

    return work.read(read)


def levels_agree(work: UnitOfWork) -> bool:
    return work(lambda session: recounting.rebuild(session, domain_of(session))) == 0


# What is looked at


def test_candidates_are_unsure_or_called_other_and_never_gold(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流", taxonomy.OTHER])
    wanted = unsure(work, 3) + unsure(work, 1, confidence=0.95, intents=[taxonomy.OTHER])
    # Above τ, as unknown intents often are.
    wanted += unsure(work, 1, confidence=0.85)
    [called] = ask(work, trainable_text("别的"))
    label(work, called, taxonomy.OTHER)
    [named] = ask(work, trainable_text("别的"))
    label(work, named, taxonomy.OTHER, proposed_label="发票")
    unsure(work, 2, confidence=0.95)
    unsure(work, 2, train_allowed=False)
    ask(work, gold_text("运费"), intents=["物流"], confidence=0.1, method="local_model")
    make_labelled_texts(work, {"物流": 4}, gold=2)
    found = material(work)
    assert sorted(found.text_ids) == sorted(ids_of(work, [*wanted, called, named]))
    assert found.counts.tolist().count(2) == 5
    assert len(found.labelled) == len(found.label_ids) == 4
    assert "物流" in found.user_words


def test_of_too_many_the_most_asked_and_least_sure_are_taken(
    sqlite_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_taxonomy(sqlite_work, ["物流"])
    monkeypatch.setattr(scenario_material, "MOST_TEXTS", 6)
    monkeypatch.setattr(scenario_material, "MOST_KNOWN_MEMBERS", 3)
    unsure(sqlite_work, 5, confidence=0.4)
    best = unsure(sqlite_work, 3, confidence=0.1)
    known = ids_of(sqlite_work, unsure(sqlite_work, 5, confidence=0.45))
    store(sqlite_work, known)
    found = material(sqlite_work).text_ids
    assert len(found) == 6
    assert set(ids_of(sqlite_work, best)) <= set(found)
    # What is proposed keeps a place, or it would come and go.
    assert len(set(found) & set(known)) == 3


# Proposals


def test_a_group_is_a_proposal_and_its_texts_name_it(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 6))
    assert store(work, ids[::-1]) == Outcome(new=1)
    [scenario] = shown(work)
    assert (scenario.status, scenario.text_count, scenario.question_count) == ("proposed", 6, 12)
    assert (scenario.keywords, scenario.typical) == (["运费"], ids[:0:-1])
    assert set(column(work, Text.scenario_id)) == {scenario.id}
    typical = work.read(scenarios.typical, [scenario])[scenario.id]
    assert [text.id for text in typical] == ids[:0:-1]
    page = work.read(scenarios.members_of, scenario, limit=4)
    rest = work.read(scenarios.members_of, scenario, limit=4, before=page[-1].id)
    assert [text.id for text in (*page, *rest)] == sorted(ids, reverse=True)


def test_a_group_that_grew_stays_the_same_proposal_and_one_that_is_found_no_more_goes(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 14))
    store(work, ids[:6])
    [before] = shown(work)
    assert store(work, ids[1:12]) == Outcome(updated=1)
    [after] = shown(work)
    assert (after.id, after.text_count) == (before.id, 11)
    assert owners(work, ids) == [None, *[before.id] * 11, None, None]
    # Nothing in common: another one.
    assert store(work, ids[:1] + ids[12:] + ids_of(work, unsure(work, 4))) == Outcome(new=1, gone=1)
    [other] = shown(work)
    assert column(work, Text.scenario_id).count(other.id) == 7
    assert store(work) == Outcome(gone=1)
    assert shown(work) == []
    assert set(column(work, Text.scenario_id)) == {None}


def test_of_two_groups_that_were_one_proposal_the_larger_goes_on(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 16))
    store(work, ids)
    [before] = shown(work)
    assert store(work, ids[:6], ids[6:]) == Outcome(new=1, updated=1)
    assert {row.id: row.text_count for row in shown(work)}[before.id] == 10


def test_texts_that_were_answered_meanwhile_are_no_members(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流"])
    questions = unsure(work, 7)
    ids = ids_of(work, questions)
    label(work, questions[0], "物流")
    assert store(work, ids) == Outcome(new=1)
    assert column(work, Text.scenario_id).count(None) == 1
    for question in questions[1:4]:
        label(work, question, "物流")
    # Four are left: too few.
    assert store(work, ids) == Outcome(gone=1)


def test_a_group_with_a_text_that_was_forgotten_meanwhile_is_not_kept(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 8))
    last = ids_of(work, unsure(work, 1, user_hash=ANA))
    work(lambda session: tombstones.replay(session, [tombstones.of_user(session, ANA, None)]))
    assert store(work, ids + last) == Outcome()
    assert shown(work) == []


# Dismissed


def test_what_was_dismissed_is_not_proposed_again_however_it_grows(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 6))
    store(work, ids)
    [scenario] = shown(work)
    assert work(scenarios.dismiss, scenario.id, by=COMMAND_LINE).status == "dismissed"
    assert store(work, ids) == Outcome(dismissed=1)
    more = ids + ids_of(work, unsure(work, 5))
    assert store(work, more) == Outcome(dismissed=1)
    # What came to it counts to it: it may grow on.
    assert store(work, more[3:] + ids_of(work, unsure(work, 7))) == Outcome(dismissed=1)
    assert [row.status for row in shown(work)] == ["dismissed"]
    # Mostly others: that is something else.
    assert store(work, more[:2] + ids_of(work, unsure(work, 6))) == Outcome(new=1)


def test_a_decision_is_made_once_but_a_dismissal_may_be_thought_over(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流"])
    store(work, ids_of(work, unsure(work, 6)))
    [scenario] = shown(work)
    dismissed = work(scenarios.dismiss, scenario.id, by=COMMAND_LINE)
    assert (dismissed.decided_by, dismissed.decided_at is not None) == ("command line", True)
    with pytest.raises(ScenarioDecided):
        work(scenarios.dismiss, scenario.id, by=COMMAND_LINE)
    assert accept(work, scenario.id).queued == 6
    with pytest.raises(ScenarioDecided):
        accept(work, scenario.id)
    with pytest.raises(ScenarioDecided):
        work(scenarios.dismiss, scenario.id, by=COMMAND_LINE)
    with pytest.raises(NotFound):
        accept(work, 4711)


# Accepted


def test_accepting_makes_a_label_and_asks_its_questions_first(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流"])
    unsure(work, 3, subject="别的")
    ids = ids_of(work, unsure(work, 8))
    store(work, ids[3:] + ids[:3])
    [scenario] = shown(work)
    done = accept(work, scenario.id, guideline="谁付退货的运费")
    assert (done.created, done.queued, done.scenario.status) == (True, 8, "accepted")
    assert (done.label.path, done.label.trains_from, done.label.guideline) == (NEW, 50, "谁付退货的运费")
    offered = work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=11))
    assert ids_of(work, [item.question_id for item in offered[:5]]) == ids[3:]
    assert {item.strategy for item in offered[:8]} == {texts.NEW_SCENARIO}
    assert {item.reason for item in offered[:8]} == {f"looks like the new label {NEW}"}
    assert all(1.0 < item.priority <= 2.0 for item in offered[:8])
    assert all(item.strategy != texts.NEW_SCENARIO for item in offered[8:])
    assert label(work, offered[0].question_id, NEW).label == NEW
    assert levels_agree(work)


def test_its_questions_keep_their_place_however_they_are_asked_scored_or_selected_meanwhile(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流"])
    others = unsure(work, 3, subject="别的")
    questions = unsure(work, 6)
    store(work, ids_of(work, questions))
    [scenario] = shown(work)
    accept(work, scenario.id)
    [words] = [text for text_id, text in column(work, Text.id, Text.text) if text_id == ids_of(work, questions[:1])[0]]
    ask(work, words, intents=["物流"], confidence=0.8, topk=[["物流", 0.8]], method="local_model")
    waiting = work.read(selection.stale, domain_id(work), "default-v9", limit=50)
    work(selection.rescore, waiting, [[["物流", 0.7], ["别的", 0.3]]] * len(waiting), version="default-v9")
    plan = work.read(lambda session: mix_selection.plan(session, domain_of(session), size=5, most=50))
    assert plan is not None
    assert sorted(plan.candidates) == sorted(ids_of(work, others))
    work(lambda session: mix_selection.place(session, domains.locked(session, "default"), plan, [], version=None))
    offered = work.read(
        lambda session: queue.unlabelled(session, domain_of(session), limit=50, strategy=texts.NEW_SCENARIO)
    )
    assert sorted(ids_of(work, [item.question_id for item in offered])) == sorted(ids_of(work, questions))


def test_members_of_an_accepted_scenario_are_looked_at_no_more(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流"])
    ids = ids_of(work, unsure(work, 8))
    store(work, ids)
    [scenario] = shown(work)
    accept(work, scenario.id)
    assert list(material(work).text_ids) == []
    # Not even by a run that began before.
    assert store(work, ids) == Outcome()
    assert set(column(work, Text.scenario_id)) == {scenario.id}


def test_what_a_person_called_other_waits_again_with_the_old_answer_kept(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流", taxonomy.OTHER])
    questions = unsure(work, 8)
    label(work, questions[0], taxonomy.OTHER)
    label(work, questions[1], taxonomy.OTHER, proposed_label="发票")
    label(work, questions[2], taxonomy.OTHER, proposed_label=NEW)
    store(work, ids_of(work, questions))
    [scenario] = shown(work)
    assert scenario.text_count == 8
    assert accept(work, scenario.id).queued == 6
    states = work.read(
        lambda session: [
            (text.state, text.proposed_label, text.label_id and session.get_one(Label, text.label_id).path)
            for text in (text_of(session, question) for question in questions[:4])
        ]
    )
    assert states == [
        ("unlabelled", None, None),
        # A person has named another label.
        ("labelled", "发票", taxonomy.OTHER),
        # A person has named this one.
        ("labelled", None, NEW),
        ("unlabelled", None, None),
    ]
    kinds = work.read(
        lambda session: session.execute(
            select(Annotation.kind, Annotation.source)
            .where(Annotation.text_id == text_of(session, questions[0]).id)
            .order_by(Annotation.id)
        ).all()
    )
    assert [tuple(row) for row in kinds] == [("label", "labeler"), ("retract", "system")]
    assert levels_agree(work)
    label(work, questions[0], NEW)


def test_a_label_that_is_there_takes_the_questions_and_stays_as_it_is(work: UnitOfWork) -> None:
    set_taxonomy(work, ["物流", NEW])
    store(work, ids_of(work, unsure(work, 6)))
    [scenario] = shown(work)
    done = accept(work, scenario.id, guideline="other words")
    assert (done.created, done.queued, done.label.trains_from, done.label.guideline) == (False, 6, 2, None)


@pytest.mark.parametrize("path", ["物流 > 运费", "售后", taxonomy.OTHER, " > ", "甲 >  > 乙"])
def test_what_cannot_be_a_label_beside_the_others_is_refused(sqlite_work: UnitOfWork, path: str) -> None:
    set_taxonomy(sqlite_work, ["物流", "售后 > 退款", taxonomy.OTHER])
    store(sqlite_work, ids_of(sqlite_work, unsure(sqlite_work, 6)))
    [scenario] = shown(sqlite_work)
    with pytest.raises(Malformed):
        accept(sqlite_work, scenario.id, path)
    assert shown(sqlite_work)[0].status == "proposed"


def test_a_domain_without_labels_gets_its_taxonomy_first(sqlite_work: UnitOfWork) -> None:
    store(sqlite_work, ids_of(sqlite_work, unsure(sqlite_work, 6)))
    [scenario] = shown(sqlite_work)
    with pytest.raises(TaxonomyEmpty):
        accept(sqlite_work, scenario.id)


# Forgetting


def test_a_proposal_goes_with_a_member_that_is_forgotten_and_is_found_anew(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 7))
    gone = ids_of(work, unsure(work, 1, user_hash=ANA))
    store(work, gone + ids, keywords=["运费", "只有她说"])
    [scenario] = shown(work)
    work(lambda session: tombstones.replay(session, [tombstones.of_user(session, ANA, None)]))
    assert shown(work) == []
    with pytest.raises(NotFound):
        work(scenarios.dismiss, scenario.id, by=COMMAND_LINE)
    assert column(work, Scenario.keywords, Scenario.typical) == [([], [])]
    assert store(work, ids) == Outcome(updated=1)
    assert [row.id for row in shown(work)] == [scenario.id]


def test_a_dismissal_outlives_its_forgotten_members_without_their_words(work: UnitOfWork) -> None:
    ids = ids_of(work, unsure(work, 7))
    gone = ids_of(work, unsure(work, 1, user_hash=ANA))
    store(work, gone + ids, keywords=["运费", "只有她说"])
    work(scenarios.dismiss, shown(work)[0].id, by=COMMAND_LINE)
    work(lambda session: tombstones.replay(session, [tombstones.of_user(session, ANA, None)]))
    [scenario] = shown(work)
    assert (scenario.status, scenario.keywords) == ("dismissed", [])
    assert scenario.typical == ids[:4]
    assert store(work, ids) == Outcome(dismissed=1)
