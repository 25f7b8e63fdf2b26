"""The calls of one Consumer, of a real shared object: each for its message, a chunk's together."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from mqworker.amqp.properties import Properties
from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer.alarm import Alarm
from mqworker.consumer.register import InHandRegister, open_slot
from mqworker.consumer.shared_calls import SharedCalls
from mqworker.ipc.child import living
from mqworker.ipc.consumer_messages import Item
from mqworker.ipc.stage_spec import StageSpec
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.shared_object import NAME, Shared
from tests.support.waiting import until

LINK = "tests.support.shared_classes:Tally"
CONFIG = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",))


@pytest.fixture(autouse=True)
def nothing_left():
    """After each test its object is ended."""
    yield
    end_children()
    assert not living


@pytest.fixture
def consumer():
    """Runs what a Consumer's main thread does, always in the same thread."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function, *arguments: asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


class Quiet(Alarm):
    """One that owns no signal: the test's own time limit does."""

    def __init__(self):
        self.waits = []
        self._thread = 0

    def wait(self, waiting):
        self.waits.append(waiting)


def calls(folder, config=CONFIG):
    """Return a Consumer's calls, and its slot as the Producer sees it."""
    register = InHandRegister(folder / "slots")
    near = register.slot(0)
    spec = StageSpec("svc", "s", config, BrokerConfig(), str(folder), str(folder), 30.0)
    return SharedCalls(spec, open_slot(register.path, 0), Quiet()), near


def message(seq, body=None, message_id=None):
    name = f"id-{seq}" if message_id is None else message_id
    properties = Properties(message_id=name or None)
    block, body = properties.encode(), body or b'{"id": "%d"}' % seq
    return Item(seq, block, body, False, "", "in"), properties, msgspec.json.decode(body)


def run(made, each):
    """Return what the link answers at the message's turn."""
    item, properties, body = each
    made.begin(item, properties)
    try:
        return made.link(NAME, LINK, body)
    finally:
        made.end()


@on_loop
async def test_a_chunks_calls_are_made_together_and_each_message_gets_its_answer(short_path, consumer):
    """One call for each; who computes a revoked one elsewhere gets the same answer, and the effect was once."""
    shared = await Shared(short_path).start()
    made, near = await consumer(calls, short_path)
    chunk = [message(seq) for seq in range(1, 5)]
    near_started = []

    def ahead():
        made._slot.begin(1, b"f" * 32, 12.5)
        wait = made._wait
        made._wait = lambda waiting: (wait(waiting), near_started.append(near.started))
        made.ask_ahead(NAME, LINK, chunk)
        return [run(made, each) for each in chunk[:3]]

    found = await consumer(ahead)
    assert all(one is body for one, (*_, body) in zip(found, chunk, strict=False)), (
        "unchanged: the Consumer's own value"
    )
    assert near_started[0] == 0.0, "nobody's time runs while the calls are made"
    assert near_started[1] > 12.5
    status = await shared.fresh_status()
    assert (status.counts["calls"], status.counts["repeated"], status.described) == (4, 0, {"entries": 4, "wrong": 0})
    other, _ = await consumer(calls, short_path)
    assert await consumer(run, other, chunk[3]) == {"id": "4"}
    status = await shared.fresh_status()
    assert (status.counts["repeated"], status.described) == (1, {"entries": 4, "wrong": 0})


@on_loop
async def test_what_is_asked_ahead_is_no_answer_for_another_message(short_path, consumer):
    """A chunk that was revoked leaves nothing: the next message of the Consumer asks for itself."""
    shared = await Shared(short_path).start()
    made, _ = await consumer(calls, short_path)
    await consumer(made.ask_ahead, NAME, LINK, [message(1), message(2)])
    assert await consumer(run, made, message(3)) == {"id": "3"}
    assert await consumer(run, made, message(1)) == {"id": "1"}
    status = await shared.fresh_status()
    assert status.described == {"entries": 3, "wrong": 0}


@on_loop
async def test_where_the_body_is_the_identity_no_id_counts(short_path, consumer):
    """Equal bodies are one message, with whatever id; others are others, and none counts as without an id."""
    shared = await Shared(short_path).start()
    made, _ = await consumer(calls, short_path, msgspec.structs.replace(CONFIG, identity="body"))
    for seq, name in enumerate(("one", "two", ""), 1):
        await consumer(run, made, message(seq, b'{"id": "same"}', name))
    status = await shared.fresh_status()
    assert (status.counts["repeated"], status.counts["without_id"]) == (2, 0)
    assert status.described == {"entries": 1, "wrong": 0}


@on_loop
async def test_an_object_that_is_down_stops_the_clock_once(short_path, consumer):
    """Asking ahead and waiting for the object are one wait: the message's time goes on as it was."""
    made, near = await consumer(calls, short_path)
    shared = Shared(short_path)
    made._slot.begin(1, b"f" * 32, 12.5)

    asking = consumer(made.ask_ahead, NAME, LINK, [message(1), message(2)])
    await until(lambda: near.started == 0.0, 10, "the wait")
    await shared.start()
    await asking
    assert made._alarm.waits == [True, False]
    assert near.started > 12.5
