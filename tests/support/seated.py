"""A Consumer that works on several messages at once, as a real process, without a Producer: the test is that."""

import json
from pathlib import Path

import msgspec

from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer.hatch import Hatch
from mqworker.consumer.inbox import Inbox
from mqworker.consumer.outbox import Outbox
from mqworker.consumer.process import Consumer
from mqworker.consumer.register import InHandRegister
from mqworker.ipc.child import Child
from mqworker.ipc.consumer_messages import Birth, Chunk, Hello, Item, Outcomes, Piece, Stack, Unfit, Uplink
from mqworker.ipc.generation import Generation
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.lane_queue import LaneQueue
from tests.support.waiting import until

DEADLINE = 20.0
_uplinks = msgspec.msgpack.Decoder(Uplink)


class SeatedConsumer:
    """One Consumer; `outcomes` by seq, and whatever else it sends up."""

    def __init__(self, folder: Path, code: str, jobs=("jobs:handle",), params=None, **stage):
        (folder / "jobs.py").write_text(code)
        config = StageConfig(input=InputConfig(queue="in"), jobs=tuple(jobs), **stage)
        self.spec = StageSpec("svc", "s", config, BrokerConfig(), str(folder), str(folder), 30.0)
        register = InHandRegister(folder / "s.slots", config.concurrency)
        self.seats = register.seats(0)
        self.params = json.dumps(params or {}).encode()
        generation = Generation(1, 1, list(jobs), None, self.params)
        self.birth = Birth(0, str(register.path), 0, 1, generation, 20)
        self.hello = self.unfit = self.death = None
        self.outcomes, self.order, self.logged, self.stacks, self.back = {}, [], [], {}, []
        self.chunk = self.taken = 0
        self.leaving = ""

    def start(self):
        """Start it, on the loop."""
        inbox, self._hatch, outbox = Inbox(), Hatch(), Outbox()
        self.queue = LaneQueue(inbox)
        self.child = Child(_uplinks, self._on_uplink, self._on_death, self.logged.append)
        self.child.start(Consumer("s", 0, self.queue.far, inbox, self._hatch, outbox))
        self.queue.consumer_started()
        outbox.settle()
        self.child.send(self.spec)
        self.child.send(self.birth)

    async def ready(self):
        """Start it, and wait until it is set up."""
        self.start()
        await until(lambda: self.hello or self.death, DEADLINE, "the Consumer to be set up")
        return self

    def put(self, *bodies, first=1, generation=1, params=None, soft=0.0, hard=0.0, properties=b"\0\0"):
        """Put messages numbered from `first`; the one before must be taken."""
        self.chunk += 1
        items = [
            Item(n, properties, json.dumps(body).encode(), False, "", "in") for n, body in enumerate(bodies, first)
        ]
        chunk = Chunk(self.chunk, generation, params, soft, 20, items, hard_limit=hard)
        self.queue.put(self.queue.pack(chunk))

    async def take(self, *bodies, **options):
        """Put messages, and wait until they are taken."""
        self.put(*bodies, **options)
        await until(lambda: self.taken == self.chunk or self.death, DEADLINE, "the chunk to be taken")

    async def done(self, count):
        """Wait until so many outcomes are there."""
        await until(lambda: len(self.outcomes) >= count or self.death, DEADLINE, f"{count} outcomes")
        assert len(self.outcomes) >= count, (self.death, self.child.output_tail)

    async def leave(self):
        """Put the sentinel, and wait for its end."""
        self.queue.put(None)
        await until(lambda: self.death, DEADLINE, "its end")
        assert self.death.code == 0, self.child.output_tail

    def results(self):
        """Return the decoded results by seq; a failure as its reason and type."""
        return {seq: self._result(outcome) for seq, outcome in sorted(self.outcomes.items())}

    def _result(self, outcome):
        if outcome.failure:
            return outcome.failure.reason, outcome.failure.type
        values = [json.loads(each.body) for each in outcome.results]
        return values[0] if len(values) == 1 else values

    def events(self, name):
        """Return what was logged under this name."""
        return [event for event in self.logged if event.event == name]

    def _on_uplink(self, uplink):
        match uplink:
            case Hello():
                self.hello = uplink
                self.queue.unlink_semaphores()
            case Unfit():
                self.unfit = uplink.failure
            case Stack():
                self.stacks[uplink.seq] = uplink.text
            case Piece():
                self._hatch.take(uplink)
            case Outcomes():
                uplink = self._hatch.put_back(uplink) if self._hatch.used else uplink
                self.taken = max(self.taken, uplink.taken)
                self.back += uplink.back
                self.leaving = uplink.leaving
                for outcome in uplink.outcomes:
                    assert outcome.seq not in self.outcomes
                    self.outcomes[outcome.seq] = outcome
                    self.order.append(outcome.seq)

    def _on_death(self, death):
        self.death = death
        self.queue.close()
