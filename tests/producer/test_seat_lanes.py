"""What a Producer makes of Consumers that work on several messages at once: a real stage, and real processes.

They are no Consumers, but say what those say in each state (tests/support/seat_speaker.py).
"""

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mqworker.amqp import headers
from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.file import File
from mqworker.config.model import BrokerConfig, CrashConfig, InputConfig, StageConfig
from mqworker.consumer.register import InHandRegister
from mqworker.ipc.generation import Generation
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.stage_spec import StageSpec
from mqworker.ipc.stage_status import ConsumerStatus, StageStatus
from mqworker.producer import lane, policy, seat_limits, suspects
from mqworker.producer.stage import Stage
from mqworker.producer.status import stage_status
from mqworker.producer.timers import Timers
from tests.support.loop import on_loop
from tests.support.seat_speaker import SeatSpeaker
from tests.support.waiting import until

SOON = 30.0
NATIVE = """
import asyncio, ctypes, resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
async def handle(body):
    if body == "native":
        await asyncio.sleep(0.1)
        await asyncio.to_thread(ctypes.string_at, 0)
    while not Path(__file__).with_name("go").exists():
        sum(range(10_000))
        await asyncio.sleep(0)
"""
LEFT = """
import asyncio, time
from pathlib import Path
left = []
async def hold():
    await asyncio.sleep(0.3)
    time.sleep(3600)
async def handle(body):
    if body == "leave":
        left.append(asyncio.create_task(hold()))
        return
    while not Path(__file__).with_name("go").exists():
        await asyncio.sleep(0.01)
"""


class Seated:
    """A stage whose Consumers have seats."""

    def __init__(self, folder: Path, kind: str, consumers: int = 1, *, hard_limit: float = 0.0, **config: Any) -> None:
        settings = StageConfig(input=InputConfig(queue="in"), jobs=("jobs:handle",), **{"concurrency": 4} | config)
        self.folder, self.broker = folder, folder / "broker.db"
        where = BrokerConfig(url=f"sqlite:///{self.broker}")
        spec = StageSpec("t", "s", settings, where, str(folder), str(folder), 1.0)
        generation = Generation(1, 1, ["jobs:handle"], None, json.dumps({"kind": kind}).encode())
        self.desired = Desired(1, True, consumers, generation, None, 0.0, hard_limit, logging.WARNING)
        self.stage = Stage(spec, self.desired, lambda _event: None, lambda: None)
        self.timers = Timers(self.stage)
        self.stage.start()

    def put(self, *bodies: str, again: bool = False, **own: str) -> None:
        """Store messages; the id of each is its number and what it does. `again`: they were delivered before."""
        file = File(self.broker)
        with file.transaction() as db:
            store.make_queue(db, "in")
            for number, body in enumerate(bodies):
                properties = Properties(message_id=f"{number} {body}")
                properties.headers.update(own)
                store.publish(db, Publication("", "in", properties.encode(), json.dumps(body).encode()))
            if again:
                queue = store.queue_id(db, "in")
                assert queue is not None
                store.release(db, store.ready_ids(db, queue, 99))
        file.close()

    def told(self) -> StageStatus:
        """Do what is due, and return the next report."""
        self.timers.tick()
        return stage_status(self.stage, self.timers)

    async def until(self, found: Any, what: str) -> StageStatus:
        """Wait until a report is as wanted, and return it."""

        def looked() -> StageStatus | None:
            now = self.told()
            return now if found(now) else None

        return await until(looked, SOON, what)

    async def in_hand(self, count: int) -> ConsumerStatus:
        """Wait until the first Consumer works on so many messages."""
        status = await self.until(
            lambda now: now.consumers and len(now.consumers[0].messages) == count, f"{count} in hand"
        )
        return status.consumers[0]

    def dead(self) -> dict[str, Properties]:
        """Return the properties of the dead letters, by id."""
        file = File(self.broker)
        with file.transaction() as db:
            queue = store.queue_id(db, "in.dlq")
            found = [store.content(db, number) for number in store.ready_ids(db, queue, 99)]
        file.close()
        letters = [Properties.decode(block) for block, _ in found]
        return {letter.message_id: letter for letter in letters}

    async def close(self) -> None:
        """End its Consumers and its connection."""
        fleet = self.stage.dispatch.fleet
        self.stage.quiet()
        fleet.kill_all("the test is over")
        await until(lambda: not fleet.roster.lanes, SOON, "no Consumer")
        await self.stage.link.close(5)


