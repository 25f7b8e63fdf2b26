"""A Consumer that works on several messages at once in threads: real processes, without a Producer."""

import os
import signal
import time

import pytest

from mqworker.amqp.properties import Headers, Properties
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.seated import DEADLINE, SeatedConsumer
from tests.support.waiting import until

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
async def test_a_frozen_reader_bounds_what_is_in_hand(consumer):
    """A seat is free only when its outcome is written; whoever does not read the pipe stops the Consumer at that."""
    one = await consumer(seats=4, max_messages=6).ready()
    os.kill(one.child.pid, signal.SIGSTOP)
    one.put(*(["x", n] for n in range(4)))
    os.kill(one.child.pid, signal.SIGCONT)
    await one.done(4)
    await until(lambda: one.taken == 1, DEADLINE, "the chunk to be taken")
    assert one.leaving == ""
    await one.take(["x", 5], ["x", 6], first=5)
    await one.done(6)
    assert one.leaving == "max_messages"
    await one.leave()
