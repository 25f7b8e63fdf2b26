"""A lane and its Consumer, with real processes: what they send to each other, and how the lane ends."""

import asyncio
import gc
import json
import multiprocessing.util
import os
import resource
import signal
import time
import weakref
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from msgspec.structs import replace

from mqworker.amqp.fingerprint import fingerprint
from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.config.programs import spec_of
from mqworker.consumer.register import InHandRegister
from mqworker.consumer.resources import BY_OPENMP, OPENMP, OTHERS
from mqworker.ipc import child
from mqworker.ipc.consumer_messages import Birth, Chunk, Item
from mqworker.ipc.generation import Generation
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.lane import Lane
from mqworker.producer.limits import KILLS_ITSELF, STACK_WAIT, Limits
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.memory import no_more_memory
from tests.support.waiting import until, wait_for

HANDLER = """
import os, signal, sys, time
VARIABLES = ("MQWORKER_SLOT", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
FOUND = [sorted(os.sched_getaffinity(0)), os.nice(0), *map(os.environ.get, VARIABLES)]
def handle(body, params):
    if body == "found":
        return FOUND
    if body == "numpy":
        import numpy
        numpy.ones((400, 400)) @ numpy.ones((400, 400))
        return len(os.listdir("/proc/self/task"))
    if body == "hold":
        time.sleep(60)
    if body == "memory":
        return int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
    if isinstance(body, dict):
        for fd in map(int, os.listdir("/proc/self/fd")) if "close" in body else ():
            try:
                if body["close"] in os.readlink(f"/proc/self/fd/{fd}"):
                    os.close(fd)
            except OSError:
                pass
        if "size" in body:
            return "x" * body["size"]
        print(body.get("print", ""))
        time.sleep(body.get("wait", 0))
        1 / (1 - body.get("fail", 0))
    if body == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return [body, len(params.get("text", ""))]
"""
DEADLINE = 20.0
MUCH = 64 << 20  # bytes


class Owner:
    """Keeps the reports of a lane, in order."""

    def __init__(self):
        self.ready = 0
        self.outcomes = []
        self.steps = []  # the numbers of the chunk that ended and of the one that was taken, by report
        self.deaths = []
        self.logged = []
        self.reports = []  # lines and numbers of messages that have ended, in their order

    def lane_ready(self, _lane):
        self.ready += 1

    def lane_outcomes(self, lane, outcomes):
        assert not self.deaths, "a death comes last"
        self.outcomes += [outcome for outcome in outcomes.outcomes if outcome.seq not in self.seqs()]
        self.reports += [outcome.seq for outcome in outcomes.outcomes]
        self.steps.append((outcomes.ended, outcomes.taken))
        self.idle_at_the_end = lane.state == "idle"

    def lane_died(self, _lane, death):
        self.deaths.append(death)

    def lane_log(self, event):
        self.logged.append(event.msg)
        self.reports.append(event.msg)
        if event.msg == "bad":
            raise ValueError("this line cannot be logged")

    def lane_labels(self, seq):
        return {"message_id": str(seq)}

    def seqs(self):
        return [outcome.seq for outcome in self.outcomes]

    def bodies(self):
        return [json.loads(outcome.results[0].body) for outcome in self.outcomes]


@pytest.fixture
def make(tmp_path):
    """Make lanes; no process of theirs may be left afterwards."""
    (tmp_path / "jobs.py").write_text(HANDLER)
    register = InHandRegister(tmp_path / "s.slots", 2)

    def made(owner, params=None, *, slot=0, consumers=1, jobs=("jobs:handle",), **stage):
        config = StageConfig(input=InputConfig(queue="in"), jobs=("jobs:handle",), **stage)
        spec = StageSpec("svc", "s", config, BrokerConfig(), str(tmp_path), str(tmp_path), 30.0)
        generation = Generation(1, 1, list(jobs), None, json.dumps(params or {}).encode())
        birth = Birth(slot, str(register.path), slot, consumers, generation, 20)
        return Lane(1 + slot, spec, birth, register.seats(slot), owner)

    yield made
    assert not end_children()


B = b"b" * 32


def item(number, body):
    return Item(number, b"\0\0", json.dumps(body).encode(), False, "", "in")


