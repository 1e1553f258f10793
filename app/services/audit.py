"""The audit trail: write down what people change, chain it, and find what was altered since."""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from app.db.tables import AuditEvent, Domain, ModelActivation, ModelVersion

# What the first row is chained to.
BEGINNING = "0" * 64
SLICE = 500


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: the holder of a key, whoever reaches the open service, or the command line."""

    name: str
    key_id: str | None = None
    trace_id: str | None = None


COMMAND_LINE = Actor("command line")


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of the chain: who remembers it elsewhere notices when the end of the trail is cut off."""

    sequence: int
    chain_hash: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What does not hold at one place of the chain."""

    sequence: int
    problem: str
    event_id: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk along the chain found. `unsealed`: rows so new that no service has chained them yet."""

    head: Head | None
    unsealed: int
    faults: Sequence[Fault]


def note(
    session: Session,
    actor: Actor,
    action: str,
    subject: str,
    *,
    domain_id: int | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write one change down, in the transaction that makes it.

    `action` is `noun.verb`, as in `rule.create`; `subject` names the thing. `before` and `after` hold what changed,
    never what a user asked.
    """
    session.add(
        AuditEvent(
            domain_id=domain_id,
            actor=actor.name,
            key_id=actor.key_id,
            action=action,
            subject=subject[:255],
            before=dict(before) if before is not None else None,
            after=dict(after) if after is not None else None,
            trace_id=actor.trace_id,
        )
    )


def note_flip(session: Session, actor: Actor, action: str, activation: ModelActivation) -> None:
    """Write down what a domain served before this activation, and what it serves since."""
    former = session.scalar(
        select(ModelActivation).where(
            ModelActivation.domain_id == activation.domain_id, ModelActivation.epoch == activation.epoch - 1
        )
    )
    domain = session.get(Domain, activation.domain_id)
    note(
        session,
        actor,
        action,
        domain.name if domain else "",
        domain_id=activation.domain_id,
        before=_served(session, former) if former else None,
        after=_served(session, activation),
    )


def _served(session: Session, activation: ModelActivation) -> dict[str, Any]:
    version = session.get(ModelVersion, activation.version_id) if activation.version_id else None
    generative = session.get(ModelVersion, activation.generative_version_id or 0)
    return {
        "epoch": activation.epoch,
        "version": version.version if version else None,
        "generative_version": generative.version if generative else None,
        "rule_set_revision": activation.rule_set_revision,
        "threshold": activation.threshold,
    }


def anything_to_seal(session: Session) -> bool:
    """Whether a row waits for its place in the chain."""
    return session.scalar(select(AuditEvent.id).where(AuditEvent.sequence.is_(None)).limit(1)) is not None


def seal(session: Session, *, secret: bytes, limit: int = SLICE) -> Head | None:
    """Give committed rows their place in the chain, the oldest first, and return its head if there was any.

    Several processes may seal at once: each row is taken once, by compare-and-set, and each place once, by its unique
    key; who loses is run again by its unit of work, and then sees what the other did.

    Raises:
        StaleDataError: another process chained one of the rows at this moment.
    """
    head = session.execute(
        select(AuditEvent.sequence, AuditEvent.chain_hash)
        .where(AuditEvent.sequence.is_not(None))
        .order_by(AuditEvent.sequence.desc())
        .limit(1)
    ).first()
    sequence, chain_hash = (head[0] or 0, head[1] or BEGINNING) if head is not None else (0, BEGINNING)
    rows = session.scalars(
        select(AuditEvent).where(AuditEvent.sequence.is_(None)).order_by(AuditEvent.id).limit(limit)
    ).all()
    for row in rows:
        sequence += 1
        chain_hash = _link(secret, chain_hash, sequence, row)
        result = session.execute(
            update(AuditEvent)
            .where(AuditEvent.id == row.id, AuditEvent.sequence.is_(None))
            .values(sequence=sequence, chain_hash=chain_hash),
            execution_options={"synchronize_session": False},
        )
        assert isinstance(result, CursorResult)
        if result.rowcount != 1:
            raise StaleDataError("another process chained this row")
    return Head(sequence, chain_hash) if rows else None


def stands(session: Session, head: Head) -> bool:
    """Whether the row that was the last one is still the one at its place."""
    found = session.scalar(select(AuditEvent.chain_hash).where(AuditEvent.sequence == head.sequence))
    return found == head.chain_hash


def verify(session: Session, *, secret: bytes, remembered: Head | None = None) -> Verification:
    """Walk the chain and name every place at which it does not hold.

    A row that was altered fails its own hash, one that was deleted leaves a gap, rows that changed places fail theirs.
    Rows that are missing at the end show only against a head that was `remembered` elsewhere.
    """
    faults: list[Fault] = []
    sequence, chain_hash = 0, BEGINNING
    known = remembered is None
    rows = session.scalars(
        select(AuditEvent)
        .where(AuditEvent.sequence.is_not(None))
        .order_by(AuditEvent.sequence)
        .execution_options(yield_per=1000)
    )
    for row in rows:
        found = row.sequence or 0
        if found != sequence + 1:
            missing = f"row {sequence + 1} is" if found == sequence + 2 else f"rows {sequence + 1} to {found - 1} are"
            faults.append(Fault(sequence + 1, f"{missing} missing"))
        elif not hmac.compare_digest(_link(secret, chain_hash, found, row), row.chain_hash or ""):
            faults.append(Fault(found, "the row was altered, or is not the one that stood here", row.id))
        # From the stored hash on: one altered row is one fault, and what follows it is still checked.
        sequence, chain_hash = found, row.chain_hash or ""
        if remembered is not None and found == remembered.sequence:
            known = chain_hash == remembered.chain_hash
            if not known:
                faults.append(Fault(found, "the row is another than the one that was sealed here", row.id))
                known = True
    if not known and remembered is not None:
        faults.append(Fault(remembered.sequence, f"the trail ends at row {sequence}: rows at its end are missing"))
    unsealed = session.scalar(select(func.count(AuditEvent.id)).where(AuditEvent.sequence.is_(None))) or 0
    return Verification(Head(sequence, chain_hash) if sequence else None, unsealed, faults)


def listing(
    session: Session, *, domain_id: int | None = None, limit: int = 50, before: int | None = None
) -> list[tuple[AuditEvent, str | None]]:
    """The newest events first, each with the name of its domain; `before` is the id that the last page ended with."""
    statement = select(AuditEvent, Domain.name).outerjoin(Domain, Domain.id == AuditEvent.domain_id)
    if domain_id is not None:
        statement = statement.where(AuditEvent.domain_id == domain_id)
    if before is not None:
        statement = statement.where(AuditEvent.id < before)
    return [(event, name) for event, name in session.execute(statement.order_by(AuditEvent.id.desc()).limit(limit))]


def _link(secret: bytes, previous: str, sequence: int, row: AuditEvent) -> str:
    """HMAC-SHA256 over the hash before and the whole row: without the installation's secret no row can be forged."""
    whole = {
        "id": row.id,
        "sequence": sequence,
        "created_at": row.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "domain_id": row.domain_id,
        "actor": row.actor,
        "key_id": row.key_id,
        "action": row.action,
        "subject": row.subject,
        "before": row.before,
        "after": row.after,
        "trace_id": row.trace_id,
    }
    canonical = json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hmac.new(secret, f"audit\n{previous}\n{canonical}".encode(), hashlib.sha256).hexdigest()
