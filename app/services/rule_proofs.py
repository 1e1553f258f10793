"""Rules on trial: which domains have rules to prove, and what becomes of them when the proof is in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label, ModelActivation, ModelVersion, Text, now
from app.intent.rules import Rule
from app.services import activations, domains, members, rule_sets
from app.services.activations import Pairing

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be proved: the rules that should serve, beside what serves with the version that stays."""

    domain_id: int
    domain: str
    epoch: int
    version: ModelVersion
    wanted: Sequence[Rule]
    serving: Sequence[Rule]
    pairing: Pairing


@dataclass(frozen=True, slots=True)
class RuleProof:
    """What the gate said of a trial; `fusion` and `threshold` are fitted for its rules."""

    threshold: float
    fusion: Mapping[str, Any] | None
    evaluation: dict[str, Any]
    passed: bool
    reasons: Sequence[str]


def waiting(session: Session) -> list[str]:
    """The names of the domains whose rules must be proved."""
    return list(
        session.scalars(
            select(Domain.name)
            .where(Domain.rules_due.is_(True), Domain.active_version_id.is_not(None))
            .order_by(Domain.id)
        )
    )


def trial(session: Session, domain_name: str) -> Trial | None:
    """What is to be proved in this domain, or None where nothing is."""
    domain = domains.find(session, domain_name)
    if not domain.rules_due or domain.active_version_id is None:
        return None
    return Trial(
        domain.id,
        domain.name,
        domain.epoch,
        session.get_one(ModelVersion, domain.active_version_id),
        rule_sets.active_rules(session, domain.id),
        rule_sets.serving_rules(session, domain),
        activations.pairing_of(activations.current(session, domain)),
    )


def gold(session: Session, domain_id: int) -> list[tuple[str, int]]:
    """Every labelled gold text whose label is still in the taxonomy, with its label's id."""
    rows = session.execute(
        select(Text.text, Text.label_id)
        .join(Label, Label.id == Text.label_id)
        .where(members.usable(domain_id), Text.is_gold.is_(True), members.never_learned(), Label.status == "active")
        .order_by(Text.id)
    )
    return [(text, label_id) for text, label_id in rows if text is not None and label_id is not None]


def texts(session: Session, text_ids: Sequence[int]) -> dict[int, str]:
    """The texts of these ids that are still kept."""
    found: dict[int, str] = {}
    for start in range(0, len(text_ids), PAGE):
        page = [int(text_id) for text_id in text_ids[start : start + PAGE]]
        rows = session.execute(select(Text.id, Text.text).where(Text.id.in_(page), Text.text.is_not(None)))
        found.update({text_id: text or "" for text_id, text in rows})
    return found


def settle(session: Session, tried: Trial, proof: RuleProof) -> ModelActivation | None:
    """Serve rules that passed, or turn down those that are new among rules that did not.

    None where the domain or its rules have changed since the trial: it is still due then, and tried again.
    """
    domain = domains.locked(session, tried.domain)
    if domain.epoch != tried.epoch or _digest(session, domain) != rule_sets.digest(tried.wanted):
        return None
    domain.rules_due = False
    status = "passed" if proof.passed else "refused"
    same = rule_sets.digest(tried.serving) == rule_sets.digest(tried.wanted)
    revision = tried.pairing.rule_set_revision
    if not same or revision is None:
        reason = " ".join(proof.reasons) or None
        frozen = rule_sets.freeze(
            session, domain, tried.wanted, status=status, reason=reason, evaluation=proof.evaluation
        )
        revision = frozen.revision
    if not proof.passed:
        _turn_down(session, domain, tried, " ".join(proof.reasons))
        return None
    pairing = Pairing(proof.threshold, revision, proof.fusion)
    return activations.flip(
        session, domain, tried.version, pairing, by="clock", reason="rules passed the gate", kind="rules"
    )


def _digest(session: Session, domain: Domain) -> str:
    return rule_sets.digest(rule_sets.active_rules(session, domain.id))


def _turn_down(session: Session, domain: Domain, tried: Trial, reason: str) -> None:
    """Make candidates again of the rules that do not serve yet: a person may look at them one by one."""
    serving = {rule.rule_id for rule in rule_sets.without(tried.serving, tried.wanted)}
    refused = [rule.rule_id for rule in tried.wanted if rule.rule_id not in serving]
    for start in range(0, len(refused), PAGE):
        session.execute(
            update(KeywordRule)
            .where(KeywordRule.id.in_(refused[start : start + PAGE]))
            .values(status="candidate", reason=f"not served: {reason}"[:255], updated_at=now()),
            execution_options={"synchronize_session": False},
        )
    session.expire_all()
    rule_sets.mark_changed(session, domains.locked(session, domain.name))