def chunk(lane, *bodies):
    items = [item(number, body) for number, body in enumerate(bodies, start=1)]
    return Chunk(lane.chunk + 1, 1, None, 0.0, 20, items)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def semaphores():
    """Return the named semaphores of this process that are not unlinked."""
    finalizers = list(multiprocessing.util._finalizer_registry.values())
    return [each for each in finalizers if getattr(each._callback, "__qualname__", "") == "SemLock._cleanup"]


async def ready(lane, owner):
    await until(lambda: owner.ready or owner.deaths, DEADLINE, "the Consumer to be ready")
    assert lane.state == "idle", (owner.deaths, owner.logged)


@on_loop
async def test_a_chunk_goes_down_and_its_outcomes_come_up(make):
    """After the sentinel, the Consumer leaves normally, and its death is reported once."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(chunk(lane, "a", "b"))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    assert owner.bodies() == [["a", 0], ["b", 0]]
    assert lane.done == 2
    lane.leave()
    await until(lambda: owner.deaths, DEADLINE, "its end")
    assert [death.code for death in owner.deaths] == [0]
    assert (lane.kill_reason, lane.left, lane.state) == ("", True, "dead")


async def answer(make, body, **options):
    """Return what a Consumer with these resources makes of one message."""
    owner = Owner()
    lane = make(owner, **options)
    await ready(lane, owner)
    lane.feed(chunk(lane, body))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    lane.leave()
    await until(lambda: owner.deaths, DEADLINE, "its end")
    (found,) = owner.bodies()
    return found


@pytest.fixture
def no_thread_variables(monkeypatch):
    """The environment of a service in which nobody has set a number of threads."""
    for name in (OPENMP, *BY_OPENMP, *OTHERS):
        monkeypatch.delenv(name, raising=False)


@on_loop
async def test_user_code_is_imported_with_the_resources_of_its_stage(make, monkeypatch, no_thread_variables):
    """CPUs, niceness, slot and numbers of threads are there before the import; what the user has set stays."""
    cpu = max(os.sched_getaffinity(0))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    found = await answer(make, "found", slot=5, cpus=(cpu,), nice=3, native_threads=2)
    assert found == [[cpu], min(19, os.nice(0) + 3), "5", "2", "2", "7"]


@on_loop
async def test_without_a_configuration_consumers_share_the_cpus(make, no_thread_variables):
    """A Consumer that is alone keeps the numbers of its libraries; one of many gets its share, at least one thread."""
    cpus = sorted(os.sched_getaffinity(0))
    assert await answer(make, "found") == [cpus, os.nice(0), "0", None, None, None]
    share = None if len(cpus) == 1 else "1"
    assert await answer(make, "found", consumers=1000) == [cpus, os.nice(0), "0", share, share, share]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="on one CPU numpy has one thread anyway")
@on_loop
async def test_numpy_starts_as_many_threads_as_it_is_told(make, no_thread_variables):
    """The variables are set before anything in the Consumer has imported numpy."""
    alone = await answer(make, "numpy")
    assert await answer(make, "numpy", consumers=1000) == 1 < alone
    assert await answer(make, "numpy", consumers=1000, native_threads=0) == alone


@on_loop
async def test_cpus_that_are_gone_are_told(make):
    """A CPU may go while the service runs: the Consumer says so and ends, as when `setup` fails."""
    owner = Owner()
    lane = make(owner, cpus=(8000,))
    await until(lambda: owner.deaths, DEADLINE, "its end")
    assert lane.unfit.failure.message == "the CPUs [8000] of the stage cannot be used: Invalid argument"


@on_loop
async def test_the_register_knows_a_message_by_the_fingerprint_that_its_item_brings(make):
    """A further attempt has other properties than were delivered; without one it is that of properties and body."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    plain = item(1, "a")
    for each, known in ((plain, fingerprint(plain.properties, plain.body)), (replace(plain, fingerprint=B), B)):
        lane.feed(Chunk(lane.chunk + 1, 1, None, 0.0, 20, [each]))
        await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
        assert lane.in_hand_slot.fingerprint == known
    lane.leave()
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_large_parameters_do_not_block_the_start(make):
    """A megabyte of parameters is sent while the Consumer starts: `Lane()` returns before it can have read them."""
    owner = Owner()
    began = time.monotonic()
    lane = make(owner, {"text": "x" * (1 << 20)})
    took = time.monotonic() - began
    assert not owner.ready
    os.kill(lane.pid, signal.SIGSTOP)  # it has not read them
    os.kill(lane.pid, signal.SIGCONT)
    await ready(lane, owner)
    assert took < (time.monotonic() - began) / 2
    lane.feed(chunk(lane, "a"))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    assert owner.bodies() == [["a", 1 << 20]]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_does_not_end_a_consumer_that_is_still_starting(make, number):
    """It becomes ready although it was asked for its stacks, or ordered to end, before its interpreter ran."""

    @on_loop
    async def run():
        owner = Owner()
        lane = make(owner)
        os.kill(lane.pid, number)
        await ready(lane, owner)
        lane.kill("enough")
        await until(lambda: owner.deaths, DEADLINE, "its end")
        assert lane.kill_reason == "enough"

    run()


