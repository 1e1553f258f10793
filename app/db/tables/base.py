"""What all tables share: metadata with explicit constraint names, MySQL options, and a time of creation."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db.types import UtcDateTime

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# A binary collation: with MySQL's default, "é" and "e" would be one unique key.
MYSQL = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
MARIADB = {"mariadb_charset": "utf8mb4", "mariadb_collate": "utf8mb4_bin", "mariadb_engine": "InnoDB"}


def table_options(*constraints: Any) -> tuple[Any, ...]:
    """`__table_args__` of every table: its constraints, and utf8mb4 with binary comparison on MySQL and MariaDB."""
    return (*constraints, {**MYSQL, **MARIADB})


class Base(DeclarativeBase):
    """The tables of intentloop."""

    metadata = MetaData(naming_convention=NAMING)


def now() -> datetime:
    """This moment, aware and in UTC."""
    return datetime.now(UTC)


class Created:
    """A row that knows when it was made."""

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
