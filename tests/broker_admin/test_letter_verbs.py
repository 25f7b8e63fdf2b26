"""Verbs about dead letters, on the embedded broker: what cannot be done is told, and holds up nothing else."""

import asyncio
import time
from collections import Counter

import pytest

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties
from mqworker.broker_admin import dead_letters, letter_looks
from mqworker.broker_admin.bulk import TOGETHER
from mqworker.broker_admin.catalogue import YOUNG
from mqworker.broker_admin.refused import VerbRefused
from mqworker.broker_admin.verbs import Verbs
from mqworker.brokers.base import BrokerBrokeOff, BrokerRefused, BrokerUnavailable, Topology
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.file import File
from mqworker.config.model import BrokerConfig, Config, InputConfig, StageConfig
from mqworker.ipc.admin_messages import OVER
from tests.support.loop import on_loop
from tests.support.waiting import AMPLE, until


class Stages:
    """Two stages, of which the second has no queues yet."""

    def __init__(self, path) -> None:
        self.told = []
        file = File(path)
        store.declare(file.db, Topology("in", None, "in.dlq"))
        file.db.close()
        stages = {
            "work": StageConfig(input=InputConfig(queue="in"), jobs=("a:b",)),
            "later": StageConfig(input=InputConfig(queue="later"), jobs=("a:b",)),
        }
        self.verbs = Verbs(Config(stages=stages, broker=BrokerConfig(url=f"sqlite:///{path}")), self.told.append)
        self.letters = self.verbs.letters
        self.admin = self.verbs._admin

    async def send(self, count: int) -> None:
        """Have so many die."""
        table = Headers({headers.REASON: "error"})
        sent = [(Properties(message_id=f"m-{n}", headers=table).encode(), b"{}") for n in range(count)]
        assert not any(await self.admin.send_many("in.dlq", sent, AMPLE))

    async def count(self, queue: str) -> int:
        """Return how many messages there are."""
        return (await self.admin.queue(queue, AMPLE)).messages


@pytest.fixture
def stages(tmp_path):
    return Stages(tmp_path / "broker.db")


def refuse(name: str, monkeypatch) -> None:
    """Have the letter of this message be one that cannot be sent back."""
    usual = dead_letters.replay

    def replay(properties, body, queue):
        if Properties.decode(properties).message_id == name:
            raise ValueError("a text is too long")
        return usual(properties, body, queue)

    monkeypatch.setattr(dead_letters, "replay", replay)


@on_loop
async def test_a_letter_that_cannot_be_sent_back_holds_up_no_other(stages, monkeypatch):
    """It stays in its queue and is told; the others of the selection go back."""
    await stages.send(5)
    refuse("m-2", monkeypatch)
    selected = await stages.letters.dlq_select(AMPLE, "work", {})
    await stages.letters.dlq_begin(AMPLE, "work", selected["selection"], "replay", 5, "0b")
    await until(lambda: stages.told and stages.told[-1].state in OVER, AMPLE, "the end of the operation")
    last = stages.told[-1]
    assert (last.state, last.done, last.refused, last.gone) == ("done", 4, 1, 0)
    assert last.reason.endswith("cannot be sent back: a text is too long")
    assert (await stages.count("in"), await stages.count("in.dlq")) == (4, 1)
    assert await stages.letters.dlq_replay(AMPLE, "work") == 0
    assert await stages.count("in.dlq") == 1


@on_loop
async def test_a_message_is_looked_for_in_the_queues_that_there_are(stages, monkeypatch):
    """A queue that does not exist yet has no letters; a look that fails leaves its stage out, unless all fail."""
    await stages.send(2)
    found = await stages.letters.dlq_find(AMPLE, "m-1", look=True)
    assert ([letter["stage"] for letter in found["letters"]], found["ages"].keys()) == (["work"], {"work", "later"})
    usual = stages.admin.queue
    failing = {"in.dlq"}

    async def queue(name, deadline):
        if name in failing:
            raise BrokerUnavailable("the broker is away")
        return await usual(name, deadline)

    monkeypatch.setattr(stages.admin, "queue", queue)
    found = await stages.letters.dlq_find(AMPLE, "m-1", look=True)
    assert (found["letters"], found["ages"].keys()) == ([], {"later"})
    failing.add("later.dlq")
    with pytest.raises(BrokerUnavailable, match="away"):
        await stages.letters.dlq_find(AMPLE, "m-1", look=True)


@on_loop
async def test_a_look_that_ended_early_does_not_tell_that_a_letter_is_gone(stages, monkeypatch):
    """A letter that was not found may be behind those that were looked at: that queue is not among the looked at."""
    monkeypatch.setattr(letter_looks, "LOOK_AT", 1)
    await stages.send(2)
    found = await stages.letters.dlq_find(AMPLE, "m-1", look=True)
    assert (found["letters"], found["ages"].keys()) == ([], {"later"})


@on_loop
async def test_a_selection_during_an_operation_does_not_say_that_it_is_complete(stages):
    """It is made from what was seen before: letters that came since are not in it."""
    await stages.send(2)
    await stages.letters.dlq_list(AMPLE, "work")
    async with stages.letters._looks.taking("in.dlq", AMPLE, Counter):
        await stages.send(1)
        told = await stages.letters.dlq_select(AMPLE, "work", {})
        assert (told["count"], told["complete"]) == (2, False)
    told = await stages.letters.dlq_select(AMPLE, "work", {})
    assert (told["count"], told["complete"]) == (3, True)


@on_loop
async def test_a_look_with_too_little_time_does_not_replace_what_is_known(stages, monkeypatch):
    """One that is cut short answers its own question alone; one that gets the queue too late fails."""
    await stages.send(100)
    await stages.letters.dlq_list(AMPLE, "work")
    usual = letter_looks.seen

    def slow(properties, body):
        time.sleep(0.02)
        return usual(properties, body)

    with monkeypatch.context() as patch:
        patch.setattr(letter_looks, "seen", slow)
        await stages.send(1)
        told = await stages.letters.dlq_list(1.0, "work")
    assert (told["total"] <= 50, told["complete"]) == (True, False)
    assert (await stages.letters.dlq_list(AMPLE, "work", fresh=YOUNG))["total"] == 100
    async with stages.letters._looks.alone("in.dlq", AMPLE):
        late = asyncio.create_task(stages.letters.dlq_list(0.6, "work"))
        await asyncio.sleep(0.4)
    with pytest.raises(BrokerUnavailable, match="another operation on"):
        await late


@pytest.mark.parametrize(
    ("error", "unsure"),
    [
        (BrokerUnavailable("the connection was lost"), 100),
        (BrokerBrokeOff("the channel was closed"), 100),
        (TimeoutError(), 100),
        (BrokerRefused("no route"), 0),
    ],
)
@on_loop
async def test_a_move_that_fails_says_what_may_be_in_both_queues(stages, monkeypatch, error, unsure):
    """Those of the batch that was under way, and of the batch before; of letters that are dropped, none."""

    async def move(*_, moving, **__):
        for count in (TOGETHER, TOGETHER, 7):
            assert moving.begins(count)
            if count == 7:
                raise error
            moving.moved(count)

    monkeypatch.setattr(stages.admin, "move", move)
    kinds = (BrokerUnavailable, BrokerRefused, VerbRefused)
    told = f"; 100 were moved, up to {unsure} may be in both queues$" if unsure else "; 100 were moved$"
    with pytest.raises(kinds, match=told):
        await stages.letters.dlq_replay(AMPLE, "work")
    with pytest.raises(kinds, match=r"; 100 were removed$"):
        await stages.letters.dlq_drop(AMPLE, "work")
