"""A Consumer that works on several messages at once as tasks of a loop: real processes, without a Producer."""

import os
import signal
import time

import pytest

from mqworker.amqp.properties import Headers, Properties
from mqworker.consumer.register import InHandRegister
from mqworker.consumer.seats import SeatedMessage, Setting, current
from mqworker.consumer.task_seats import TaskSeats
from mqworker.ipc.consumer_messages import Item
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.seated import DEADLINE, SeatedConsumer
from tests.support.waiting import until

CODE = """
import asyncio, os, signal, sys, threading, time
from pathlib import Path

HERE = Path(__file__).parent
made = []
BARRIER = threading.Barrier(64)

class Handle:
    async def setup(self, params):
        made.append(asyncio.get_running_loop())
        self.factor = params.get("factor", 1)

    async def handle(self, body, message, params, log, deadline):
        kind, value = body
        return await getattr(self, kind)(value, message, params, log, deadline)

    async def twice(self, value, *_):
        await asyncio.sleep(0.05)
        assert made == [asyncio.get_running_loop()]
        return 2 * value * self.factor

    async def together(self, value, *_):
        return await asyncio.to_thread(BARRIER.wait, 10) < value

    async def headers(self, value, message, *_):
        await asyncio.sleep(0.01 * (value % 3))
        return [value, message.headers["mine"], message.attempt]

    async def wait(self, value, message, params, log, deadline):
        log.info("waits %s", value)
        await asyncio.to_thread(log.info, "in a thread %s", value)
        await wait_for_file(value)
        return [value, params.get("factor"), deadline is not None]

    async def stubborn(self, value, *_):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if value == "result":
                    return "cleaned up"

    async def hold(self, seconds, *_):
        time.sleep(seconds)
        return seconds

    async def foreign(self, value, *_):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def cancel_all(self, value, *_):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def exit(self, value, *_):
        raise SystemExit(value)

    async def part_exits(self, value, *_):
        async def part():
            raise KeyboardInterrupt
        await asyncio.gather(part(), asyncio.sleep(0.01))

    async def stop(self, value, *_):
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "went on"

    async def fork(self, value, *_):
        pid = os.fork()
        if pid == 0:
            return "the copy"
        await asyncio.to_thread(os.waitpid, pid, 0)
        return "the original"

    async def leave_behind(self, value, *_):
        async def endless():
            try:
                await asyncio.sleep(1000)
            finally:
                (HERE / "cancelled").touch()
        self.left = asyncio.create_task(endless())
        return None

    async def teardown(self):
        (HERE / "torn down").write_text(str(asyncio.get_running_loop() is made[0]))

    async def leave_holding(self, seconds, *_):
        async def hold():
            await asyncio.sleep(0.1)
            (HERE / "holds").touch()
            time.sleep(seconds)
        self.left = asyncio.create_task(hold())

    async def without_stderr(self, value, *_):
        before, sys.stderr = sys.stderr, None
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
            await asyncio.sleep(0)
        finally:
            sys.stderr = before
        return "went on"

    async def damage(self, name, *_):
        import mqworker.consumer.task_seat
        if name == "begin":
            asyncio.Task = None
        else:
            mqworker.consumer.task_seat.Finished = None

    async def call_back(self, seconds, *_):
        asyncio.get_running_loop().call_later(0.1, time.sleep, seconds)

async def wait_for_file(name):
    while not (HERE / name).exists():
        await asyncio.sleep(0.01)

async def numbers(body):
    yield body
    await asyncio.sleep(60)

def slowly(body):
    time.sleep(0.4)
    return body

async def last(body):
    if body == 2:
        await asyncio.sleep(60)
    return body

async def yields(body):
    for number in range(body):
        await asyncio.sleep(0)
        yield number

def plain(body):
    yield body
    yield -body

async def add(body):
    return body + 1

class Own:
    scope = "thread"
    def setup(self):
        import threading
        self.thread = threading.get_ident()
    def handle(self, body):
        import threading
        assert self.thread == threading.get_ident()
        time.sleep(0.05)
        return body
    def teardown(self):
        import threading
        assert self.thread == threading.get_ident()
        with open(HERE / "own", "a") as file:
            file.write("x")

class Pooled:
    worker = None  # of a client: it is started by the first message, and has to be there when the client is closed

    async def handle(self, body):
        if self.worker is None:
            self.queue = asyncio.Queue()
            self.worker = asyncio.create_task(self.work())
        await self.queue.put(body)

    async def work(self):
        done = []
        while (body := await self.queue.get()) is not None:
            done.append(body)
        await asyncio.sleep(0.01)
        return done

    async def teardown(self):
        await self.queue.put(None)
        (HERE / "flushed").write_text(str(await self.worker))

class Broken:
    async def setup(self):
        await asyncio.sleep(0)
        raise LookupError("no server")
    async def handle(self, body):
        pass
    async def teardown(self):
        (HERE / "torn down").touch()
"""