@on_loop
async def test_what_a_killed_consumer_had_finished_counts_and_it_gets_nothing_more(make):
    """Outcomes in its pipe and outbox are reported before its death, and none of them makes the lane idle again."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(chunk(lane, "a", "b", "die", "c"))
    await until(lambda: owner.deaths, DEADLINE, "its end")
    assert owner.bodies() == [["a", 0], ["b", 0]]
    assert not owner.idle_at_the_end
    assert lane.in_hand()[0] == 3
    assert owner.deaths[0].code == -signal.SIGKILL


@on_loop
async def test_a_second_chunk_may_be_put_when_the_first_was_taken(make):
    """The Consumer goes on with it without a pause, and the lane is idle when both have ended."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(msgspec.structs.replace(chunk(lane, "a", {"wait": 0.2}), more=True))
    assert not lane.open
    await until(lambda: lane.open, DEADLINE, "the first chunk to be taken")
    assert lane.ended == 0
    lane.feed(msgspec.structs.replace(chunk(lane, "b"), items=[item(7, "b")]))
    assert not lane.open
    await until(lambda: lane.state == "idle", DEADLINE, "the end of both")
    assert (owner.seqs(), lane.taken, lane.ended) == ([1, 2, 7], 2, 2)
    assert (1, 2) in owner.steps, "the end of the first and the taking of the second are one report"
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_nothing_of_what_was_put_begins_after_a_stop(make):
    """The stop word holds for the chunk at work and for the one behind it; the next chunk is computed."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(msgspec.structs.replace(chunk(lane, {"wait": 0.2}, "a"), more=True))
    await until(lambda: lane.open and lane.in_hand()[0] == 1, DEADLINE, "the first message to begin")
    lane.feed(msgspec.structs.replace(chunk(lane), items=[item(7, "b")]))
    assert lane.stop_after_message() == 1
    await until(lambda: lane.state == "idle", DEADLINE, "the end of both")
    assert (owner.seqs(), lane.ended) == ([1], 2)
    lane.feed(msgspec.structs.replace(chunk(lane), items=[item(8, "c")]))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the next")
    assert owner.seqs() == [1, 8]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_large_bodies_pass_in_both_directions(make):
    """A large message and its result arrive unharmed between small ones."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    large = "".join(map(str, range(400_000)))
    for number, bodies in enumerate((["a", "b"], [large], ["c"], [large + "!"])):
        items = [item(10 * number + place, body) for place, body in enumerate(bodies)]
        lane.feed(msgspec.structs.replace(chunk(lane), items=items))
        await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    assert owner.seqs() == [0, 1, 10, 20, 30]
    assert [body for body, _ in owner.bodies()] == ["a", "b", large, "c", large + "!"]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


async def memory_failure(lane, owner, large):
    """Return what is told of a message for which there is no memory somewhere; its Consumer goes on after it."""
    lane.feed(large)
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    lane.feed(msgspec.structs.replace(chunk(lane), items=[item(7, "small")]))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the next")
    failed, after = owner.outcomes
    assert (failed.seq, failed.failure.reason, failed.failure.final) == (1, "memory", False)
    assert (after.seq, json.loads(after.results[0].body)) == (7, ["small", 0])
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")
    return failed.failure.message


