"""What a rule brings is counted once for each question, and judged once for each text that people labelled."""

from collections.abc import Sequence

import pytest
from sqlalchemy import select, update

from app.db.session import UnitOfWork
from app.db.tables import KeywordRule, Text
from app.services import domains, rule_sets, rule_usage, rule_wording, rules, undoing
from app.services.audit import Actor
from tests.builders import ask, column, domain_of, gold_text, label, set_taxonomy, trainable_text
from tests.services.together import in_threads

ANA = Actor("ana")
REFUND, RETURN = "退款", "退货"


def rule_of(work: UnitOfWork, keyword: str, intent: str = REFUND) -> int:
    wording = rule_wording.read(keyword)
    return work(rules.create, "default", wording, intent=intent, by=ANA).rule.id


def asked_of(work: UnitOfWork, text: str, *rule_ids: int, **changes) -> str:
    """A question that these rules matched, folded."""
    verdict = {"tier": "rules", "label_id": None, "confidence": None, "topk": [], "rules": list(rule_ids)}
    return ask(work, text, verdicts=[verdict], **changes)[0]


def counts(work: UnitOfWork, rule_id: int) -> tuple[int, int, int]:
    """Usage, judged, success."""
    rule = work.read(rules.find, rule_id)
    return rule.usage_count, rule.judged_count, rule.success_count


@pytest.fixture
def shop(work: UnitOfWork) -> UnitOfWork:
    set_taxonomy(work, [REFUND, RETURN])
    return work


def test_each_question_counts_once_for_every_rule_that_matched_it(shop):
    one, other = rule_of(shop, "退"), rule_of(shop, "款")
    asked_of(shop, "要退款", one, other)
    asked_of(shop, "要退款", one)
    asked_of(shop, "退了", one, one)
    assert (counts(shop, one)[0], counts(shop, other)[0]) == (3, 1)


def test_what_matched_is_kept_on_the_text_as_the_last_question_saw_it(shop):
    one, other = rule_of(shop, "退"), rule_of(shop, "款")
    asked_of(shop, "要退款", one)
    asked_of(shop, "要退款", one, other)
    # Of a question that was answered elsewhere, or before there were rules, nothing is known.
    ask(shop, "要退款")
    assert column(shop, Text.rule_hits) == [[one, other]]


@pytest.mark.parametrize(
    "verdict",
    [{"tier": "rules"}, {"tier": "rules", "rules": None}, {"tier": "rules", "rules": ["x"]}, {"tier": "llm"}, {}],
    ids=str,
)
def test_a_verdict_without_rules_counts_for_none(sqlite_work, verdict):
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    one = rule_of(sqlite_work, "退")
    ask(sqlite_work, "要退款", verdicts=[verdict])
    assert counts(sqlite_work, one) == (0, 0, 0)


def test_a_rule_of_another_domain_is_not_counted(sqlite_work):
    sqlite_work(domains.create, "other")
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    one = rule_of(sqlite_work, "退")
    asked_of(sqlite_work, "要退款", one, domain="other")
    assert counts(sqlite_work, one)[0] == 0


def test_a_label_judges_the_rules_that_had_matched_and_an_undo_takes_it_back(shop):
    right, wrong = rule_of(shop, "退"), rule_of(shop, "款", RETURN)
    question = asked_of(shop, "要退款", right, wrong)
    label(shop, question, REFUND)
    assert (counts(shop, right), counts(shop, wrong)) == ((1, 1, 1), (1, 1, 0))
    label(shop, question, RETURN)
    assert (counts(shop, right), counts(shop, wrong)) == ((1, 1, 0), (1, 1, 1))
    shop(undoing.undo, question, labeler_id="ana")
    assert (counts(shop, right), counts(shop, wrong)) == ((1, 1, 1), (1, 1, 0))
    shop(undoing.undo, question, labeler_id="ana")
    assert (counts(shop, right), counts(shop, wrong)) == ((1, 0, 0), (1, 0, 0))


def test_many_questions_of_one_text_are_judged_as_one(sqlite_work):
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    one = rule_of(sqlite_work, "退")
    questions = [asked_of(sqlite_work, "要退款", one) for _ in range(3)]
    label(sqlite_work, questions[0], REFUND)
    label(sqlite_work, questions[2], REFUND)
    assert counts(sqlite_work, one) == (3, 1, 1)


def test_gold_is_judged_too(sqlite_work):
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    one = rule_of(sqlite_work, "退")
    label(sqlite_work, asked_of(sqlite_work, gold_text(REFUND), one), REFUND)
    assert counts(sqlite_work, one) == (1, 1, 1)


