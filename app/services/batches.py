"""Training batches: freeze what is to be trained, hand it to one worker, and end it one way or the other."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import BatchItem, Domain, ModelVersion, Text, TrainingBatch
from app.errors import BatchState, ClaimLost, NoTexts, NotFound, NothingNew
from app.intent.recipes import GENERATIVE
from app.intent.training import Due, due, retry_delay
from app.services import domains, members, taxonomy, trainable
from app.services.frozen_batches import freeze
from app.services.trainable import Trainable

LIVE = ("training", "evaluating")


@dataclass(frozen=True, slots=True)
class OpeningRule:
    """When the clock opens a batch: enough new labels, or fewer that have waited long."""

    labels: int = 100
    share: float = 0.10
    small_labels: int = 20
    small_days: float = 7.0
    retry_delays_seconds: Sequence[float] = (60.0, 300.0, 1500.0)
    extract_keywords: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch in the hands of one worker. Every write names the token: a worker that lost the claim writes nothing."""

    batch: TrainingBatch
    domain: Domain
    token: str


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One text of a batch as it was frozen."""

    text_id: int
    text: str
    label_id: int
    label: str
    role: str


def open_batch(
    session: Session,
    domain_name: str,
    *,
    opened_by: str,
    recipe: str | None = None,
    config: Mapping[str, Any] | None = None,
    description: str | None = None,
    retrain: bool = False,
) -> TrainingBatch:
    """Freeze the new labels, the replay and the gold of a domain in a batch of its own.

    The domain's row is locked meanwhile, and the new texts are claimed: no second batch can take the same labels.

    Raises:
        DomainNotFound.
        NoTexts: the domain keeps no text and nothing was imported.
        NothingNew: no label since the last batch (unless `retrain`), or none of a label that has texts enough.
        OneClass: fewer than two labels have two texts each.
        NoBaseModel: the recipe starts from one, and the domain names none.
    """
    domain = domains.locked(session, domain_name)
    recipe = recipe or domain.recipe
    if not (config or {}).get("base_model"):
        domains.require_base(domain, recipe)
    labels = {label.id: label.path for label in taxonomy.active(session, domain.id)}
    new, replay, gold = members.of_batch(session, domain, labels)
    if recipe in GENERATIVE and domain.recipe not in GENERATIVE:
        # Beside the domain's own recipe, which must still find these labels new.
        new, replay, retrain = [], [*replay, *(member | {"role": "replay"} for member in new)], True
    if not new and not replay and not domain.keep_text:
        raise NoTexts(f"domain {domain.name!r} keeps no text: there is nothing to train on but imports")
    if not new and not (retrain and replay):
        raise NothingNew(f"domain {domain.name!r} has no label that was not trained on")
    members.refuse_one_class(domain, [*new, *replay])
    frozen = [*sorted([*new, *replay], key=lambda member: int(member["text_id"])), *gold]
    batch = freeze(
        session,
        domain,
        frozen,
        opened_by=opened_by,
        recipe=recipe,
        config=config,
        description=description,
    )
    members.claim(session, batch, [member["text_id"] for member in new])
    return batch


def whether_due(session: Session, domain: Domain, rule: OpeningRule, known: Trainable | None = None) -> Due:
    """Whether the clock should open a batch now, how many labels are missing, and in words why not.

    `known`: what there is to train on, for who only tells it; looked up without it.
    """
    found = known or trainable.looked_up(session, domain.id)
    moment = database_time(session)
    decision = due(
        new=found.new,
        oldest_new_age_days=(moment - found.oldest).total_seconds() / 86_400 if found.oldest else 0.0,
        labelled=found.total - found.new,
        floor=rule.labels,
        share=rule.share,
        small=rule.small_labels,
        small_days=rule.small_days,
    )
    if not decision.open:
        return decision
    waiting = _held_back(session, domain, rule, moment, found)
    return Due(False, 0, waiting) if waiting else decision


def _held_back(session: Session, domain: Domain, rule: OpeningRule, moment: datetime, found: Trainable) -> str | None:
    """Why a batch that has its labels must wait all the same, or None."""
    recent = session.scalars(
        select(TrainingBatch)
        .where(TrainingBatch.domain_id == domain.id)
        .order_by(TrainingBatch.id.desc())
        .limit(len(rule.retry_delays_seconds) + 1)
    ).all()
    if any(batch.training_status in ("queued", *LIVE) for batch in recent):
        return "a batch of this domain is queued or running"
    if one_class := members.one_class_reason(found.per_label):
        return one_class
    failures = 0
    for batch in recent:
        if batch.training_status != "failed":
            break
        failures += 1
    if failures == 0:
        return None
    last = recent[0]
    failed_at = last.finished_at or last.created_at
    delay = retry_delay(failures, delays_seconds=tuple(rule.retry_delays_seconds))
    if delay is None:
        if members.has_label_beside(session, domain, last):
            return None
        return f"batch {last.batch_id} failed {failures} times in a row; a new label or a run by hand tries again"
    if moment >= failed_at + timedelta(seconds=delay):
        return None
    again = (failed_at + timedelta(seconds=delay)).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"batch {last.batch_id} failed; it is tried again at {again}"


def open_due(session: Session, domain_name: str, rule: OpeningRule) -> TrainingBatch | None:
    """Open and queue a batch if the domain is due. Counting and opening hold the domain's lock together."""
    domain = domains.locked(session, domain_name)
    if not whether_due(session, domain, rule).open:
        return None
    batch = open_batch(session, domain_name, opened_by="clock")
    return run(session, batch.batch_id, auto_extract_keywords=rule.extract_keywords)


