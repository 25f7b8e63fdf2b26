"""The rights of a user on RabbitMQ: those that docs/scaling.md lists are all that are needed, and each of them is."""

import asyncio
import re
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from mqworker.amqp.properties import Properties
from mqworker.brokers import open_admin
from mqworker.brokers.base import (
    DROP,
    Bindings,
    BrokerRefused,
    Placement,
    Publication,
    Topology,
)
from mqworker.config.model import BrokerConfig
from tests.brokers.harness import Recorder, contract
from tests.brokers.rabbit import RabbitHarness
from tests.brokers.test_outlet import Place
from tests.support.rabbitmq import Rights
from tests.support.waiting import AMPLE, until

pytestmark = pytest.mark.rabbitmq

SCALING = Path(__file__).parents[2] / "docs/scaling.md"
HEAD = "| what for | configure | write | read |"
COLUMNS = Rights._fields
FOREIGN = "of-somebody-else"  # a queue


class Right(NamedTuple):
    """One expression of the table."""

    column: int
    pattern: str


def listed() -> list[Right]:
    """Return the rights of the table in docs/scaling.md."""
    table = SCALING.read_text().partition(HEAD)[2].partition("\n\n")[0]
    rows = [line.split("|")[2:5] for line in table.splitlines() if line.startswith("| ")]
    found = [Right(at, each) for row in rows for at, cell in enumerate(row) for each in re.findall("`(.*?)`", cell)]
    return list(dict.fromkeys(found))


class Narrow(RabbitHarness):
    """A stage with everything that needs rights: between two exchanges, with retries, a source, `send --wait`."""

    def __init__(self, node) -> None:
        super().__init__(node)
        unique = uuid4().hex[:8]
        self.names = {name: f"{unique}-{name}" for name in ("energy_out", "energy", "sensors", "results")}
        name, output = self.names["energy"], Placement(self.names["energy_out"], self.names["results"], "key")
        self.topology = Topology(name, output, f"{name}.dlq", bindings=Bindings(self.names["sensors"], ("#",), "topic"))
        self.place = Place(self)
        self.guest = self.url

    def rights(self, rights: list[Right]) -> Rights:
        """Return them for the names of this test."""
        columns = ([right.pattern for right in rights if right.column == at] for at in range(len(COLUMNS)))
        named = (
            [re.sub("energy_out|energy|sensors|results", self._own, each) for each in column] for column in columns
        )
        return Rights(*(f"^({'|'.join(column)})$" for column in named))

    def _own(self, found: re.Match[str]) -> str:
        return self.names[found[0]]

    async def use(self, user: str) -> bool:
        """Do everything as this user, on new queues; returns False as soon as something of ours is refused."""
        channel = await self.channel()
        name = self.names["energy"]
        for queue in (name, f"{name}.dlq", f"{name}.retry.1s", self.place.inlet.position, self.names["energy_out"]):
            await channel.ask("queue_delete", queue=queue)
        await channel.ask("queue_declare", queue=FOREIGN)  # what does not exist is not refused for want of a right
        self.url = self.node.url(user=user, password="secret")
        sink = Recorder()
        link, admin = self.make_link(sink), open_admin(BrokerConfig(url=self.url))
        source, told = self.place.make()
        work = self._work(link, sink), self._operate(admin, link, sink), until(lambda: told.records, AMPLE, "a source")
        steps = asyncio.gather(*work)
        try:
            await until(lambda: steps.done() or self.refusals(user), AMPLE, "the end, or a refusal")
            return steps.done() and steps.exception() is None
        finally:
            steps.cancel()
            await asyncio.gather(steps, return_exceptions=True)
            await asyncio.gather(link.close(2), admin.close(), source.close(2))
            self.url = self.guest

    def refusals(self, user: str) -> list[str]:
        """Return what this user was refused of ours, as the broker's log has it."""
        return [line for line in self.node.refusals(user) if FOREIGN not in line]

    async def _work(self, link, sink) -> None:
        link.consume(5)
        link.start()
        await until(lambda: link.state.consuming, AMPLE, "a consumer")
        assert self.topology.output is not None
        for number, (exchange, key, delay) in enumerate(
            ((self.topology.output.exchange, "key", 0), ("", self.topology.dead, 0), ("", "", 1)), 1
        ):
            link.publish(number, Publication(exchange, key, b"", b"%d" % number, delay=delay))
            assert not await sink.answer(number, AMPLE)
        await until(lambda: b"3" in sink.bodies, AMPLE, "the retry")

    async def _operate(self, admin, link, sink) -> None:
        await until(lambda: 3 in sink.answers, AMPLE, "the queues")
        assert self.topology.output is not None
        for queue in (self.topology.output.queue, self.topology.dead):
            assert await admin.move(queue, 1, lambda *_: DROP, AMPLE) == 1
        asking = asyncio.create_task(admin.call(self.topology.input, b"", b"question", AMPLE))
        await until(lambda: b"question" in sink.bodies, AMPLE, "the question")
        asked = Properties.decode(sink.deliveries[-1].properties)
        answer = Properties(correlation_id=asked.correlation_id).encode()
        link.publish(9, Publication("", asked.reply_to, answer, b"answer", mandatory=False))
        assert (await asking)[0][1] == b"answer"
        with pytest.raises(BrokerRefused):
            await admin.purge(FOREIGN, AMPLE)

    async def close(self) -> None:
        """Also delete the exchanges."""
        await self.place.close()
        channel = await self.channel()
        await channel.ask("queue_delete", queue=FOREIGN)
        await channel.ask("queue_delete", queue=self.topology.input)  # before its exchange, whose bindings it has
        await channel.ask("exchange_delete", exchange=self.names["sensors"])
        await super().close()


@pytest.fixture
def broker(rabbit):
    """A stage with everything that needs rights."""
    return Narrow(rabbit)


@contract
async def test_the_listed_rights_suffice(broker):
    """With the rights of the table, stage, source, operator and `send --wait` are refused nothing of their own."""
    broker.node.allow("narrow", "secret", broker.rights(listed()))
    assert await broker.use("narrow"), broker.refusals("narrow")
    await until(lambda: broker.node.refusals("narrow"), 20, "what is somebody else's to be refused, in the log")
    assert broker.refusals("narrow") == []


@contract
async def test_each_of_the_listed_rights_is_needed(broker):
    """Without any one of the rights of the table something is refused."""
    rights = listed()
    assert len(rights) > 10
    for number, right in enumerate(rights):
        user = f"narrower-{number}"
        broker.node.allow(user, "secret", broker.rights([other for other in rights if other != right]))
        assert not await broker.use(user), f"nobody needs {right.pattern} in {COLUMNS[right.column]}"
        await until(lambda user=user: broker.refusals(user), 20, f"a refusal without {right}")