@pytest.fixture
def seated(tmp_path, monkeypatch):
    """Make stages whose Consumers are speakers."""
    monkeypatch.setattr(lane, "Consumer", SeatSpeaker)
    monkeypatch.setattr(policy, "CRASH_RUNG", 0.1)  # the embedded broker takes parts of seconds
    return lambda kind, *args, **config: Seated(tmp_path, kind, *args, **config)


def count(status: StageStatus, *names: str) -> list[int]:
    return [status.counters[name] for name in names]


@on_loop
async def test_every_seat_is_filled_and_every_outcome_frees_one(seated):
    """All messages in hand are told, each with its time; utilisation is the share of seats."""
    it = seated("tasks")
    try:
        it.put("wait", "wait", "wait")
        one = await it.in_hand(3)
        assert (one.seats, one.used, one.state) == (4, 3, "busy")
        await it.until(
            lambda now: [each.message_id for each in now.consumers[0].messages] == ["0 wait", "1 wait", "2 wait"],
            "their ids",
        )
        it.put("now", "now", "now", "now", "now", "now", "wait")
        status = await it.until(lambda now: now.counters["dropped"] == 6 and now.dispatched == 4, "the last seat")
        assert status.consumers[0].message_since <= min(each.since for each in status.consumers[0].messages)
        await it.until(lambda now: (now.utilisation or 0.0) > 0.5, "most seats are used")
        (it.folder / "go").touch()
        status = await it.until(
            lambda now: now.counters["settled"] == 10 and now.consumers[0].state == "idle", "the end"
        )
        assert count(status, "dropped", "redispatched", "retried", "dead") == [10, 0, 0, 0]
    finally:
        await it.close()


@on_loop
async def test_what_is_taken_back_begins_once_and_parameters_reach_a_busy_consumer(seated):
    """A drain ends while messages are in hand, and a new generation counts as applied without waiting for them."""
    it = seated("tasks", 2)
    try:
        it.put("wait", "wait")
        await it.until(lambda now: now.dispatched == 2 and now.held == 0, "both")
        generation = Generation(2, 1, ["jobs:handle"], None, it.desired.generation.params)
        it.stage.want(Desired(2, True, 2, generation, None, 0.0, 0.0, logging.WARNING))
        status = await it.until(lambda now: now.revision == 2, "the new generation")
        assert (status.generation, status.dispatched) == (2, 2)
        (it.folder / "go").touch()
        await it.until(lambda now: now.counters["settled"] == 2, "the end")
    finally:
        await it.close()


@pytest.mark.parametrize("kind", ["tasks", "threads"])
@on_loop
async def test_whoever_kills_it_from_outside_costs_nobody_anything(seated, kind):
    """All that were in hand run again, uncharged: waiting tasks at once, threads after a second death one by one."""
    it = seated(kind)
    try:
        it.put(*["wait"] * 4)
        for deaths in (1, 2):
            before = (await it.in_hand(4)).pid
            os.kill(before, signal.SIGKILL)
            await it.until(
                lambda now, before=before: now.consumers and now.consumers[0].pid != before, "another Consumer"
            )
            assert it.stage.dispatch.exits == {"signal": deaths}
        if kind == "threads":
            first = await it.in_hand(1)
            began = time.monotonic()
            second = await it.in_hand(2)
            assert second.messages[0].since == first.messages[0].since
            assert time.monotonic() - began < 10, "as long as it had run, and a second"
        await it.in_hand(4)
        (it.folder / "go").touch()
        status = await it.until(lambda now: now.counters["settled"] == 4, "the end")
        assert count(status, "dropped", "retried", "dead") == [4, 0, 0]
    finally:
        await it.close()


