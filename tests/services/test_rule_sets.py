"""Rules serve as a frozen set beside a version; a change of what serves is a flip, and a way back restores it all."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Domain, KeywordRule, Label, ModelActivation, RuleSet
from app.services import activations, domains, rule_proofs, rule_sets
from app.services.activations import Pairing
from app.services.rule_proofs import RuleProof, Trial
from tests.builders import column, domain_of, make_version, set_taxonomy

FUSION = {"scale": 1.0, "floor": -9.0, "weights": {"1": 2.5}}


def _rule(session: Session, word: str, label: str, *, status: str = "active") -> int:
    """A manual rule as the table holds it; nobody is told of it yet."""
    domain = domains.locked(session, "default")
    found = session.scalars(select(Label).where(Label.domain_id == domain.id, Label.path == label)).one()
    rule = KeywordRule(
        domain_id=domain.id,
        keyword=word,
        intent=label,
        label_id=found.id,
        all_of=[word],
        status=status,
        source="manual",
    )
    session.add(rule)
    session.flush()
    return rule.id


def _changed(session: Session) -> None:
    rule_sets.mark_changed(session, domains.locked(session, "default"), by="ana")


def _add(work: UnitOfWork, word: str, label: str = "甲") -> int:
    rule_id = work(_rule, word, label)
    work(_changed)
    return rule_id


def _retire(work: UnitOfWork, rule_id: int) -> None:
    def retire(session: Session) -> None:
        session.get_one(KeywordRule, rule_id).status = "retired"

    work(retire)
    work(_changed)


def _served(work: UnitOfWork) -> tuple[str | None, list[int], float]:
    """The version, the rules and the threshold of the release."""
    release = work.read(lambda session: domains.release(session, domain_of(session).id))
    return release.version, [rule.rule_id for rule in release.rules], release.threshold


def _due(work: UnitOfWork) -> bool:
    return bool(column(work, Domain.rules_due)[0])


def _activate_version(work: UnitOfWork, **changes: object) -> str:
    version = work(make_version, **changes).version
    work(activations.activate, version, by="ana", reason="try")
    return version


def _tried(work: UnitOfWork) -> Trial:
    found = work.read(rule_proofs.trial, "default")
    assert found is not None
    return found


def _proof(*, passed: bool = True, fusion: object = FUSION) -> RuleProof:
    reasons = () if passed else ("Macro-F1 fell.",)
    return RuleProof(0.66, fusion, {"gold": {}}, passed, reasons)  # type: ignore[arg-type]


def test_without_a_model_rules_serve_as_soon_as_they_change(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    first = _add(work, "退货")
    assert _served(work) == (None, [first], rule_sets.RULES_ALONE_THRESHOLD)
    second = _add(work, "发票", "乙")
    assert _served(work)[1] == [first, second]
    _retire(work, first)
    assert _served(work)[1] == [second]
    assert not _due(work)
    assert column(work, ModelActivation.kind, ModelActivation.version_id) == [("rules", None)] * 3
    assert column(work, RuleSet.revision, RuleSet.rule_count) == [(1, 1), (2, 2), (3, 1)]


def test_a_change_that_changes_nothing_is_no_flip(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    _add(sqlite_work, "退货")
    sqlite_work(_changed)
    sqlite_work(_rule, "发票", "甲", status="candidate")
    sqlite_work(_changed)
    assert column(sqlite_work, ModelActivation.epoch) == [1]


def test_beside_a_model_a_new_rule_waits_for_its_proof(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    version = _activate_version(work, threshold=0.5)
    rule_id = _add(work, "退货")
    assert _served(work) == (version, [], 0.5)
    assert _due(work)
    assert work.read(rule_proofs.waiting) == ["default"]

    activation = work(rule_proofs.settle, _tried(work), _proof(fusion=FUSION | {"weights": {str(rule_id): 2.5}}))

    assert activation is not None
    assert (activation.kind, activation.epoch) == ("rules", 2)
    assert _served(work) == (version, [rule_id], 0.66)
    assert not _due(work)
    assert work.read(rule_proofs.waiting) == []
    assert column(work, KeywordRule.confidence_boost) == [2.5]
    assert column(work, RuleSet.status) == ["passed"]


def test_refused_rules_are_candidates_again_and_say_why(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    version = _activate_version(work, threshold=0.5)
    good = _add(work, "退货")
    work(rule_proofs.settle, _tried(work), _proof())
    bad = _add(work, "的", "乙")

    assert work(rule_proofs.settle, _tried(work), _proof(passed=False)) is None

    assert _served(work)[:2] == (version, [good])
    assert not _due(work)
    assert column(work, KeywordRule.status, KeywordRule.reason) == [
        ("active", None),
        ("candidate", "not served: Macro-F1 fell."),
    ]
    assert bad not in _served(work)[1]
    assert column(work, RuleSet.status) == ["passed", "refused"]


def test_a_rule_that_is_taken_away_stops_before_any_proof(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    version = _activate_version(work)
    first, second = work(_rule, "退货", "甲"), work(_rule, "发票", "乙")
    work(_changed)
    work(rule_proofs.settle, _tried(work), _proof())

    _retire(work, first)

    assert _served(work) == (version, [second], 0.66)
    activation = work.read(lambda session: activations.current(session, domain_of(session)))
    assert activation.fusion == FUSION
    # The weights of those that stay were fitted beside the one that went: the clock fits them anew.
    assert _due(work)
    work(rule_proofs.settle, _tried(work), _proof(fusion=FUSION | {"scale": 0.9}))
    assert _served(work) == (version, [second], 0.66)
    assert not _due(work)
    assert column(work, RuleSet.revision) == [1, 2]


def test_a_trial_is_void_when_the_domain_was_flipped_or_a_rule_changed_meanwhile(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    _activate_version(sqlite_work)
    _add(sqlite_work, "退货")
    tried = _tried(sqlite_work)
    second = _add(sqlite_work, "发票", "乙")
    assert sqlite_work(rule_proofs.settle, tried, _proof()) is None
    assert _served(sqlite_work)[1] == []

    tried = _tried(sqlite_work)
    _activate_version(sqlite_work)
    assert sqlite_work(rule_proofs.settle, tried, _proof()) is None
    assert _due(sqlite_work)
    assert second not in _served(sqlite_work)[1]


def test_rollback_restores_rules_fusion_and_threshold_of_then(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    first = _activate_version(work, threshold=0.5)
    rule_id = _add(work, "退货")
    work(rule_proofs.settle, _tried(work), _proof())
    before = work.read(lambda session: domains.release(session, domain_of(session).id))
    second = _activate_version(work, threshold=0.8)
    assert _served(work) == (second, [], 0.8)

    activation = work(activations.rollback, "default", by="ana", reason="worse")

    after = work.read(lambda session: domains.release(session, domain_of(session).id))
    assert (after.version, after.rules, after.fusion, after.threshold) == (
        first,
        before.rules,
        before.fusion,
        before.threshold,
    )
    assert activation.rule_set_revision == before.rule_set_revision
    assert [rule.rule_id for rule in after.rules] == [rule_id]
    # Proving today's rules at once would undo what was just gone back to.
    assert not _due(work)


def test_rollback_passes_flips_of_rules_and_goes_to_the_version_before(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    first = _activate_version(sqlite_work)
    _activate_version(sqlite_work)
    _add(sqlite_work, "退货")
    sqlite_work(rule_proofs.settle, _tried(sqlite_work), _proof())
    sqlite_work(activations.rollback, "default", by="ana", reason="worse")
    assert _served(sqlite_work)[0] == first


def test_a_version_that_was_proved_with_rules_since_taken_away_serves_without_them(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    rule_id = _add(sqlite_work, "退货")
    proved_with = sqlite_work.read(lambda session: activations.current(session, domain_of(session)).rule_set_revision)
    _retire(sqlite_work, rule_id)

    def paired(session: Session) -> Pairing:
        return rule_sets.of_today(session, domains.locked(session, "default"), Pairing(0.5, proved_with, FUSION))

    pairing = sqlite_work(paired)
    assert pairing.rule_set_revision != proved_with
    frozen = sqlite_work.read(
        lambda session: rule_sets.of_revision(session, domain_of(session).id, pairing.rule_set_revision)
    )
    assert frozen is not None
    assert frozen.rules == []


def test_rules_of_a_retired_label_stop_with_it_and_return_with_it(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    rule_id = _add(work, "发票", "乙")
    assert _served(work)[1] == [rule_id]
    set_taxonomy(work, ["甲"])
    assert _served(work)[1] == []
    set_taxonomy(work, ["甲", "乙"])
    assert _served(work)[1] == [rule_id]


@pytest.mark.parametrize(
    ("change", "differs"),
    [({"precision": 0.5}, False), ({"all_of": ("退",)}, True), ({"label_id": 9}, True), ({"pattern": "退.货"}, True)],
    ids=["evidence", "words", "label", "pattern"],
)
def test_a_digest_tells_what_rules_say_and_not_what_they_are_worth(change: dict[str, object], differs: bool) -> None:
    from dataclasses import replace

    from app.intent.rules import Rule

    rule = Rule(1, 2, ("退货",))
    assert (rule_sets.digest([rule]) != rule_sets.digest([replace(rule, **change)])) is differs  # type: ignore[arg-type]
