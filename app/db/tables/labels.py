"""The labels of a domain's taxonomy."""

from sqlalchemy import CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import Id, LabelText


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
