"""Schedules: which tick runs, which are missed, how long to wait, also at both ends of summer time."""

import time
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mqworker.config.model import SourceConfig
from mqworker.sources.schedule import CORRECTION, COUNTED, Cron, Every, Missed, RunTick, Wait, decide, make_schedule

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, ZoneInfo("UTC")).strftime("%m-%d %H:%M")


def ticks(expression: str, zone: str, after: str, count: int) -> list[str]:
    """Return ticks in UTC, after a time in UTC."""
    found = Cron(expression, ZoneInfo(zone)).ticks(at(after))
    return [utc(next(found)) for _ in range(count)]


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00",
            ["03-28 01:30", "03-29 01:00", "03-30 00:30"],
            id="skipped in spring: at the first minute after the gap",
        ),
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T00:00",
            ["10-24 00:30", "10-25 00:30", "10-26 01:30"],
            id="repeated in autumn: only the first time",
        ),
        pytest.param(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:59",
            ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"],
            id="a wildcard goes by elapsed time in autumn",
        ),
        pytest.param(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:29",
            ["03-29 00:30", "03-29 01:00", "03-29 01:30"],
            id="and in spring",
        ),
        pytest.param(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-02T20:00",
            ["10-03 15:30", "10-04 15:15"],
            id="a gap of half an hour",
        ),
        pytest.param(
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T10:00",
            ["09-06 04:00", "09-07 03:00"],
            id="midnight is skipped",
        ),
        pytest.param("0 3 * * *", "UTC", "2026-03-29T00:00", ["03-29 03:00", "03-30 03:00"], id="no summer time"),
    ],
)
def test_ticks_at_the_ends_of_summer_time(expression, zone, after, expected):
    """As Debian's cron; each is later than the one before, in UTC."""
    assert ticks(expression, zone, after, len(expected)) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/10 * * * *", "0 */3 * * *", "15 0 * * 0"])
def test_a_year_of_ticks_only_goes_forward(zone, expression):
    """From any moment the next tick is later, and asking in steps gives the same ticks as going on."""
    schedule = Cron(expression, ZoneInfo(zone))
    for change in ("2026-03-29T00:00", "2026-04-04T14:00", "2026-09-06T02:00", "2026-10-03T14:00", "2026-10-25T00:00"):
        begin = at(change)
        going = schedule.ticks(begin)
        after = begin
        for _ in range(40):
            following = next(schedule.ticks(after))
            assert following > after
            assert following == next(going)
            assert schedule.newest(following) == following
            assert schedule.newest(following + 1) == following
            after = following


def test_every_ticks_at_whole_multiples():
    """Since the epoch, whenever the source was started."""
    schedule = Every(10_000)
    found = schedule.ticks(12_345)
    assert [next(found) for _ in range(3)] == [20_000, 30_000, 40_000]
    assert (schedule.newest(20_000), schedule.newest(19_999)) == (20_000, 10_000)


@pytest.mark.parametrize(
    ("now", "done", "catch_up", "expected"),
    [
        pytest.param(5 * MINUTE, 0, False, Wait(10 * MINUTE), id="not due"),
        pytest.param(10 * MINUTE, 0, False, RunTick(10 * MINUTE, 0), id="due"),
        pytest.param(14 * MINUTE, 0, False, RunTick(10 * MINUTE, 0), id="late"),
        pytest.param(15 * MINUTE, 0, False, RunTick(10 * MINUTE, 0), id="late by half the period"),
        pytest.param(15 * MINUTE + 1, 0, False, Missed(1, 10 * MINUTE), id="missed"),
        pytest.param(15 * MINUTE + 1, 0, True, RunTick(10 * MINUTE, 0), id="the newest one is made up"),
        pytest.param(
            41 * MINUTE, 0, False, RunTick(40 * MINUTE, 3), id="in time for the newest one; the others are missed"
        ),
        pytest.param(47 * MINUTE, 0, False, Missed(4, 40 * MINUTE), id="all are missed"),
        pytest.param(47 * MINUTE, 0, True, RunTick(40 * MINUTE, 3), id="all but the newest"),
        pytest.param(10 * MINUTE, 10 * MINUTE, False, Wait(20 * MINUTE), id="done"),
        pytest.param(
            30 * MINUTE, 2 * HOUR, False, Wait(2 * HOUR + 10 * MINUTE), id="the clock was set back: no tick again"
        ),
    ],
)
def test_what_is_due(now, done, catch_up, expected):
    """Ticks each ten minutes."""
    assert decide(Every(10 * MINUTE), now, done, catch_up=catch_up) == expected


def test_a_daily_tick_may_begin_five_minutes_late():
    """Not half a day."""
    assert decide(Every(DAY), DAY + 5 * MINUTE, 0, catch_up=False) == RunTick(DAY, 0)
    assert decide(Every(DAY), DAY + 5 * MINUTE + 1, 0, catch_up=False) == Missed(1, DAY)


def test_a_year_down_costs_no_time():
    """Minutes of a year are counted up to a limit, and not gone through."""
    schedule = Cron("* * * * *", ZoneInfo("Europe/Berlin"))
    began = time.process_time()
    decision = decide(schedule, at("2026-11-20T12:00"), at("2025-11-20T12:00"), catch_up=False)
    assert decision == RunTick(at("2026-11-20T12:00"), COUNTED)
    assert time.process_time() - began < 1.0


def test_a_tick_of_long_ago_is_found():
    """Of a schedule with one tick in four years."""
    schedule = Cron("0 0 29 2 *", ZoneInfo("UTC"))
    assert schedule.newest(at("2027-12-31T00:00")) == at("2024-02-29T00:00")


def test_what_the_configuration_says():
    """`every` or `cron`, the latter in its zone."""
    every = make_schedule(SourceConfig(job="m:f", into="s", every="1.5 h"))
    assert next(every.ticks(0)) == 90 * MINUTE
    cron = make_schedule(SourceConfig(job="m:f", into="s", cron="0 12 * * *", timezone="Asia/Tokyo"))
    assert utc(next(cron.ticks(at("2026-05-05T00:00")))) == "05-05 03:00"


def test_a_correction_is_longer_than_any_change_of_summer_time():
    """So a change of the clock by an hour never makes ticks come again."""
    assert timedelta(milliseconds=CORRECTION) >= timedelta(hours=3)
