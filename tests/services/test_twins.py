"""Near twins come into one group, of which either all are gold or none is; what is forgotten leaves no trace in it."""

import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import BatchItem, Text, TextBand, TrainingBatch, UserQuestion
from app.intent.near_twins import BANDS
from app.intent.text import MaskedText, text_hash
from app.services import (
    batches,
    domains,
    folding,
    forgetting,
    grouping,
    imports,
    intake,
    members,
    rule_proofs,
    taxonomy,
    texts,
    twin_pairs,
)
from app.services.twins import Grouped
from tests.builders import (
    ask,
    asked,
    column,
    domain_of,
    label,
    make_labelled_texts,
    make_version,
    set_taxonomy,
)
from tests.services.near import OTHER, STEM, ask_one_by_one, group, groups, held_out, near_texts
from tests.services.test_counters import anew, kept
from tests.services.test_counting_elsewhere import levels
from tests.services.together import in_processes, in_threads


@pytest.fixture(autouse=True)
def _labels(request: pytest.FixtureRequest) -> None:
    for name in {"work", "sqlite_work"} & set(request.fixturenames):
        set_taxonomy(request.getfixturevalue(name), ["甲", "乙"])


def _claim(work: UnitOfWork) -> tuple[TrainingBatch, str]:
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(batches.run, batch.batch_id)
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    return batch, claimed.token


def _train(work: UnitOfWork) -> None:
    batch, token = _claim(work)
    work(
        lambda session: batches.complete(
            session,
            batch.id,
            token,
            outcome="passed",
            version=make_version(session, training_batch_id=batch.id),
        )
    )


def _judging(session: Session) -> set[str | None]:
    """The texts by which a version would be judged now."""
    domain = domain_of(session)
    labels = {one.id: one.path for one in taxonomy.active(session, domain.id)}
    ids = [one["text_id"] for one in members.of_role(session, domain, labels, "gold")]
    found = set(session.scalars(select(Text.text).where(Text.id.in_(ids))))
    assert found == {words for words, _ in rule_proofs.gold(session, domain.id)}
    return found


# Groups


def test_near_twins_are_a_group_named_after_the_first_and_others_stay_alone(work: UnitOfWork) -> None:
    first, second, third = near_texts(3)
    ask_one_by_one(work, ["开灯", first, "关灯", second])
    assert group(work) == Grouped(compared=4, twins=1)
    ask_one_by_one(work, [third, f"{third[:-1]}, {third[-1]}!!"])
    assert group(work) == Grouped(compared=2, twins=2)
    assert groups(work) == [["开灯"], [first, second, third, f"{third[:-1]}, {third[-1]}!!"], ["关灯"]]
    assert column(work, Text.group_hash)[1] == text_hash(MaskedText(first))
    assert column(work, Text.is_grouped) == [True] * 6
    assert len(column(work, TextBand.band)) == 6 * BANDS
    assert group(work) == Grouped()


def test_the_pages_in_which_texts_come_do_not_matter(sqlite_work: UnitOfWork) -> None:
    rng = random.Random(3)
    stems = ["".join(rng.choices(STEM + OTHER, k=20)) for _ in range(4)]
    words = [text for stem in stems for text in near_texts(5, stem=stem)]
    rng.shuffle(words)
    ask_one_by_one(sqlite_work, words)
    group(sqlite_work, limit=3)
    assert sorted(map(sorted, groups(sqlite_work))) == sorted(sorted(near_texts(5, stem=stem)) for stem in stems)


def test_texts_of_different_domains_never_meet(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "other")
    ask(sqlite_work, near_texts(2)[0])
    ask(sqlite_work, near_texts(2)[1], domain="other")
    group(sqlite_work)
    group(sqlite_work, domain="other")
    assert len(groups(sqlite_work)) == 2


