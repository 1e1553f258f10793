"""Column types that mean the same on SQLite, PostgreSQL and MySQL/MariaDB."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

# SQLite numbers rows by itself only in a column of exactly INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")

# MySQL's TEXT ends at 64 kB, which 20,000 Chinese characters nearly fill.
LongText = Text().with_variant(mysql.MEDIUMTEXT, "mysql", "mariadb")

Json = JSON(none_as_null=True)

UuidText = String(36)
HashText = String(64)
LabelText = String(255)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC with microseconds, on all three databases.

    SQLite and MySQL keep no zone, so the value is stored as UTC without one. A naive value is refused: it would be
    somebody's local time, and nobody would ever know whose.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone was about to be stored")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
