"""A batch: one training run's frozen membership and outcome."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, LabelText, UtcDateTime, UuidText


class TrainingBatch(Created, Base):
    """One run. Statuses move forward only: pending → queued → training → evaluating → completed, or failed."""

    __tablename__ = "intent_model_training_batches"
    __table_args__ = table_options(
        Index(None, "training_status"),
        UniqueConstraint("batch_id"),
        UniqueConstraint("domain_id", "running_key"),
        CheckConstraint(
            "training_status IN ('pending', 'queued', 'training', 'evaluating', 'completed', 'failed')",
            name="training_status",
        ),
        CheckConstraint("outcome IN ('activated', 'passed', 'refused')", name="outcome"),
        CheckConstraint("progress >= 0 AND progress <= 1", name="progress"),
        CheckConstraint("running_key = 1", name="running_key"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"), index=True)
    batch_id: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str | None] = mapped_column(String(128))
    parent_version: Mapped[str | None] = mapped_column(String(128))
    training_status: Mapped[str] = mapped_column(String(16), default="pending")
    outcome: Mapped[str | None] = mapped_column(String(16))
    description: Mapped[str | None] = mapped_column(String(500))
    opened_by: Mapped[str] = mapped_column(String(128), default="clock")
    recipe: Mapped[str] = mapped_column(String(32))
    config: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    auto_extract_keywords: Mapped[bool] = mapped_column(default=False)
    question_count: Mapped[int] = mapped_column(default=0)
    replay_count: Mapped[int] = mapped_column(default=0)
    gold_count: Mapped[int] = mapped_column(default=0)
    items_digest: Mapped[str] = mapped_column(HashText)
    model_path: Mapped[str | None] = mapped_column(String(512))
    progress: Mapped[float] = mapped_column(default=0.0)
    stage: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    # One running batch per domain: 1 while it runs, else null, and unique.
    running_key: Mapped[int | None]
    attempt: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(128))
    claim_token: Mapped[str | None] = mapped_column(UuidText)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class BatchItem(Base):
    """One text of a batch with its label as it was when the batch was opened."""

    __tablename__ = "intent_batch_items"
    __table_args__ = table_options(CheckConstraint("role IN ('new', 'replay', 'gold')", name="role"))

    batch_id: Mapped[int] = mapped_column(
        ForeignKey("intent_model_training_batches.id"), primary_key=True, type_=Id, autoincrement=False
    )
    text_id: Mapped[int] = mapped_column(
        ForeignKey("intent_texts.id"), primary_key=True, type_=Id, autoincrement=False, index=True
    )
    role: Mapped[str] = mapped_column(String(8))
    label_id: Mapped[int] = mapped_column(ForeignKey("intent_labels.id"), type_=Id)
    label: Mapped[str] = mapped_column(LabelText)
