"""API keys: who may call, as what, and in which domains."""

from datetime import datetime

from sqlalchemy import CheckConstraint, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, UtcDateTime


class ApiKey(Created, Base):
    """One key. Its secret is shown once and kept as a hash; `key_id` is its public name."""

    __tablename__ = "intent_api_keys"
    __table_args__ = table_options(
        UniqueConstraint("key_id"),
        UniqueConstraint("secret_hash"),
        CheckConstraint("role IN ('product', 'labeler', 'admin')", name="role"),
        CheckConstraint("rate_per_minute > 0", name="rate_per_minute"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    key_id: Mapped[str] = mapped_column(String(16))
    secret_hash: Mapped[str] = mapped_column(HashText)
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    # Names of domains; null: all of them, also those to come.
    domains: Mapped[list[str] | None] = mapped_column(Json)
    # Of a labeler's key: the name under which its answers stand.
    labeler_id: Mapped[str | None] = mapped_column(String(128))
    # Null: the setting's.
    rate_per_minute: Mapped[int | None]
    created_by: Mapped[str] = mapped_column(String(128))
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
