"""The embedded broker against a small model: any sequence of operations leaves exactly what the model predicts."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.brokers.base import Topology
from tests.support.sqlite_link import opened
from tests.support.waiting import until

PICK = st.integers(0, 7)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), PICK),
        st.tuples(st.just("ack"), PICK),
        st.tuples(st.just("ack multiple"), PICK),
        st.tuples(st.just("release"), PICK),
        st.tuples(st.just("result"), PICK),
        st.tuples(st.just("consume"), PICK),
        st.tuples(st.just("end epoch"), PICK),
        st.tuples(st.just("reopen"), PICK),
    ),
    max_size=30,
)


class Model:
    """What the input queue and the output should hold."""

    def __init__(self):
        self.ready: list[tuple[int, bool]] = []  # number and redelivered, in order
        self.held: list[tuple[int, int]] = []  # tag and number
        self.out: list[int] = []
        self.prefetch = self.tag = self.next = 0
        self.epoch = 1
        self.seen: list[tuple[int, int, int, bool]] = []  # epoch, tag, number, redelivered

    def publish(self):
        self.ready.append((self.next, False))
        self.next += 1

    def give_back(self, held):
        self.held = [each for each in self.held if each not in held]
        self.ready = sorted(self.ready + [(number, True) for _, number in held])

    def deliver(self):
        while self.ready and len(self.held) < self.prefetch:
            number, redelivered = self.ready.pop(0)
            self.tag += 1
            self.held.append((self.tag, number))
            self.seen.append((self.epoch, self.tag, number, redelivered))


def settle(name, pick, model, link, sink):
    """Settle one of the held messages, in one of the ways."""
    if not model.held:
        return
    chosen = model.held[pick % len(model.held)]
    if name == "release":
        model.give_back([chosen])
        link.release(model.epoch, [chosen[0]])
        return
    upto = [each for each in model.held if each[0] <= chosen[0]] if name == "ack multiple" else [chosen]
    model.held = [each for each in model.held if each not in upto]
    if name == "result":
        model.out.append(chosen[1])
        sink.publish(link, b"%d" % chosen[1], "key", "exchange", settles=(model.epoch, chosen[0]))
    link.ack(model.epoch, chosen[0], multiple=name == "ack multiple")


async def play(path, operations, model):
    """Execute the operations up to the next reopening; return the remaining ones."""
    async with opened(path) as (link, sink):
        model.epoch, model.tag, model.prefetch, model.seen = 1, 0, 0, []
        while operations:
            name, pick = operations.pop(0)
            if name == "reopen":
                break
            if name == "publish":
                model.publish()
                sink.publish(link, b"%d" % (model.next - 1))
            elif name == "consume":
                model.prefetch = pick
                link.consume(pick)
            elif name == "end epoch":
                model.give_back(model.held)
                model.epoch, model.tag, model.prefetch = model.epoch + 1, 0, 0
                link.end_epoch()
                await until(lambda: len(sink.voided) == model.epoch - 1, 5, "the end of the epoch")
            else:
                settle(name, pick, model, link, sink)
            model.deliver()
            # one operation a transaction: with several in one, what is taken in between is not determined
            await until(lambda: len(sink.confirmed_ids) == sink.published, 5, "confirms")
            await until(lambda: len(sink.deliveries) >= len(model.seen), 5, "deliveries")
            await until(link._writer.commands.empty, 5, "an idle writer")
        assert [(d.epoch, d.tag, int(d.body), d.redelivered) for d in sink.deliveries] == model.seen
        assert sink.voided == [(epoch, "") for epoch in range(1, model.epoch)]
    model.give_back(model.held)


async def scene(path, operations):
    model = Model()
    while operations:
        await play(path, operations, model)
    async with opened(path) as (link, sink):
        link.consume(100)
        await until(lambda: len(sink.deliveries) == len(model.ready), 5, "all that is left")
        assert [(int(d.body), d.redelivered) for d in sink.deliveries] == model.ready
        async with opened(path, Topology("out", None, "out.dlq")) as (other, results):
            other.consume(100)
            await until(lambda: len(results.deliveries) == len(model.out), 5, "the results")
            assert [int(body) for body in results.bodies] == model.out


@settings(max_examples=40, deadline=None)
@given(OPERATIONS)
def test_model(operations):
    """Whatever is published, taken, settled, given back and reopened, the queues match the model, in order."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scene(Path(folder) / "broker.db", list(operations)))
