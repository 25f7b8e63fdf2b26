"""The Link of a file: each line a message, results where they belong, retries after their delay, other dead letters."""

import asyncio
import json
from contextlib import asynccontextmanager
from hashlib import sha256

from mqworker.amqp import headers
from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Placement, Publication, Topology
from mqworker.brokers.files import FileLink
from mqworker.brokers.files.reader import LineBatch
from mqworker.brokers.files.window import Extent, Window
from tests.support.loop import on_loop
from tests.support.waiting import until

TOPOLOGY = Topology("in", Placement("", "results"), "in.dlq")


class Recorder:
    """A sink that remembers."""

    def __init__(self):
        self.deliveries = []
        self.confirms = []

    def delivered(self, delivery):
        """See `Sink`."""
        self.deliveries.append(delivery)

    def confirmed(self, publish_ids):
        """See `Sink`."""
        self.confirms += publish_ids

    def link_changed(self, state):
        """See `Sink`."""
        self.state = state


class Opened:
    """A link, its window and sink."""

    def __init__(self, *lines, begun=0):
        data = b"".join(line + b"\n" for line in lines)
        self.window = Window(Extent())
        self.window.add(LineBatch(1, 0, list(lines), len(data), sha256(), sha256(data), len(data)))
        self.window.ended = True
        self.sink = Recorder()
        self.failures = []
        self.link = FileLink(
            self.window,
            TOPOLOGY,
            self.sink,
            most=100,
            begun=begun,
            moved=lambda: None,
            failed=lambda line, about: self.failures.append((line, about)),
        )
        self.link.start()
        self.published = 0

    @property
    def tags(self):
        """Tags of all deliveries."""
        return [each.tag for each in self.sink.deliveries]

    @property
    def bodies(self):
        """Bodies of all deliveries."""
        return [each.body for each in self.sink.deliveries]

    def publish(self, tag, *bodies, exchange="results", key="", properties=b"\0\0", delay=0):
        """Publish for a delivery."""
        each = [Publication(exchange, key, properties, body, delay=delay, settles=(1, tag)) for body in bodies]
        ids = range(self.published + 1, self.published + 1 + len(each))
        self.published += len(each)
        self.link.publish_together(tuple(ids), each)

    def portion(self):
        """What is ready now: results, letters."""
        portion = self.window.portion()
        return ([], []) if portion is None else (portion.results, [json.loads(each) for each in portion.dead])


@asynccontextmanager
async def link(*lines, prefetch=10, begun=0):
    """Yield an open link that consumes."""
    opened = Opened(*lines, begun=begun)
    opened.link.consume(prefetch)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    yield opened


@on_loop
async def test_each_line_is_a_message_with_its_number_as_id():
    """In order, at most the prefetch at a time; further ones when some are settled."""
    async with link(b"1", b"", b"2\r", b"3", prefetch=2) as it:
        assert it.bodies == [b"1", b"2"]
        assert [Properties.decode(each.properties).message_id for each in it.sink.deliveries] == ["1", "3"]
        assert {(each.epoch, each.redelivered, each.routing_key) for each in it.sink.deliveries} == {(1, False, "in")}
        it.link.ack(1, it.tags[0], multiple=False)
        await until(lambda: len(it.bodies) == 3, 5, "the last line")
        assert it.bodies[-1] == b"3"
        it.link.ack(1, it.tags[-1], multiple=True)
        assert it.window.done


@on_loop
async def test_results_are_confirmed_and_stand_in_the_order_of_the_lines():
    """Also several of one line, and whichever line is done first."""
    async with link(b"1", b"2", b"3") as it:
        one, two, three = it.tags
        it.publish(three, b"c1", b"c2")
        it.publish(one, b"a")
        it.link.ack(1, two, multiple=False)  # dropped
        assert it.sink.confirms == []
        await until(lambda: it.sink.confirms == [1, 2, 3], 5, "the confirms")
        it.link.ack(1, three, multiple=False)
        assert it.portion() == ([], [])
        it.link.ack(1, one, multiple=False)
        assert it.portion() == ([b"a", b"c1", b"c2"], [])


