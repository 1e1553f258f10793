"""Counters: numbers per day and in all, added to where the thing happens, and read without a scan.

Increments gather in the session and are written once, right before its commit and in the order of their keys: whoever
counts has all other locks by then, and no two writers can wait for each other in a ring.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, tzinfo
from typing import Any, Final

from sqlalchemy import CursorResult, Engine, Select, Table, event, select, union_all
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.tables import Counter

TOTAL: Final = date(1970, 1, 1)
"""The day of the row that holds a number in all, so that a total is one row and not a sum over years."""

INSTALLATION: Final = 0
"""In place of a domain's id: what happens to no domain, such as a run of a job."""

# Every writer of a domain adds to this row first, so that holding it holds them all: `rebuild` in recounting.py does.
_TURN = (TOTAL, "", "")
_GATHERED = "intentloop_counters"
_ZONE = "intentloop_zone"

Figures = Mapping[str, Mapping[str, int]]
"""Numbers by name and key."""

Gathered = Mapping[tuple[int, date, str, str], int]
"""What is to be added, by domain, day, name and key."""


def keep_days_in(engine: Engine, zone: tzinfo) -> None:
    """Let the days of this engine's counters begin at this zone's midnight; without it at that of UTC."""
    engine.update_execution_options(**{_ZONE: zone})


def day_of(session: Session, moment: datetime) -> date:
    """The day to which a moment counts."""
    bind = session.get_bind()
    zone: tzinfo = bind.get_execution_options().get(_ZONE, UTC)
    return moment.astimezone(zone).date()


def add(session: Session, domain_id: int, name: str, key: str = "", value: int = 1, *, day: date | None = None) -> None:
    """Add to a number: to its total and, for what happens on a `day`, to that day's too.

    Without a day it is a level, like the texts that wait: only how many there are now is kept.
    """
    gathered: dict[tuple[int, date, str, str], int] = session.info.setdefault(_GATHERED, defaultdict(int))
    gathered[domain_id, TOTAL, name, key] += value
    if day is not None:
        gathered[domain_id, day, name, key] += value


def taken(session: Session) -> Gathered:
    """What was added in this session so far, which it will then not write: somebody else will, by `give`."""
    gathered: Gathered = session.info.pop(_GATHERED, {})
    return gathered


def give(session: Session, gathered: Gathered) -> None:
    """Add what was taken from another session."""
    own: dict[tuple[int, date, str, str], int] = session.info.setdefault(_GATHERED, defaultdict(int))
    for key, value in gathered.items():
        own[key] += value


@event.listens_for(Session, "before_commit")
def _write(session: Session) -> None:
    if session.in_nested_transaction():
        return
    # What the flush changes is counted too, and its locks come before those of the counters.
    session.flush()
    gathered: dict[tuple[int, date, str, str], int] = session.info.pop(_GATHERED, {})
    rows = {key: value for key, value in gathered.items() if value}
    if rows:
        rows |= {(domain_id, *_TURN): 1 for domain_id, *_ in rows}
        upsert(session, rows)


def upsert(session: Session, rows: Mapping[tuple[int, date, str, str], int]) -> None:
    """Add these values to their rows, making those that are not there."""
    parameters = [
        {"domain_id": domain_id, "day": day, "name": name, "key": key, "value": value}
        for (domain_id, day, name, key), value in sorted(rows.items())
    ]
    # On the connection: a session that is bounded to some domains takes no statement over tables, and these rows
    # belong to what it was allowed to change.
    connection = session.connection()
    connection.execute(_upsert_statement(connection.dialect.name), parameters)


def _upsert_statement(dialect: str) -> Any:
    """Insert or add, as each database says it."""
    table = _table()
    if dialect in ("mysql", "mariadb"):
        statement = mysql.insert(table)
        return statement.on_duplicate_key_update(value=table.c.value + statement.inserted.value)
    other = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return other.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_={"value": table.c.value + other.excluded.value}
    )


def _table() -> Table:
    table = Counter.__table__
    assert isinstance(table, Table)
    return table


def totals(session: Session, domain_id: int, *, beside: Select[Any] | None = None) -> Figures:
    """All numbers of a domain in all: one range of the table's key.

    `beside`: more rows of name, key and value, read in the same statement and so at the same moment.
    """
    counted = select(Counter.name, Counter.key, Counter.value).where(
        Counter.domain_id == domain_id, Counter.day == TOTAL
    )
    return _by_name(session.execute(counted if beside is None else union_all(counted, beside)))


def totals_of(session: Session, domain_ids: Iterable[int], names: Iterable[str]) -> dict[int, Figures]:
    """These numbers in all, of these domains."""
    rows = session.execute(
        select(Counter.domain_id, Counter.name, Counter.key, Counter.value).where(
            Counter.domain_id.in_(list(domain_ids)), Counter.day == TOTAL, Counter.name.in_(list(names))
        )
    )
    return _grouped(rows)


def _grouped(rows: Iterable[Any]) -> dict[Any, Figures]:
    found: defaultdict[Any, list[Any]] = defaultdict(list)
    for first, *row in rows:
        found[first].append(row)
    return {first: _by_name(group) for first, group in found.items()}


def of_days(session: Session, domain_id: int, names: Iterable[str], days: Iterable[date]) -> dict[date, Figures]:
    """These numbers of each of these days that has any."""
    # Day by day and not as a range: between the names that are asked for lie those that are counted by label.
    rows = session.execute(
        select(Counter.day, Counter.name, Counter.key, Counter.value).where(
            Counter.domain_id == domain_id, Counter.day.in_(list(days)), Counter.name.in_(list(names))
        )
    )
    return _grouped(rows)


def _by_name(rows: Iterable[Any]) -> Figures:
    figures: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, key, value in rows:
        if value:
            figures[name][key] = value
    return figures


def of_domain(session: Session, domain_id: int) -> dict[tuple[date, str, str], int]:
    """Every number of a domain that is not zero, by day, name and key."""
    rows = session.execute(
        select(Counter.day, Counter.name, Counter.key, Counter.value).where(
            Counter.domain_id == domain_id, Counter.value != 0, Counter.name != ""
        )
    )
    return {(day, name, key): value for day, name, key, value in rows}


def hold(session: Session, domain_id: int) -> None:
    """Let nobody count in this domain until the transaction ends. What others have counted by then is committed."""
    upsert(session, {(domain_id, *_TURN): 1})


def replace(session: Session, domain_id: int, rows: Mapping[tuple[date, str, str], int]) -> None:
    """Make these all the numbers of a domain that is held."""
    table = _table()
    connection = session.connection()
    result = connection.execute(table.delete().where(table.c.domain_id == domain_id, table.c.name != ""))
    assert isinstance(result, CursorResult)
    kept = {(domain_id, *key): value for key, value in rows.items() if value}
    if kept:
        upsert(session, kept)


def is_counted(session: Session, domain_id: int) -> bool:
    """Whether anything was ever counted here."""
    return session.get(Counter, (domain_id, *_TURN)) is not None
