"""What mining may read, and what it may do to the rules that are there."""

from dataclasses import dataclass

import pytest
from sqlalchemy import update

from app.db.session import UnitOfWork
from app.db.tables import Domain, KeywordRule, Text
from app.errors import NoTexts, RuleRefused
from app.intent.text import MaskedText
from app.services import domains, imports, mining, rule_wording, rules
from app.services.audit import Actor
from tests.builders import ask, domain_of, label, make_labelled_texts, set_taxonomy, trainable_text

ANA = Actor("ana")
REFUND, RETURN = "售后 > 退款", "售后 > 退货"


@dataclass(frozen=True)
class Found:
    """What `app.intent.mining` gives for one rule."""

    label_id: int
    all_of: tuple[str, ...]
    support: int = 20
    precision: float = 1.0
    precision_lower: float = 0.95
    coverage: float = 0.1
    log_odds: float = 4.0
    examples: tuple[int, ...] = ()


@pytest.fixture
def shop(work: UnitOfWork) -> UnitOfWork:
    set_taxonomy(work, [REFUND, RETURN])
    return work


@pytest.fixture
def lite(sqlite_work: UnitOfWork) -> UnitOfWork:
    set_taxonomy(sqlite_work, [REFUND, RETURN])
    return sqlite_work


def id_of(work: UnitOfWork, path: str) -> int:
    from app.services import taxonomy

    return work.read(lambda s: taxonomy.resolve(s, domain_of(s), [path])).id


def store(work: UnitOfWork, *found: Found, question_ids=()) -> mining.Stored:
    return work(lambda s: mining.store_mined(s, domains.locked(s, "default"), found, question_ids, created_by="clock"))


def rule(work: UnitOfWork, keyword: str) -> KeywordRule:
    (only,) = work.read(lambda s: rules.listing(s, domain_of(s).id, limit=9, keyword=keyword))
    return only


# What is read


def test_rules_are_mined_from_what_is_trained_on_and_never_from_gold(shop):
    make_labelled_texts(shop, {REFUND: 3, RETURN: 2}, gold=4)
    label(shop, ask(shop, "不许训练的退款问题", train_allowed=False)[0], REFUND)
    ask(shop, "没有人标注")
    material = shop.read(lambda s: mining.material(s, domain_of(s)))
    assert len(material.texts) == len(material.label_ids) == len(material.question_ids) == 5

    def gold(session):
        return [text.text for text in session.query(Text) if text.is_gold]

    held_out = shop.read(gold)
    assert held_out
    assert not set(material.texts) & set(held_out)


def test_the_marks_of_masking_are_no_words_to_mine(lite):
    text = MaskedText(f"【手机号】 {trainable_text(REFUND)}")
    lite(imports.take_in, "default", [imports.ImportRow(1, text, REFUND)])
    lite(lambda s: s.execute(update(Text).values(is_gold=False, train_allowed=True)))
    (seen,) = lite.read(lambda s: mining.material(s, domain_of(s))).texts
    assert "手机" not in seen
    assert REFUND in seen


def test_the_cutter_knows_labels_rules_and_the_dictionary(lite):
    wording = rule_wording.read("催款", ["极速退款"])
    lite(rules.create, "default", wording, intent=REFUND, by=ANA)
    kept = lite(lambda s: mining.set_dictionary(s, domains.locked(s, "default"), ["闪电退", "闪电退 ", "WiFi"]))
    assert kept == ["wifi", "闪电退"]
    words = lite.read(lambda s: mining.user_words(s, domain_of(s)))
    assert words == sorted({"售后", "退款", "退货", "极速退款", "闪电退", "wifi"})


def test_a_word_that_cannot_be_one_is_refused_by_the_dictionary(lite):
    with pytest.raises(RuleRefused):
        lite(lambda s: mining.set_dictionary(s, domains.locked(s, "default"), ["退" * 65]))


def test_a_domain_that_keeps_no_text_has_nothing_to_mine(sqlite_work):
    sqlite_work(domains.create, "hashes", keep_text=False)
    with pytest.raises(NoTexts):
        sqlite_work.read(lambda s: mining.material(s, domain_of(s, "hashes")))


# What is left


def test_a_mined_rule_carries_its_evidence_and_examples(shop):
    found = Found(id_of(shop, REFUND), ("慢", "退款"), 9, 0.9, 0.7, 0.3, 2.5, (2, 0, 1))
    stored = store(shop, found, question_ids=["q-0", None, "q-2"])
    assert (stored.mined, stored.new, stored.updated, stored.activated) == (1, 1, 0, 0)
    kept = rule(shop, "慢 + 退款")
    assert (kept.intent, kept.all_of, kept.source, kept.status) == (REFUND, ["慢", "退款"], "mined", "candidate")
    assert (kept.support, kept.precision, kept.precision_lower, kept.coverage, kept.log_odds) == (9, 0.9, 0.7, 0.3, 2.5)
    # A text that was only imported has no question.
    assert kept.examples == ["q-2", "q-0"]
    assert stored.rule_ids == [kept.id]


