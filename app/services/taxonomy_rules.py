"""The keyword rules of labels that are merged: they speak for the other label, or leave where it has such a rule."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label, now
from app.services import rules

DOUBLED = "retired: the label that its own was merged into has a rule of this keyword"
BACK = "back with the label that was merged"

Kept = dict[str, Any]
"""By a rule's id: label, path and status before, and the status after."""


def move(session: Session, domain: Domain, label_ids: Collection[int], target: Label) -> tuple[dict[int, int], Kept]:
    """Bring the rules of these labels to another. Their new labels by id, to be written as they are judged."""
    theirs = session.scalars(
        select(KeywordRule)
        .where(KeywordRule.domain_id == domain.id, KeywordRule.label_id.in_(label_ids))
        .order_by(KeywordRule.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    taken = set(
        session.scalars(
            select(KeywordRule.keyword).where(KeywordRule.domain_id == domain.id, KeywordRule.intent == target.path)
        )
    )
    moves: dict[int, int] = {}
    kept: Kept = {}
    for rule in theirs:
        was = [rule.label_id, rule.intent, rule.status]
        if rule.keyword in taken:
            if rule.status in rules.ALIVE:
                rule.status, rule.reason, rule.retired_at = "retired", DOUBLED, now()
        else:
            taken.add(rule.keyword)
            rule.intent = target.path
            moves[rule.id] = target.id
        rule.updated_at = now()
        kept[str(rule.id)] = [*was, rule.status]
    session.flush()
    return moves, kept


def bring_back(session: Session, domain: Domain, kept: Mapping[str, Any], target_id: int | None) -> dict[int, int]:
    """Give rules what they had, except those that somebody changed since. Their labels by id, as `move` gives them."""
    found = session.scalars(
        select(KeywordRule)
        .where(KeywordRule.domain_id == domain.id, KeywordRule.id.in_([int(rule_id) for rule_id in kept]))
        .order_by(KeywordRule.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    moves: dict[int, int] = {}
    for rule in found:
        label_id, intent, before, after = kept[str(rule.id)]
        if rule.status != after:
            continue
        if rule.label_id == target_id and label_id != target_id:
            rule.intent = intent
            moves[rule.id] = label_id
        elif rule.label_id != label_id:
            continue
        if before != after:
            rule.status, rule.reason, rule.retired_at = before, BACK, None
        rule.updated_at = now()
    session.flush()
    rules.refuse_too_large_a_set(session, domain)
    return moves