@pytest.fixture
def consumer(tmp_path):
    """Make Consumers; no process of theirs may be left afterwards."""

    def make(*jobs, seats=8, **options):
        return SeatedConsumer(tmp_path, CODE, jobs or ("jobs:Handle",), concurrency=seats, **options)

    yield make
    assert not end_children()


@pytest.fixture
def crew(tmp_path):
    """The tasks of a Consumer in the process of the test, with nothing in hand."""
    made = TaskSeats(None, InHandRegister(tmp_path / "s.slots", 4).seats(0), None)
    yield made
    made._loop.close()


@on_loop
async def test_as_many_at_once_as_there_are_seats(consumer, tmp_path):
    """64 messages of 50 ms take little more than one; setup and teardown run once, on the loop."""
    one = await consumer(seats=64, params={"factor": 3}).ready()
    assert (one.hello.kind, one.hello.seats) == ("tasks", 64)
    began = time.monotonic()
    await one.take(*(["twice", n] for n in range(64)))
    await one.done(64)
    took = time.monotonic() - began
    assert one.results() == {n + 1: 6 * n for n in range(64)}
    assert took < 1.0, "one after the other takes 3.2 s"
    assert one.seats.working() == {}
    await one.take(*(["together", 64] for _ in range(64)), first=65)
    await one.done(128)
    assert set(list(one.results().values())[64:]) == {True}, "as many threads of asyncio"
    await one.leave()
    assert (tmp_path / "torn down").read_text() == "True"


@on_loop
async def test_outcomes_and_what_is_logged_belong_to_their_message(consumer, tmp_path):
    """Results are stamped with their own message's headers; lines of its task and of its threads have its id."""
    one = await consumer(seats=16).ready()
    for n in range(1, 17):
        block = Properties(message_id=f"m{n}", headers=Headers({"mine": n, "x-mqworker-attempt": n})).encode()
        await one.take(["headers", n], first=n, properties=block)
    await one.done(16)
    assert {seq: result[1] for seq, result in one.results().items()} == {n: n for n in range(1, 17)}
    for seq, outcome in one.outcomes.items():
        found = Properties.decode(outcome.results[0].properties)
        assert (found.message_id, found.headers["mine"]) == (f"m{seq}", seq)
    for n in (17, 18):
        await one.take(["wait", f"go{n}"], first=n, properties=Properties(message_id=f"m{n}").encode())
    await until(lambda: len(one.events("log")) == 4, DEADLINE, "what they log")
    assert sorted((event.msg, event.fields["message_id"]) for event in one.events("log")) == [
        ("in a thread go17", "m17"),
        ("in a thread go18", "m18"),
        ("waits go17", "m17"),
        ("waits go18", "m18"),
    ]
    os.kill(one.child.pid, signal.SIGUSR2)
    await until(lambda: "message m18" in one.child.output_tail, DEADLINE, "the stacks")
    assert "await wait_for_file(value)" in one.child.output_tail
    assert "most recent call first" in one.child.output_tail, "from faulthandler, which needs no interpreter"
    # a change of parameters meets only what begins after it
    await one.take(["wait", "go19"], first=19, generation=2, params=b'{"factor": 5}', hard=600.0)
    for n in (17, 18, 19):
        (tmp_path / f"go{n}").touch()
    await one.done(19)
    assert [one.results()[n] for n in (17, 19)] == [["go17", None, False], ["go19", 5, True]]
    assert [one.outcomes[n].generation for n in (17, 19)] == [1, 2]
    await one.leave()