def test_the_smaller_of_two_groups_joins_the_larger_when_one_is_near_both(work: UnitOfWork) -> None:
    stem = STEM + OTHER[:11]
    small, large = near_texts(1, stem=stem + "以后呢"), near_texts(2, stem="那么说" + stem)
    ask_one_by_one(work, [*small, *large])
    group(work)
    assert groups(work) == [small, large]
    ask(work, stem)
    assert group(work).twins == 1
    assert groups(work) == [[*small, *large, stem]]
    assert set(column(work, Text.group_hash)) == {text_hash(MaskedText(large[0]))}


def test_a_group_stops_growing_and_what_is_near_it_is_gold_as_it_is(work: UnitOfWork, monkeypatch) -> None:
    monkeypatch.setattr(grouping, "MOST_IN_GROUP", 3)
    gold = near_texts(1, gold=True)
    label(work, ask(work, *gold)[0], "甲")
    ask_one_by_one(work, near_texts(5))
    group(work, limit=2)
    assert sorted(map(len, groups(work))) == [3, 3]
    assert held_out(work) == [True] * 6
    assert kept(work) == anew(work)


def test_of_a_template_that_thousands_fill_in_a_few_are_kept_to_compare_with(sqlite_work: UnitOfWork, monkeypatch):
    monkeypatch.setattr(twin_pairs, "MOST_IN_BAND", 4)
    ask_one_by_one(sqlite_work, near_texts(12))
    group(sqlite_work, limit=5)
    assert len(groups(sqlite_work)) == 1
    most = select(func.count()).select_from(TextBand).group_by(TextBand.band)
    assert sqlite_work.read(lambda session: max(session.scalars(most))) == 4


# Gold


def test_new_texts_follow_the_group_they_come_into(work: UnitOfWork) -> None:
    ask_one_by_one(work, [*near_texts(1), *near_texts(2, gold=True)])
    ask_one_by_one(work, [*near_texts(1, gold=True, stem=OTHER), *near_texts(2, stem=OTHER)])
    assert held_out(work) == [False, True, True, True, False, False]
    group(work)
    assert held_out(work) == [False] * 3 + [True] * 3
    # What is held out waits for the draw, and what is not for a person.
    assert [priority is None for priority in column(work, Text.priority)] == [False] * 3 + [True] * 3
    assert kept(work) == anew(work)


def test_gold_that_a_person_answered_makes_the_group_gold(work: UnitOfWork) -> None:
    (first,), (second,) = near_texts(1), near_texts(1, gold=True)
    for question_id in ask_one_by_one(work, [first, second]):
        label(work, question_id, "甲")
    group(work)
    assert held_out(work) == [True, True]
    assert column(work, Text.training_status) == ["skipped", "skipped"]
    assert work.read(_judging) == {first, second}
    while work(texts.project_due):
        pass
    assert set(column(work, UserQuestion.training_status)) == {"skipped"}
    assert kept(work) == anew(work)


def test_drawn_gold_makes_the_group_gold_and_keeps_its_place(work: UnitOfWork) -> None:
    ask_one_by_one(work, [*near_texts(1), *near_texts(1, gold=True)])
    drawn = {"strategy": "gold", "priority": 0.25, "sampling_probability": 0.5}
    work(lambda session: _set(session, Text.is_gold.is_(True), **drawn))
    group(work)
    assert column(work, Text.is_gold, Text.strategy, Text.priority) == [(True, None, None), (True, "gold", 0.25)]
    assert kept(work) == anew(work)


def _set(session: Session, condition: Any, **values: Any) -> None:
    for text in session.scalars(select(Text).where(condition)):
        for name, value in values.items():
            setattr(text, name, value)


def test_of_an_imported_group_the_first_says_whether_it_is_gold(work: UnitOfWork) -> None:
    (first,), later = near_texts(1), near_texts(3, gold=True)
    for line, words in enumerate([first, *later]):
        work(imports.take_in, "default", [imports.ImportRow(line, MaskedText(words), "甲")])
    assert held_out(work) == [False, True, True, True]
    group(work)
    assert held_out(work) == [False] * 4
    assert column(work, Text.training_status) == ["pending"] * 4
    assert kept(work) == anew(work)


