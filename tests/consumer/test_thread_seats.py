"""A Consumer that works on several messages at once in threads: real processes, without a Producer."""

import fcntl
import sys
import termios
import time

import pytest

from mqworker.amqp.properties import Headers, Properties
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.seated import DEADLINE, SeatedConsumer
from tests.support.waiting import until, wait_for

CODE = """
import os, sys, threading, time
from pathlib import Path

HERE = Path(__file__).parent

def handle(body, message, log, deadline):
    kind, value = body
    if kind == "wait":
        log.info("waits %s", value)
        while not (HERE / value).exists():
            time.sleep(0.01)
        return [value, deadline is not None]
    if kind == "exit":
        sys.exit(3)
    if kind == "flood":
        for n in range(value):
            log.info("%s", str(n) * 30_000)
        return None
    if kind == "large":
        while not (HERE / "full").exists():
            time.sleep(0.01)
        (HERE / f"large{value}").touch()
        return str(value) * 400_000
    if kind == "fork" and os.fork() == 0:
        return "the copy"
    time.sleep(0.05)
    return [value, message.headers.get("mine")]

class Own:
    scope = "thread"
    made = []
    def setup(self):
        self.thread = threading.get_ident()
        self.made.append(self)
    def handle(self, body):
        assert threading.get_ident() == self.thread
        time.sleep(0.02)
        return [len(self.made), len({each.thread for each in self.made})]
    def teardown(self):
        assert threading.get_ident() == self.thread
        (HERE / f"down{self.thread}").touch()

class Common:
    made = []
    def setup(self):
        self.made.append(threading.get_ident())
    def handle(self, body):
        assert len(self.made) == 1
        return body

class Broken(Own):
    def setup(self):
        super().setup()
        if len(self.made) == 3:
            raise LookupError("only two of them")
"""


@pytest.fixture
def consumer(tmp_path):
    """Make Consumers; no process of theirs may be left afterwards."""

    def make(*jobs, seats=8, **options):
        return SeatedConsumer(tmp_path, CODE, jobs or ("jobs:handle",), concurrency=seats, **options)

    yield make
    assert not end_children()


@on_loop
async def test_as_many_at_once_as_there_are_threads(consumer, tmp_path):
    """Results are never mixed up; what ends a thread's message ends nothing else; the register knows the threads."""
    one = await consumer(seats=16).ready()
    assert (one.hello.kind, one.hello.seats) == ("threads", 16)
    began = time.monotonic()
    for n in range(1, 17):
        await one.take(["x", n], first=n, properties=Properties(headers=Headers({"mine": n})).encode())
    await one.done(16)
    assert time.monotonic() - began < 0.7, "one after the other takes 0.8 s"
    assert one.results() == {n: [n, n] for n in range(1, 17)}
    await one.take(["wait", "go"], first=17, hard=0.5, properties=Properties(message_id="m17").encode())
    await one.take(["exit", 1], ["fork", 1], first=18)
    await one.done(18)
    assert one.results()[18] == ("crash", "SystemExit")
    assert one.results()[19] == [1, None]
    assert one.seats.thread_of(17) in {slot.thread for slot in one.seats.slots}
    assert one.events("log")[0].fields["message_id"] == "m17"
    await until(lambda: 17 in one.stacks, DEADLINE, "where the one is whose time is up")
    assert "time.sleep(0.01)" in one.stacks[17]
    (tmp_path / "go").touch()
    await one.done(19)
    assert one.results()[17] == ["go", True]
    await one.leave()


@on_loop
async def test_an_instance_for_each_thread(consumer, tmp_path):
    """With `scope = "thread"` each has its own, set up and torn down there; a class without it is made once."""
    one = await consumer("jobs:Common", "jobs:Own", seats=4).ready()
    await one.take(1, 2, 3, 4)
    await one.done(4)
    assert one.results() == {n: [4, 4] for n in range(1, 5)}
    await one.leave()
    assert len(list(tmp_path.glob("down*"))) == 4


@on_loop
async def test_a_setup_that_fails_in_one_thread_is_told(consumer, tmp_path):
    """The others are torn down."""
    one = await consumer("jobs:Broken", seats=4).ready()
    await until(lambda: one.death, DEADLINE, "its end")
    assert (one.unfit.type, one.unfit.message) == ("LookupError", "only two of them")
    assert len(list(tmp_path.glob("down*"))) >= 2


@on_loop
async def test_a_frozen_reader_bounds_what_is_in_hand(consumer, tmp_path):
    """A seat is free when its outcome is written, whatever was computed; lines, results and pieces arrive whole."""
    one = await consumer(seats=4, max_messages=6).ready()
    one.put(["flood", 10], ["large", 1], ["large", 2], ["large", 3])
    # While this waits, the test's loop stands still, and nobody reads what the Consumer sends.
    wait_for(lambda: unread(one) > 64_000, DEADLINE, "a full pipe")
    (tmp_path / "full").touch()
    names = ("large1", "large2", "large3")
    wait_for(lambda: all((tmp_path / name).exists() for name in names), DEADLINE, "the messages to be computed")
    assert len(one.seats.working()) == 4
    await one.done(4)
    assert [one.results()[n] for n in (2, 3, 4)] == [str(n) * 400_000 for n in (1, 2, 3)]
    assert [event.msg for event in one.events("log")] == [f"{n}" * 30_000 for n in range(10)]
    assert (one.taken, one.leaving) == (1, "")
    await one.take(["x", 5], ["x", 6], first=5)
    await one.done(6)
    assert one.leaving == "max_messages"
    assert one.seats.working() == {}
    await one.leave()


def unread(one):
    """Return how many bytes are in the pipe up."""
    held = bytearray(4)
    fcntl.ioctl(one.child._pipes[1].fileno(), termios.FIONREAD, held)
    return int.from_bytes(held, sys.byteorder)
