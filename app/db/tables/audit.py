"""The audit trail: what people changed, chained so that a missing or altered row shows; and what was forgotten."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json


class AuditEvent(Created, Base):
    """One write by a person. Append-only; `sequence` and `chain_hash` are given soon after its commit, in one line.

    Chaining within the writer's own transaction would make all writers wait for each other.
    """

    __tablename__ = "intent_audit_events"
    __table_args__ = table_options(UniqueConstraint("sequence"), Index(None, "domain_id", "id"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    # Null: of the installation. No foreign key, as for questions.
    domain_id: Mapped[int | None] = mapped_column(Id)
    # Who: a key's name, a labeler, or the command line.
    actor: Mapped[str] = mapped_column(String(128))
    key_id: Mapped[str | None] = mapped_column(String(16))
    # What, as `noun.verb`: `rule.create`, `version.activate`, `label.submit`.
    action: Mapped[str] = mapped_column(String(64))
    # Which: the id or name of the thing.
    subject: Mapped[str] = mapped_column(String(255))
    # Never a text that a user asked.
    before: Mapped[dict[str, Any] | None] = mapped_column(Json)
    after: Mapped[dict[str, Any] | None] = mapped_column(Json)
    # The request's id in the log.
    trace_id: Mapped[str | None] = mapped_column(String(64))
    sequence: Mapped[int | None] = mapped_column(BigInteger)
    chain_hash: Mapped[str | None] = mapped_column(HashText)


class Tombstone(Created, Base):
    """What was forgotten on request, by hash, id or time, and up to when: an older backup must forget it again."""

    __tablename__ = "intent_tombstones"
    __table_args__ = table_options(
        UniqueConstraint("kind", "value"),
        CheckConstraint("kind IN ('user', 'question', 'before')", name="kind"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    # Of a user `domain:keyed hash`, of a question its id, of all that was asked before a time `domain:time`; the domain
    # is `*` where all are meant.
    value: Mapped[str] = mapped_column(String(128))
    created_by: Mapped[str] = mapped_column(String(128))