def test_imported_gold_that_judged_a_version_stays_gold(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    for words in (*near_texts(1), *near_texts(1, gold=True)):
        work(imports.take_in, "default", [imports.ImportRow(1, MaskedText(words), "甲")])
    work(batches.open_batch, "default", opened_by="ana")
    work(lambda session: _set(session, Text.training_status == "claimed", training_status="pending", claimed_by=None))
    group(work)
    assert held_out(work)[-2:] == [True, True]


def test_what_was_trained_on_becomes_gold_but_judges_nobody(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    (used,), (gold,) = near_texts(1), near_texts(1, gold=True)
    label(work, ask(work, used)[0], "甲")
    _train(work)
    assert set(column(work, Text.training_status)) == {"used"}
    (question_id,) = ask(work, gold)
    label(work, question_id, "甲")
    group(work)
    assert held_out(work)[-2:] == [True, True]
    assert column(work, Text.training_status)[-2:] == ["used", "skipped"]
    assert work.read(_judging) == {gold}
    # And never again: neither trained on, nor by a later answer brought back to judge.
    label(work, ask(work, used)[0], "乙")
    assert work.read(_judging) == {gold}
    batch = work(batches.open_batch, "default", opened_by="ana", retrain=True)
    assert _roles(work, batch, used) == set()
    assert _roles(work, batch, gold) == {"gold"}
    assert kept(work) == anew(work)


def _roles(work: UnitOfWork, batch: TrainingBatch, words: str) -> set[str]:
    statement = select(BatchItem.role).join(Text, Text.id == BatchItem.text_id)
    return set(
        work.read(lambda s: s.scalars(statement.where(BatchItem.batch_id == batch.id, Text.text == words)).all())
    )


@pytest.mark.parametrize("ends", ["used", "pending"])
def test_a_group_waits_for_the_batch_that_holds_one_of_it(work: UnitOfWork, ends: str) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    (held, later), (gold,) = near_texts(2), near_texts(1, gold=True)
    label(work, ask(work, held)[0], "甲")
    group(work)
    batch, token = _claim(work)
    for words in (gold, later):
        label(work, ask(work, words)[0], "甲")
    assert group(work) == Grouped(waiting=2)
    # The batch keeps what it holds; nothing more is trained on meanwhile.
    assert held_out(work)[-3:] == [False, True, True]
    assert column(work, Text.training_status)[-3:] == ["claimed", "skipped", "skipped"]
    assert work.read(_judging) == {gold, later}
    if ends == "used":
        work(
            lambda session: batches.complete(
                session, batch.id, token, outcome="passed", version=make_version(session, training_batch_id=batch.id)
            )
        )
    else:
        work(batches.fail, batch.id, token, error="x")
    assert group(work) == Grouped(compared=2, twins=2)
    assert held_out(work)[-3:] == [True] * 3
    assert work.read(_judging) == ({gold, later} if ends == "used" else {gold, later, held})
    assert kept(work) == anew(work)


def test_a_claimed_text_that_comes_to_gold_is_compared_when_its_batch_ended(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    (gold,), (held,) = near_texts(1, gold=True), near_texts(1)
    label(work, ask(work, gold)[0], "甲")
    group(work)
    label(work, ask(work, held)[0], "甲")
    batch, token = _claim(work)
    assert group(work) == Grouped(waiting=1)
    assert held_out(work)[-1] is False
    work(batches.fail, batch.id, token, error="x")
    assert group(work) == Grouped(compared=1, twins=1)
    assert held_out(work)[-1] is True
    assert kept(work) == anew(work)


# Many at once


def group_and_count(work: UnitOfWork, number: int) -> int:
    return group(work, limit=3 + number).compared


def test_clocks_at_once_come_to_the_same_groups(database_url: str, work: UnitOfWork) -> None:
    families = [near_texts(6, gold=gold, stem=stem) for gold in (False, True) for stem in (STEM, OTHER)]
    ask_one_by_one(work, [text for some in zip(*families, strict=True) for text in some])
    compared = in_processes(3, group_and_count, database_url)
    assert sum(compared) == 24
    assert sorted(map(len, groups(work))) == [12, 12]
    assert len(column(work, TextBand.band)) == 24 * BANDS
    assert kept(work) == anew(work)


def test_labelers_and_folders_beside_a_clock_lose_nothing(work: UnitOfWork) -> None:
    questions = ask_one_by_one(work, [*near_texts(6), *near_texts(6, gold=True), *near_texts(6, stem=OTHER)])

    def act(number: int) -> None:
        if number == 0:
            group(work, limit=4)
        elif number == 1:
            for question_id in questions[::2]:
                label(work, question_id, "甲", by=f"p{number}")
        else:
            ask_one_by_one(work, near_texts(20)[number * 4 : number * 4 + 4])

    in_threads(4, act)
    group(work)
    assert len(groups(work)) == 2
    mixed = select(Text.group_hash).group_by(Text.group_hash).having(func.count(func.distinct(Text.is_gold)) > 1)
    assert work.read(lambda session: session.scalars(mixed).all()) == []
    assert kept(work) == anew(work)


def test_an_answer_that_comes_while_a_group_is_looked_for_counts(work: UnitOfWork, monkeypatch) -> None:
    if work.engine.dialect.name == "sqlite":
        pytest.skip("nobody else writes while a group is looked for")
    _, gold = ask_one_by_one(work, [*near_texts(1), *near_texts(1, gold=True)])
    find, answered = twin_pairs.pairs, []

    def find_and_answer(*args: Any) -> Any:
        found = find(*args)
        if not answered:
            answered.append(label(work, gold, "甲"))
        return found

    monkeypatch.setattr(twin_pairs, "pairs", find_and_answer)
    group(work)
    # Without the answer it would have followed the older one.
    assert held_out(work) == [True, True]
    assert kept(work) == anew(work)


# Forgetting


def _forget(work: UnitOfWork, *questions: str) -> None:
    condition = UserQuestion.question_id.in_(questions)
    work(lambda session: forgetting.forget_slice(session, condition))


@pytest.mark.parametrize("labelled", [False, True])
def test_what_is_forgotten_leaves_neither_bands_nor_its_name_to_the_group(work: UnitOfWork, labelled: bool) -> None:
    first, second, third = near_texts(3)
    questions = ask_one_by_one(work, [first, second, third])
    group(work)
    if labelled:
        label(work, questions[0], "甲")
    forgotten = column(work, Text.id)[0]
    _forget(work, questions[0])
    assert forgotten not in column(work, TextBand.text_id)
    assert [some for some in groups(work) if some != [None]] == [[second, third]]
    assert text_hash(MaskedText(first)) not in column(work, Text.group_hash)
    assert column(work, Text.group_hash)[-1] == text_hash(MaskedText(second))
    # What is asked later comes to those that are left; what is empty is compared with nothing.
    ask(work, near_texts(4)[3])
    assert group(work) == Grouped(compared=1, twins=1)
    assert levels(kept(work)) == levels(anew(work))


def test_texts_without_words_are_compared_with_nothing_and_not_looked_at_again(work: UnitOfWork) -> None:
    owner = work(domains.create, "hashes", keep_text=False).id
    work(intake.record, [replace(asked(words, domain_id=owner), text=None) for words in near_texts(2)])
    work(folding.fold)
    assert group(work, domain="hashes") == Grouped(compared=2)
    assert group(work, domain="hashes") == Grouped()
    assert column(work, TextBand.band) == []
