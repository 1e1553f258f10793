"""The audit trail: write down what people change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import AuditEvent


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: the holder of a key, whoever reaches the open service, or the command line."""

    name: str
    key_id: str | None = None
    trace_id: str | None = None


COMMAND_LINE = Actor("command line")


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
