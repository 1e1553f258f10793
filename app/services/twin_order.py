"""Ask one of a group of near twins first: the others wait behind everything else until it is answered."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import false, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.tables import Text
from app.services.texts import OF_PEOPLE, TWIN, Priority, asked_times, fresh_priority

WEIGHED = (TWIN, "margin", "random")
TWIN_PRIORITY = Priority(0.0, TWIN, "near twin of a question that is asked first")


@dataclass(frozen=True, slots=True)
class Order:
    """One page of groups: what changes in the queue, by text, and the hash to go on after; None at the end."""

    changes: dict[int, Priority]
    last: str | None


def look(session: Session, domain_id: int, *, after: str = "", limit: int = 500) -> Order:
    """What is to change so that of each of the next groups one is asked first, and the others behind everything else.

    The first is the one that is asked most, and of equals the oldest, by its own answer and by how often all that wait
    are asked. Once a person has answered, skipped or discarded it the next one may come: its label may differ. Gold
    keeps its places: those are a uniform draw.
    """
    hashes = session.scalars(
        select(Text.group_hash)
        .where(Text.domain_id == domain_id, Text.group_hash > after)
        .group_by(Text.group_hash)
        .having(func.count() > 1)
        .order_by(Text.group_hash)
        .limit(limit)
    ).all()
    groups: dict[str, list[Any]] = {}
    for row in _waiting(session, domain_id, hashes):
        groups.setdefault(row.group_hash, []).append(row)
    changes: dict[int, Priority] = {}
    raised: dict[int, int] = {}
    for waiting in groups.values():
        first = min(waiting, key=lambda row: (-row.count, row.id))
        changes |= {
            row.id: TWIN_PRIORITY for row in waiting if row is not first and (row.strategy, row.priority) != (TWIN, 0.0)
        }
        count = max(1, sum(row.count for row in waiting))
        # Its reason says by how many it was weighed: in a queue that is in order nothing else need be read.
        if first.strategy in WEIGHED and not (first.reason or "").endswith(asked_times(count)):
            raised[first.id] = count
    changes |= _raised(session, raised)
    return Order(changes, hashes[-1] if len(hashes) == limit else None)


def _waiting(session: Session, domain_id: int, hashes: Sequence[str]) -> Sequence[Any]:
    if not hashes:
        return []
    return session.execute(
        select(Text.id, Text.group_hash, Text.count, Text.priority, Text.strategy, Text.reason)
        .where(Text.domain_id == domain_id, Text.group_hash.in_(hashes), *_ASKED)
        .order_by(Text.id)
    ).all()


def _raised(session: Session, counts: Mapping[int, int]) -> dict[int, Priority]:
    """The priorities of these texts, asked so often; those that a selection has placed higher stay where they are."""
    if not counts:
        return {}
    rows = session.execute(
        select(Text.id, Text.text_hash, Text.topk, Text.strategy, Text.priority).where(Text.id.in_(sorted(counts)))
    )
    fresh = [(row, fresh_priority(row.text_hash, counts[row.id], row.topk)) for row in rows]
    return {
        row.id: priority
        for row, priority in fresh
        if row.strategy == TWIN or (row.strategy == priority.strategy and (priority.value or 0.0) > row.priority)
    }


_ASKED = (
    Text.state == "unlabelled",
    Text.priority.is_not(None),
    Text.is_gold == false(),
    or_(Text.strategy.is_(None), Text.strategy.not_in(OF_PEOPLE)),
)


def put(session: Session, changes: dict[int, Priority]) -> int:
    """Bring these texts to their places, but for those that wait no longer, and return how many."""
    still = session.scalars(
        select(Text.id).where(Text.id.in_(sorted(changes)), *_ASKED).order_by(Text.id).with_for_update(key_share=True)
    ).all()
    if still:
        rows = [
            {"id": text_id, "priority": to.value, "strategy": to.strategy, "reason": to.reason}
            for text_id in still
            for to in (changes[text_id],)
        ]
        session.execute(update(Text), rows)
    return len(still)


def asked_together(session: Session, domain_id: int, hashes: Collection[str]) -> dict[str, int]:
    """How often the waiting texts of each of these groups are asked, all together."""
    rows = session.execute(
        select(Text.group_hash, func.sum(Text.count))
        .where(Text.domain_id == domain_id, Text.group_hash.in_(sorted(hashes)), *_ASKED)
        .group_by(Text.group_hash)
    )
    return {group_hash: int(count) for group_hash, count in rows}


def sizes(session: Session, domain_id: int, hashes: Collection[str]) -> dict[str, int]:
    """How many texts each of these groups has."""
    if not hashes:
        return {}
    rows = session.execute(
        select(Text.group_hash, func.count())
        .where(Text.domain_id == domain_id, Text.group_hash.in_(sorted(hashes)))
        .group_by(Text.group_hash)
    )
    return dict(rows.all())