@on_loop
async def test_however_a_task_ends_its_neighbours_do_not_notice(consumer, tmp_path):
    """Exits, a stopped loop, a foreign cancellation and a fork that returns are the affair of one message."""
    one = await consumer(seats=16).ready()
    await one.take(["wait", "go"], ["wait", "go"])
    kinds = ("exit", "part_exits", "stop", "fork", "foreign", "leave_behind", "without_stderr")
    await one.take(*([kind, 3] for kind in kinds), first=3)
    await one.done(len(kinds))
    (tmp_path / "go").touch()
    await one.done(len(kinds) + 2)
    results = one.results()
    assert [results[n] for n in range(3, 3 + len(kinds))] == [
        ("crash", "SystemExit"),
        ("crash", "KeyboardInterrupt"),
        "went on",
        "the original",
        ("error", "asyncio.exceptions.CancelledError"),
        [],
        "went on",
    ]
    assert results[1] == results[2] == ["go", None, False]
    await one.take(["wait", "never"], first=20)
    await one.take(["cancel_all", 1], ["twice", 1], first=21)
    await one.done(len(results) + 3)
    assert [one.results()[n] for n in (20, 21, 22)] == [
        *(("error", "asyncio.exceptions.CancelledError"), [], ("error", "RuntimeError")),
    ]
    await one.leave()
    assert (tmp_path / "cancelled").exists()


@on_loop
async def test_a_client_closes_itself_before_its_tasks_are_cancelled(consumer, tmp_path):
    """Teardown finds the background task of a pool at work, also where a message has started it."""
    one = await consumer("jobs:Pooled").ready()
    await one.take(1, 2, 3)
    await one.done(3)
    await one.leave()
    assert (tmp_path / "flushed").read_text() == "[1, 2, 3]"


@pytest.mark.parametrize("name", ["begin", "end"])
@on_loop
async def test_what_damages_the_consumer_itself_ends_it(consumer, name):
    """No message is in hand for ever because nobody saw an exception: the process ends, and says why."""
    one = await consumer(seats=2).ready()
    one.put(["damage", name])
    if name == "begin":
        await one.done(1)
        one.put(["twice", 1], first=2)
    await until(lambda: one.death, DEADLINE, "its end")
    assert one.death.code == 1
    assert "TypeError" in one.child.output_tail


def test_a_task_that_is_left_calls_in_nobodys_name(crew):
    """A shared object must not take its call for one of the message that now sits in its seat."""
    first, second = (
        SeatedMessage(0, Item(seq, b"\0\0", b"", False, "", "in"), Setting(1, b"{}", 0, 0), "in", None)
        for seq in (1, 2)
    )

    async def main():
        seat = crew._seats[0]
        current.set(first)
        seat._work = first
        assert await seat.call(len, "abc") == 3
        for present in (second, None):
            seat._work = present
            with pytest.raises(RuntimeError, match="has ended"):
                await seat.call(len, "abc")

    crew._loop.run_until_complete(main())


@on_loop
async def test_limits_hit_the_guilty_one_alone(consumer, tmp_path):
    """A soft limit cancels; what is returned after that counts; a hard one is a timeout; one who holds the loop costs
    nobody else anything, and is named with its line."""
    one = await consumer(seats=8).ready()
    await one.take(["wait", "go"], soft=1.5, hard=3.0)
    await one.take(["stubborn", "result"], ["wait", "never"], first=2, soft=0.3)
    await one.take(["stubborn", "result"], ["stubborn", "x"], first=4, hard=0.5)
    await one.take(["hold", 2.0], first=6)
    await until(lambda: one.events("loop_blocked"), DEADLINE, "the blocked loop to be named")
    await until(lambda: {2, 3, 4, 6} <= set(one.outcomes), DEADLINE, "the limits")
    assert 1 not in one.outcomes
    results = one.results()
    assert [results[n] for n in (2, 3, 4, 6)] == [
        "cleaned up",
        ("timeout", "mqworker.errors.SoftTimeLimit"),
        ("timeout", "mqworker.errors.HardTimeLimit"),
        2.0,
    ]
    (event,) = one.events("loop_blocked")[:1]
    assert "in hold" in event.msg
    assert "time.sleep(seconds)" in event.fields["traceback"]
    (tmp_path / "go").touch()
    await until(lambda: 1 in one.outcomes, DEADLINE, "the neighbour")
    assert one.results()[1] == ["go", None, True]
    await until(lambda: 5 in one.stacks, DEADLINE, "where the one is that does not obey")
    assert "await asyncio.sleep(60)" in one.stacks[5]
    assert 5 not in one.outcomes
    one.child.kill("the end of the test")
    await until(lambda: one.death, DEADLINE, "its end")


