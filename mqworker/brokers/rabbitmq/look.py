"""Goes through the first messages of a queue, for one request of the Admin: by single fetches, or by a consumer.

Runs on the loop of the broker admin process. Owns the consumer on the Taker's channel, none of the messages: each one
goes to the visitor as it comes, and is kept only while what replaces it is being confirmed. Raises `Lost` with the
channel, `BrokerRefused`, and what the visitor raises.

Fetching costs a round trip for each message, and reorders a quorum queue: there each fetch is a consumer of its own,
and when a channel ends, a queue puts back what its consumers have got in the order of their names as long as they are
few, and in any order if there are more than 32 (3.10.8 and 4.0.5). One consumer costs no round trips and keeps the
order. But it may be sent as many bytes as its prefetch allows before we can say that we want no more. So there are
several, one after the other, each with the messages of about `PORTION` bytes, and never more than MOST of them: of a
queue with more bytes than that each one takes a larger part. Each is cancelled when all of its portion has come, and
only then are messages removed: what makes room for others in a consumer that is cancelled brings them out of order.

A quorum queue also has a place apart for what came back, and puts what comes back later behind that. So a look that
ends early, and puts anything back, goes on without its visitor until a message comes that was never delivered, unless
that takes too much. So the order is kept unless there are more bytes than FINISHING behind the end, or deliveries are
limited. Whoever removes a few at the head is given no more than those, so that removing them one by one stays cheap.

Longer than most modules, because both ways of looking, and why there are two, are to be read together.
"""

import asyncio
import contextlib
import itertools
import math
from collections import deque
from typing import NamedTuple

from mqworker.brokers.base import DROP, STOP, BrokerRefused, Fetched, Moving, Publication, Wanted
from mqworker.brokers.rabbitmq.anchor import unexpected
from mqworker.brokers.rabbitmq.fast_frames import Deliveries
from mqworker.brokers.rabbitmq.queues import queue_status
from mqworker.brokers.rabbitmq.taker import TOGETHER, Removal, Sight, Taker, Unacked

FIRST = 8  # the first consumer's messages: they show how large the others are
PORTION = 32 << 20  # bytes that may be on their way to us, or wait for their confirms
AT_ONCE = 4 << 20  # bytes that are published together
FINISHING = 64 << 20  # bytes that are taken only to keep the order
MOST = 30  # consumers, of which one or two more may finish
LARGEST = 65_535  # AMQP has no larger prefetch; 0 does not mean all to a quorum queue, but 2,000
POLL = 0.01  # seconds between two checks whether our consumers are gone
GONE = 2.0  # seconds after which a consumer that is still there is somebody else's, and so is what is not back
SILENT = 0.5  # seconds without a message after which we ask whether there are any


class Removing(NamedTuple):
    """How messages are removed on the way."""

    most: int  # messages
    together: int  # how many go in one batch, of those that are replaced
    moving: Moving | None  # follows it