def find(session: Session, batch_id: str) -> TrainingBatch:
    """The batch of this id.

    Raises:
        NotFound: there is none.
    """
    batch = session.scalar(select(TrainingBatch).where(TrainingBatch.batch_id == batch_id))
    if batch is None:
        raise NotFound("there is no batch of this id")
    return batch


def listing(session: Session, domain_id: int, *, limit: int, before: int | None = None) -> Sequence[TrainingBatch]:
    """The batches of a domain, the newest first; `before` is the id that the last page ended with."""
    statement = select(TrainingBatch).where(TrainingBatch.domain_id == domain_id)
    if before is not None:
        statement = statement.where(TrainingBatch.id < before)
    return session.scalars(statement.order_by(TrainingBatch.id.desc()).limit(limit)).all()


def run(session: Session, batch_id: str, *, auto_extract_keywords: bool = False) -> TrainingBatch:
    """Queue a batch: any running clock takes it within two seconds. A failed one takes its texts again first.

    Raises:
        NotFound: no such batch.
        BatchState: it is queued, running or done, or its labels went into another batch since.
    """
    batch = find(session, batch_id)
    if batch.training_status not in ("pending", "failed"):
        raise BatchState(f"batch {batch_id} is {batch.training_status}; only a pending or failed one can be run")
    if batch.training_status == "failed":
        members.claim_again(session, batch)
    changed = _changed(
        session,
        update(TrainingBatch)
        .where(TrainingBatch.id == batch.id, TrainingBatch.training_status == batch.training_status)
        .values(
            training_status="queued",
            queued_at=database_time(session),
            auto_extract_keywords=auto_extract_keywords,
            error=None,
            finished_at=None,
            progress=0.0,
            stage=None,
        ),
    )
    if changed != 1:
        raise BatchState(f"batch {batch_id} was run by another at this moment")
    session.refresh(batch)
    return batch


def claim_next(session: Session, *, worker: str) -> Claimed | None:
    """Take the oldest queued batch whose domain trains nothing at this moment.

    Compare-and-set: of two workers one gets it.
    """
    busy = select(TrainingBatch.domain_id).where(TrainingBatch.running_key == 1)
    batch = session.scalar(
        select(TrainingBatch)
        .where(TrainingBatch.training_status == "queued", TrainingBatch.domain_id.not_in(busy))
        .order_by(TrainingBatch.queued_at, TrainingBatch.id)
        .limit(1)
    )
    if batch is None:
        return None
    moment, token = database_time(session), str(uuid.uuid4())
    changed = _changed(
        session,
        update(TrainingBatch)
        .where(TrainingBatch.id == batch.id, TrainingBatch.training_status == "queued")
        .values(
            training_status="training",
            running_key=1,
            attempt=TrainingBatch.attempt + 1,
            worker=worker,
            claim_token=token,
            started_at=moment,
            heartbeat_at=moment,
        ),
    )
    if changed != 1:
        return None
    session.refresh(batch)
    domain = session.get(Domain, batch.domain_id)
    if domain is None:
        raise AssertionError(f"batch {batch.batch_id} has lost its domain")
    return Claimed(batch, domain, token)