@on_loop
async def test_a_retry_is_the_same_line_after_its_delay():
    """It is delivered again with its new properties; the ack of the failed attempt settles nothing."""
    async with link(b"1", b"2") as it:
        one, two = it.tags
        again = Properties(message_id="1")
        again.headers[headers.ATTEMPT] = 2
        it.publish(one, b"1", exchange="", key="in", properties=again.encode(), delay=0)
        it.link.ack(1, one, multiple=False)
        it.publish(two, b"b")
        it.link.ack(1, two, multiple=False)
        assert it.portion() == ([], [])
        await until(lambda: len(it.tags) == 3, 5, "the second attempt")
        assert it.bodies[-1] == b"1"
        assert Properties.decode(it.sink.deliveries[-1].properties).headers[headers.ATTEMPT] == 2
        it.publish(it.tags[-1], b"a")
        it.link.ack(1, it.tags[-1], multiple=False)
        assert it.portion() == ([b"a", b"b"], [])


@on_loop
async def test_what_is_released_is_delivered_again_first():
    """Lines that come back are delivered before others, in their order."""
    async with link(b"1", b"2", b"3", prefetch=2) as it:
        it.link.consume(0)
        it.link.release(1, it.tags[::-1])
        await asyncio.sleep(0.01)
        assert len(it.tags) == 2
        it.link.consume(3)
        await until(lambda: len(it.tags) == 5, 5, "all lines again")
        assert it.bodies[2:] == [b"1", b"2", b"3"]


@on_loop
async def test_a_dead_letter_says_why_and_where():
    """Its record has the headers of a dead letter, the line, and where that is."""
    async with link(b"1", b"\xff") as it:
        properties = Properties(message_id="2")
        properties.headers.update(
            {headers.REASON: "error", headers.ERROR_TYPE: "ValueError", headers.MESSAGE: "no", headers.ATTEMPT: 5}
        )
        it.publish(it.tags[1], b"\xff", exchange="", key="in.dlq", properties=properties.encode())
        it.link.ack(1, it.tags[1], multiple=True)
        assert it.portion()[1] == [
            {
                "line": 2,
                "offset": 2,
                "length": 1,
                "reason": "error",
                "error": "ValueError: no",
                "attempt": 5,
                "input": "\\xff",
            }
        ]
        assert it.failures == [(2, "error: ValueError: no")]


@on_loop
async def test_a_line_above_the_limit_is_dead_unread():
    """It is not delivered, and its record has no input."""
    async with link(b"x" * 101, b"1") as it:
        assert it.bodies == [b"1"]
        assert it.portion()[1] == [
            {
                "line": 1,
                "offset": 0,
                "length": 101,
                "reason": "oversized",
                "error": "TooLarge: the line has 101 bytes; max_body allows 100",
                "input": "x" * 101,
            }
        ]


@on_loop
async def test_a_result_with_a_line_break_fails_its_line():
    """None of its results is written, also those before and after."""
    async with link(b"1", b"2") as it:
        it.publish(it.tags[0], b"a", b"b\nc", b"d")
        it.publish(it.tags[1], b"e")
        it.link.ack(1, it.tags[1], multiple=True)
        results, dead = it.portion()
        assert results == [b"e"]
        assert [(each["line"], each["reason"]) for each in dead] == [(1, "unencodable")]


@on_loop
async def test_what_may_have_begun_before_is_marked():
    """Lines that an earlier run may have reached are redeliveries; a mark at the head is left out."""
    async with link(b"\xef\xbb\xbf1", b"2", b"3", begun=2) as it:
        assert [each.redelivered for each in it.sink.deliveries] == [True, True, False]
        assert it.bodies == [b"1", b"2", b"3"]
