"""Tombstones: what was forgotten on request, so that a restored backup forgets it again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, literal, select
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Domain, Tombstone
from app.intent.questions import AskedQuestion
from app.services import domains, forgetting, quarantine
from app.services.forgetting import Forgotten

ANY_DOMAIN = "*"


@dataclass(frozen=True, slots=True)
class Stone:
    """A tombstone as a value. `value` is the one of the table; `at` is when it was laid: later questions are others."""

    kind: str
    value: str
    at: datetime

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a line of a file."""
        return {"kind": self.kind, "value": self.value, "at": self.at.isoformat()}


def stone_from_json(values: dict[str, Any]) -> Stone:
    """What `Stone.as_json` gave.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    at = datetime.fromisoformat(values["at"])
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    return Stone(str(values["kind"]), str(values["value"]), at)


def of_user(session: Session, user_hash: str, domain: str | None) -> Stone:
    """The stone of a user, in one domain or all.

    Raises:
        DomainNotFound.
    """
    return Stone("user", f"{_known(session, domain)}:{user_hash}", database_time(session))


def of_question(session: Session, question_id: str) -> Stone:
    """The stone of one question."""
    return Stone("question", question_id, database_time(session))


def of_all_before(session: Session, days: float, domain: str | None) -> Stone:
    """The stone of all that was asked longer ago, in one domain or all.

    Raises:
        DomainNotFound.
    """
    now = database_time(session)
    return Stone("before", f"{_known(session, domain)}:{(now - timedelta(days=days)).isoformat()}", now)


def _known(session: Session, domain: str | None) -> str:
    return ANY_DOMAIN if domain is None else domains.find(session, domain).name


def lay(session: Session, stone: Stone, *, by: str) -> None:
    """Keep a stone; one of the same thing gets the later time."""
    row = session.scalar(select(Tombstone).where(Tombstone.kind == stone.kind, Tombstone.value == stone.value))
    if row is None:
        session.add(Tombstone(kind=stone.kind, value=stone.value, created_by=by[:128], created_at=stone.at))
    else:
        row.created_at = max(row.created_at, stone.at)
    session.flush()


def listing(session: Session) -> list[Stone]:
    """All stones, the oldest first."""
    rows = session.scalars(select(Tombstone).order_by(Tombstone.id))
    return [Stone(row.kind, row.value, row.created_at) for row in rows]


def conditions(session: Session, stone: Stone) -> Sequence[ColumnElement[bool]]:
    """Which questions a stone covers: those that were here when it was laid."""
    if stone.kind == "question":
        return [forgetting.of_question(stone.value)]
    domain, _, what = stone.value.partition(":")
    ids = list(session.scalars(select(Domain.id).where((Domain.name == domain) | (literal(domain) == ANY_DOMAIN))))
    if stone.kind == "before":
        line = datetime.fromisoformat(what)
        return [forgetting.asked_before(domain_id, line) for domain_id in ids]
    if domain == ANY_DOMAIN:
        return [forgetting.of_user(what, None, stone.at)]
    return [forgetting.of_user(what, domain_id, stone.at) for domain_id in ids]


def covered(session: Session, asked: Sequence[AskedQuestion]) -> set[str]:
    """Which of these questions, that are in no table yet, were to be forgotten while they waited."""
    names = {row.id: row.name for row in session.execute(select(Domain.id, Domain.name))}
    values = {question.question_id for question in asked}
    for question in asked:
        if question.user_hash is not None:
            values |= {f"{place}:{question.user_hash}" for place in (names.get(question.domain_id), ANY_DOMAIN)}
    rows = session.scalars(select(Tombstone).where(Tombstone.value.in_(values) | (Tombstone.kind == "before"))).all()
    until = {(row.kind, row.value): row.created_at for row in rows if row.kind != "before"}
    lines = [row.value.partition(":") for row in rows if row.kind == "before"]
    before = [(name, datetime.fromisoformat(line)) for name, _, line in lines]
    found = set()
    for question in asked:
        places = (names.get(question.domain_id, ANY_DOMAIN), ANY_DOMAIN)
        ends = [until.get(("user", f"{place}:{question.user_hash}")) for place in places]
        if (
            ("question", question.question_id) in until
            or any(end is not None and question.asked_at <= end for end in ends)
            or any(name in places and question.asked_at < line for name, line in before)
        ):
            found.add(question.question_id)
    return found


def forget_quarantined(session: Session, stone: Stone) -> int:
    """Forget what a stone covers of the questions in quarantine; how many that were."""
    if stone.kind == "question":
        return quarantine.forget_question(session, stone.value)
    domain, _, what = stone.value.partition(":")
    domain_id = None
    if domain != ANY_DOMAIN:
        domain_id = session.scalar(select(Domain.id).where(Domain.name == domain))
        if domain_id is None:
            return 0
    if stone.kind == "before":
        return quarantine.forget_before(session, datetime.fromisoformat(what), domain_id)
    return quarantine.forget_user(session, what, domain_id, stone.at)


def replay(session: Session, stones: Sequence[Stone]) -> Forgotten:
    """Forget again what these cover, all of it in this transaction."""
    total = Forgotten()
    for stone in stones:
        for condition in conditions(session, stone):
            for slice_ in _slices(session, condition):
                total.add(slice_)
        forget_quarantined(session, stone)
    page: int | None = 0
    while page is not None:
        page = forgetting.drop_lost_examples(session, after=page)
    return total


def _slices(session: Session, condition: ColumnElement[bool]) -> Iterator[Forgotten]:
    while (slice_ := forgetting.forget_slice(session, condition)).questions:
        yield slice_