@on_loop
async def test_whatever_holds_the_loop_stops_the_pulse_and_is_named(consumer, tmp_path):
    """A task that a finished message has left, or a callback: nobody in hand has it, and the Producer sees that nothing
    gets on."""
    one = await consumer(seats=4).ready()
    await one.take(["leave_holding", 1.5], ["wait", "go"])
    await until((tmp_path / "holds").exists, DEADLINE, "the task to hold the loop")
    await until(lambda: one.events("loop_blocked"), DEADLINE, "the blocked loop to be named")
    assert (one.seats.running, time.monotonic() - one.seats.pulse > 0.5) == (1, True)
    await one.take(["call_back", 1.5], first=3)
    await until(lambda: len(one.events("loop_blocked")) == 2, DEADLINE, "the callback to be named")
    assert (one.seats.running, time.monotonic() - one.seats.pulse > 0.5) == (0, True)
    left, called = one.events("loop_blocked")
    assert "left behind" in left.msg
    assert "time.sleep(seconds)" in left.fields["traceback"]
    assert "message_id" not in left.fields
    assert "a callback" in called.msg
    (tmp_path / "go").touch()
    await one.done(3)
    await one.leave()


@on_loop
async def test_what_must_not_begin_is_given_back(consumer):
    """With the stop word, a chunk is taken and nothing of it begins."""
    one = await consumer().ready()
    one.seats.stop = 1
    await one.take(["twice", 1], ["twice", 2])
    assert one.back == [1, 2]
    await one.take(["twice", 3], first=3)
    await one.done(1)
    assert one.results() == {3: 6}
    await one.leave()


@on_loop
async def test_plain_jobs_run_beside_the_loop(consumer, tmp_path):
    """In a chain with an async job each seat has a thread for them; generators of both kinds go through the chain."""
    one = await consumer("jobs:yields", "jobs:plain", "jobs:Own", "jobs:add", seats=4).ready()
    began = time.monotonic()
    await one.take(1, 2, 1, 0)
    await one.done(4)
    assert time.monotonic() - began < 5
    assert one.results() == {1: [1, 1], 2: [1, 1, 2, 0], 3: [1, 1], 4: []}
    await one.leave()
    assert (tmp_path / "own").read_text() == "xxxx"


@on_loop
async def test_a_limit_that_passes_during_a_plain_job_ends_what_follows(consumer):
    """Nothing interrupts that job; but no further job, and no further value, begins without a limit."""
    one = await consumer("jobs:numbers", "jobs:slowly", "jobs:last", seats=2).ready()
    await one.take(1, 2, soft=0.2)
    await one.done(2)
    assert one.results() == dict.fromkeys((1, 2), ("timeout", "mqworker.errors.SoftTimeLimit"))
    await one.leave()


@on_loop
async def test_a_setup_that_fails_is_told(consumer, tmp_path):
    """With what it raised; nothing is left."""
    one = await consumer("jobs:Broken").ready()
    assert (one.unfit.type, one.unfit.message) == ("LookupError", "no server")
    assert not (tmp_path / "torn down").exists()


@on_loop
async def test_one_seat_is_enough_for_a_coroutine(consumer):
    """An async job needs no concurrency."""
    one = await consumer(seats=1).ready()
    for n in (1, 2):
        await one.take(["twice", n], first=n)
        await one.done(n)
    assert one.results() == {1: 2, 2: 4}
    await one.leave()


@on_loop
async def test_a_large_result_arrives_whole_among_others(consumer):
    """Its pieces come before its outcome, and no other outcome comes between."""
    one = await consumer(seats=8).ready()
    await one.take(*(["twice", "ab" * (1 << 20) if n % 2 else "x"] for n in range(8)))
    await one.done(8)
    assert [len(result) for result in one.results().values()] == [2, 1 << 22] * 4
    await one.leave()
