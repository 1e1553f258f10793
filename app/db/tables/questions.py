"""A question: one text that was asked once, with what was answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, LongText, UtcDateTime, UuidText

METHODS = ("local_model", "keyword_fallback", "generative", "llm_fallback", "none")


class UserQuestion(Created, Base):
    """One asked question. The answer's columns never change; the label's columns follow its text."""

    __tablename__ = "intent_user_questions"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "request_id"),
        Index(None, "domain_id", "asked_at"),
        Index(None, "user_hash"),
        # "The oldest ones without a text" is a range of it, whatever the backlog.
        Index(None, "text_id", "question_id"),
        CheckConstraint(
            "method IN ('local_model', 'keyword_fallback', 'generative', 'llm_fallback', 'none')",
            name="method",
        ),
        CheckConstraint("source IN ('served', 'external')", name="source"),
        CheckConstraint("training_status IN ('pending', 'used', 'skipped')", name="training_status"),
        CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence"),
    )

    question_id: Mapped[str] = mapped_column(UuidText, primary_key=True)
    # No foreign key: with one, on MySQL and MariaDB every answer would wait for whoever holds the domain, and opening a
    # batch or taking in a file holds it for seconds. Domains are never deleted.
    domain_id: Mapped[int] = mapped_column(Id)
    request_id: Mapped[str | None] = mapped_column(String(255))
    body_hash: Mapped[str] = mapped_column(HashText)
    user_hash: Mapped[str | None] = mapped_column(HashText)
    # Masked and normalised; null where the domain keeps no text.
    question: Mapped[str | None] = mapped_column(LongText)
    text_hash: Mapped[str] = mapped_column(HashText)
    # Null until the question is folded into its text, right after its own commit.
    text_id: Mapped[int | None] = mapped_column(ForeignKey("intent_texts.id"), type_=Id)
    source: Mapped[str] = mapped_column(String(16), default="served")
    train_allowed: Mapped[bool] = mapped_column(default=True)
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)

    intents: Mapped[list[str]] = mapped_column(Json)
    confidence: Mapped[float | None]
    method: Mapped[str] = mapped_column(String(32))
    topk: Mapped[list[list[Any]]] = mapped_column(Json)
    verdicts: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    route_used: Mapped[list[str]] = mapped_column(Json)
    trigger_check: Mapped[bool] = mapped_column(default=True)
    model_version: Mapped[str | None] = mapped_column(String(128))
    latency_ms: Mapped[float | None]

    is_labeled: Mapped[bool] = mapped_column(default=False)
    correct_intent: Mapped[list[str] | None] = mapped_column(Json)
    correct_time_intent: Mapped[dict[str, Any] | None] = mapped_column(Json)
    training_status: Mapped[str] = mapped_column(String(16), default="pending")
    labeler_id: Mapped[str | None] = mapped_column(String(128))
    labeled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    priority: Mapped[float | None]
    priority_reason: Mapped[str | None] = mapped_column(String(255))
