"""What rules bring once they serve: how often each matched, how often people agreed, and the end of those that fail."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Text
from app.intent.proportions import wilson
from app.intent.rules import LEAST_JUDGED, LIVE_BAR, fails
from app.services import rules

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Given:
    """A label that counted, and since when."""

    label_id: int
    at: datetime


def label_of(text: Text) -> Given | None:
    """The label that counts for a text now."""
    if text.label_id is None or text.labelled_at is None:
        return None
    return Given(text.label_id, text.labelled_at)


def hits_of(question: Any) -> list[int] | None:
    """The ids of the rules that matched a question, or None where rules were not asked."""
    for verdict in question.verdicts or ():
        if isinstance(verdict, dict) and verdict.get("tier") == "rules":
            ids = verdict.get("rules")
            return [one for one in ids if isinstance(one, int)] if isinstance(ids, list) else []
    return None


def newest_hits(asked: Iterable[Any]) -> list[int] | None:
    """The ids of the rules that matched the last of these questions, in their order, about which rules were asked."""
    for question in reversed(list(asked)):
        if (hits := hits_of(question)) is not None:
            return hits
    return None


def usage_of(questions: Iterable[Any]) -> Counter[tuple[int, int]]:
    """How many of these questions each rule matched, by its id and its domain's: each counts once in its life."""
    return Counter(
        (rule_id, question.domain_id) for question in questions for rule_id in dict.fromkeys(hits_of(question) or ())
    )


def count_usage(session: Session, usage: Counter[tuple[int, int]]) -> None:
    """Add to the rules what they matched."""
    if not usage:
        return
    table: Any = KeywordRule.__table__
    statement = (
        update(table)
        .where(table.c.id == bindparam("of_rule"), table.c.domain_id == bindparam("of_domain"))
        .values(usage_count=table.c.usage_count + bindparam("more"))
    )
    # One after the other in the order of their ids: whoever else counts waits in the same order.
    rows = [{"of_rule": rule, "of_domain": domain, "more": more} for (rule, domain), more in sorted(usage.items())]
    session.connection().execute(statement, rows)


def judge(session: Session, text: Text, *, before: Given | None) -> None:
    """A label came, went or changed: bring it to the rules that had matched the text, which is locked.

    `before` is the label that counted until now. A rule's `judged_count` is the number of texts that it had matched
    and that were labelled since it became active; `success_count` those of them with its label.
    """
    if not text.rule_hits:
        return
    after = label_of(text)
    matched = session.scalars(
        select(KeywordRule)
        .where(KeywordRule.domain_id == text.domain_id, KeywordRule.id.in_(text.rule_hits))
        .order_by(KeywordRule.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    for rule in matched:
        rule.judged_count = max(0, rule.judged_count + _counts(rule, after) - _counts(rule, before))
        agreed = _counts(rule, after) * _agrees(rule, after) - _counts(rule, before) * _agrees(rule, before)
        rule.success_count = max(0, rule.success_count + agreed)
    session.flush()


@dataclass(frozen=True, slots=True)
class Regiven:
    """A text that some rules had matched, and the label that counted for it and counts from now on."""

    hits: Sequence[int]
    before: Given | None
    after: Given | None


def judge_anew(session: Session, domain_id: int, texts: Iterable[Regiven], moves: Mapping[int, int]) -> None:
    """As `judge`, for many texts, which are locked, while some rules come to speak for other labels.

    `moves`: the new label of a rule by its id. What those rules said of texts whose label stays is told only by the
    texts that are given here.
    """
    hit: dict[int, list[Regiven]] = {}
    for text in texts:
        for rule_id in text.hits:
            hit.setdefault(rule_id, []).append(text)
    wanted = sorted(hit.keys() | moves.keys())
    for start in range(0, len(wanted), PAGE):
        page = session.scalars(
            select(KeywordRule)
            .where(KeywordRule.domain_id == domain_id, KeywordRule.id.in_(wanted[start : start + PAGE]))
            .order_by(KeywordRule.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all()
        for rule in page:
            judged = hit.get(rule.id, [])
            rule.judged_count -= sum(_counts(rule, text.before) for text in judged)
            rule.success_count -= sum(_counts(rule, text.before) * _agrees(rule, text.before) for text in judged)
            rule.label_id = moves.get(rule.id, rule.label_id)
            rule.judged_count += sum(_counts(rule, text.after) for text in judged)
            rule.success_count += sum(_counts(rule, text.after) * _agrees(rule, text.after) for text in judged)
            rule.judged_count, rule.success_count = max(0, rule.judged_count), max(0, rule.success_count)
        session.flush()


def _counts(rule: KeywordRule, given: Given | None) -> int:
    return int(given is not None and rule.activated_at is not None and given.at >= rule.activated_at)


def _agrees(rule: KeywordRule, given: Given | None) -> int:
    return int(given is not None and given.label_id == rule.label_id)


def has_failing(session: Session, domain_id: int) -> bool:
    """Whether `retire_failing` would find any: a look that locks nothing."""
    counts = session.execute(select(KeywordRule.success_count, KeywordRule.judged_count).where(_suspect(domain_id)))
    return any(fails(successes, judged) for successes, judged in counts)


def _suspect(domain_id: int) -> Any:
    return (
        (KeywordRule.domain_id == domain_id)
        & (KeywordRule.status == "active")
        & (KeywordRule.judged_count >= LEAST_JUDGED)
    )


def retire_failing(session: Session, domain: Domain) -> Sequence[int]:
    """Retire the active rules that people keep contradicting, and give their ids. The domain must be locked."""
    suspects = session.scalars(
        select(KeywordRule)
        .where(_suspect(domain.id))
        .order_by(KeywordRule.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    failing = [rule for rule in suspects if fails(rule.success_count, rule.judged_count)]
    for rule in failing:
        upper = wilson(rule.success_count, rule.judged_count)[1]
        reason = (
            f"live precision {rule.success_count} of {rule.judged_count}, at most {upper:.2f} (95 %): "
            f"below {LIVE_BAR:.2f}"
        )
        rules.set_status(session, domain, rule, "retired", reason=reason)
    return [rule.id for rule in failing]
