"""The timetable: which jobs there are, and which setting says when each runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from apscheduler.triggers.cron import CronTrigger

from app.errors import SetupError
from app.settings import Settings
from jobs.context import JobContext
from jobs.purge import purge
from jobs.select_questions import select_questions
from jobs.train_model import train_model

# A slot that was missed by less is run late, once; one missed by more is gone.
MISFIRE_GRACE_SECONDS = 3600

Job = Callable[[JobContext], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One job and when it runs."""

    run: Job
    cron: Callable[[Settings], str]


TIMETABLE: Mapping[str, Entry] = {
    "select_questions": Entry(select_questions, lambda settings: settings.select_cron),
    "train_model": Entry(train_model, lambda settings: settings.train_cron),
    "purge": Entry(purge, lambda settings: settings.purge_cron),
}


def trigger(expression: str, zone: tzinfo) -> CronTrigger:
    """A crontab of five fields, or of six with seconds first.

    Raises:
        SetupError: it is neither.
    """
    fields = expression.split()
    try:
        if len(fields) == 6:
            names = ("second", "minute", "hour", "day", "month", "day_of_week")
            return CronTrigger(**dict(zip(names, fields, strict=True)), timezone=zone)
        return CronTrigger.from_crontab(expression, timezone=zone)
    except ValueError as error:
        raise SetupError(f"{expression!r} is no crontab of five fields, or six with seconds first") from error


def latest_slot(when: CronTrigger, moment: datetime) -> datetime | None:
    """The last slot at or before `moment` that is not older than the grace, or None."""
    earliest = moment - timedelta(seconds=MISFIRE_GRACE_SECONDS)
    slot = when.get_next_fire_time(None, earliest)
    latest: datetime | None = None
    while slot is not None and slot <= moment:
        latest = slot
        slot = when.get_next_fire_time(slot, slot + timedelta(microseconds=1))
    return latest
