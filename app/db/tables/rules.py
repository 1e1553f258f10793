"""Keyword rules: what a word says about the label."""

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import Id, LabelText


class KeywordRule(Created, Base):
    """One keyword that speaks for one label, with the evidence for it."""

    __tablename__ = "intent_keyword_rules"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "keyword", "intent", name="uq_intent_keyword_rules_domain_id_keyword_intent"),
        CheckConstraint("status IN ('candidate', 'active', 'retired')", name="status"),
        CheckConstraint("source IN ('mined', 'manual')", name="source"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    keyword: Mapped[str] = mapped_column(String(128))
    intent: Mapped[str] = mapped_column(LabelText)
    confidence_boost: Mapped[float] = mapped_column(default=0.0)
    usage_count: Mapped[int] = mapped_column(default=0)
    success_count: Mapped[int] = mapped_column(default=0)
    status: Mapped[str] = mapped_column(String(16), default="candidate")
    source: Mapped[str] = mapped_column(String(16), default="mined")
    support: Mapped[int] = mapped_column(default=0)
    precision: Mapped[float | None]
    precision_lower: Mapped[float | None]
