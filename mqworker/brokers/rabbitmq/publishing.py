"""The publishing side of a Link: one confirm channel at a time, and every publication without an answer.

Runs on the loop of the Link, as the role of a kept connection. It owns the answers: each publication gets exactly
one of confirmed, refused or (with all others in hand) `publishes_lost`. Confirms of one turn of the loop go up
together; one sweep a second looks at the oldest publication instead of a timer for each.

A broker says "no such exchange" by closing the channel, at the cost of all others in hand. So an exchange is looked
for, and a delay queue made, before the first publication that needs it goes out; publications wait for that in
order. When the broker closes the channel for what one publication is, those that follow go out one at a time until
the culprit is known. So it is when the channel falls silent: one queue that does not answer (a quorum queue without a
leader) keeps all others on the channel waiting. Then its publications are refused here, or delayed over another queue,
and from time to time one of them is sent alone to see whether it answers again.
"""

import asyncio
import contextlib
import itertools
import re
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pika.exceptions
import pika.spec

from mqworker.brokers.base import Publication, Sink, Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost, RawProperties, Silence
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.fast_frames import encode_publish
from mqworker.brokers.rabbitmq.reconnector import SETTLED, wait_before
from mqworker.brokers.rabbitmq.topology import NOT_FOUND, attempt, delay_arguments, delay_queue, ensure_queue
from mqworker.config.model import BrokerConfig

APART = (10.0, 120.0)  # seconds until a queue that did not answer is tried again: at first, at most
FRAME_OVERHEAD = 20  # bytes of a content header frame besides the property block
_TOO_LARGE = re.compile(r"larger than (?:configured )?max size (\d+)")


class _Sent(NamedTuple):
    publish_id: int
    publication: Publication
    at: float


