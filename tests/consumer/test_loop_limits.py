"""The time limits of the messages on one loop: whose time counts, and who is cancelled."""

import asyncio
import time

import pytest

from mqworker.consumer.loop_limits import LoopLimits
from mqworker.consumer.register import InHandRegister
from mqworker.consumer.seats import SeatedMessage, Setting
from mqworker.ipc.consumer_messages import Item
from tests.support.loop import on_loop
from tests.support.waiting import until

DEADLINE = 30


@pytest.fixture
def words(tmp_path):
    """The words of a Consumer in the in-hand register."""
    return InHandRegister(tmp_path / "s.slots", 2).seats(0)


class Watched:
    """Limits, and which seats they have cancelled, and when."""

    def __init__(self, words, soft):
        self.cancelled = {}
        self.limits = LoopLimits(
            asyncio.get_running_loop(), words, lambda seat: self.cancelled.update({seat: time.monotonic()})
        )
        self.began = time.monotonic()
        self.works = [
            SeatedMessage(seat, Item(seat + 1, b"\0\0", b"", False, "", "in"), Setting(1, b"{}", soft, 0.0), "in", None)
            for seat in range(2)
        ]
        for work in self.works:
            words.slots[work.seat].begin(work.item.seq, bytes(32), self.began)
            self.limits.begin(work, self.began)
        self.limits.watch(self.began)


@on_loop
async def test_a_long_step_counts_against_its_message_alone(words):
    """The one that had the loop is cancelled at its limit; the other has as much more time, in the register too."""
    watched = Watched(words, 1.0)
    before = watched.limits.hold.enter(1)
    time.sleep(0.4)  # noqa: ASYNC251 - it holds the loop
    watched.limits.hold.leave(before)
    assert words.slots[0].started == watched.began
    assert words.slots[1].started >= watched.began + 0.4
    await until(lambda: len(watched.cancelled) == 2, DEADLINE, "both limits to pass")
    assert watched.cancelled[0] >= watched.began + 1.0
    assert watched.cancelled[1] >= watched.began + 1.4


@on_loop
async def test_limits_go_on_when_all_messages_have_waited(words):
    """A shared object was down for longer than anybody looked at the limits; then the soft limit still cancels."""
    watched = Watched(words, 0.3)
    tells = [watched.limits.waits(work.seat) for work in watched.works]
    for tell in tells:
        tell(waiting=True)
    await until(lambda: watched.limits._timer is None, DEADLINE, "nobody to look any more")
    assert not watched.cancelled
    for tell in tells:
        tell(waiting=False)
    await until(lambda: len(watched.cancelled) == 2, DEADLINE, "both limits to pass")


@on_loop
async def test_one_that_has_ended_is_not_cancelled(words):
    """Its seat may have another message by then."""
    watched = Watched(words, 0.2)
    watched.limits.end(watched.works[0])
    await until(lambda: watched.cancelled, DEADLINE, "the other's limit to pass")
    assert list(watched.cancelled) == [1]
