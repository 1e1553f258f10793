"""What a domain could train on now: looked up where a batch is opened, read from counters where it is only told."""

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Label, Text
from app.services import counting, members
from app.services.counters import Figures


@dataclass(frozen=True, slots=True)
class Trainable:
    """Labels that no batch took yet, when the oldest of them was given, all labels, and the texts of each label.

    `per_label` holds what the next batch could train on: what another batch holds at this moment is left out.
    """

    new: int
    oldest: datetime | None
    total: int
    per_label: Mapping[int, int]


def looked_up(session: Session, domain_id: int) -> Trainable:
    """As the rows say, in the transaction that decides by it."""
    rows = session.execute(
        select(Text.training_status, Text.label_id, func.count(Text.id), func.min(Text.labelled_at))
        .where(members.trainable(domain_id))
        .group_by(Text.training_status, Text.label_id)
    ).all()
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
    per_label: Tally[int] = Tally()
    new = total = 0
    for key, count in totals.get(counting.TRAINABLE, {}).items():
        status, _, label = key.partition("/")
        if int(label) not in active:
            continue
        total += count
        new += count if status == "pending" else 0
        if status in ("pending", "used"):
            per_label[int(label)] += count
    return Trainable(new, _oldest(session, domain_id) if new else None, total, per_label)


def _oldest(session: Session, domain_id: int) -> datetime | None:
    return session.scalar(
        select(Text.labelled_at)
        .where(members.trainable(domain_id), Text.training_status == "pending")
        .order_by(Text.labelled_at)
        .limit(1)
    )