@on_loop
async def test_a_body_for_which_its_consumer_has_no_memory_is_a_failure_of_its_message(make):
    """Below `memory_limit` too: an attempt of this message, not the end of a Consumer that nobody is charged with."""
    needed = await answer(make, "memory")
    owner = Owner()
    lane = make(owner, memory_limit=needed + MUCH // 2)
    await ready(lane, owner)
    told = await memory_failure(lane, owner, chunk(lane, "x" * MUCH))
    assert told == f"no memory for its body of {MUCH + 2:,} bytes"
    assert lane.replace_reason == "memory"


@on_loop
async def test_a_body_for_which_the_producer_has_no_memory_is_a_failure_of_its_message(make):
    """It is told at once, not when a Consumer that waits for its chunk counts as stuck."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane._inbox.close()  # as little room as in a full one
    large = chunk(lane, "x" * MUCH)
    with no_more_memory():
        told = await memory_failure(lane, owner, large)
    assert told == f"no memory to pass its {MUCH + 2:,} bytes on to a Consumer: Bad file descriptor"


@on_loop
async def test_a_result_for_which_the_producer_has_no_memory_is_a_failure_of_its_message(make):
    """It costs neither the Consumer nor another message anything."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    with no_more_memory():
        told = await memory_failure(lane, owner, chunk(lane, {"size": 120 << 20}))
    assert told == f"the Producer had no memory for its result of {(120 << 20) + 2:,} bytes"


@pytest.mark.parametrize(("name", "body"), [("mqw-inbox", "x" * (1 << 20)), ("mqw-hatch", {"size": 1 << 20})])
def test_a_consumer_without_its_shared_memory_dies_of_the_message_that_needs_it(make, name, body):
    """Whatever user code has closed, the message is in hand at the end, and charged, so this cannot go on for ever."""

    @on_loop
    async def run():
        owner = Owner()
        lane = make(owner)
        await ready(lane, owner)
        lane.feed(chunk(lane, {"close": name}))
        await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
        lane.feed(msgspec.structs.replace(chunk(lane), items=[item(7, body)]))
        await until(lambda: owner.deaths, DEADLINE, "its end")
        assert (owner.seqs(), lane.in_hand()[0]) == ([1], 7)
        assert "OSError" in lane.output_tail

    run()


@on_loop
async def test_only_a_consumer_with_programs_has_time_to_kill_them(make):
    """Over the hard limit a Consumer is killed at once unless its own chain has a program, whatever chain is wanted."""
    owners = [Owner(), Owner()]
    lanes = [make(owners[0]), make(owners[1], slot=1, jobs=("jobs:handle", spec_of(("cat",))))]
    for lane, owner in zip(lanes, owners, strict=True):
        await ready(lane, owner)
        lane.feed(chunk(lane, "hold"))
    await until(lambda: all(lane.in_hand()[0] for lane in lanes), DEADLINE, "both messages to begin")
    limits = Limits(SimpleNamespace(roster=SimpleNamespace(busy=lambda: lanes, seated={})), lambda _seq: {})
    wanted = Desired(1, True, 2, Generation(2, 2, ["jobs:handle"], None, b"{}"), None, 0.0, 1.0, 20)
    late = max(lane.in_hand()[1] for lane in lanes) + 1.1
    limits.enforce(wanted, late, 0.1)
    limits.enforce(wanted, late + STACK_WAIT + 0.1, 0.1)
    assert [lane.kill_reason for lane in lanes] == ["hard time limit of 1 s", ""]
    limits.enforce(wanted, late + KILLS_ITSELF, 0.1)
    limits.enforce(wanted, late + KILLS_ITSELF + STACK_WAIT + 0.1, 0.1)
    assert lanes[1].kill_reason == "hard time limit of 1 s"
    await until(lambda: all(owner.deaths for owner in owners), DEADLINE, "both ends")


@on_loop
async def test_a_chunk_may_end_at_a_failure(make):
    """Where order demands it, nothing behind a failed message begins; where it does not, everything does."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(msgspec.structs.replace(chunk(lane, "a", {"fail": 1}, "b"), stop_at_failure=True))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    assert [(outcome.seq, outcome.failure is None) for outcome in owner.outcomes] == [(1, True), (2, False)]
    lane.feed(msgspec.structs.replace(chunk(lane), items=[item(5, {"fail": 1}), item(6, "c")]))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the next")
    assert owner.seqs() == [1, 2, 5, 6]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


def limit_with(spare: int) -> int:
    """Return the limit of descriptors below which so many are free, also where their numbers have gaps."""

    def is_free(number: int) -> bool:
        try:
            os.fstat(number)
        except OSError:
            return True
        return False

    return next(islice(filter(is_free, count()), spare, None))


@on_loop
async def test_a_start_that_fails_leaves_nothing_behind(make):
    """Without descriptors it raises OSError; no process, descriptor, thread, semaphore or report remains."""
    owner = Owner()
    lane = make(owner)  # starts the tracker of semaphores
    await ready(lane, owner)
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")
    owner, failures = Owner(), 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # close now, not in between, what other tests left to the collector
    before = open_descriptors()
    for spare in range(18):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit_with(spare), hard))
        try:
            lane = make(owner)
        except OSError:
            failures += 1
        else:
            lane.kill("enough")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: not child.living, DEADLINE, "its end")
    assert failures > 10
    await until(lambda: open_descriptors() <= before, DEADLINE, "the feeder threads to close their ends")
    assert not owner.ready
    await until(lambda: not semaphores(), DEADLINE, "the end of all semaphores")


@on_loop
async def test_a_line_that_cannot_be_logged_costs_no_outcome(make):
    """Whatever raises while output is logged, the outcomes arrive and the lane is idle again."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(chunk(lane, {"print": "bad"}, {"print": "good"}))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    assert owner.reports in (["bad", "good", 1, 2], ["bad", 1, "good", 2]), "as one report or two"
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_lines_of_a_message_beside_others_are_read_before_its_outcome(make):
    """Otherwise they would be read when another one is alone in the Consumer, and carry its labels."""
    owner = Owner()
    lane = make(owner, concurrency=2)
    await ready(lane, owner)
    reader = lane._child._lines
    asyncio.get_running_loop().remove_reader(reader._fd)  # so it is not read by chance
    lane.feed(chunk(lane, {"print": "first"}))
    await until(lambda: owner.outcomes, DEADLINE, "its outcome")
    assert owner.reports == ["first", 1]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_lines_come_before_outcomes_that_are_read_from_the_outbox(make):
    """What a message printed is told before what became of it, also if its outcome waits behind the next message."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    lane.feed(chunk(lane, {"print": "first"}, "hold"))
    wait_for(lambda: lane.in_hand()[0] == 2, DEADLINE, "the next message")  # the loop reads nothing meanwhile
    if not lane.read_outbox():  # the first took long, so that its outcome was sent up at once
        await until(lambda: owner.outcomes, DEADLINE, "its outcome")
    assert owner.reports == ["first", 1]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_what_cannot_be_sent_down_leaves_the_lane_idle(make):
    """A chunk that cannot be encoded raises before anything changes, and the next one is computed."""
    owner = Owner()
    lane = make(owner)
    await ready(lane, owner)
    bad = chunk(lane, "a")
    bad.items[0] = msgspec.structs.replace(bad.items[0], routing_key="\ud800")
    with pytest.raises(UnicodeEncodeError):
        lane.feed(bad)
    assert lane.state == "idle"
    lane.feed(chunk(lane, "b"))
    await until(lambda: lane.state == "idle", DEADLINE, "the end of the chunk")
    assert owner.bodies() == [["b", 0]]
    lane.kill("enough")
    await until(lambda: owner.deaths, DEADLINE, "its end")


@on_loop
async def test_a_dead_lane_is_freed_without_a_garbage_collection(make):
    """A reference cycle would keep its semaphores and its outbox, which are mapped memory."""
    gc.collect()
    gc.disable()
    try:
        owner = Owner()
        lane = make(owner)
        await ready(lane, owner)
        lane.kill("enough")
        await until(lambda: owner.deaths, DEADLINE, "its end")
        gone = weakref.ref(lane)
        del lane
        assert gone() is None
    finally:
        gc.enable()
