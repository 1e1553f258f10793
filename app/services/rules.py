"""The life of a keyword rule in people's hands: written, changed, activated, retired, listed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Text, case, cast, func, literal, select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label
from app.db.tables.base import now
from app.errors import NotFound, RuleExists, TooManyRules
from app.intent.rules import MOST_FROZEN_BYTES, MOST_PATTERNS, MOST_RULES
from app.services import audit, domains, rule_sets, rule_wording, taxonomy
from app.services.audit import Actor
from app.services.rule_wording import Wording

ALIVE: Final = ("candidate", "active")
# Of a frozen rule beside its words and its pattern; and for the name of each field that few rules have.
_BYTES_PER_RULE: Final = 70
_BYTES_PER_FIELD: Final = 20
# So few rules, each as large as it may be, are no set that is too large.
_NEVER_TOO_MANY: Final = 1500


@dataclass(frozen=True, slots=True)
class Saved:
    """A rule as it now is, whether it is new, and the rules that give its keyword another label."""

    rule: KeywordRule
    created: bool
    conflicts: Sequence[KeywordRule]


def create(
    session: Session,
    domain_name: str,
    wording: Wording,
    *,
    intent: str,
    by: Actor,
    status: str = "active",
) -> Saved:
    """Write a rule for a label; one that is there with the same wording only takes the status.

    Raises:
        DomainNotFound, TooManyRules, and what `taxonomy.resolve` raises.
        RuleExists: the label has a rule of this keyword that looks for something else.
    """
    domain = domains.locked(session, domain_name)
    label = taxonomy.resolve(session, domain, [intent])
    rule = _named(session, domain, wording.keyword, label.path)
    if rule is not None:
        if _wording(rule) != wording:
            raise RuleExists("the label has a rule of this keyword with other words: change that one", rule_id=rule.id)
        before = rule.status
        if set_status(session, domain, rule, status, reason=f"{status} by a person"):
            _note(session, by, "rule.change", rule, {"status": before}, {"status": rule.status})
        return Saved(rule, False, conflicts_of(session, [rule])[rule.id])
    refuse_beyond_limit(session, domain, 1)
    rule = KeywordRule(
        domain_id=domain.id,
        intent=label.path,
        label_id=label.id,
        status="candidate",
        source="manual",
        created_by=by.name,
        reason="written by a person",
    )
    _put(rule, wording)
    session.add(rule)
    session.flush()
    set_status(session, domain, rule, status, reason="written by a person")
    _note(session, by, "rule.create", rule, None, as_noted(rule))
    return Saved(rule, True, conflicts_of(session, [rule])[rule.id])


def change(session: Session, rule_id: int, changes: Mapping[str, Any], *, by: Actor) -> Saved:
    """Give a rule another status, other words or another label.

    `changes` holds what is to be another: `status`, `intent`, `keyword`, `all_of`, `none_of`, `pattern`. With other
    words or another label it is another rule: evidence and counts begin anew, and mining leaves it alone from then on.

    Raises:
        NotFound, RuleRefused, RuleExists, TooManyRules, and what `taxonomy.resolve` raises.
    """
    domain, rule = _locked(session, rule_id)
    before = as_noted(rule)
    wording = _changed_wording(rule, changes)
    label_path = changes.get("intent") or rule.intent
    if wording != _wording(rule) or label_path != rule.intent:
        _rewrite(session, domain, rule, wording, label_path)
    if changes.get("status") is not None:
        status = str(changes["status"])
        set_status(session, domain, rule, status, reason=f"{status} by a person")
    if (after := as_noted(rule)) != before:
        _note(session, by, "rule.change", rule, before, after)
    return Saved(rule, False, conflicts_of(session, [rule])[rule.id])


def retire(session: Session, rule_id: int, *, by: Actor) -> KeywordRule:
    """Let a rule serve no more; its row and its evidence stay.

    Raises:
        NotFound: there is no such rule.
    """
    domain, rule = _locked(session, rule_id)
    before = rule.status
    if set_status(session, domain, rule, "retired", reason="retired by a person"):
        _note(session, by, "rule.retire", rule, {"status": before}, {"status": "retired"})
    return rule


def set_status(session: Session, domain: Domain, rule: KeywordRule, status: str, *, reason: str) -> bool:
    """Move a rule of this domain, which is locked; False when it is there already.

    Raises:
        TooManyRules: the domain, its patterns or its rule set would grow too large.
        UnknownLabel: its label is no longer given.
    """
    if rule.status == status:
        return False
    was = rule.status
    if status in ALIVE and was == "retired":
        refuse_beyond_limit(session, domain, 1)
    if status == "active":
        # By its path: a label that was retired and is given again is the same label.
        rule.label_id = taxonomy.resolve(session, domain, [rule.intent]).id
        begin_anew(rule)
    rule.status, rule.reason, rule.updated_at = status, reason, now()
    rule.retired_at = now() if status == "retired" else None
    session.flush()
    if status == "active":
        refuse_too_large_a_set(session, domain)
    if "active" in (was, status):
        rule_sets.mark_changed(session, domain)
    return True


def begin_anew(rule: KeywordRule) -> None:
    """Judge a rule by the labels from now on: who brings it back has seen the old ones."""
    rule.activated_at = now()
    rule.judged_count = rule.success_count = 0


def find(session: Session, rule_id: int) -> KeywordRule:
    """One rule.

    Raises:
        NotFound: there is none of this id.
    """
    rule = session.get(KeywordRule, rule_id)
    if rule is None:
        raise NotFound("there is no keyword rule of this id")
    return rule


def listing(
    session: Session,
    domain_id: int,
    *,
    limit: int,
    before: int | None = None,
    status: str | None = None,
    intent: str | None = None,
    source: str | None = None,
    keyword: str | None = None,
) -> Sequence[KeywordRule]:
    """The rules of a domain, the newest first; `keyword` finds those with just this one."""
    statement = select(KeywordRule).where(KeywordRule.domain_id == domain_id).order_by(KeywordRule.id.desc())
    wanted = {"status": status, "intent": intent, "source": source, "keyword": keyword}
    for name, value in wanted.items():
        if value is not None:
            statement = statement.where(getattr(KeywordRule, name) == value)
    if before is not None:
        statement = statement.where(KeywordRule.id < before)
    return session.scalars(statement.limit(limit)).all()


def of_ids(session: Session, domain_id: int, ids: Sequence[int]) -> Sequence[KeywordRule]:
    """The rules of these ids, by id."""
    return session.scalars(
        select(KeywordRule).where(KeywordRule.domain_id == domain_id, KeywordRule.id.in_(ids)).order_by(KeywordRule.id)
    ).all()


def conflicts_of(session: Session, rules: Iterable[KeywordRule]) -> dict[int, list[KeywordRule]]:
    """For each rule, by its id, the rules that give its keyword another label; retired ones disagree with nobody."""
    rules = list(rules)
    living: dict[tuple[int, str], list[KeywordRule]] = {}
    for domain_id in {rule.domain_id for rule in rules}:
        keywords = {rule.keyword for rule in rules if rule.domain_id == domain_id and rule.status in ALIVE}
        rows = session.scalars(
            select(KeywordRule)
            .where(KeywordRule.domain_id == domain_id, KeywordRule.keyword.in_(keywords), KeywordRule.status.in_(ALIVE))
            .order_by(KeywordRule.id)
        )
        for row in rows:
            living.setdefault((domain_id, row.keyword), []).append(row)
    return {
        rule.id: [
            other
            for other in living.get((rule.domain_id, rule.keyword), ())
            if rule.status in ALIVE and other.intent != rule.intent
        ]
        for rule in rules
    }


def count_alive(session: Session, domain_id: int) -> int:
    """How many rules of a domain are not retired."""
    alive = (KeywordRule.domain_id == domain_id) & KeywordRule.status.in_(ALIVE)
    return session.scalar(select(func.count(KeywordRule.id)).where(alive)) or 0


def refuse_beyond_limit(session: Session, domain: Domain, more: int) -> None:
    """Hold a domain to its number of rules.

    Raises:
        TooManyRules: with so many more there would be too many.
    """
    if count_alive(session, domain.id) + more > MOST_RULES:
        raise TooManyRules(f"a domain has at most {MOST_RULES} rules that are not retired")


def refuse_too_large_a_set(session: Session, domain: Domain) -> None:
    """Hold the active rules to what a rule set may weigh.

    Raises:
        TooManyRules: too many patterns, or too many bytes.
    """
    active = (KeywordRule.domain_id == domain.id) & (KeywordRule.status == "active")
    count, patterns = session.execute(
        select(func.count(KeywordRule.id), func.count(KeywordRule.pattern)).where(active)
    ).one()
    if patterns > MOST_PATTERNS:
        raise TooManyRules(f"a domain has at most {MOST_PATTERNS} active rules with a pattern")
    if count > _NEVER_TOO_MANY and (weight := _frozen_bytes(session, active, count)) > MOST_FROZEN_BYTES:
        raise TooManyRules(f"the active rules take {weight} bytes as a rule set, at most {MOST_FROZEN_BYTES}")


def _frozen_bytes(session: Session, active: Any, count: int) -> int:
    """About what the set weighs, rather too much than too little."""
    # MySQL and MariaDB count bytes, the others characters, of which Han takes three.
    per_unit = 1 if session.get_bind().dialect.name in ("mysql", "mariadb") else 3
    lengths = (
        func.coalesce(func.length(column), 0)
        for column in (cast(KeywordRule.all_of, Text), cast(KeywordRule.none_of, Text), KeywordRule.pattern)
    )
    units, banned, patterns, manual = session.execute(
        select(
            func.sum(sum(lengths, start=literal(0))),
            func.count(KeywordRule.none_of),
            func.count(KeywordRule.pattern),
            func.sum(case((KeywordRule.source == "manual", 1), else_=0)),
        ).where(active)
    ).one()
    fields = banned + patterns + int(manual or 0)
    return int(units or 0) * per_unit + count * _BYTES_PER_RULE + int(fields) * _BYTES_PER_FIELD


def _locked(session: Session, rule_id: int) -> tuple[Domain, KeywordRule]:
    """A rule and its domain, both held; the domain first, as everybody does."""
    name = session.scalar(
        select(Domain.name).join(KeywordRule, KeywordRule.domain_id == Domain.id).where(KeywordRule.id == rule_id)
    )
    if name is None:
        raise NotFound("there is no keyword rule of this id")
    domain = domains.locked(session, name)
    rule = session.get(KeywordRule, rule_id, with_for_update=True, populate_existing=True)
    if rule is None:
        raise NotFound("there is no keyword rule of this id")
    return domain, rule


def _named(session: Session, domain: Domain, keyword: str, intent: str) -> KeywordRule | None:
    return session.scalar(
        select(KeywordRule)
        .where(KeywordRule.domain_id == domain.id, KeywordRule.keyword == keyword, KeywordRule.intent == intent)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def _wording(rule: KeywordRule) -> Wording:
    return Wording(rule.keyword, tuple(rule.all_of or ()), tuple(rule.none_of or ()), rule.pattern)


def _put(rule: KeywordRule, wording: Wording) -> None:
    rule.keyword, rule.pattern = wording.keyword, wording.pattern
    rule.all_of, rule.none_of = list(wording.all_of), list(wording.none_of) or None


def _changed_wording(rule: KeywordRule, changes: Mapping[str, Any]) -> Wording:
    """What the rule looks for after the changes. A keyword that was only a description follows what it described."""
    old = _wording(rule)
    all_of = changes.get("all_of", old.all_of) or ()
    none_of = changes.get("none_of", old.none_of) or ()
    pattern = changes.get("pattern", old.pattern)
    described = old.keyword == rule_wording.name_of(old.all_of, old.none_of, old.pattern)
    if (keyword := changes.get("keyword")) is None:
        return rule_wording.read(None if described else old.keyword, all_of, none_of, pattern)
    if old.all_of == (old.keyword,) and "all_of" not in changes:
        # A plain word: the keyword is what is looked for.
        all_of = (keyword,)
    return rule_wording.read(keyword, all_of, none_of, pattern)


def _rewrite(session: Session, domain: Domain, rule: KeywordRule, wording: Wording, intent: str) -> None:
    label: Label = taxonomy.resolve(session, domain, [intent])
    other = _named(session, domain, wording.keyword, label.path)
    if other is not None and other.id != rule.id:
        raise RuleExists("the label has another rule of this keyword", rule_id=other.id)
    _put(rule, wording)
    rule.intent, rule.label_id, rule.source = label.path, label.id, "manual"
    rule.support, rule.usage_count, rule.confidence_boost = 0, 0, 0.0
    rule.precision = rule.precision_lower = rule.coverage = rule.log_odds = rule.examples = None
    rule.reason, rule.updated_at = "rewritten by a person", now()
    begin_anew(rule)
    session.flush()
    if rule.status == "active":
        refuse_too_large_a_set(session, domain)
        rule_sets.mark_changed(session, domain)


def as_noted(rule: KeywordRule) -> dict[str, Any]:
    """What the audit trail says of a rule."""
    return {
        "keyword": rule.keyword,
        "intent": rule.intent,
        "all_of": rule.all_of,
        "none_of": rule.none_of,
        "pattern": rule.pattern,
        "status": rule.status,
    }


def _note(
    session: Session,
    by: Actor,
    action: str,
    rule: KeywordRule,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    audit.note(session, by, action, f"rule {rule.id}", domain_id=rule.domain_id, before=before, after=after)