def test_mining_again_brings_fresh_evidence_to_the_same_rule(shop):
    refund = id_of(shop, REFUND)
    store(shop, Found(refund, ("退款",), precision_lower=0.5))
    stored = store(shop, Found(refund, ("退款",), support=30, precision_lower=0.6))
    assert (stored.new, stored.updated) == (0, 1)
    assert (rule(shop, "退款").support, rule(shop, "退款").precision_lower) == (30, 0.6)


@pytest.mark.parametrize(
    ("support", "lower", "policy", "status"),
    [
        (8, 0.9, "auto", "active"),
        (7, 0.95, "auto", "candidate"),
        (50, 0.89, "auto", "candidate"),
        (50, 0.95, "manual", "candidate"),
    ],
)
def test_the_policy_activates_what_has_enough_evidence(lite, support, lower, policy, status):
    lite(lambda s: s.execute(update(Domain).values(rule_policy=policy)))
    stored = store(lite, Found(id_of(lite, REFUND), ("退款",), support=support, precision_lower=lower))
    assert rule(lite, "退款").status == status
    assert stored.activated == (status == "active")
    # There is no model beside which they would have to be proved.
    assert lite.read(lambda s: domain_of(s).epoch) == (1 if status == "active" else 0)


def test_a_candidate_becomes_active_once_its_evidence_is_enough(lite):
    refund = id_of(lite, REFUND)
    store(lite, Found(refund, ("退款",), precision_lower=0.5))
    assert store(lite, Found(refund, ("退款",))).activated == 1
    assert rule(lite, "退款").activated_at is not None


def test_what_a_person_retired_stays_retired_with_fresh_evidence(shop):
    refund = id_of(shop, REFUND)
    store(shop, Found(refund, ("退款",)))
    shop(rules.retire, rule(shop, "退款").id, by=ANA)
    stored = store(shop, Found(refund, ("退款",), support=99))
    assert stored.activated == 0
    assert (rule(shop, "退款").status, rule(shop, "退款").support) == ("retired", 99)


def test_what_a_person_wrote_is_left_as_it_is(shop):
    written = shop(rules.create, "default", rule_wording.read("退款"), intent=REFUND, by=ANA, status="candidate").rule
    stored = store(shop, Found(id_of(shop, REFUND), ("退款",)))
    assert (stored.kept, stored.new, stored.updated, stored.rule_ids) == (1, 0, 0, [written.id])
    kept = rule(shop, "退款")
    assert (kept.support, kept.status, kept.source, kept.created_by) == (0, "candidate", "manual", "ana")


def test_a_rule_mined_for_another_label_before_is_retired(lite):
    store(lite, Found(id_of(lite, REFUND), ("退款",)))
    stored = store(lite, Found(id_of(lite, RETURN), ("退款",)))
    assert stored.retired == 1
    both = lite.read(lambda s: rules.listing(s, domain_of(s).id, limit=9))
    assert [(one.intent, one.status) for one in both] == [(RETURN, "active"), (REFUND, "retired")]


def test_a_mined_rule_that_contradicts_a_persons_is_named_and_that_one_stays(lite):
    lite(rules.create, "default", rule_wording.read("退款"), intent=RETURN, by=ANA)
    stored = store(lite, Found(id_of(lite, REFUND), ("退款",)))
    assert (stored.conflicts, stored.retired) == (1, 0)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("退款",), True),
        (("退",), False),
        (("退", "慢"), True),
        (("12306",), False),
        (("退款", "12345"), False),
        (("1234",), True),
        (("退" * 65,), False),
        ((), False),
    ],
    ids=str,
)
def test_what_could_be_somebodys_number_or_says_too_little_is_not_kept(lite, words, allowed):
    assert mining.may_be_mined(words) is allowed
    assert store(lite, Found(id_of(lite, REFUND), words)).new == int(allowed)


def test_a_label_that_left_meanwhile_gets_no_rule(lite):
    assert store(lite, Found(4711, ("退款",))).mined == 0


def test_mining_stops_where_the_domain_is_full(lite, monkeypatch):
    monkeypatch.setattr(mining, "MOST_RULES", 1)
    refund = id_of(lite, REFUND)
    assert store(lite, Found(refund, ("退款",)), Found(refund, ("退钱",))).new == 1


def test_a_set_that_would_be_too_large_is_left_to_a_person(lite, monkeypatch):
    monkeypatch.setattr(rules, "_NEVER_TOO_MANY", 0)
    monkeypatch.setattr(rules, "MOST_FROZEN_BYTES", 10)
    stored = store(lite, Found(id_of(lite, REFUND), ("退款",)))
    assert (stored.new, stored.activated) == (1, 0)
    assert "as a rule set" in rule(lite, "退款").reason
    assert not lite.read(lambda s: domain_of(s).rules_due)
