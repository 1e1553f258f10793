"""Quarantine: questions that were answered while the database was away, and that it then could not take."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, UtcDateTime, UuidText


class QuarantinedQuestion(Created, Base):
    """One answered question that is no row of the log, with all that was known of it and why. For people to look at."""

    __tablename__ = "intent_quarantined_questions"
    __table_args__ = table_options(Index(None, "user_hash"), Index(None, "asked_at"))

    question_id: Mapped[str] = mapped_column(UuidText, primary_key=True)
    # Null: its domain is gone. No foreign key, as for questions.
    domain_id: Mapped[int | None] = mapped_column(Id)
    request_id: Mapped[str | None] = mapped_column(String(255))
    body_hash: Mapped[str] = mapped_column(HashText)
    user_hash: Mapped[str | None] = mapped_column(HashText)
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # A code that never changes: request_id_conflict, domain_gone, refused.
    reason: Mapped[str] = mapped_column(String(64))
    # The question as it was spooled, its masked text too.
    frame: Mapped[dict[str, Any]] = mapped_column(Json)
