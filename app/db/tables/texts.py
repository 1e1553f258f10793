"""A text: the unit that is queued, leased, labelled, split and counted; many questions share one."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, LabelText, LongText, UtcDateTime, UuidText


class Text(Created, Base):
    """One distinct text of a domain.

    `state` says whether a person still has to look; `training_status` whether training may, will or did take it.
    """

    __tablename__ = "intent_texts"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "text_hash"),
        # Read backwards for "the next ones by priority"; a null priority is not in the queue. With the id, by which
        # equals are ordered: PostgreSQL would otherwise sort all of them.
        Index(None, "domain_id", "state", "priority", "id"),
        Index(None, "domain_id", "state", "text_hash"),
        # Gold that is labelled, that waits, and that may be drawn.
        Index(None, "domain_id", "is_gold", "state", "priority"),
        # Which label has waited longest for a batch.
        Index(None, "domain_id", "state", "training_status", "labelled_at"),
        Index(None, "domain_id", "proposed_label"),
        CheckConstraint("state IN ('unlabelled', 'labelled', 'skipped')", name="state"),
        CheckConstraint("training_status IN ('pending', 'claimed', 'used', 'skipped')", name="training_status"),
        CheckConstraint("(state = 'labelled') = (label_id IS NOT NULL)", name="label"),
        CheckConstraint("count >= 0", name="count"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    text_hash: Mapped[str] = mapped_column(HashText)
    # Near twins share the hash of their group; alone, a text is its own group.
    group_hash: Mapped[str] = mapped_column(HashText)
    text: Mapped[str | None] = mapped_column(LongText)
    question_id: Mapped[str | None] = mapped_column(UuidText)
    count: Mapped[int] = mapped_column(default=0)
    first_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    train_allowed: Mapped[bool] = mapped_column(default=True)

    # Held out for ever: never trained, mined, calibrated or thresholded on.
    is_gold: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16), default="unlabelled")
    priority: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(String(255))
    strategy: Mapped[str | None] = mapped_column(String(32))
    sampling_probability: Mapped[float | None]
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # The model's present answer, refreshed by select_questions; `scored_by` is the version that gave it.
    intents: Mapped[list[str]] = mapped_column(Json, default=list)
    confidence: Mapped[float | None]
    topk: Mapped[list[list[Any]]] = mapped_column(Json, default=list)
    scored_by: Mapped[str | None] = mapped_column(String(128))
    # The rules that matched it when it was asked last; since it is labelled, those that matched it before the label.
    rule_hits: Mapped[list[int] | None] = mapped_column(Json)

    label_id: Mapped[int | None] = mapped_column(ForeignKey("intent_labels.id"), type_=Id)
    annotation_id: Mapped[int | None] = mapped_column(Id)
    labelled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    label_source: Mapped[str | None] = mapped_column(String(16))
    proposed_label: Mapped[str | None] = mapped_column(LabelText)
    training_status: Mapped[str] = mapped_column(String(16), default="pending")
    claimed_by: Mapped[int | None] = mapped_column(ForeignKey("intent_model_training_batches.id"), index=True, type_=Id)
    # More twins than one statement may touch: the clock brings them after.
    projection_due: Mapped[bool] = mapped_column(default=False, index=True)
