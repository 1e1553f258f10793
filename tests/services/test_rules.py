"""Keyword rules in people's hands: written once, changed, retired, and held to what serving can bear."""

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import AuditEvent, KeywordRule
from app.errors import NotFound, RuleExists, RuleRefused, TaxonomyEmpty, TooManyRules, UnknownLabel
from app.services import activations, domains, rule_proofs, rule_sets, rule_wording, rules
from app.services.audit import Actor
from app.services.rule_proofs import RuleProof
from tests.builders import column, domain_of, make_version, set_taxonomy
from tests.services.together import in_threads

ANA = Actor("ana")
REFUND, RETURN = "售后 > 退款", "售后 > 退货"


def write(work: UnitOfWork, keyword: str | None = "退款", intent: str = REFUND, **given) -> rules.Saved:
    wording = rule_wording.read(keyword, given.pop("all_of", ()), given.pop("none_of", ()), given.pop("pattern", None))
    return work(rules.create, "default", wording, intent=intent, by=ANA, **given)


def serving(work: UnitOfWork) -> list[tuple[str, ...]]:
    return [rule.all_of for rule in work.read(lambda s: rule_sets.active_rules(s, domain_of(s).id))]


def due(work: UnitOfWork) -> bool:
    return work.read(lambda session: domain_of(session).rules_due)


def settle(work: UnitOfWork) -> None:
    """As if the clock had proved what there is, and it did no harm."""
    tried = work.read(rule_proofs.trial, "default")
    if tried is not None:
        fusion = {"scale": 1.0, "floor": -7.0, "weights": {}}
        work(rule_proofs.settle, tried, RuleProof(0.5, fusion, {}, True, ()))


def beside_a_model(work: UnitOfWork) -> UnitOfWork:
    """Two labels, and a version that serves: changed rules wait for their proof."""
    set_taxonomy(work, [REFUND, RETURN])
    work(activations.activate, work(make_version).version, by="ana", reason="first")
    return work


@pytest.fixture
def shop(work: UnitOfWork) -> UnitOfWork:
    return beside_a_model(work)


@pytest.fixture
def lite(sqlite_work: UnitOfWork) -> UnitOfWork:
    return beside_a_model(sqlite_work)


# Writing


def test_a_rule_that_a_person_writes_serves_and_is_due_to_be_proved(shop):
    saved = write(shop)
    assert saved.created
    assert (saved.rule.status, saved.rule.source, saved.rule.created_by) == ("active", "manual", "ana")
    assert serving(shop) == [("退款",)]
    assert due(shop)
    assert column(shop, AuditEvent.action, AuditEvent.actor) == [("rule.create", "ana")]


def test_a_candidate_waits(lite):
    write(lite, status="candidate")
    assert serving(lite) == []
    assert not due(lite)


def test_the_same_rule_twice_is_one_rule(shop):
    first = write(shop)
    settle(shop)
    again = write(shop, "  退款 ")
    assert (again.rule.id, again.created) == (first.rule.id, False)
    assert not due(shop)


def test_writing_a_retired_rule_again_brings_it_back(lite):
    rule = write(lite).rule
    lite(rules.retire, rule.id, by=ANA)
    assert serving(lite) == []
    back = write(lite)
    assert (back.rule.id, back.created, back.rule.status, back.rule.retired_at) == (rule.id, False, "active", None)
    assert serving(lite) == [("退款",)]


def test_two_who_write_the_same_rule_at_once_share_it(shop):
    saved = in_threads(4, lambda _: write(shop))
    assert sum(one.created for one in saved) == 1
    assert len(column(shop, KeywordRule.id)) == 1


def test_a_keyword_is_the_word_and_beside_lists_a_name(lite):
    named = write(lite, "慢退款", all_of=["退款", "慢"], none_of=["不慢了"]).rule
    assert (named.keyword, named.all_of, named.none_of) == ("慢退款", ["退款", "慢"], ["不慢了"])
    unnamed = write(lite, None, all_of=["APP", "退款"], pattern="[0-9]+天").rule
    assert (unnamed.keyword, unnamed.all_of) == ("app + 退款 /[0-9]+天/", ["app", "退款"])