class FetchingLook:
    """Fetches the messages one by one."""

    def __init__(
        self, taker: Taker, wanted: Wanted, limit: int, removing: Removing, fetched: Fetched | None = None
    ) -> None:
        self.over = False
        self._taker = taker
        self._wanted = wanted
        self._fetched = fetched if fetched is not None and fetched.most < limit else None
        self._left = limit if self._fetched is None else self._fetched.most  # messages to visit
        self._most = removing.most
        self._together = removing.together
        self._moving = removing.moving
        self._chosen = 0  # how many are to be removed, or are
        self._due: deque[Removal] = deque()

    async def portion(self) -> None:
        """Go on, until it is over or PORTION is taken."""
        taken = 0
        while not self.over and taken < PORTION:
            message = await self._next()
            if message is None:
                self.over = True
                break
            taken += len(message.properties) + len(message.body)
            if removal := self._visit(message):
                self._due.append(removal)
            if len(self._due) >= self._together:
                await self._remove()
        while self._due:
            await self._remove()

    async def finish(self) -> None:
        """Take what has to be taken, too, before the channel closes, and no more."""

    async def gone(self) -> None:
        """Wait until the queue knows that the channel has closed."""

    async def _next(self) -> Unacked | None:
        if self._left > 0:
            return await self._taker.get()
        if self._fetched is not None:  # a quorum queue does not count yet what was taken: only a fetch tells
            self._fetched.more = await self._taker.get() is not None
        return None

    def _visit(self, message: Unacked) -> Removal | None:
        """Show a message; returns what is to be done about it."""
        self._left -= 1
        verdict = self._wanted(message.properties, message.body)
        if verdict is None:
            return None
        if verdict == STOP:
            self.over = True
            return None
        assert isinstance(verdict, Publication) or verdict == DROP
        self._chosen += 1
        self.over = self._chosen >= self._most
        return Removal(message.tag, verdict if isinstance(verdict, Publication) else None)

    async def _remove(self) -> None:
        """Remove the next ones: whoever kills us doubles no more of those that are replaced than go together."""
        dropped = itertools.takewhile(lambda removal: removal.instead is None, itertools.islice(self._due, TOGETHER))
        some = list(dropped) or self._replaced()
        if self._moving is not None and not self._moving.begins(len(some)):
            self.over = True
            self._due.clear()
            self._chosen = self._taker.removed
            return
        for _ in some:
            self._due.popleft()
        before = self._taker.removed
        try:
            await self._taker.remove(some)
        except BrokerRefused:
            self._moved(self._taker.removed - before)
            raise
        self._moved(len(some))
        await asyncio.sleep(0)  # what only drops waits for nothing, and others have a turn too

    def _replaced(self) -> list[Removal]:
        """Return the next ones that are replaced together: few if they are large."""
        some: list[Removal] = []
        size = 0
        for removal in itertools.islice(self._due, self._together):
            size += len(removal.instead.body) if removal.instead is not None else 0
            if some and size > AT_ONCE:
                break
            some.append(removal)
        return some

    def _moved(self, count: int) -> None:
        if self._moving is not None:
            self._moving.moved(count)


