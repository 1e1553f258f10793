"""Crontabs: read one, and name its slots, on the days too when the clocks are put forward or back."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger

from app.errors import SetupError

# A slot that was missed by less is run late, once; one missed by more is gone.
MISFIRE_GRACE_SECONDS = 3600

# No zone ever moved its clocks by more.
AROUND_A_CHANGE = timedelta(hours=3)

_FIELDS = ("second", "minute", "hour", "day", "month", "day_of_week")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Slots(BaseTrigger):  # type: ignore[misc]
    """The moments of a crontab in a zone, in UTC, each later than the one before.

    APScheduler 3.11 forgets which of the two 02:00 it was at when clocks are put back, and then goes round that hour
    for ever; it can also miss the day when they are put forward. So it is asked for times on the wall, which know no
    such days. A time that does not exist on the day when clocks are put forward comes an hour later; one that comes
    twice when they are put back is taken the first time, unless the crontab runs in every hour anyway.
    """

    def __init__(self, fields: Mapping[str, str], zone: tzinfo) -> None:
        """Raises ValueError when the fields are no crontab."""
        self._zone = zone
        self._walls = CronTrigger(**fields, timezone=UTC)
        self._hourly = CronTrigger(**fields, timezone=zone) if fields["hour"] == "*" else None

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first slot after the previous one, or without one the first at or after `now`."""
        if previous_fire_time is not None:
            moment = previous_fire_time.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        else:
            # Up to the next whole second.
            moment = (now.astimezone(UTC) + timedelta(microseconds=999_999)).replace(microsecond=0)
        if self._hourly is not None:
            slot: datetime | None = self._hourly.get_next_fire_time(None, moment)
            return slot.astimezone(UTC) if slot else None
        wall = self._wall_from(self._local(moment))
        slot = self._moment_of(wall) if wall else None
        if slot is None or (self._is_quiet(moment) and self._is_quiet(slot)):
            return slot
        return self._next_beside_a_change(moment)

    def _next_beside_a_change(self, moment: datetime) -> datetime | None:
        """Times on the wall and moments are in another order here: look at all that are near."""
        best: datetime | None = None
        wall = self._wall_from(self._local(moment) - AROUND_A_CHANGE)
        while wall is not None and (best is None or wall <= self._local(best) + AROUND_A_CHANGE):
            slot = self._moment_of(wall)
            if slot >= moment and (best is None or slot < best):
                best = slot
            wall = self._wall_from(wall + timedelta(seconds=1))
        return best

    def _wall_from(self, local: datetime) -> datetime | None:
        wall: datetime | None = self._walls.get_next_fire_time(None, local.replace(tzinfo=UTC))
        return wall.replace(tzinfo=None) if wall else None

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def _moment_of(self, wall: datetime) -> datetime:
        return wall.replace(tzinfo=self._zone, fold=0).astimezone(UTC)

    def _is_quiet(self, moment: datetime) -> bool:
        before, after = (moment + shift for shift in (-AROUND_A_CHANGE, AROUND_A_CHANGE))
        return before.astimezone(self._zone).utcoffset() == after.astimezone(self._zone).utcoffset()


def slots(expression: str, zone: tzinfo) -> Slots:
    """The slots of a crontab with five fields, or six with seconds first; Sunday is 0 or 7, as everywhere but here.

    Raises:
        SetupError: it is neither.
    """
    fields = expression.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    try:
        if len(fields) == 6:
            fields[5] = ",".join(_weekdays(part) for part in fields[5].split(","))
        return Slots(dict(zip(_FIELDS, fields, strict=True)), zone)
    except ValueError as error:
        raise SetupError(f"{expression!r} is no crontab of five fields, or six with seconds first") from error


def _weekdays(part: str) -> str:
    """Numbers as names: APScheduler counts from Monday, crontab from Sunday."""
    span, _, step = part.partition("/")
    first, _, last = span.partition("-")
    if span == "*" and step.isdigit() and int(step) > 0:
        first, last = "0", "6"
    if not first.isdigit() or (last and not last.isdigit()) or (step and not (step.isdigit() and int(step) > 0)):
        return part
    numbers = range(int(first), int(last or ("6" if step else first)) + 1, int(step or 1))
    if not numbers or numbers[-1] > 7:
        raise ValueError(part)
    return ",".join(dict.fromkeys(_DAYS[number] for number in numbers))


def latest_slot(when: Slots, moment: datetime) -> datetime | None:
    """The last slot at or before `moment` that is not older than the grace, or None."""
    slot = when.get_next_fire_time(None, moment - timedelta(seconds=MISFIRE_GRACE_SECONDS))
    latest: datetime | None = None
    while slot is not None and slot <= moment:
        latest = slot
        slot = when.get_next_fire_time(slot, moment)
    return latest
