"""What a domain could train on now: looked up where a batch is opened, read from counters where it is only told."""

from collections import Counter as Tally
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Label, Text
from app.services import counting, members
from app.services.counters import Figures


@dataclass(frozen=True, slots=True)
class Trainable:
    """Labels that no batch took yet, when the oldest of them was given, all labels, and the texts of each label.

    `per_label` holds what the next batch could train on: what another batch holds at this moment is left out. Labels
    that wait for more texts (`members.too_few`) are nowhere in it.
    """

    new: int
    oldest: datetime | None
    total: int
    per_label: Mapping[int, int]


def looked_up(session: Session, domain_id: int) -> Trainable:
    """As the rows say, in the transaction that decides by it."""
    rows: Sequence[Any] = session.execute(
        select(Text.training_status, Text.label_id, func.count(Text.id), func.min(Text.labelled_at))
        .where(members.trainable(domain_id))
        .group_by(Text.training_status, Text.label_id)
    ).all()
    counts = {(status, label_id): count for status, label_id, count, _ in rows if label_id is not None}
    too_few = members.too_few(session, domain_id, counts)
    rows = [row for row in rows if row[1] not in too_few]
    per_label: Tally[int] = Tally()
    for status, label_id, count, _ in rows:
        if status in ("pending", "used") and label_id is not None:
            per_label[label_id] += count
    waiting = [(count, oldest) for status, _, count, oldest in rows if status == "pending"]
    return Trainable(
        new=sum(count for count, _ in waiting),
        oldest=min((oldest for _, oldest in waiting if oldest is not None), default=None),
        total=sum(row[2] for row in rows),
        per_label=per_label,
    )


def from_counters(session: Session, domain_id: int, totals: Figures) -> Trainable:
    """As the counters say; only the oldest label is looked up, at the front of an index."""
    active = set(session.scalars(select(Label.id).where(Label.domain_id == domain_id, Label.status == "active")))
    counts = counts_of(totals)
    too_few = members.too_few(session, domain_id, counts)
    per_label: Tally[int] = Tally()
    new = total = 0
    for (status, label_id), count in counts.items():
        if label_id not in active or label_id in too_few:
            continue
        total += count
        new += count if status == "pending" else 0
        if status in ("pending", "used"):
            per_label[label_id] += count
    return Trainable(new, _oldest(session, domain_id, too_few) if new else None, total, per_label)


def counts_of(totals: Figures) -> dict[tuple[str, int], int]:
    """How many trainable texts the counters tell, by training status and label."""
    counts = {}
    for key, count in totals.get(counting.TRAINABLE, {}).items():
        status, _, label = key.partition("/")
        counts[status, int(label)] = count
    return counts


def _oldest(session: Session, domain_id: int, too_few: Collection[int]) -> datetime | None:
    return session.scalar(
        select(Text.labelled_at)
        .where(members.trainable(domain_id, too_few), Text.training_status == "pending")
        .order_by(Text.labelled_at)
        .limit(1)
    )
