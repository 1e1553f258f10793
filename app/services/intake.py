"""Write asked questions into the log, each request once: as they are answered, or later, from a spool."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.bulk import insert_rows
from app.db.tables import Domain, UserQuestion
from app.errors import NotFound, RequestIdConflict
from app.intent.questions import AskedQuestion
from app.services import quarantine, tombstones

# What the log holds of one question: the value just written, the row written before, or why neither.
Logged = AskedQuestion | UserQuestion | RequestIdConflict

_FIELDS: Final = tuple(field.name for field in fields(AskedQuestion))
_COLUMNS: Final = tuple("question" if name == "text" else name for name in _FIELDS)
# An attribute each: `asdict` would copy every list of every answer.
_values: Final = attrgetter(*_FIELDS)


def record(session: Session, asked: Sequence[AskedQuestion]) -> list[Logged]:
    """Insert the questions that are new; for a repeated request id give what was answered first.

    One result per question, in order. Two concurrent transactions with one request id meet at the unique key: the
    second is repeated by its unit of work, and then finds the first one's row.
    """
    earlier = _earlier(session, asked)
    fresh: dict[tuple[int, str], AskedQuestion] = {}
    results: list[Logged] = []
    for question in asked:
        key = _key(question)
        first = earlier.get(key) or fresh.get(key)
        if first is None:
            fresh[key] = question
            results.append(question)
        elif first.body_hash == question.body_hash:
            results.append(first)
        else:
            results.append(RequestIdConflict("this request_id was used before, with another body"))
    _insert(session, fresh.values())
    return results


@dataclass(slots=True)
class Replay:
    """What became of questions that came from a spool: which are new rows, and how many are none, and why."""

    inserted: list[AskedQuestion] = field(default_factory=list)
    duplicates: int = 0
    quarantined: int = 0
    forgotten: int = 0

    def add(self, other: "Replay") -> None:
        """Count another part in."""
        self.inserted += other.inserted
        self.duplicates += other.duplicates
        self.quarantined += other.quarantined
        self.forgotten += other.forgotten


def replay(session: Session, spooled: Sequence[AskedQuestion]) -> Replay:
    """Insert what was answered while the database was away, each question once, however often it is handed on.

    A question that is here, or whose request is with the same body, is dropped. One whose request id holds another
    body, or whose domain is gone, goes to quarantine: of two bodies the first row wins. One that was to be forgotten
    meanwhile is.
    """
    done = Replay()
    forgotten = tombstones.covered(session, spooled)
    here = set(
        session.scalars(
            select(UserQuestion.question_id).where(
                UserQuestion.question_id.in_([question.question_id for question in spooled])
            )
        )
    )
    known_domains = set(session.scalars(select(Domain.id)))
    earlier = _earlier(session, spooled)
    fresh: dict[tuple[int, str], AskedQuestion] = {}
    for question in spooled:
        key = _key(question)
        first = earlier.get(key) or fresh.get(key)
        if question.question_id in forgotten:
            done.forgotten += 1
        elif question.question_id in here or (first is not None and first.body_hash == question.body_hash):
            done.duplicates += 1
        elif first is not None:
            done.quarantined += quarantine.keep(session, question, reason=quarantine.CONFLICT)
        elif question.domain_id not in known_domains:
            done.quarantined += quarantine.keep(session, question, reason=quarantine.DOMAIN_GONE)
        else:
            fresh[key] = question
    _insert(session, fresh.values())
    done.inserted = list(fresh.values())
    return done


def refused(session: Session, question: AskedQuestion) -> Replay:
    """Put one that the database does not take, whenever it is handed on, where a person finds it."""
    return Replay(quarantined=quarantine.keep(session, question, reason=quarantine.REFUSED))


def ready(session: Session) -> None:
    """Return if the log could be written now; nothing is."""
    session.execute(update(Domain).where(Domain.id == -1).values(epoch=Domain.epoch))


def _key(question: AskedQuestion) -> tuple[int, str]:
    return question.domain_id, question.request_id or question.question_id


def _insert(session: Session, questions: Iterable[AskedQuestion]) -> None:
    # In one order for everybody: two callers who send the same ids in different orders would wait for each other.
    ordered = sorted(questions, key=_key)
    if not ordered:
        return
    # Not through the mapped class: this is every answer's way, and the way of mapped rows costs twice as much.
    columns = zip(*map(_values, ordered), strict=True)
    insert_rows(session, UserQuestion, dict(zip(_COLUMNS, columns, strict=True)))


def _earlier(session: Session, asked: Sequence[AskedQuestion]) -> dict[tuple[int, str], UserQuestion]:
    by_domain: dict[int, list[str]] = {}
    for question in asked:
        if question.request_id is not None:
            by_domain.setdefault(question.domain_id, []).append(question.request_id)
    found: dict[tuple[int, str], UserQuestion] = {}
    for domain_id, request_ids in by_domain.items():
        rows = session.scalars(
            select(UserQuestion).where(UserQuestion.domain_id == domain_id, UserQuestion.request_id.in_(request_ids))
        )
        found.update({(domain_id, str(row.request_id)): row for row in rows})
    return found


def find(session: Session, question_id: str) -> UserQuestion:
    """One question.

    Raises:
        NotFound: there is none of this id.
    """
    question = session.get(UserQuestion, question_id)
    if question is None:
        raise NotFound("there is no question of this id")
    return question
