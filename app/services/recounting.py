"""Count a domain anew from its rows: after an upgrade from a release that kept no counters, or to check them."""

from collections import Counter as Tally
from collections.abc import Iterator
from datetime import date
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Annotation, Domain, Label, Text, UserQuestion
from app.services import counters, counting

PAGE: Final = 5_000

# What is kept per day; the others are levels.
_BY_DAY: Final = (
    counting.METHOD, counting.SOURCE, counting.ANSWER, counting.STANDS, counting.TO_PERSON, counting.LLM,
    counting.LATENCY, counting.ANNOTATED, counting.JUDGED, counting.AGREED,
)  # fmt: skip

Rows = Tally[tuple[date, str, str]]


def rebuild(session: Session, domain: Domain) -> int:
    """Replace all counters of a domain by what its rows say, and return how many were wrong. May be repeated.

    Whoever counts in this domain waits meanwhile: about ten seconds for a million questions. What was forgotten has no
    rows, and leaves the past too.
    """
    counters.hold(session, domain.id)
    before, now = counters.of_domain(session, domain.id), counted(session, domain.id)
    counters.replace(session, domain.id, now)
    return sum(before.get(key, 0) != now.get(key, 0) for key in before.keys() | now.keys())


def rebuild_missing(session: Session) -> list[str]:
    """Count the domains that have texts and were never counted, and name them."""
    names = []
    for domain in session.scalars(select(Domain).order_by(Domain.id)):
        known = session.scalar(select(Text.id).where(Text.domain_id == domain.id).limit(1))
        if known is not None and not counters.is_counted(session, domain.id):
            rebuild(session, domain)
            names.append(domain.name)
    return names


def counted(session: Session, domain_id: int) -> dict[tuple[date, str, str], int]:
    """The counters of a domain as its rows say: by day, name and key."""
    rows: Rows = Tally()
    _count_questions(session, domain_id, rows)
    _count_annotations(session, domain_id, rows)
    for (_, name, key), value in list(rows.items()):
        if name in _BY_DAY:
            rows[counters.TOTAL, name, key] += value
    _count_levels(session, domain_id, rows)
    return {key: value for key, value in rows.items() if value}


def _count_questions(session: Session, domain_id: int, rows: Rows) -> None:
    found = session.execute(select(Label.path, Label.id).where(Label.domain_id == domain_id))
    labels = counting.former_labels(session, [domain_id]) | {(domain_id, path): label_id for path, label_id in found}
    for question in _folded(session, domain_id):
        day = counters.day_of(session, question.asked_at)
        rows.update((day, *what) for what in counting.of_question(question, labels))


def _folded(session: Session, domain_id: int) -> Iterator[Any]:
    """The questions that were folded, page by page: those that were not will be counted when they are."""
    columns = select(
        UserQuestion.question_id,
        UserQuestion.domain_id,
        UserQuestion.method,
        UserQuestion.source,
        UserQuestion.intents,
        UserQuestion.trigger_check,
        UserQuestion.latency_ms,
        UserQuestion.route_used,
        UserQuestion.asked_at,
    ).where(UserQuestion.domain_id + 0 == domain_id, (UserQuestion.text_id + 0).is_not(None))
    for first, last in _stretches(session):
        stretch = UserQuestion.question_id > first
        if last is not None:
            stretch &= UserQuestion.question_id <= last
        yield from session.execute(columns.where(stretch))


def _stretches(session: Session) -> Iterator[tuple[str, str | None]]:
    """All questions in the order of their ids, some thousand at a time: beyond which id, and up to which.

    The bounds are looked up by themselves, and the columns that begin an index stand in expressions: so that no planner
    reads the whole domain for each page.
    """
    first = ""
    while True:
        last = session.scalar(
            select(UserQuestion.question_id)
            .where(UserQuestion.question_id > first)
            .order_by(UserQuestion.question_id)
            .offset(PAGE - 1)
            .limit(1)
        )
        yield first, last
        if last is None:
            return
        first = last


def _count_annotations(session: Session, domain_id: int, rows: Rows) -> None:
    last = session.scalar(select(func.max(Annotation.id))) or 0
    for start in range(0, last, PAGE):
        page = session.execute(
            select(Annotation, Text.annotation_id, Text.is_gold, Text.strategy)
            .join(Text, Text.id == Annotation.text_id)
            .where(Annotation.id > start, Annotation.id <= start + PAGE, Annotation.domain_id + 0 == domain_id)
        ).all()
        for annotation, counts_now, is_gold, strategy in page:
            day = counters.day_of(session, annotation.created_at)
            rows[day, counting.ANNOTATED, counting.annotated_by(annotation)] += 1
            if annotation.id != counts_now or annotation.answered_by is None or annotation.source == "import":
                continue
            if counting.in_random_slice(is_gold, strategy):
                rows[day, counting.JUDGED, annotation.answered_by] += 1
                rows[day, counting.AGREED, annotation.answered_by] += bool(annotation.agreed)
        session.expunge_all()


def _count_levels(session: Session, domain_id: int, rows: Rows) -> None:
    for (name, key), value in counting.levels(session, Text.domain_id == domain_id).items():
        rows[counters.TOTAL, name, key] += value
