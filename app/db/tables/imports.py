"""How far the import of a file has come."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, UtcDateTime


class FileImport(Created, Base):
    """One file that is, or was, taken in. Changes with every slice, in the slice's transaction."""

    __tablename__ = "intent_file_imports"
    __table_args__ = table_options(UniqueConstraint("domain_id", "key"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"), type_=Id)
    # SHA-256 of the file's bytes and of how its rows are read: another option is another import.
    key: Mapped[str] = mapped_column(HashText)
    rows_done: Mapped[int] = mapped_column(default=0)
    counts: Mapped[dict[str, int]] = mapped_column(Json, default=dict)
    # [line, reason] of the first ones; never what they say.
    refused: Mapped[list[tuple[int, str]]] = mapped_column(Json, default=list)
    # Of the report, if one is written: what a killed process wrote behind it belongs to rows that are not in.
    report_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
