"""Make batches: their membership is frozen when they are opened, with the labels as they are at that moment."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.db.tables import BatchItem, Domain, ModelVersion, TrainingBatch
from app.intent.recipes import GENERATIVE, IMPORTED
from app.services import domains, members, taxonomy


def freeze(
    session: Session,
    domain: Domain,
    frozen: Sequence[Mapping[str, Any]],
    *,
    opened_by: str,
    recipe: str,
    config: Mapping[str, Any] | None,
    description: str | None,
) -> TrainingBatch:
    """A batch of these members, whose domain is locked."""
    domain.batch_seq += 1
    parent_id = domain.generative_version_id if recipe in GENERATIVE else domain.active_version_id
    parent = session.get(ModelVersion, parent_id) if parent_id else None
    roles = Counter(member["role"] for member in frozen)
    batch = TrainingBatch(
        domain_id=domain.id,
        batch_id=f"{domain.name}-b{domain.batch_seq}",
        parent_version=parent.version if parent else None,
        description=description,
        opened_by=opened_by,
        recipe=recipe,
        config=dict(config or {}),
        question_count=roles["new"],
        replay_count=roles["replay"],
        gold_count=roles["gold"],
        items_digest=members.digest(frozen),
    )
    session.add(batch)
    session.flush()
    if frozen:
        session.execute(insert(BatchItem), [dict(member) | {"batch_id": batch.id} for member in frozen])
    return batch


def open_import(session: Session, domain_name: str, base_model: str, *, opened_by: str) -> TrainingBatch:
    """Open a batch that takes in a classifier from elsewhere. What is labelled judges it, and no label is used up.

    Raises:
        DomainNotFound.
    """
    domain = domains.locked(session, domain_name)
    labels = {label.id: label.path for label in taxonomy.active(session, domain.id)}
    judging = [
        member | {"role": "replay"}
        for role in ("new", "replay")
        for member in members.of_role(session, domain, labels, role)
    ]
    frozen = [
        *sorted(judging, key=lambda member: int(member["text_id"])),
        *members.of_role(session, domain, labels, "gold"),
    ]
    return freeze(
        session,
        domain,
        frozen,
        opened_by=opened_by,
        recipe=IMPORTED,
        config={"base_model": base_model},
        description=None,
    )
