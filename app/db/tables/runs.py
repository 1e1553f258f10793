"""What runs: the clock's ledger of slots, and the services that report what they serve."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, table_options
from app.db.types import Id, Json, UtcDateTime


class JobRun(Base):
    """One run of one job for one slot. The unique key is what makes two clocks run a slot once."""

    __tablename__ = "intent_job_runs"
    __table_args__ = table_options(
        UniqueConstraint("job", "scheduled_for"),
        Index(None, "outcome"),
        CheckConstraint("outcome IN ('running', 'done', 'failed', 'died')", name="outcome"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job: Mapped[str] = mapped_column(String(64))
    scheduled_for: Mapped[datetime] = mapped_column(UtcDateTime)
    worker: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    outcome: Mapped[str] = mapped_column(String(16), default="running")
    detail: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[str | None] = mapped_column(Text)


class Replica(Base):
    """A process that serves or keeps time, and for a service what it serves in one domain."""

    __tablename__ = "intent_replicas"
    __table_args__ = table_options(CheckConstraint("role IN ('service', 'clock')", name="role"))

    replica: Mapped[str] = mapped_column(String(128), primary_key=True)
    # 0 for a clock, which serves no domain.
    domain_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    role: Mapped[str] = mapped_column(String(16))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("intent_model_versions.id"), type_=Id)
    epoch: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    reported_at: Mapped[datetime] = mapped_column(UtcDateTime)
