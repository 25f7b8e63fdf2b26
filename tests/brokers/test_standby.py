"""When an epoch of consuming may begin: tables of events. What depends on other consumers is in test_order.py."""

import asyncio

import pytest

from mqworker.brokers.rabbitmq.queues import Found
from mqworker.brokers.rabbitmq.standby import Standby
from tests.support.loop import on_loop
from tests.support.waiting import until

FOUND = Found("classic")

# event -> wanted, idle, resting
TABLES = {
    "where no order is kept, an epoch is wanted from the start": (
        False,
        [("", "wanted"), ("begun", "wanted"), ("ended", "wanted idle"), ("begun", "wanted")],
    ),
    "there, a prefetch of 0 does not end the wish for one": (
        False,
        [("want 5", "wanted"), ("want 0", "wanted"), ("rest", ""), ("want 0", ""), ("want 5", "wanted")],
    ),
    "an ordered stage wants one from the first prefetch on": (
        True,
        [("", ""), ("want 0", ""), ("want 5", "wanted"), ("begun", "wanted"), ("want 0", "")],
    ),
    "at rest nothing is missing until the connection is lost": (
        True,
        [("want 5", "wanted"), ("begun", "wanted"), ("rest", ""), ("ended", "idle resting"), ("lost", "")],
    ),
    "what is missing ends the rest, not the wish": (
        False,
        [("ended", "wanted idle"), ("failed", "wanted"), ("rest", ""), ("ended", "idle resting"), ("failed", "")],
    ),
}


@pytest.mark.parametrize(("ordered", "table"), TABLES.values(), ids=TABLES)
def test_whether_an_epoch_is_wanted_and_whether_it_rests(ordered, table):
    """Event by event."""
    standby = Standby("q", lambda: None, ordered=ordered)
    for event, expected in table:
        match event.split():
            case ["want", prefetch]:
                standby.want(int(prefetch))
            case [name]:
                getattr(standby, name)()
        assert [name for name in ("wanted", "idle", "resting") if getattr(standby, name)] == expected.split(), event
    assert standby.waits == ""


@on_loop
async def test_who_waits_for_the_wish_looks_at_the_queue_again_after_it():
    """It reports once that it waits; what was found before may have changed, so that no epoch begins with it."""
    reports = []
    standby = Standby("q", lambda: reports.append(standby.resting), ordered=False)
    assert await standby.may_begin(None, FOUND)
    standby.rest()
    waiting = asyncio.create_task(standby.may_begin(None, FOUND))
    await until(lambda: reports, 5, "the wait")
    assert reports == [True]
    standby.want(5)
    assert not await waiting
    assert await standby.may_begin(None, FOUND)
    assert reports == [True]