class ConsumingLook(FetchingLook):
    """Has a consumer for each portion."""

    def __init__(self, taker: Taker, wanted: Wanted, seen: Sight, limit: int, removing: Removing) -> None:
        super().__init__(taker, wanted, limit, removing)
        self._ready = seen.ready  # all messages, as far as the queue has reported: a quorum queue's count lags
        self._limited = seen.limit is not None
        self._reorders = seen.reorders and not self._limited  # where deliveries are limited, none is spent on order
        self._consumers = 0
        self._tag = ""  # of the present one
        self._came = self._until = 0  # messages; how many there are when the present consumer has all of its portion
        self._bytes = 0
        self._visited = 0  # bytes until the last visit
        self._redelivered = False  # the last one that came
        self._news = asyncio.Event()
        self._failure: Exception | None = None  # of the visitor
        channel, deliveries = taker.channel, taker.channel.connection.deliveries
        deliveries[channel.number] = Deliveries(self._arrived)
        channel.raw.add_on_close_callback(lambda *_: deliveries.pop(channel.number, None))

    async def portion(self) -> None:
        """See `FetchingLook.portion`."""
        try:
            if self._came < self._ready:
                # no more than are to be removed, or as many as have come: those at the head cost no others a delivery
                most = max(self._most - self._chosen, self._came)
                await self._consume(min(self._left, self._ready - self._came, most))
            while not self.over and self._came < self._until:
                if await self._nothing_comes():
                    self.over = True
            if not self.over and self._came >= self._ready:
                await self._count()
            finished = self.over
            await (self.finish() if finished else self._pause())
            while self._due:
                await self._remove()
            if self.over and not finished:  # whoever follows it has ended it
                await self.finish()
        except BaseException:  # also at the deadline
            self.over = True
            self._due.clear()
            self._chosen = self._taker.removed
            raise
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> None:
        """See `FetchingLook.finish`."""
        self.over = True
        await self._pause()
        while self._unfinished() and self._came >= self._until:
            await self._consume(self._ready - self._came)
            await self._pause()

    async def gone(self) -> None:
        """See `FetchingLook.gone`: a queue may have its messages back only after the channel has closed.

        Until then a quorum queue counts our consumers that have messages, cancelled or not, and a classic one does not
        count what it had given to a consumer that was cancelled: the next look would find it empty.
        """
        connection, loop = self._taker.channel.connection, asyncio.get_running_loop()
        back, until = self._came - self._taker.removed, loop.time() + GONE
        while connection.usable and loop.time() < until:
            status = await queue_status(connection, self._taker.queue)
            if status is None or (not status.consumer_count and status.message_count >= back):
                break
            await asyncio.sleep(POLL)

    async def _pause(self) -> None:
        """Cancel the consumer, if all that it may get has come: what is on its way then would go back at once.

        So it would get before all that we have. Where that could drop it, it is waited for, and what makes room for
        more may come only then.
        """
        while self._tag and self._came < self._until and (self._limited or self._unfinished()):
            if await self._nothing_comes():
                break
        if self._tag and (self._limited or self._came >= self._until):
            await self._taker.channel.cancel(self._tag)
            self._tag = ""

    def _unfinished(self) -> bool:
        """Whether messages that were looked at before may be left in the queue, and are few enough to take, too."""
        some = self._redelivered and self._chosen < self._came < self._ready
        return self._reorders and some and self._bytes - self._visited < FINISHING

    async def _consume(self, left: int) -> None:
        channel, queue = self._taker.channel, self._taker.queue
        prefetch = portion_size(left, MOST - self._consumers, self._came, self._bytes)
        self._until = self._came + prefetch
        self._consumers += 1
        self._tag = f"look-{self._consumers:02}"  # the names are sorted
        await channel.ask("basic_qos", prefetch_count=prefetch)
        await channel.ask("basic_consume", queue=queue, on_message_callback=unexpected, consumer_tag=self._tag)
        channel.forget_consumer(self._tag)  # pika would cancel it before the channel closes; see `pause`

    def _arrived(
        self, tag: int, redelivered: bool, _exchange: str, _routing_key: str, properties: bytes, body: bytes
    ) -> None:
        self._came += 1
        self._bytes += len(properties) + len(body)
        self._redelivered = redelivered
        message = self._taker.took(Unacked(tag, properties, body))
        if not self.over:
            self._visited = self._bytes
            try:
                removal = self._visit(message)
            except Exception as error:  # noqa: BLE001 - it is the request's, not the connection's
                self._failure, removal = error, None
            if removal is not None:
                self._due.append(removal)
            self.over = self.over or self._left <= 0 or self._failure is not None
        self._news.set()

    async def _count(self) -> None:
        """Ask whether there are more than the queue has reported, besides our copies; without any, this is over."""
        more = max(0, await self._waiting() - self._taker.copied)
        self._ready = self._came + more
        self.over = not more

    async def _waiting(self) -> int:
        """Return how many are ready; BrokerRefused if the queue is gone."""
        status = await queue_status(self._taker.channel.connection, self._taker.queue)
        if status is None:
            raise BrokerRefused(f"queue {self._taker.queue!r} is gone")
        return int(status.message_count)

    async def _nothing_comes(self) -> bool:
        """Wait for the next message; returns whether there is none."""
        came = self._came
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENT):
                await self._news.wait()
                return False
        if await self._waiting():
            return False
        # For no consumer; what the queue has given comes before the answer.
        await self._taker.channel.ask("basic_qos", prefetch_count=1)
        return self._came == came


def portion_size(left: int, consumers: int, came: int, size: int) -> int:
    """Return how many of `left` messages the next of so many `consumers` gets, when `came` ones had `size` bytes."""
    if not came:
        return max(1, min(left, FIRST))
    fitting = PORTION * came // max(1, size)
    return max(1, min(left, LARGEST, max(fitting, math.ceil(left / max(1, consumers)))))


def look_at(
    taker: Taker, wanted: Wanted, seen: Sight, limit: int, removing: Removing, *, singly: bool, fetched: Fetched | None
) -> FetchingLook:
    """Return how to go through at most `limit` messages; a consumer goes through those that are there now.

    `fetched` limits it where they have to be fetched one by one, however many there are.
    """
    if seen.consumable and seen.ready and not singly:
        return ConsumingLook(taker, wanted, seen, limit, removing)
    return FetchingLook(taker, wanted, limit, removing, None if seen.consumable else fetched)
