"""One look at a queue at a time: whoever waits for another look does so within its own deadline."""

import asyncio

import pytest

from mqworker.broker_admin.queue_locks import QueueLocks
from mqworker.brokers.base import BrokerUnavailable
from tests.support.loop import on_loop
from tests.support.waiting import AMPLE


@on_loop
async def test_one_look_at_a_queue_at_a_time():
    """The second waits for the first and gets what is left of its time, or fails in time; other queues are free."""
    locks, loop = QueueLocks(), asyncio.get_running_loop()
    order = []

    async def second() -> None:
        async with locks.alone("a", AMPLE) as left:
            order.append(left)

    async with locks.alone("a", AMPLE):
        waiting = asyncio.create_task(second())
        async with locks.alone("b", AMPLE):
            began = loop.time()
            with pytest.raises(BrokerUnavailable, match=r"looking at 'a' for 0\.2 s"):
                async with locks.alone("a", 0.2):
                    order.append("two at once")
            waited = loop.time() - began
        assert not order
    await waiting
    assert waited >= 0.19
    assert order[0] < AMPLE - 0.15
    with pytest.raises(ZeroDivisionError):
        async with locks.alone("a", AMPLE):
            raise ZeroDivisionError
    await asyncio.create_task(second())
    assert not locks._locks, "a lock that nobody has is forgotten"