def test_a_rule_is_not_judged_by_a_label_that_was_there_before_it_matched(sqlite_work):
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    text = trainable_text(REFUND)
    question = ask(sqlite_work, text)[0]
    label(sqlite_work, question, REFUND)
    one = rule_of(sqlite_work, "退")
    # Mined from this very text, it could only agree.
    asked_of(sqlite_work, text, one)
    assert counts(sqlite_work, one) == (1, 0, 0)
    sqlite_work(undoing.undo, question, labeler_id="ana")
    assert counts(sqlite_work, one) == (1, 0, 0)
    label(sqlite_work, asked_of(sqlite_work, text, one), REFUND)
    assert counts(sqlite_work, one) == (2, 1, 1)


def test_what_matches_a_labelled_text_judges_nothing_and_its_undo_takes_nothing(sqlite_work):
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    one = rule_of(sqlite_work, "退")
    # Active, but not yet served when this text was asked and labelled.
    text = trainable_text(REFUND)
    question = ask(sqlite_work, text)[0]
    label(sqlite_work, question, REFUND)
    asked_of(sqlite_work, text, one)
    label(sqlite_work, asked_of(sqlite_work, trainable_text(REFUND), one), REFUND)
    sqlite_work(undoing.undo, question, labeler_id="ana")
    assert counts(sqlite_work, one) == (2, 1, 1)


def test_who_brings_a_rule_back_has_seen_its_old_labels(shop):
    one = rule_of(shop, "退")
    question = asked_of(shop, "要退款", one)
    label(shop, question, RETURN)
    shop(rules.retire, one, by=ANA)
    shop(rules.change, one, {"status": "active"}, by=ANA)
    assert counts(shop, one) == (1, 0, 0)
    # The old label counted before; taking it back takes nothing from the new count.
    other = asked_of(shop, "还要退款", one)
    label(shop, other, REFUND)
    shop(undoing.undo, question, labeler_id="ana")
    assert counts(shop, one) == (2, 1, 1)
    label(shop, question, REFUND)
    assert counts(shop, one) == (2, 2, 2)


def test_those_who_label_and_those_who_fold_at_once_lose_no_count(shop):
    ids = [rule_of(shop, word) for word in ("退", "款", "要")]
    questions = [asked_of(shop, f"要退款{number}", *_turned(ids, number)) for number in range(6)]

    def act(number: int) -> None:
        if number % 2:
            asked_of(shop, f"再要退款{number}", *_turned(ids, number))
        else:
            label(shop, questions[number], REFUND, by=f"labeler-{number}")

    in_threads(6, act)
    assert {counts(shop, one) for one in ids} == {(9, 3, 3)}


def _turned(ids: Sequence[int], by: int) -> Sequence[int]:
    by %= len(ids)
    return [*ids[by:], *ids[:by]]


def judged(work: UnitOfWork, rule_id: int, successes: int, trials: int) -> None:
    values = {"judged_count": trials, "success_count": successes}
    work(lambda s: s.execute(update(KeywordRule).where(KeywordRule.id == rule_id).values(**values)))


def retire_failing(work: UnitOfWork) -> list[int]:
    return list(work(lambda s: rule_usage.retire_failing(s, domains.locked(s, "default"))))


@pytest.mark.parametrize(
    ("successes", "trials", "fails"),
    [
        (0, 7, False),  # too few to say
        (0, 8, True),
        (4, 8, True),  # at most 0.785
        (5, 8, False),  # at most 0.863
        (14, 20, False),  # below the bar, but it may be chance: at most 0.855
        (70, 100, True),  # at most 0.781
        (80, 100, False),
    ],
)
def test_a_rule_that_people_keep_contradicting_is_retired(sqlite_work, successes, trials, fails):
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    one = rule_of(sqlite_work, "退")
    judged(sqlite_work, one, successes, trials)
    assert sqlite_work.read(lambda s: rule_usage.has_failing(s, domain_of(s).id)) is fails
    assert retire_failing(sqlite_work) == [one] * fails
    assert sqlite_work.read(rules.find, one).status == ("retired" if fails else "active")


def test_a_retired_rule_says_why_and_serves_no_more(shop):
    one, other = rule_of(shop, "退"), rule_of(shop, "款")
    judged(shop, one, 3, 12)
    before = shop.read(domain_of).epoch
    assert retire_failing(shop) == [one]
    assert shop.read(rules.find, one).reason == "live precision 3 of 12, at most 0.53 (95 %): below 0.80"
    serving = shop.read(lambda s: rule_sets.active_rules(s, domain_of(s).id))
    assert [rule.rule_id for rule in serving] == [other]
    assert shop.read(domain_of).epoch == before + 1
    assert shop.read(lambda s: s.scalars(select(KeywordRule.status).order_by(KeywordRule.id)).all())[0] == "retired"
