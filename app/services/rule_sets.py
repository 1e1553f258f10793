"""Rule sets: freeze a domain's active rules under a revision, serve them, and note which must be proved first."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label, ModelActivation, ModelVersion, RuleSet
from app.intent.rules import Rule, rule_from_json
from app.services import activations
from app.services.activations import Pairing

# What a rule by hand is believed to be worth until it is counted.
MANUAL_PRECISION = 0.8
# τ while only rules answer: one rule by hand stands, two that contradict each other do not.
RULES_ALONE_THRESHOLD = 0.75


def mark_changed(session: Session, domain: Domain, *, by: str = "clock") -> None:
    """The active rules of this domain, which is locked, have changed.

    Where a model serves, the clock proves them together and flips. What needs no proof is served at once: any rules
    where no model answers, and fewer rules than before, for a rule that a person took away must not go on answering.
    """
    session.flush()
    wanted, serving = active_rules(session, domain.id), serving_rules(session, domain)
    domain.rules_due = False
    if domain.active_version_id is None:
        if digest(wanted) != digest(serving):
            frozen = freeze(session, domain, wanted, status="passed", created_by=by)
            pairing = Pairing(RULES_ALONE_THRESHOLD, frozen.revision)
            activations.flip(session, domain, None, pairing, by=by, reason="rules changed", kind="rules")
        return
    kept = without(serving, wanted)
    if len(kept) < len(serving):
        _serve_fewer(session, domain, kept, by=by)
    domain.rules_due = digest(wanted) != digest(serving)
    session.flush()


def _serve_fewer(session: Session, domain: Domain, kept: Sequence[Rule], *, by: str) -> None:
    """The weights of those that stay are as they were fitted, until the clock has fitted them anew."""
    frozen = freeze(session, domain, kept, status="passed", created_by=by)
    pairing = replace(activations.pairing_of(activations.current(session, domain)), rule_set_revision=frozen.revision)
    version = session.get(ModelVersion, domain.active_version_id)
    activations.flip(session, domain, version, pairing, by=by, reason="rules were taken away", kind="rules")


def without(serving: Sequence[Rule], wanted: Sequence[Rule]) -> list[Rule]:
    """Those of the serving rules that are still wanted as they are."""
    still = {_said(rule) for rule in wanted}
    return [rule for rule in serving if _said(rule) in still]


def of_today(session: Session, domain: Domain, pairing: Pairing) -> Pairing:
    """The pairing of a proof, with the rules that serve at this moment.

    They may have changed while it was proved, and a rule that was taken away must not come back with the new version.
    A rule that the fusion does not know has no weight until the clock has proved the two together.
    """
    serving = _serving_revision(session, domain)
    if serving == pairing.rule_set_revision:
        return pairing
    domain.rules_due = True
    return replace(pairing, rule_set_revision=serving)


def last_pairing(session: Session, version: ModelVersion) -> tuple[Pairing, list[Rule]]:
    """What this version served with last (or was proved with), and the rules of that revision."""
    paired = activations.last_pairing(session, version)
    return paired, rules_of(of_revision(session, version.domain_id, paired.rule_set_revision))


def active_rules(session: Session, domain_id: int) -> list[Rule]:
    """The rules that should serve, by id: active, and their label may be given today."""
    # Columns, not objects: of 100,000 rules these take a second, and those seven.
    rows = session.execute(
        select(
            KeywordRule.id,
            KeywordRule.label_id,
            KeywordRule.all_of,
            KeywordRule.none_of,
            KeywordRule.pattern,
            KeywordRule.support,
            KeywordRule.precision,
            KeywordRule.source,
        )
        .join(Label, Label.id == KeywordRule.label_id)
        .where(KeywordRule.domain_id == domain_id, KeywordRule.status == "active", Label.status == "active")
        .order_by(KeywordRule.id)
    )
    return [as_value(row) for row in rows]


def serving_rules(session: Session, domain: Domain) -> list[Rule]:
    """The rules that serve now, by id."""
    return rules_of(of_revision(session, domain.id, _serving_revision(session, domain)))


def _serving_revision(session: Session, domain: Domain) -> int | None:
    return session.scalar(
        select(ModelActivation.rule_set_revision).where(
            ModelActivation.domain_id == domain.id, ModelActivation.epoch == domain.epoch
        )
    )


def as_value(row: Any) -> Rule:
    """A row as the value that is frozen; what it is worth follows from its evidence (Laplace's rule of succession)."""
    if row.label_id is None:
        raise AssertionError(f"rule {row.id} speaks for no label")
    successes = (row.precision or 0.0) * row.support
    believed = (successes + 1.0) / (row.support + 2.0) if row.support else MANUAL_PRECISION
    return Rule(
        rule_id=row.id,
        label_id=row.label_id,
        all_of=tuple(row.all_of or ()),
        none_of=tuple(row.none_of or ()),
        pattern=row.pattern,
        precision=round(believed, 6),
        source=row.source,
    )


def digest(rules: Sequence[Rule]) -> str:
    """SHA-256 over what the rules match and say, 64 hex digits; their evidence is not part of it."""
    said = [_said(rule) for rule in rules]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def _said(rule: Rule) -> tuple[Any, ...]:
    """What a rule matches and says, without its evidence."""
    return (rule.rule_id, rule.label_id, rule.all_of, rule.none_of, rule.pattern)


def freeze(
    session: Session,
    domain: Domain,
    rules: Sequence[Rule],
    *,
    status: str = "frozen",
    reason: str | None = None,
    evaluation: dict[str, Any] | None = None,
    created_by: str = "clock",
) -> RuleSet:
    """Keep these rules under the domain's next revision. The domain must be locked."""
    domain.rule_seq += 1
    frozen = RuleSet(
        domain_id=domain.id,
        revision=domain.rule_seq,
        digest=digest(rules),
        rules=[rule.as_json() for rule in rules],
        rule_count=len(rules),
        status=status,
        reason=reason,
        evaluation=evaluation,
        created_by=created_by,
    )
    session.add(frozen)
    session.flush()
    return frozen


def of_revision(session: Session, domain_id: int, revision: int | None) -> RuleSet | None:
    """The set of a revision."""
    if revision is None:
        return None
    return session.scalar(select(RuleSet).where(RuleSet.domain_id == domain_id, RuleSet.revision == revision))


def rules_of(frozen: RuleSet | None) -> list[Rule]:
    """The rules of a set; none of no set."""
    return [rule_from_json(values) for values in frozen.rules] if frozen is not None else []