def report(
    session: Session,
    batch_pk: int,
    token: str,
    *,
    progress: float | None = None,
    stage: str | None = None,
    status: str | None = None,
) -> None:
    """Say that the batch is alive, and how far it is.

    Raises:
        ClaimLost: it was given up for lost; the worker must stop, for another may have it.
    """
    values: dict[str, Any] = {"heartbeat_at": database_time(session)}
    if progress is not None:
        values["progress"] = min(1.0, max(0.0, progress))
    if stage is not None:
        values["stage"] = stage[:64]
    if status is not None:
        values["training_status"] = status
    if _changed(session, update(TrainingBatch).where(_mine(batch_pk, token)).values(values)) != 1:
        raise ClaimLost(f"batch {batch_pk} is no longer this worker's")


def items(session: Session, batch_pk: int) -> list[LabelledText]:
    """The frozen members of a batch whose text is still there, in a fixed order."""
    rows = session.execute(
        select(BatchItem.text_id, Text.text, BatchItem.label_id, BatchItem.label, BatchItem.role)
        .join(Text, Text.id == BatchItem.text_id)
        .where(BatchItem.batch_id == batch_pk, Text.text.is_not(None))
        .order_by(BatchItem.text_id)
    )
    return [LabelledText(row[0], row[1] or "", *row[2:]) for row in rows]


def complete(session: Session, batch_pk: int, token: str, *, outcome: str, version: ModelVersion) -> None:
    """End a batch that has a registered version; its texts are used, whatever the gate said.

    Raises:
        ClaimLost: it is no longer this worker's.
    """
    changed = _changed(
        session,
        update(TrainingBatch)
        .where(_mine(batch_pk, token))
        .values(
            training_status="completed",
            outcome=outcome,
            model_version=version.version,
            model_path=version.model_path,
            progress=1.0,
            stage="done",
            running_key=None,
            finished_at=database_time(session),
        ),
    )
    if changed != 1:
        raise ClaimLost(f"batch {batch_pk} is no longer this worker's")
    members.end_claim(session, batch_pk, "used")


def fail(session: Session, batch_pk: int, token: str, *, error: str) -> None:
    """End a batch without a version: its texts wait for the next one. A lost claim is nobody's to fail."""
    changed = _changed(
        session,
        update(TrainingBatch)
        .where(_mine(batch_pk, token))
        .values(training_status="failed", error=error[:4000], running_key=None, finished_at=database_time(session)),
    )
    if changed == 1:
        members.end_claim(session, batch_pk, "pending")


def requeue(session: Session, batch_pk: int, token: str) -> None:
    """Give a batch back whole when its worker is being stopped: another clock, or this one's next start, takes it."""
    _changed(
        session,
        update(TrainingBatch)
        .where(_mine(batch_pk, token))
        .values(training_status="queued", running_key=None, claim_token=None, progress=0.0, stage=None),
    )


def fail_lost(session: Session, *, lost_after_seconds: float) -> list[str]:
    """Fail the batches whose worker has not said for so long that it is alive, and name them."""
    line = database_time(session) - timedelta(seconds=lost_after_seconds)
    lost = session.scalars(
        select(TrainingBatch).where(
            TrainingBatch.training_status.in_(LIVE),
            or_(TrainingBatch.heartbeat_at.is_(None), TrainingBatch.heartbeat_at < line),
        )
    ).all()
    for batch in lost:
        fail(
            session,
            batch.id,
            batch.claim_token or "",
            error=f"worker {batch.worker} gave no sign of life for {lost_after_seconds:g} s: it died or was stopped",
        )
    return [batch.batch_id for batch in lost]


def _mine(batch_pk: int, token: str) -> Any:
    return (
        (TrainingBatch.id == batch_pk) & (TrainingBatch.claim_token == token) & TrainingBatch.training_status.in_(LIVE)
    )


def _changed(session: Session, statement: Any) -> int:
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
