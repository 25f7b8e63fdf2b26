"""The broker admin and its client, with a real process and the embedded broker: no question stays without answer."""

import asyncio
import gc
import os
import signal
import time
from types import SimpleNamespace

import msgspec
import pytest

from mqworker.amqp.properties import Properties
from mqworker.broker_admin import client as client_module
from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.brokers.base import Topology
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.admin import SqliteAdmin
from mqworker.brokers.sqlite.file import File
from mqworker.config.model import Config
from mqworker.control.control import Control
from mqworker.control.errors import ControlError
from mqworker.ipc import child as child_module
from mqworker.service.inspection import Inspection
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.waiting import AMPLE, until

MIB = 1 << 20
GRACE = 0.3  # seconds
PROPERTIES = Properties(message_id="m", delivery_mode=2).encode()


@pytest.fixture
def path(tmp_path):
    """Of an embedded broker that has the queues."""
    found = tmp_path / "broker.db"
    file = File(found)
    store.declare(file.db, Topology("in", None, "in.dlq"))
    file.db.close()
    return found


@pytest.fixture
def client(path):
    """A client whose process is gone after the test."""
    config = msgspec.convert(
        {"stages": {"work": {"input": {"queue": "in"}, "jobs": ["a:b"]}}, "broker": {"url": f"sqlite:///{path}"}},
        Config,
    )
    yield lambda on_log=print: BrokerAdminClient(config, on_log)
    gc.collect()
    assert not end_children()


@pytest.fixture
def little_grace(monkeypatch):
    """A process that does not answer is killed sooner."""
    monkeypatch.setattr(client_module, "ADMIN_GRACE", GRACE)


def pid(client):
    """Of the process that was asked last."""
    return client._life.child.pid


@on_loop
async def test_questions_are_answered_by_one_process(client):
    """It is started by the first question and kept; many are answered at a time."""
    asking = client()
    rows = await asyncio.gather(*(asking.ask("queues", {}, AMPLE) for _ in range(5)))
    assert [row["name"] for row in rows[0]] == ["in", "in.dlq"]
    first = pid(asking)
    await asking.ask("send", {"queue": "in", "properties": PROPERTIES, "body": b"x"}, AMPLE)
    assert pid(asking) == first
    assert await asking.ask("purge", {"name": "in"}, AMPLE) == 1
    with pytest.raises(ControlError, match="no queue") as refused:
        await asking.ask("purge", {"name": "nowhere"}, AMPLE)
    assert refused.value.kind == "refused"
    await asking.stop("the test ends")
    await asking.stop("again")


@on_loop
async def test_stopping_before_any_question_is_harmless(client):
    """There is no process then."""
    await client().stop("the test ends")


@on_loop
async def test_a_process_that_hangs_is_killed_though_its_caller_has_left(client, little_grace):
    """The clock is the client's: whoever waits outside with a shorter deadline does not stop it. The next one works."""
    asking = client()
    await asking.ask("queues", {}, AMPLE)
    hung = pid(asking)
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asking.ask("queues", {}, 0.3), 0.2)
    await until(lambda: hung not in child_module.living, 0.3 + GRACE + 3, "the end of the one that hangs")
    assert (await asking.ask("queues", {}, AMPLE))[0]["name"] == "in"
    assert pid(asking) != hung
    await asking.stop("the test ends")


@on_loop
async def test_the_caller_of_one_that_hangs_is_told_and_so_are_the_others(client, little_grace):
    """At its deadline and the grace; the others in progress fail with the reason, none waits for its own."""
    asking = client()
    await asking.ask("queues", {}, AMPLE)
    os.kill(pid(asking), signal.SIGSTOP)
    began = time.monotonic()
    late, other = await asyncio.gather(
        asking.ask("queues", {}, 0.3), asking.ask("queues", {}, AMPLE), return_exceptions=True
    )
    assert time.monotonic() - began < AMPLE / 3
    assert (late.kind, str(late)) == ("deadline", "the broker did not answer within 0.3 s")
    assert (other.kind, str(other)) == ("unavailable", "the broker admin was ended: it did not answer")


@on_loop
async def test_its_death_fails_the_questions_in_progress(client):
    """Each with a sentence, at once; and the next question starts another process."""
    asking = client()
    await asking.ask("queues", {}, AMPLE)
    asked = asyncio.create_task(asking.ask("call", {"queue": "in", "properties": PROPERTIES, "body": b"x"}, AMPLE))
    await until(lambda: asking._life._waiting, 5, "the question to be sent")
    os.kill(pid(asking), signal.SIGKILL)
    with pytest.raises(ControlError, match="ended: it killed by SIGKILL") as failed:
        await asked
    assert failed.value.kind == "unavailable"
    assert await asking.ask("purge", {"name": "in.dlq"}, AMPLE) == 0
    await asking.stop("the test ends")


