"""The labels of a domain's taxonomy, what became of them, and labels that are proposed."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import Id, Json, LabelText, UtcDateTime


class Label(Created, Base):
    """A leaf of the taxonomy. Its id never changes; a label that leaves the taxonomy is retired, never deleted."""

    __tablename__ = "intent_labels"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "path"),
        CheckConstraint("status IN ('active', 'retired')", name="status"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    path: Mapped[str] = mapped_column(LabelText)
    position: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(String(16), default="active")
    guideline: Mapped[str | None] = mapped_column(Text)
    since_version: Mapped[int] = mapped_column(default=1)
    # A merge gave its texts to this label.
    merged_into_id: Mapped[int | None] = mapped_column(Id)
    # What it was called before: questions that were answered then still count as answered with it.
    former_paths: Mapped[list[str] | None] = mapped_column(Json)
    # With fewer trainable texts it is not trained: labels that grew out of a proposal wait for more.
    trains_from: Mapped[int] = mapped_column(default=2, server_default="2")


class TaxonomyChange(Created, Base):
    """One change of the taxonomy after labels were given, with what it takes to undo it."""

    __tablename__ = "intent_taxonomy_changes"
    __table_args__ = table_options(
        Index(None, "domain_id", "id"),
        CheckConstraint("kind IN ('rename', 'move', 'merge', 'retire', 'split')", name="kind"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    kind: Mapped[str] = mapped_column(String(16))
    arguments: Mapped[dict[str, Any]] = mapped_column(Json)
    # How many labels, texts, questions and rules it touched.
    touched: Mapped[dict[str, Any]] = mapped_column(Json)
    # What was there before, by table and id.
    before: Mapped[dict[str, Any]] = mapped_column(Json)
    taxonomy_version: Mapped[int]
    made_by: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str | None] = mapped_column(String(255))
    undone_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    undone_by: Mapped[str | None] = mapped_column(String(128))


class Scenario(Created, Base):
    """A group of questions that no label fits, proposed as a new one. Its members are the texts that name it."""

    __tablename__ = "intent_scenarios"
    __table_args__ = table_options(
        Index(None, "domain_id", "status"),
        CheckConstraint("status IN ('proposed', 'accepted', 'dismissed')", name="status"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    status: Mapped[str] = mapped_column(String(16), default="proposed")
    # Distinct texts, and how often they were asked.
    text_count: Mapped[int]
    question_count: Mapped[int]
    keywords: Mapped[list[str]] = mapped_column(Json)
    # The most typical members, the most typical first: ids of texts, so that nothing is kept that is forgotten there.
    typical: Mapped[list[int]] = mapped_column(Json)
    # The label that it became.
    label_id: Mapped[int | None] = mapped_column(ForeignKey("intent_labels.id"), type_=Id)
    decided_by: Mapped[str | None] = mapped_column(String(128))
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
