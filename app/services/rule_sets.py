"""Rule sets: freeze a domain's active rules under a revision, and note that they must be proved and served."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label, RuleSet
from app.intent.rules import Rule, rule_from_json

MANUAL_PRECISION = 0.8


def mark_changed(session: Session, domain: Domain) -> None:
    """The active rules of this domain, which is locked, have changed: the clock proves them and flips."""
    domain.rules_due = True
    session.flush()


def active_rules(session: Session, domain_id: int) -> list[Rule]:
    """The rules that should serve, by id: active, and their label may be given today."""
    rows = session.scalars(
        select(KeywordRule)
        .join(Label, Label.id == KeywordRule.label_id)
        .where(KeywordRule.domain_id == domain_id, KeywordRule.status == "active", Label.status == "active")
        .order_by(KeywordRule.id)
    )
    return [as_value(row) for row in rows]


def as_value(row: KeywordRule) -> Rule:
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
    said = [[rule.rule_id, rule.label_id, rule.all_of, rule.none_of, rule.pattern] for rule in rules]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


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