def test_one_keyword_cannot_mean_two_things_for_one_label(lite):
    rule = write(lite).rule
    with pytest.raises(RuleExists) as refused:
        write(lite, all_of=["退款", "慢"])
    assert refused.value.details == {"rule_id": rule.id}


def test_another_label_for_the_keyword_is_taken_and_named(shop):
    first, second = write(shop).rule, write(shop, "退款", RETURN)
    assert [rule.id for rule in second.conflicts] == [first.id]
    assert len(serving(shop)) == 2
    shop(rules.retire, first.id, by=ANA)
    assert shop.read(lambda s: rules.conflicts_of(s, [rules.find(s, second.rule.id)])) == {second.rule.id: []}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"keyword": " "}, "visible characters"),
        ({"keyword": None}, "needs a keyword"),
        ({"keyword": "退" * 65}, "1 to 64"),
        ({"keyword": "词" * 300, "all_of": ["退款"]}, "1 to 255"),
        ({"keyword": "k", "all_of": [str(n) for n in range(9)]}, "at most 8"),
        ({"keyword": "k", "all_of": ["退款", "\u200b"]}, "1 to 64"),
        ({"keyword": "【手机号】"}, "marks of masked data"),
        ({"keyword": "退款", "none_of": ["退"]}, "could never match"),
        ({"keyword": "k", "pattern": "("}, "RE2 syntax"),
        ({"keyword": "k", "pattern": "a*"}, "nothing stands"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_a_rule_is_refused_with_the_reason(given, why):
    with pytest.raises(RuleRefused, match=why):
        rule_wording.read(given.pop("keyword"), **given)


def test_two_long_rules_that_begin_alike_have_two_names():
    words = ["词" * 60 + str(number) for number in range(8)]
    one, other = rule_wording.name_of(words), rule_wording.name_of([*words[:-1], "词"])
    assert one != other
    assert len(one) <= 255


def test_a_rule_speaks_for_a_label_of_the_taxonomy(sqlite_work):
    with pytest.raises(TaxonomyEmpty):
        write(sqlite_work)
    set_taxonomy(sqlite_work, [RETURN])
    with pytest.raises(UnknownLabel):
        write(sqlite_work)


# Changing


def test_retiring_a_rule_ends_its_service_and_keeps_its_row(shop):
    rule = write(shop).rule
    settle(shop)
    retired = shop(rules.retire, rule.id, by=ANA)
    assert (retired.status, retired.reason) == ("retired", "retired by a person")
    assert serving(shop) == []
    assert due(shop)
    assert column(shop, AuditEvent.action) == ["rule.create", "rule.retire"]
    # A second time changes nothing.
    settle(shop)
    shop(rules.retire, rule.id, by=ANA)
    assert not due(shop)
    assert len(column(shop, AuditEvent.action)) == 2


def test_changing_what_a_rule_looks_for_makes_it_another_rule(shop):
    rule = write(shop).rule
    evidence = {"support": 9, "precision": 0.9, "usage_count": 5, "judged_count": 4, "success_count": 4}
    shop(lambda session: session.execute(update(KeywordRule).values(**evidence, source="mined")))
    settle(shop)
    changed = shop(rules.change, rule.id, {"none_of": ["不退款"]}, by=ANA).rule
    assert (changed.none_of, changed.keyword) == (["不退款"], "退款 - 不退款")
    assert (changed.support, changed.precision, changed.source) == (0, None, "manual")
    assert (changed.usage_count, changed.judged_count, changed.success_count) == (0, 0, 0)
    assert due(shop)
    noted = shop.read(lambda s: s.scalars(select(AuditEvent).where(AuditEvent.action == "rule.change")).one())
    assert noted.before["none_of"] is None
    assert noted.after["none_of"] == ["不退款"]


def test_a_change_that_changes_nothing_is_none(lite):
    rule = write(lite).rule
    settle(lite)
    lite(rules.change, rule.id, {"status": "active", "keyword": "退款", "intent": REFUND}, by=ANA)
    assert not due(lite)
    assert column(lite, AuditEvent.action) == ["rule.create"]


def test_a_plain_keyword_is_changed_with_what_it_looks_for(lite):
    rule = write(lite).rule
    changed = lite(rules.change, rule.id, {"keyword": "退钱"}, by=ANA).rule
    assert (changed.keyword, changed.all_of) == ("退钱", ["退钱"])


def test_a_rule_can_be_given_another_label_but_not_one_that_has_it(lite):
    rule = write(lite).rule
    moved = lite(rules.change, rule.id, {"intent": RETURN}, by=ANA).rule
    assert moved.intent == RETURN
    write(lite)
    with pytest.raises(RuleExists):
        lite(rules.change, rule.id, {"intent": REFUND}, by=ANA)


def test_an_unknown_rule_is_not_found(lite):
    for act in (rules.retire, lambda s, n, by: rules.change(s, n, {"status": "retired"}, by=by)):
        with pytest.raises(NotFound):
            lite(act, 4711, by=ANA)


def test_rules_of_a_label_that_leaves_the_taxonomy_serve_no_more_and_come_back_with_it(shop):
    rule = write(shop).rule
    settle(shop)
    set_taxonomy(shop, [RETURN])
    assert serving(shop) == []
    assert due(shop)
    shop(rules.retire, rule.id, by=ANA)
    with pytest.raises(UnknownLabel):
        shop(rules.change, rule.id, {"status": "active"}, by=ANA)
    settle(shop)
    set_taxonomy(shop, [RETURN, REFUND])
    shop(rules.change, rule.id, {"status": "active"}, by=ANA)
    assert serving(shop) == [("退款",)]


# Limits


def test_a_domain_holds_so_many_rules(lite, monkeypatch):
    monkeypatch.setattr(rules, "MOST_RULES", 2)
    first = write(lite, "退款").rule
    write(lite, "退钱")
    with pytest.raises(TooManyRules):
        write(lite, "退我")
    lite(rules.retire, first.id, by=ANA)
    write(lite, "退我")
    with pytest.raises(TooManyRules):
        lite(rules.change, first.id, {"status": "candidate"}, by=ANA)


def test_a_domain_holds_so_many_active_patterns(lite, monkeypatch):
    monkeypatch.setattr(rules, "MOST_PATTERNS", 1)
    write(lite, "a", pattern="退+款")
    with pytest.raises(TooManyRules):
        write(lite, "b", pattern="退+钱")
    write(lite, "b", pattern="退+钱", status="candidate")
    assert len(serving(lite)) == 1


def test_the_active_rules_weigh_no_more_than_a_rule_set_may(shop, monkeypatch):
    monkeypatch.setattr(rules, "_NEVER_TOO_MANY", 0)
    monkeypatch.setattr(rules, "MOST_FROZEN_BYTES", 220)
    write(shop, "退款")
    with pytest.raises(TooManyRules, match="as a rule set"):
        write(shop, "退" * 60)
    assert serving(shop) == [("退款",)]


def test_the_weight_is_not_taken_for_less_than_it_is(shop):
    import json

    for number in range(5):
        write(shop, f"退款{number}", all_of=["退款", "慢" * 20, f"app{number}"], none_of=["不"], pattern="退.{0,3}款")

    def weigh(session: Session) -> tuple[int, int]:
        domain = domains.find(session, "default")
        active = (KeywordRule.domain_id == domain.id) & (KeywordRule.status == "active")
        frozen = [rule.as_json() for rule in rule_sets.active_rules(session, domain.id)]
        said = rules._frozen_bytes(session, active, len(frozen))
        return said, len(json.dumps(frozen, ensure_ascii=False, separators=(",", ":")).encode())

    said, weight = shop.read(weigh)
    assert weight <= said <= 3 * weight


# Listing


def test_rules_are_listed_by_what_they_are(lite):
    write(lite, "退款")
    write(lite, "退货", RETURN)
    retired = write(lite, "退钱").rule
    lite(rules.retire, retired.id, by=ANA)

    def keywords(**wanted) -> list[str]:
        return [
            rule.keyword for rule in lite.read(lambda s: rules.listing(s, domain_of(s).id, **({"limit": 50} | wanted)))
        ]

    assert keywords() == ["退钱", "退货", "退款"]
    assert keywords(status="active") == ["退货", "退款"]
    assert keywords(intent=REFUND) == ["退钱", "退款"]
    assert keywords(source="mined") == []
    assert keywords(keyword="退货") == ["退货"]
    assert keywords(limit=1) == ["退钱"]
    assert keywords(before=retired.id) == ["退货", "退款"]
