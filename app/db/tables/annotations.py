"""What people answered, and what they hold."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import Id, Json, LabelText, UtcDateTime, UuidText


class Annotation(Created, Base):
    """One person's answer about one text. Append-only: a second answer, a skip and an undo are rows of their own."""

    __tablename__ = "intent_annotations"
    __table_args__ = table_options(
        UniqueConstraint("text_id", "labeler_id", "revision"),
        Index(None, "domain_id", "labeler_id"),
        # The last blind answers, few or many among the others.
        Index(None, "domain_id", "is_blind"),
        CheckConstraint("kind IN ('label', 'skip', 'discard', 'flag', 'retract')", name="kind"),
        CheckConstraint("source IN ('labeler', 'import', 'system')", name="source"),
        CheckConstraint("(kind = 'label') = (label_id IS NOT NULL)", name="answer"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    # No foreign key, as for questions: on MySQL and MariaDB an answer, which holds its text, would wait for whoever
    # opens a batch, and that one for the text. It is the text's domain.
    domain_id: Mapped[int] = mapped_column(Id)
    text_id: Mapped[int] = mapped_column(ForeignKey("intent_texts.id"), type_=Id)
    question_id: Mapped[str | None] = mapped_column(UuidText)
    labeler_id: Mapped[str] = mapped_column(String(128))
    revision: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16), default="label")
    label_id: Mapped[int | None] = mapped_column(ForeignKey("intent_labels.id"), type_=Id)
    # By the domain's task; for one label, its path as it was when the answer was given.
    answer: Mapped[list[Any] | None] = mapped_column(Json)
    time_intent: Mapped[dict[str, Any] | None] = mapped_column(Json)
    proposed_label: Mapped[str | None] = mapped_column(LabelText)
    # Beside a label: the version whose answer the text had at that moment, and whether it was this label.
    answered_by: Mapped[str | None] = mapped_column(String(128))
    agreed: Mapped[bool | None]
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("intent_annotations.id"), index=True, type_=Id)
    source: Mapped[str] = mapped_column(String(16), default="labeler")
    # Given without sight of the others' answers about the same text: only such answers measure agreement.
    is_blind: Mapped[bool] = mapped_column(default=False, server_default=false())
    reason: Mapped[str | None] = mapped_column(String(255))


class Lease(Base):
    """A labeler holds a text until `expires_at`; whoever writes with an old token changes nothing."""

    __tablename__ = "intent_leases"
    __table_args__ = table_options(Index(None, "domain_id", "labeler_id"))

    text_id: Mapped[int] = mapped_column(ForeignKey("intent_texts.id"), primary_key=True, type_=Id, autoincrement=False)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    labeler_id: Mapped[str] = mapped_column(String(128))
    token: Mapped[str] = mapped_column(UuidText)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
