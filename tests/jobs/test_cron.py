"""Crontabs and their slots, on days with 23, 24 and 25 hours."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from app.errors import SetupError
from app.settings import Settings
from jobs.cron import MISFIRE_GRACE_SECONDS, Slots, latest_slot, slots
from jobs.timetable import TIMETABLE

SHANGHAI, BERLIN, LORD_HOWE = (ZoneInfo(name) for name in ("Asia/Shanghai", "Europe/Berlin", "Australia/Lord_Howe"))
# Clocks are put forward at 2027-03-28 01:00 UTC and back at 2026-10-25 01:00 UTC in Berlin; by half an hour, Lord Howe.
DAYS = [
    (SHANGHAI, datetime(2026, 10, 24, 12, tzinfo=UTC)),
    (BERLIN, datetime(2026, 10, 24, 12, tzinfo=UTC)),
    (BERLIN, datetime(2027, 3, 27, 12, tzinfo=UTC)),
    (LORD_HOWE, datetime(2027, 4, 3, 0, tzinfo=UTC)),
    (LORD_HOWE, datetime(2026, 10, 3, 0, tzinfo=UTC)),
]
NAMES = ["Shanghai", "Berlin back", "Berlin forward", "Lord Howe back", "Lord Howe forward"]


def from_(when: Slots, moment: datetime) -> Iterator[datetime]:
    """The slots as the scheduler walks them."""
    slot = when.get_next_fire_time(None, moment)
    while slot is not None:
        yield slot
        slot = when.get_next_fire_time(slot, slot)


@pytest.mark.parametrize(("zone", "start"), DAYS, ids=NAMES)
def test_a_minutely_crontab_has_a_slot_at_every_minute_of_every_day(zone, start):
    found = list(islice(from_(slots("* * * * *", zone), start), 36 * 60))
    assert found == [start + timedelta(minutes=number) for number in range(36 * 60)]


@pytest.mark.parametrize(("zone", "start"), DAYS, ids=NAMES)
@pytest.mark.parametrize("expression", ["30 2 * * *", "45 1 * * *", "0 0 * * *", "15 3 * * *"])
def test_a_daily_crontab_has_one_slot_on_every_local_day(zone, start, expression):
    found = list(islice(from_(slots(expression, zone), start), 5))
    days = [slot.astimezone(zone).date() for slot in found]
    assert days == [days[0] + timedelta(days=number) for number in range(5)]


def test_a_time_that_does_not_exist_comes_an_hour_later_and_one_that_comes_twice_is_taken_first():
    half_past_two = slots("30 2 * * *", BERLIN)
    assert half_past_two.get_next_fire_time(None, datetime(2027, 3, 28, tzinfo=UTC)) == datetime(
        2027, 3, 28, 1, 30, tzinfo=UTC
    )
    assert half_past_two.get_next_fire_time(None, datetime(2026, 10, 25, tzinfo=UTC)) == datetime(
        2026, 10, 25, 0, 30, tzinfo=UTC
    )


def test_a_crontab_is_local_time():
    assert slots("30 3 * * *", SHANGHAI).get_next_fire_time(None, datetime(2026, 1, 1, tzinfo=UTC)) == datetime(
        2026, 1, 1, 19, 30, tzinfo=UTC
    )


def test_the_library_alone_would_go_round_the_hour_that_comes_twice():
    """Why `Slots` is there: when this fails, the library is mended and `Slots` may go."""
    theirs = CronTrigger.from_crontab("*/20 * * * *", timezone=BERLIN)
    slot, seen = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).astimezone(BERLIN), []
    for _ in range(8):
        slot = theirs.get_next_fire_time(slot, slot + timedelta(microseconds=1))
        seen.append(slot.astimezone(UTC))
    assert seen != sorted(seen)


@pytest.mark.parametrize(("zone", "start"), DAYS, ids=NAMES)
def test_the_latest_slot_is_the_last_one_that_is_not_too_old(zone, start):
    minutely, daily = slots("* * * * *", zone), slots("30 2 * * *", zone)
    for number in range(60 * 36):
        moment = start + timedelta(minutes=number, seconds=7)
        if number % 7 == 0:
            assert latest_slot(minutely, moment) == moment - timedelta(seconds=7)
    due = daily.get_next_fire_time(None, start)
    assert latest_slot(daily, due - timedelta(seconds=1)) is None
    assert latest_slot(daily, due) == due
    assert latest_slot(daily, due + timedelta(seconds=MISFIRE_GRACE_SECONDS - 1)) == due
    assert latest_slot(daily, due + timedelta(seconds=MISFIRE_GRACE_SECONDS + 1)) is None


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", {6}), ("7", {6}), ("1", {0}), ("1-5", {0, 1, 2, 3, 4}), ("5-7", {4, 5, 6}), ("6,0", {5, 6}),
        ("*/2", {6, 1, 3, 5}), ("1-5/2", {0, 2, 4}), ("mon", {0}), ("mon-wed", {0, 1, 2}), ("*", set(range(7))),
    ],
)  # fmt: skip
def test_weekdays_count_from_sunday_as_in_every_crontab(field, days):
    found = list(islice(from_(slots(f"0 0 * * {field}", UTC), datetime(2026, 11, 22, tzinfo=UTC)), 14))
    assert {slot.weekday() for slot in found} == days


def test_six_fields_begin_with_seconds():
    found = list(islice(from_(slots("*/15 * * * * *", UTC), datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)), 3))
    assert [slot.second for slot in found] == [15, 30, 45]


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "* * * * * * *", "61 * * * *", "x * * * *", "* * * * 8", "* * * * 3-1", "* * * * */0", "@daily"],
)
def test_what_is_no_crontab_is_refused_in_one_sentence(expression):
    with pytest.raises(SetupError, match="is no crontab"):
        slots(expression, UTC)


def test_a_bad_setting_is_named(tmp_path):
    settings = Settings(data_dir=tmp_path, purge_cron="every night")
    with pytest.raises(SetupError, match=r"INTENTLOOP_PURGE_CRON: 'every night'"):
        TIMETABLE["purge"].slots(settings)


@pytest.mark.parametrize("name", sorted(TIMETABLE))
def test_every_job_has_a_setting_that_is_a_crontab(name, tmp_path):
    assert latest_slot(TIMETABLE[name].slots(Settings(data_dir=tmp_path)), datetime.now(UTC)) or True
    assert TIMETABLE[name].slots(Settings(data_dir=tmp_path)).get_next_fire_time(None, datetime.now(UTC))
