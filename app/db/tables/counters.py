"""Counters: what happened in a domain on a day, so that figures are read and not counted anew."""

from datetime import date

from sqlalchemy import BigInteger, Date, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, table_options
from app.db.types import Id


class Counter(Base):
    """One number of one day. `name` says what is counted, `key` which kind of it (a label, a method, a bucket)."""

    __tablename__ = "intent_counters"
    __table_args__ = table_options()

    # No foreign key, as for questions: counting must not wait for whoever holds the domain.
    domain_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    # In the installation's time zone.
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True, default="")
    value: Mapped[int] = mapped_column(BigInteger, default=0)
