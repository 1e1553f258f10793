"""What is forgotten with a question, what stays because others asked it, and what is said of it."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.db.session import UnitOfWork
from app.db.tables import Annotation, BatchItem, KeywordRule, Label, Lease, Text, UserQuestion
from app.services import annotations, batches, domains, folding, forgetting, imports, intake, queue, tombstones
from app.services.forgetting import Forgotten
from app.services.tombstones import Stone
from tests.builders import (
    ask,
    asked,
    column,
    domain_id,
    domain_of,
    label,
    make_labelled_texts,
    make_version,
    set_taxonomy,
    trainable_text,
)

ANA, BEN = "a" * 64, "b" * 64


def forget_user(work: UnitOfWork, user_hash: str = ANA, domain: str | None = None) -> Forgotten:
    return work(lambda session: tombstones.replay(session, [tombstones.of_user(session, user_hash, domain)]))


def texts_left(work: UnitOfWork) -> list[str | None]:
    return column(work, Text.text)


def test_questions_and_texts_of_a_user_go_and_those_of_others_stay(work):
    ask(work, "只有我", "大家都问", user_hash=ANA)
    ask(work, "大家都问", "别人的", user_hash=BEN)
    ask(work, "没有名字")
    forgotten = forget_user(work)
    assert (forgotten.questions, forgotten.texts, forgotten.kept_texts) == (2, 1, 1)
    assert texts_left(work) == ["大家都问", "别人的", "没有名字"]
    assert sorted(column(work, UserQuestion.question)) == sorted(["大家都问", "别人的", "没有名字"])
    assert ANA not in column(work, UserQuestion.user_hash)
    assert forget_user(work).questions == 0


def test_text_that_stays_is_counted_anew_and_shown_by_a_question_that_is_there(work):
    set_taxonomy(work, ["甲", "乙"])
    ask(work, "大家都问", "大家都问", user_hash=ANA)
    (other,) = ask(work, "大家都问", user_hash=BEN)
    forget_user(work)
    ((count, shown, answered),) = column(work, Text.count, Text.question_id, Text.train_allowed)
    assert (count, shown, answered) == (1, other, True)
    seen = work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=5))
    assert [item.question_id for item in seen] == [other]
    label(work, other, "甲")


def test_text_leaves_training_with_the_only_one_who_allowed_it(work):
    ask(work, "大家都问", user_hash=ANA)
    ask(work, "大家都问", user_hash=BEN, train_allowed=False)
    forget_user(work)
    assert column(work, Text.train_allowed, Text.priority) == [(False, None)]


def test_answered_text_is_emptied_and_its_label_stays_for_the_figures(work):
    set_taxonomy(work, ["甲", "乙"])
    (question,) = ask(work, "秘密的话", user_hash=ANA)
    work(annotations.skip, question, labeler_id="zoe", reason="他说秘密的话")
    label(work, question, "甲", time_intent={"of": "秘密的话"})
    forget_user(work)
    rows = column(work, Text.text, Text.state, Text.question_id, Text.count, Text.train_allowed)
    assert rows == [(None, "labelled", None, 0, False)]
    told = column(work, Annotation.kind, Annotation.reason, Annotation.time_intent, Annotation.question_id)
    assert told == [("skip", None, None, None), ("label", None, None, None)]
    assert column(work, Annotation.answer) == [None, ["甲"]]


def test_proposed_label_of_a_forgotten_text_goes_too(work):
    set_taxonomy(work, ["甲", "乙"])
    (question,) = ask(work, "秘密的话", user_hash=ANA)
    work(annotations.submit, question, correct_intent=[], proposed_label="秘密", labeler_id="zoe")
    forget_user(work)
    assert column(work, Text.proposed_label) == column(work, Annotation.proposed_label) == [None]


def test_forgotten_text_has_no_hash_by_which_it_could_be_guessed_and_a_later_twin_is_a_new_text(work):
    questions = make_labelled_texts(work, {"甲": 1, "乙": 1})
    said = texts_left(work)
    before = column(work, Text.text_hash)
    for question in questions:
        work(lambda session, question=question: tombstones.replay(session, [Stone("question", question, now())]))
    assert not set(before) & {*column(work, Text.text_hash), *column(work, Text.group_hash)}
    ask(work, said[0])
    assert texts_left(work) == [None, None, said[0]]
    assert column(work, Text.state)[-1] == "unlabelled"


def now() -> datetime:
    return datetime.now(UTC)


def test_skipped_text_never_comes_back_into_the_queue(work):
    (question,) = ask(work, "秘密的话", user_hash=ANA)
    work(annotations.skip, question, labeler_id="zoe")
    forget_user(work)
    assert column(work, Text.state, Text.priority, Text.text) == [("skipped", None, None)]
    assert work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=5)) == []


def test_leased_text_is_taken_out_of_the_labelers_hand(work):
    ask(work, trainable_text("秘密"), user_hash=ANA)
    work(lambda session: queue.unlabelled(session, domain_of(session), limit=5, labeler_id="zoe"))
    assert len(column(work, Lease.token)) == 1
    forget_user(work)
    assert column(work, Lease.token) == []


def test_questions_that_are_not_folded_yet_go_too(work):
    work(intake.record, [asked("还没有", domain_id=domain_id(work), user_hash=ANA)])
    assert forget_user(work).questions == 1
    assert work(folding.fold) == 0
    assert texts_left(work) == []


def test_one_question_goes_and_its_text_stays_while_another_asks_it(work):
    first, second = ask(work, "再问一次", "再问一次", user_hash=ANA)
    work(lambda session: tombstones.replay(session, [tombstones.of_question(session, first)]))
    assert texts_left(work) == ["再问一次"]
    work(lambda session: tombstones.replay(session, [tombstones.of_question(session, second)]))
    assert texts_left(work) == []


def test_what_is_old_goes_by_the_time_it_was_asked(work):
    ask(work, "上个月", "一直在问", asked_at=now() - timedelta(days=40))
    ask(work, "昨天", "一直在问", asked_at=now() - timedelta(days=1))
    stone = work.read(tombstones.of_all_before, 30, None)
    work(lambda session: tombstones.replay(session, [stone]))
    assert texts_left(work) == ["一直在问", "昨天"]
    assert len(column(work, UserQuestion.question_id)) == 2


def test_user_is_forgotten_in_the_named_domain_alone(work):
    work(domains.create, "shop")
    ask(work, "这里", user_hash=ANA)
    ask(work, "那里", user_hash=ANA, domain="shop")
    assert forget_user(work, domain="shop").questions == 1
    assert texts_left(work) == ["这里"]


def test_imported_text_that_only_the_user_asked_is_forgotten(work):
    set_taxonomy(work, ["甲", "乙"])
    work(imports.take_in, "default", [imports.ImportRow(1, "秘密的话", "甲"), imports.ImportRow(2, "文件里的话", "乙")])
    ask(work, "秘密的话", user_hash=ANA)
    forget_user(work)
    assert texts_left(work) == [None, "文件里的话"]


def test_imported_text_that_others_ask_too_stays_in_training(work):
    set_taxonomy(work, ["甲", "乙"])
    work(imports.take_in, "default", [imports.ImportRow(1, "大家的话", "甲")])
    ask(work, "大家的话", user_hash=ANA)
    ask(work, "大家的话", user_hash=BEN, train_allowed=False)
    forget_user(work)
    assert column(work, Text.text, Text.train_allowed) == [("大家的话", True)]


def test_forgotten_texts_are_in_no_later_batch_and_in_none_that_waits(work):
    questions = make_labelled_texts(work, {"甲": 4, "乙": 4}, gold=1)
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(lambda session: tombstones.replay(session, [tombstones.of_question(session, questions[0])]))
    assert len(work.read(batches.items, batch.id)) == 9
    assert len(column(work, BatchItem.text_id)) == 10
    work(batches.run, batch.batch_id)
    claimed = work(batches.claim_next, worker="w")
    work(batches.fail, batch.id, claimed.token, error="x")
    second = work(batches.open_batch, "default", opened_by="ana")
    assert second.question_count == 7


def test_versions_and_batches_that_learned_from_it_are_named(work):
    questions = make_labelled_texts(work, {"甲": 3, "乙": 3}, gold=1)
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(batches.run, batch.batch_id)
    work(batches.claim_next, worker="w")
    work(lambda session: make_version(session, training_batch_id=batch.id))
    work(make_version)
    gold = column(work, Text.is_gold)
    assert gold.count(True) == 2
    foreseen = work.read(forgetting.foresee, UserQuestion.question_id.in_(questions))
    stones = [Stone("question", question, now()) for question in questions]
    forgotten = work(lambda session: tombstones.replay(session, stones))
    for found in (foreseen, forgotten):
        assert (found.questions, found.texts) == (8, 8)
        # Gold was measured on, not learned from.
        assert dict(found.trained) == {"default-v1": 6}
        assert dict(found.training) == {batch.batch_id: 6}


def test_foreseeing_changes_nothing_and_says_what_will_be(work):
    ask(work, "只有我", "大家都问", user_hash=ANA)
    ask(work, "大家都问", user_hash=BEN)
    foreseen = work.read(forgetting.foresee, forgetting.of_user(ANA, None))
    assert (foreseen.questions, foreseen.texts, foreseen.kept_texts) == (2, 1, 1)
    assert len(texts_left(work)) == 2


def test_rules_lose_examples_that_are_forgotten(work):
    set_taxonomy(work, ["甲"])
    (mine,), (other,) = ask(work, "我的", user_hash=ANA), ask(work, "别人的", user_hash=BEN)

    def add(session):
        (known,) = session.scalars(select(Label)).all()
        for keyword, examples in (("一", [mine, other]), ("二", [mine]), ("三", [other]), ("四", None)):
            session.add(
                KeywordRule(
                    domain_id=known.domain_id, keyword=keyword, intent="甲", label_id=known.id, examples=examples
                )
            )

    work(add)
    forget_user(work)
    assert column(work, KeywordRule.examples) == [[other], None, [other], None]


def test_slices_end_and_take_all(work):
    ask(work, *(f"第{number}句" for number in range(25)), user_hash=ANA)
    sizes = []
    while (slice_ := work(forgetting.forget_slice, forgetting.of_user(ANA, None), limit=10)).questions:
        sizes.append(slice_.questions)
    assert sizes == [10, 10, 5]
    assert work.read(lambda session: session.scalar(select(func.count(Text.id)))) == 0


def test_replayed_stone_spares_what_the_user_asked_after_it_was_laid(work):
    ask(work, "以前的", user_hash=ANA)
    stone = work.read(tombstones.of_user, ANA, None)
    work(tombstones.lay, stone, by="ana")
    ask(work, "以后的", user_hash=ANA)
    work(lambda session: tombstones.replay(session, tombstones.listing(session)))
    assert texts_left(work) == ["以后的"]


def test_stone_laid_twice_is_one_with_the_later_time(work):
    early, late = (Stone("user", f"*:{ANA}", now() - timedelta(days=days)) for days in (2, 1))
    for stone in (late, early):
        work(tombstones.lay, stone, by="ana")
    ((kind, value, at),) = [(s.kind, s.value, s.at) for s in work.read(tombstones.listing)]
    assert (kind, value) == ("user", f"*:{ANA}")
    assert abs((at - late.at).total_seconds()) < 1e-3