@pytest.mark.parametrize(("kind", "body"), [("tasks", "fault"), ("threads", "fault"), ("threads", "leave")])
@on_loop
async def test_what_kills_its_consumer_ends_alone_and_dead(seated, kind, body):
    """With evidence, within seconds although its neighbours run on for hours, and they are charged nothing."""
    it = seated(kind, crash=CrashConfig(max=2))
    began = time.monotonic()
    try:
        it.put("wait", "wait", body, "wait")
        await it.until(lambda now: now.counters["dead"] == 1, "the dead letter")
        assert time.monotonic() - began < 20
        (letter,) = it.dead().values()
        assert letter.message_id == f"2 {body}"
        assert letter.headers[headers.CRASHES] == 2
        evidence = " ".join(map(str, letter.headers.values()))
        assert ("SIGSEGV" in evidence) == (body == "fault")
        assert ("seat_speaker.py" in evidence) == (body == "fault"), "the stack of the guilty thread"
        (it.folder / "go").touch()
        status = await it.until(lambda now: now.counters["dropped"] == 3, "the neighbours")
        assert count(status, "retried", "dead", "settled") == [1, 1, 5]
    finally:
        await it.close()


@on_loop
async def test_a_crash_in_a_thread_of_a_coroutine_is_not_charged_to_whoever_has_the_loop(tmp_path):
    """With real Consumers: faulthandler names a thread that is not the loop's, so what had the loop is no evidence."""
    (tmp_path / "jobs.py").write_text(NATIVE)
    it = Seated(tmp_path, "tasks", concurrency=3, crash=CrashConfig(max=1))
    try:
        it.put("busy", "native", "busy")
        await it.until(lambda now: now.counters["dead"] == 1, "the dead letter")
        (letter,) = it.dead().values()
        assert letter.message_id == "1 native"
        assert "Segmentation fault" in letter.headers[headers.TRACEBACK]
        (it.folder / "go").touch()
        status = await it.until(lambda now: now.counters["settled"] == 3, "the others")
        assert count(status, "dropped", "dead", "retried") == [2, 1, 0]
    finally:
        await it.close()


@on_loop
async def test_a_task_or_thread_that_ended_is_a_crash_of_its_message(seated):
    """It is tried again as after the death of a Consumer, and counts the same; the Consumer lives on."""
    it = seated("threads", crash=CrashConfig(max=2))
    try:
        it.put("crash")
        await it.until(lambda now: now.counters["dead"] == 1, "the dead letter")
        (letter,) = it.dead().values()
        assert (letter.headers[headers.CRASHES], it.stage.dispatch.exits) == (2, {})
    finally:
        await it.close()


@pytest.mark.parametrize("body", ["never", "hold"])
@on_loop
async def test_the_hard_limit_hits_the_overdue_message_alone(seated, monkeypatch, body):
    """Its Consumer is closed, a successor starts; neighbours that end in time count, others run again uncharged."""
    monkeypatch.setattr(seat_limits, "STACK_WAIT", 0.1)
    monkeypatch.setattr(seat_limits, "CANCELS", 0.2)
    it = seated("tasks", hard_limit=1.0, crash=CrashConfig(max=1))
    try:
        it.put(body)
        first = await it.in_hand(1)
        await it.until(lambda now: now.consumers[0].message_since < time.monotonic() - 0.5, "half of the limit")
        it.put("wait", "wait")
        if body == "never":
            status = await it.until(lambda now: len(now.consumers) == 2, "a successor")
            closed = next(one for one in status.consumers if one.pid == first.pid)
            assert len(closed.messages) == 3, "it is not killed while they have time"
            (it.folder / "go").touch()
        await it.until(lambda now: all(one.pid != first.pid for one in now.consumers), "its end")
        (it.folder / "go").touch()
        status = await it.until(lambda now: now.counters["settled"] == 3, "the end")
        (letter,) = it.dead().values()
        assert (letter.message_id, letter.headers[headers.REASON]) == (f"0 {body}", "timeout")
        assert count(status, "dropped", "dead", "retried") == [2, 1, 0]
        assert it.stage.dispatch.exits == {"timeout": 1}
    finally:
        await it.close()


