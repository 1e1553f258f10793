"""The figures of a domain by day and by week, and how fast it answered lately."""

from collections import Counter as Tally
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from app.db.session import database_time
from app.intent.latency import quantile_ms
from app.services import counters, counting
from app.services.counters import Figures

# Not what is counted by label: a day would be as many rows as the taxonomy has labels.
_NAMES: Final = (
    counting.SOURCE,
    counting.STANDS,
    counting.TO_PERSON,
    counting.LLM,
    counting.LATENCY,
    counting.ANNOTATED,
    counting.JUDGED,
    counting.AGREED,
)
_OF_A_LABEL: Final = ("labeler", "import", "system")


def of_domain(session: Session, domain_id: int, *, days: int) -> dict[str, Any]:
    """`latency`, `by_day` and `by_week` of the last `days` days, today included, the oldest first; none is left out."""
    today = counters.day_of(session, database_time(session))
    since = today - timedelta(days=days - 1)
    every = [since + timedelta(days=number) for number in range(days)]
    counted = counters.of_days(session, domain_id, _NAMES, every)
    weeks: dict[date, list[Figures]] = {}
    for day in every:
        weeks.setdefault(day - timedelta(days=day.weekday()), []).append(counted.get(day, {}))
    return {
        "latency": {"days": days, **_latency(counted.values())},
        "by_day": [_period(day, [counted.get(day, {})]) for day in every],
        "by_week": [_period(monday, figures) for monday, figures in weeks.items()],
    }


def _period(start: date, days: Iterable[Figures]) -> dict[str, Any]:
    days = list(days)
    annotated = _sum(days, counting.ANNOTATED)
    return {
        "start": start,
        "questions": _sum(days, counting.SOURCE).total(),
        "above_threshold": _sum(days, counting.STANDS).total(),
        "to_person": _sum(days, counting.TO_PERSON).total(),
        "llm_calls": _sum(days, counting.LLM).total(),
        "labels": sum(annotated[source] for source in _OF_A_LABEL),
        "judged": _sum(days, counting.JUDGED).total(),
        "right": _sum(days, counting.AGREED).total(),
        **_latency(days),
    }


def _latency(days: Iterable[Figures]) -> dict[str, Any]:
    buckets = _sum(days, counting.LATENCY)
    return {"answers": buckets.total(), "p50_ms": quantile_ms(buckets, 0.5), "p99_ms": quantile_ms(buckets, 0.99)}


def _sum(days: Iterable[Figures], name: str) -> Tally[str]:
    summed: Tally[str] = Tally()
    for figures in days:
        summed.update(figures.get(name, {}))
    return summed