@on_loop
async def test_a_question_that_is_too_large_is_refused_at_once(client):
    """With its size and the limit, long before its deadline; the process goes on."""
    asking = client()
    began = time.monotonic()
    with pytest.raises(
        ControlError, match=r"68,\d+,\d+ bytes are too large to be passed on; at most 67,108,864"
    ) as refused:
        await asking.ask("send", {"queue": "in", "properties": PROPERTIES, "body": bytes(65 * MIB)}, AMPLE)
    assert refused.value.kind == "too_large"
    assert time.monotonic() - began < AMPLE / 3
    assert (await asking.ask("queues", {}, AMPLE))[0]["messages"] == 0
    await asking.stop("the test ends")


@on_loop
async def test_an_answer_that_is_too_large_is_refused_at_once(client, path):
    """Receiving a dead letter of 65 MiB: a sentence with its size, at once; it can be shown, bodyless, and dropped."""
    direct = SqliteAdmin(path)
    await direct.send("in.dlq", PROPERTIES, bytes(65 * MIB), AMPLE)
    await direct.close()
    asking = client()
    (letter,) = (await asking.ask("dlq_list", {"stage": "work"}, AMPLE))["dead_letters"]
    began = time.monotonic()
    with pytest.raises(ControlError, match=r"the answer is too large: 68,\d+,\d+ bytes") as refused:
        await asking.ask("receive", {"name": "in.dlq", "limit": 1, "taken": []}, 2 * AMPLE)
    assert refused.value.kind == "refused"
    assert time.monotonic() - began < AMPLE
    (shown,) = await asking.ask("dlq_show", {"stage": "work", "ids": [letter["id"]]}, AMPLE)
    assert (shown["too_large"], shown["size"], shown["body"]) == (True, 65 * MIB, b"")
    assert await asking.ask("dlq_drop", {"stage": "work", "ids": [letter["id"]], "limit": 1}, AMPLE) == 1
    await asking.stop("the test ends")


@on_loop
async def test_several_large_messages_at_once_are_all_sent(client):
    """Eight of 16 MiB, twice what the pipe's bound holds: those that do not fit wait for room, and none is dropped."""
    asking = client()
    body = {"queue": "in", "properties": PROPERTIES, "body": bytes(16 * MIB)}
    await asyncio.gather(*(asking.ask("send", body, 2 * AMPLE) for _ in range(8)))
    assert await asking.ask("purge", {"name": "in"}, AMPLE) == 8
    await asking.stop("the test ends")


@on_loop
async def test_what_finds_no_room_is_told_at_its_deadline(client):
    """The process reads nothing and the pipe is full: the question that waits fails in time, and is never sent."""
    asking = client()
    await asking.ask("queues", {}, AMPLE)
    os.kill(pid(asking), signal.SIGSTOP)
    large = {"queue": "in", "properties": PROPERTIES, "body": bytes(60 * MIB)}
    first = asyncio.create_task(asking.ask("send", large, 2 * AMPLE))
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(ControlError, match=r"accepted no request for 0.3 s"):
        await asking.ask("send", large, 0.3)
    assert time.monotonic() - began < AMPLE / 3
    os.kill(pid(asking), signal.SIGCONT)
    await first
    assert await asking.ask("purge", {"name": "in"}, AMPLE) == 1
    await asking.stop("the test ends")


@on_loop
async def test_what_it_writes_is_logged(client):
    """Its stdout and stderr are log events too: Python's own words of a crash, and asked-for stacks."""
    events = []
    asking = client(events.append)
    await asking.ask("queues", {}, AMPLE)
    os.kill(pid(asking), signal.SIGUSR2)
    await until(lambda: any("most recent call first" in event.msg for event in events), 10, "its stacks")
    assert {(event.event, event.process) for event in events} == {("output", "broker-admin")}
    await asking.stop("the test ends")


@on_loop
async def test_the_deadline_outside_is_later_than_the_one_inside(client, tmp_path):
    """A caller in another thread hears how its question ended, from the client that counts the seconds itself."""
    asking = client()
    await asking.ask("queues", {}, AMPLE)
    os.kill(pid(asking), signal.SIGSTOP)

    class Operator:
        async def ask_admin(self, verb, arguments, deadline):
            return await asking.ask(verb, arguments, deadline)

    control = Control(SimpleNamespace(state_dir=tmp_path), None)
    control.attach(asyncio.get_running_loop(), Operator())
    with pytest.raises(ControlError, match=r"the broker did not answer within 0.2 s"):
        await asyncio.to_thread(control.ask_admin, "queues", {}, 0.2)
    await until(lambda: not child_module.living, 5, "the end of the one that hangs")


@on_loop
async def test_a_question_in_passing_ends_no_process(client, little_grace):
    """Which letters of a message are known is asked for half a second; whatever is at work there goes on."""
    asking = client()
    inspection = Inspection(None, asking, None)
    assert await inspection.find_letters("m", 0.1, look=False) == {"letters": [], "ages": {}}, "none is started for it"
    await asking.ask("queues", {}, AMPLE)
    stopped = pid(asking)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(ControlError, match=r"did not answer within 0.1 s"):
        await inspection.find_letters("m", 0.1, look=False)
    await asyncio.sleep(GRACE + 0.2)  # when it would be killed
    os.kill(stopped, signal.SIGCONT)
    assert await inspection.find_letters("m", AMPLE, look=False) == {"letters": [], "ages": {}}
    assert pid(asking) == stopped
    await asking.stop("the test ends")
