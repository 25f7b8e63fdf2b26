"""Goes through the first messages of a queue for one request of the Admin, with single fetches or with consumers.

Runs on the loop of the broker admin process. Owns the consumer on the Taker's channel, but none of the messages: each
one is passed to the visitor (`wanted`) when it arrives, and is kept only while its replacement is being confirmed.
Raises `Lost` when the channel ends, `BrokerRefused`, and whatever the visitor raises.

Fetching costs a round trip for each message, and reorders a quorum queue: for the queue, each fetch is a consumer of
its own, and when a channel ends, it puts back what the consumers had in the order of their names if there are few, and
in any order if there are more than 32 (3.10.8 and 4.0.5). One consumer costs no round trips and keeps the order. But
the broker may send as many bytes as its prefetch allows before we can say that we want no more. So there are several
consumers, one after another, each with messages of about `PORTION` bytes, but never more than MOST consumers: in a
longer queue, each takes a larger portion. Each one is cancelled when its whole portion has arrived, and only then are
messages removed: removing messages makes room in the prefetch of a consumer, and if it is cancelled then, the messages
that follow come out of order.

A quorum queue also keeps returned messages apart, and puts those that are returned later behind them. So a look that
ends early and puts anything back goes on without its visitor until a message arrives that was never delivered before,
unless that takes too many bytes. So the order is kept unless there are more than FINISHING bytes of such messages after
the end, or deliveries are limited. A look that removes a few messages at the head is given no more than those, so that
removing them one by one stays cheap.

Longer than most modules, because both ways of looking, and the reasons for having two, should be read together.
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

FIRST = 8  # messages of the first consumer, which show how large messages are
PORTION = 32 << 20  # bytes that may be on their way to us or waiting for their confirms
AT_ONCE = 4 << 20  # bytes that are published together
FINISHING = 64 << 20  # bytes that are taken only to keep the order
MOST = 30  # consumers; to finish a look, there may be one or two more
LARGEST = 65_535  # AMQP has no larger prefetch; to a quorum queue, 0 means 2,000, not all
POLL = 0.01  # seconds between two checks whether our consumers are gone
GONE = 2.0  # seconds after which remaining consumers, and missing messages, are taken to be somebody else's
SILENT = 0.5  # seconds without a message after which we ask whether there are any


class Removing(NamedTuple):
    """How messages are removed during a look."""

    most: int  # messages
    together: int  # how many replaced messages go in one batch
    moving: Moving | None  # follows the removals


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
        self._chosen = 0  # how many were chosen to be removed, including those removed already
        self._due: deque[Removal] = deque()

    async def portion(self) -> None:
        """Go on until the look is over or PORTION bytes have been taken."""
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
        """Take what else must be taken before the channel closes, and nothing more."""

    async def gone(self) -> None:
        """Wait until the queue has noticed that the channel is closed."""

    async def _next(self) -> Unacked | None:
        if self._left > 0:
            return await self._taker.get()
        if self._fetched is not None:  # a quorum queue's count lags behind: only a fetch shows whether there is more
            self._fetched.more = await self._taker.get() is not None
        return None

    def _visit(self, message: Unacked) -> Removal | None:
        """Show a message to the visitor; returns the removal that it asks for, or None."""
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
        """Remove the next ones; if we are killed, at most the replaced ones of this batch are in both queues."""
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
        await asyncio.sleep(0)  # dropping waits for nothing, so give other tasks a turn

    def _replaced(self) -> list[Removal]:
        """Return the next ones that are replaced together: fewer if they are large."""
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
    """Uses a consumer for each portion."""

    def __init__(self, taker: Taker, wanted: Wanted, seen: Sight, limit: int, removing: Removing) -> None:
        super().__init__(taker, wanted, limit, removing)
        self._ready = seen.ready  # all messages, as the queue has reported them: a quorum queue's count lags behind
        self._limited = seen.limit is not None
        self._reorders = seen.reorders and not self._limited  # where deliveries are limited, none is spent on the order
        self._consumers = 0
        self._tag = ""  # of the present one
        self._came = self._until = 0  # messages so far; messages when the present consumer has its whole portion
        self._bytes = 0
        self._visited = 0  # bytes up to the last visit
        self._redelivered = False  # whether the last message was a redelivery
        self._news = asyncio.Event()
        self._failure: Exception | None = None  # of the visitor
        channel, deliveries = taker.channel, taker.channel.connection.deliveries
        deliveries[channel.number] = Deliveries(self._arrived)
        channel.raw.add_on_close_callback(lambda *_: deliveries.pop(channel.number, None))

    async def portion(self) -> None:
        """See `FetchingLook.portion`."""
        try:
            if self._came < self._ready:
                # no more than are to be removed, or than have come so far: a few at the head must not cost others a
                # delivery
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
            if self.over and not finished:  # `moving` has ended it
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
        """See `FetchingLook.gone`: a queue may get its messages back only some time after the channel has closed.

        Until then, a quorum queue counts our consumers that have messages, cancelled or not, and a classic queue does
        not count what it had sent to a cancelled consumer: the next look would find it empty.
        """
        connection, loop = self._taker.channel.connection, asyncio.get_running_loop()
        back, until = self._came - self._taker.removed, loop.time() + GONE
        while connection.usable and loop.time() < until:
            status = await queue_status(connection, self._taker.queue)
            if status is None or (not status.consumer_count and status.message_count >= back):
                break
            await asyncio.sleep(POLL)

    async def _pause(self) -> None:
        """Cancel the consumer once all that it may get has arrived: what is still on its way would go back at once.

        It would then be placed before everything that we have. Where that must not happen, wait for it first; only then
        may removals make room for more.
        """
        while self._tag and self._came < self._until and (self._limited or self._unfinished()):
            if await self._nothing_comes():
                break
        if self._tag and (self._limited or self._came >= self._until):
            await self._taker.channel.cancel(self._tag)
            self._tag = ""

    def _unfinished(self) -> bool:
        """Whether messages from earlier looks may be left in the queue, few enough to be taken too."""
        some = self._redelivered and self._chosen < self._came < self._ready
        return self._reorders and some and self._bytes - self._visited < FINISHING

    async def _consume(self, left: int) -> None:
        channel, queue = self._taker.channel, self._taker.queue
        prefetch = portion_size(left, MOST - self._consumers, self._came, self._bytes)
        self._until = self._came + prefetch
        self._consumers += 1
        self._tag = f"look-{self._consumers:02}"  # the queue sorts the names
        await channel.ask("basic_qos", prefetch_count=prefetch)
        await channel.ask("basic_consume", queue=queue, on_message_callback=unexpected, consumer_tag=self._tag)
        channel.forget_consumer(self._tag)  # pika would cancel it before it closes the channel; see `_pause`

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
            except Exception as error:  # noqa: BLE001 - it belongs to the request, not to the connection
                self._failure, removal = error, None
            if removal is not None:
                self._due.append(removal)
            self.over = self.over or self._left <= 0 or self._failure is not None
        self._news.set()

    async def _count(self) -> None:
        """Ask whether there are more messages than reported so far, apart from our copies; if not, the look is over."""
        more = max(0, await self._waiting() - self._taker.copied)
        self._ready = self._came + more
        self.over = not more

    async def _waiting(self) -> int:
        """Return how many messages are ready; raises BrokerRefused if the queue is gone."""
        status = await queue_status(self._taker.channel.connection, self._taker.queue)
        if status is None:
            raise BrokerRefused(f"queue {self._taker.queue!r} is gone")
        return int(status.message_count)

    async def _nothing_comes(self) -> bool:
        """Wait for the next message; returns True if there is none."""
        came = self._came
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENT):
                await self._news.wait()
                return False
        if await self._waiting():
            return False
        # Changes no consumer; what the queue has sent arrives before the answer.
        await self._taker.channel.ask("basic_qos", prefetch_count=1)
        return self._came == came


def portion_size(left: int, consumers: int, came: int, size: int) -> int:
    """Return how many of `left` messages the next of `consumers` gets, if the `came` ones so far had `size` bytes."""
    if not came:
        return max(1, min(left, FIRST))
    fitting = PORTION * came // max(1, size)
    return max(1, min(left, LARGEST, max(fitting, math.ceil(left / max(1, consumers)))))


def look_at(
    taker: Taker, wanted: Wanted, seen: Sight, limit: int, removing: Removing, *, singly: bool, fetched: Fetched | None
) -> FetchingLook:
    """Return a look at up to `limit` messages; one with consumers goes through those that are there now.

    `fetched` limits the look where messages have to be fetched one by one because a consumer would do harm.
    """
    if seen.consumable and seen.ready and not singly:
        return ConsumingLook(taker, wanted, seen, limit, removing)
    return FetchingLook(taker, wanted, limit, removing, None if seen.consumable else fetched)
