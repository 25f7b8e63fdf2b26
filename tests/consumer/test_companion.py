"""What runs beside the loop: however a call there ends, its message learns it, and the thread does the next one."""

import asyncio
import contextvars
import gc
import os
import threading
import weakref

import pytest

from mqworker.consumer.companion import Companion
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.seated import SeatedConsumer
from tests.support.waiting import until

CODE = """
import os, sys

def plain(kind):
    match kind:
        case "stop":
            raise StopIteration("no more")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "memory":
            raise MemoryError
        case "fork":
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
    return kind

async def last(body):
    return body

class Own:
    scope = "thread"
    def setup(self):
        raise LookupError("no device")
    def handle(self, body):
        return body
"""


@pytest.fixture
def consumer(tmp_path):
    """Make Consumers; no process of theirs may be left afterwards."""

    def make(*jobs):
        return SeatedConsumer(tmp_path, CODE, jobs, concurrency=8)

    yield make
    assert not end_children()


class Thing:
    """Something that can be seen to be gone."""


@on_loop
async def test_each_call_has_its_own_end():
    """What a call raises is its own, whatever that is; one that nobody waits for hinders no other."""
    companion = Companion(0)
    try:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await companion.ask(next, iter(()))
        for kind in (SystemExit, KeyboardInterrupt):
            asked = companion.ask(_raise, kind)
            await asyncio.wait((asked,))
            assert type(asked.exception()) is kind
        go = threading.Event()
        left, following = companion.ask(go.wait, 20), companion.ask(threading.get_ident)
        left.cancel()
        go.set()
        assert await following == companion.ident != threading.get_ident()
    finally:
        companion.end()
    assert not companion._thread.is_alive()


def _raise(kind: type[BaseException]) -> None:
    raise kind


@on_loop
async def test_a_call_has_the_context_of_who_asks_and_leaves_nothing_behind():
    """Context variables are those of the message; while the thread waits it keeps neither argument nor result alive."""
    who = contextvars.ContextVar("who", default="nobody")
    companion = Companion(0)
    try:
        who.set("one")
        asked = companion.ask(who.get)
        who.set("two")
        assert (await asked, await companion.ask(who.get)) == ("one", "two")
        thing = Thing()
        seen = weakref.ref(thing)
        assert await companion.ask(id, thing) == id(thing)
        del thing, asked
        await until(lambda: gc.collect() is not None and seen() is None, 10, "the argument to be let go")
    finally:
        companion.end()


@on_loop
async def test_a_copy_that_a_call_forks_ends_there():
    """It does not come back into the loop of the original, which gets its own answer."""
    companion = Companion(0)
    try:
        pid = await companion.ask(os.fork)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert (pid > 0, status) == (True, 0)
    finally:
        companion.end()


@on_loop
async def test_a_plain_job_may_end_as_it_likes(consumer):
    """Each message beside a coroutine has the outcome that it would have in a Consumer of plain jobs."""
    one = await consumer("jobs:plain", "jobs:last").ready()
    await one.take("stop", "exit", "interrupt", "memory", "fork", "fine")
    await one.done(6)
    assert one.results() == {
        1: ("error", "RuntimeError"),
        2: ("crash", "SystemExit"),
        3: ("crash", "KeyboardInterrupt"),
        4: ("memory", "MemoryError"),
        5: "fork",
        6: "fine",
    }
    await one.leave()


@on_loop
async def test_a_setup_that_fails_beside_the_loop_is_told(consumer):
    """With what it raised, as one on the loop; no thread keeps the process."""
    one = await consumer("jobs:Own", "jobs:last").ready()
    assert (one.unfit.type, one.unfit.message) == ("LookupError", "no device")