class Publishing:
    """Role of the publishing connection."""

    def __init__(
        self,
        config: BrokerConfig,
        topology: Topology,
        sink: Sink,
        tell: Callable[[str], None],
        missing: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`tell` hears what keeps us from publishing, "" for nothing; `missing` hears that something is not there."""
        self._changed = changed
        self._deadline = config.confirm_deadline
        self._configured = self._largest = config.max_message_size  # bytes
        self._topology = topology
        self._sink = sink
        self._tell = tell
        self._missing = missing
        self._loop = asyncio.get_running_loop()
        self._wire: AmqpConnection | None = None
        self._channel: Channel | None = None
        self._ended = asyncio.Event()
        self._sequence = 0
        self._sent: dict[int, _Sent] = {}  # sequence number on the channel, in order
        self._returned: dict[int, str] = {}
        self._ready: set[str | int] = {"", 0}  # exchanges and delays that exist
        self._held: dict[str | int, list[_Sent]] = {}  # until theirs does
        self._preparing: set[asyncio.Task[None]] = set()
        self._queue: deque[_Sent] = deque()  # while going one at a time
        self._careful = 0  # so many are still to go one at a time
        self._alone = 0  # the sequence number of the one that does
        self._apart: dict[tuple[str, str], tuple[float, float]] = {}  # what does not answer: tried when, and after what
        self._confirmed: list[int] = []

    @property
    def ready(self) -> bool:
        """Whether a publication would go out."""
        return self._channel is not None

    @property
    def blocked(self) -> bool:
        """Whether the broker has an alarm and reads nothing from us."""
        return self._wire is not None and self._wire.blocked

    def give_up(self, reason: str) -> None:
        """End the connection."""
        if self._wire is not None:
            self._wire.abort(reason)

    # -- what the Link says

    def publish(self, publish_id: int, publication: Publication) -> None:
        """Publish, hold until it can be, or refuse."""
        channel, wire = self._channel, self._wire
        if self._apart:
            publication = self._around(publication)
        if channel is None or wire is None or not channel.usable:
            self._sink.refused(publish_id, "not connected to the broker")
        elif len(publication.body) > self._largest:
            size = len(publication.body)
            self._sink.refused(publish_id, f"too large: {size} bytes, the broker takes {self._largest}", too_large=True)
        elif len(publication.properties) + FRAME_OVERHEAD > wire.params.frame_max:
            reason = f"too large: {len(publication.properties)} bytes of properties and headers"
            self._sink.refused(publish_id, reason, too_large=True)
        elif self._apart and self._kept_apart(publication):
            exchange, routing_key = self._target(publication)
            self._sink.refused(
                publish_id, f"no answer from what is behind exchange {exchange!r}, routing key {routing_key!r}"
            )
        else:
            sent = _Sent(publish_id, publication, self._loop.time())
            need = publication.delay or publication.exchange
            if need in self._ready:
                self._send(sent)
            elif need in self._held:
                self._held[need].append(sent)
            else:
                self._held[need] = [sent]
                task = asyncio.create_task(self._prepare(wire, need))
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)

    # -- what the connection says

    async def serve(self, wire: AmqpConnection) -> None:
        """Publish on one channel after the other until the connection ends."""
        failures = 0
        self._largest = self._configured  # a broker that was started again may have another limit
        while True:
            began = self._loop.time()
            self._ended.clear()
            channel = await Channel.open(wire, on_lost=self._lose)
            channel.raw.add_on_return_callback(self._was_returned)
            await channel.ask("confirm_delivery", ack_nack_callback=self._answered)
            self._wire, self._channel, self._sequence = wire, channel, 0
            wire.on_blocked = self._changed
            self._tell("")
            await self._ended.wait()
            failures = 1 if self._loop.time() - began > SETTLED else failures + 1
            await asyncio.sleep(wait_before(failures, refused=False))

    async def ping(self) -> None:
        """Ask for what is already so: confirms on the channel."""
        if self._channel is not None:
            with contextlib.suppress(Lost):
                await self._channel.confirm_again()

    def sweep(self, now: float) -> None:
        """Give the connection up when an answer is overdue; an alarm of the broker does not count."""
        oldest = min((queue.at for queue in self._oldest()), default=now)
        if self._wire is not None and self._wire.waited(oldest, now) > self._deadline:
            self._wire.abort(Silence(f"no confirm within {self._deadline:g} s"))

    def lost(self, reason: str) -> None:
        """The connection is over."""
        for task in self._preparing:
            task.cancel()
        self._lose(Lost(reason))
        self._wire = None

    # -- inside

    def _oldest(self) -> list[_Sent]:
        first = next(iter(self._sent.values()), None)
        return [sent[0] for sent in self._held.values()] + ([first] if first else [])

    def _send(self, sent: _Sent) -> None:
        if self._careful and self._sent:
            self._queue.append(sent)
            return
        publication, channel = sent.publication, self._channel
        assert channel is not None
        exchange, routing_key = self._target(publication)
        try:
            frames = encode_publish(
                channel.number,
                exchange,
                routing_key,
                publication.properties,
                publication.body,
                mandatory=publication.mandatory,
                frame_max=channel.wire.params.frame_max,
            )
        except ValueError as error:
            self._sink.refused(sent.publish_id, f"cannot be published: {error}")
            return
        channel.wire.emit(frames)
        self._sequence += 1
        if self._careful:
            self._alone = self._sequence
            sent = sent._replace(at=self._loop.time())
        self._sent[self._sequence] = sent

    def _answered(self, frame: Any) -> None:
        method, sent = frame.method, self._sent
        numbers = [method.delivery_tag]
        if method.multiple:
            numbers = list(itertools.takewhile(lambda number: number <= method.delivery_tag, sent))
        nacked = isinstance(method, pika.spec.Basic.Nack)
        for number in numbers:
            item = sent.pop(number, None)
            if item is None:
                continue
            if self._apart:
                self._apart.pop(self._target(item.publication), None)
            if nacked:
                self._returned.pop(number, None)
                self._sink.refused(item.publish_id, "nacked: the broker could not store it (queue full or unavailable)")
            elif self._returned and number in self._returned:
                self._sink.refused(item.publish_id, self._returned.pop(number))
            else:
                if not self._confirmed:
                    self._loop.call_soon(self._tell_confirmed)
                self._confirmed.append(item.publish_id)
        if self._careful:
            self._next()

    def _next(self) -> None:
        if self._alone and self._alone not in self._sent:
            self._alone = 0
            self._careful -= 1
        while self._queue and not (self._careful and self._sent):
            self._send(self._queue.popleft())

    def _tell_confirmed(self) -> None:
        if self._confirmed:
            publish_ids, self._confirmed = self._confirmed, []
            self._sink.confirmed(publish_ids)

    def _was_returned(self, _channel: object, method: Any, properties: RawProperties, body: bytes) -> None:
        """Mark the oldest publication that this can be; its confirm follows, and must not count as one."""
        reason = f"returned: {method.reply_text} (exchange {method.exchange!r}, routing key {method.routing_key!r})"
        number = self._find(method, properties.block, body) or self._find(method, None, None)
        if number:
            self._returned[number] = reason
            self._ready.discard(self._sent[number].publication.delay or -1)  # its delay queue is gone
        self._missing()

    def _find(self, method: Any, properties: bytes | None, body: bytes | None) -> int:
        for number, (_, publication, _) in self._sent.items():
            exchange, routing_key = self._target(publication)
            if (
                number not in self._returned
                and publication.mandatory
                and (routing_key, exchange) == (method.routing_key, method.exchange)
                and (body is None or publication.body == body)
                and (properties is None or (publication.properties or b"\0\0") == properties)
            ):
                return number
        return 0

    def _target(self, publication: Publication) -> tuple[str, str]:
        if publication.delay:
            return "", delay_queue(self._topology.input, publication.delay)
        return publication.exchange, publication.routing_key

    def _around(self, publication: Publication) -> Publication:
        """A delay queue that does not answer is passed over: the next one is twice as long."""
        while publication.delay and not self._due(self._target(publication)):
            publication = publication._replace(delay=2 * publication.delay)
        return publication

    def _due(self, target: tuple[str, str]) -> bool:
        return target not in self._apart or self._apart[target][0] <= self._loop.time()

    def _kept_apart(self, publication: Publication) -> bool:
        """Whether it would not be answered; when that is to be tried again it goes out, alone."""
        target = self._target(publication)
        if target not in self._apart:
            return False
        if not self._due(target):
            return True
        wait = self._apart[target][1]
        self._apart[target] = self._loop.time() + wait, wait
        self._careful += 1
        return False

    def _keep_apart(self, target: tuple[str, str]) -> None:
        first, most = APART
        wait = min(most, 2 * self._apart[target][1]) if target in self._apart else first
        self._apart[target] = self._loop.time() + wait, wait

    def _lose(self, lost: Lost) -> None:
        if self._channel is None:
            return
        self._channel = None
        self._ended.set()
        self._tell_confirmed()
        sent, self._sent, self._returned = list(self._sent.values()), {}, {}
        waiting = [item for held in self._held.values() for item in held] + list(self._queue)
        self._held, self._ready = {}, {"", 0}
        self._queue.clear()
        if self._wire is not None and self._wire.usable:
            sent = self._blame(lost, sent)
        elif isinstance(lost, Silence):
            if self._alone:
                self._keep_apart(self._target(sent[0].publication))
            self._careful = len(sent)
        self._alone = 0
        self._tell(f"publishing stopped: {lost}")
        for item in waiting:
            self._sink.refused(item.publish_id, f"not sent: {lost}")
        if sent:
            self._sink.publishes_lost(str(lost))

    def _blame(self, lost: Lost, sent: list[_Sent]) -> list[_Sent]:
        """Refuse what made the broker close the channel, if that can be told; returns the others."""
        if lost.code == NOT_FOUND:
            self._missing()
        limit = _TOO_LARGE.search(str(lost))
        if limit:
            self._largest = min(self._largest, int(limit[1]))
            culprits = [item for item in sent if len(item.publication.body) > self._largest]
        else:
            culprits = sent if len(sent) == 1 else []
            self._careful = 0 if culprits else len(sent)
        for item in culprits:
            self._sink.refused(item.publish_id, f"refused by the broker: {lost}", too_large=limit is not None)
        return [item for item in sent if item not in culprits]

    async def _prepare(self, wire: AmqpConnection, need: str | int) -> None:
        """Look for an exchange or make a delay queue, then let go what waits for it."""
        problem = ""
        try:
            if isinstance(need, int):
                name = delay_queue(self._topology.input, need)
                await ensure_queue(wire, name, delay_arguments(self._topology.input, need))
            else:
                await attempt(wire, "exchange_declare", exchange=need, passive=True)
        except Lost as lost:
            if not wire.usable:
                return  # they are told with all others
            problem = f"returned: {lost}"
            if lost.code == NOT_FOUND:
                self._missing()
        held = self._held.pop(need, [])
        if not problem and held:
            self._ready.add(need)
        for sent in held:
            if problem:
                self._sink.refused(sent.publish_id, problem)
            elif self._channel is not None and self._channel.usable:
                self._send(sent)
            else:
                self._sink.refused(sent.publish_id, "not connected to the broker")