@on_loop
async def test_what_stops_its_whole_consumer_is_found_and_its_neighbours_are_not_charged(seated, monkeypatch):
    """Nobody's time goes on meanwhile; it is killed, and those in hand at two such deaths run alone."""
    monkeypatch.setattr(seat_limits, "STACK_WAIT", 0.1)
    it = seated("threads", hard_limit=1.0, crash=CrashConfig(max=1))
    try:
        it.put("short", "still", "short")
        await it.until(lambda now: now.counters["dead"] == 1, "the dead letter")
        (letter,) = it.dead().values()
        assert (letter.message_id, letter.headers[headers.REASON]) == ("1 still", "timeout")
        status = await it.until(lambda now: now.counters["settled"] == 3, "the end")
        assert count(status, "dropped", "dead", "retried") == [2, 1, 0]
    finally:
        await it.close()


@on_loop
async def test_what_a_finished_message_has_left_stops_nobody_for_ever(tmp_path, monkeypatch):
    """With real Consumers: it holds the loop, so its Consumer is killed; whoever was in hand runs again, uncharged."""
    monkeypatch.setattr(seat_limits, "STACK_WAIT", 0.1)
    (tmp_path / "jobs.py").write_text(LEFT)
    it = Seated(tmp_path, "tasks", hard_limit=1.0, concurrency=3, crash=CrashConfig(max=1))
    try:
        it.put("leave", "wait", "wait")
        await it.until(lambda now: it.stage.dispatch.exits == {"timeout": 1}, "its end")
        (it.folder / "go").touch()
        status = await it.until(lambda now: now.counters["settled"] == 3, "the end")
        assert count(status, "dropped", "dead", "retried") == [3, 0, 0]
    finally:
        await it.close()


@on_loop
async def test_without_a_hard_limit_a_frozen_consumer_keeps_nobody(seated, monkeypatch):
    """It takes nothing more and computes nothing: it is killed, at first for nobody, and the other message is done."""
    monkeypatch.setattr(seat_limits, "STALL", 0.5)
    it = seated("tasks", crash=CrashConfig(max=1))
    try:
        it.put("still")
        await it.until(lambda now: now.dispatched == 1, "the one that freezes it")
        it.put("now")
        await it.until(lambda now: now.counters["dead"] == 1, "the dead letter")
        (letter,) = it.dead().values()
        assert letter.message_id == "0 still"
        assert it.stage.dispatch.exits == {"killed": 3}
        status = await it.until(lambda now: now.counters["settled"] == 2, "the end")
        assert count(status, "dropped", "dead", "retried") == [1, 1, 0]
    finally:
        await it.close()


@on_loop
async def test_beside_a_message_that_may_have_killed_the_tree_nothing_begins(seated, tmp_path, monkeypatch):
    """It was in hand at two deaths of the tree; when it has outlived its window, all others begin."""
    monkeypatch.setattr(suspects, "MARGIN", 1.0)
    block, body = Properties(message_id="0 wait").encode(), b'"wait"'
    for _ in range(2):
        register = InHandRegister(tmp_path / "s.slots", 4)
        suspects.Suspects(tmp_path / "s.suspects", register.last_life())
        register.begin_life(time.monotonic())
        words = register.seats(0)
        words.begin("threads", 0)
        words.slots[2].begin(1, fingerprint(block, body), time.monotonic())
    it = seated("threads")
    try:
        it.put("wait", "wait", "wait", again=True)
        status = await it.until(lambda now: now.dispatched > 0, "one")
        assert (status.dispatched, status.held) == (1, 2)
        alone = await it.in_hand(1)
        others = await it.in_hand(3)
        assert others.messages[0].since == alone.messages[0].since
        assert others.messages[1].since - others.messages[0].since >= 1.0
        assert others.messages[0].message_id in ("0 wait", "")
        (it.folder / "go").touch()
        await it.until(lambda now: now.counters["dropped"] == 3, "the end")
    finally:
        await it.close()


@on_loop
async def test_of_a_key_one_is_computed_at_a_time_however_many_seats_there_are(seated):
    """And messages of other keys run beside it."""
    it = seated("tasks", ordered_by="header:camera")
    try:
        it.put("wait", "wait", camera="north")
        it.put("wait", "wait", camera="south")
        one = await it.in_hand(2)
        await it.until(
            lambda now: [each.message_id for each in now.consumers[0].messages] == ["0 wait", "0 wait"],
            "the first ones",
        )
        assert (one.used, it.told().held) == (2, 2)
        (it.folder / "go").touch()
        await it.until(lambda now: now.counters["settled"] == 4, "the end")
    finally:
        await it.close()
