"""One confirm channel: sends publications and matches the broker's answers with them.

Runs on the loop of the Link; made by `publishing` for each channel. Owns the publications without an answer. Each is
reported to the Sink once, by `confirmed` (one call for all in a turn of the loop) or `refused`, unless the channel ends
first.

While the sender is careful, it sends publications one at a time, each after the answer to the previous one: if the
channel ends then, it is known which publication ended it.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pika.spec
from msgspec.structs import replace

from mqworker.brokers.base import Publication, PublishAnswers
from mqworker.brokers.rabbitmq.amqp_connection import RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.destinations import Destination, Pending, SilentDestinations
from mqworker.brokers.rabbitmq.fast_frames import PIECE, encode_in_pieces, encode_publish
from mqworker.ipc.turn_end import TurnEnd

# A channel of RabbitMQ 3.10 whose first publication to a quorum queue is made while the queue's leader is down may go
# on asking that member, and refuse everything, for as long as the leader's node is down. Another channel works then.
RENEW_AFTER = 15.0  # seconds in which one destination only nacks
FORGET = 60.0  # seconds without publications to a destination after its last nack
LARGE = PIECE  # bytes of a body above which its frames are made and written gradually


class Abandoned(NamedTuple):
    """What a channel leaves behind when it ends."""

    sent: list[Pending]  # in the order of sending; the broker may or may not have stored them
    waiting: list[Pending]  # never sent
    alone: bool  # `sent` is one publication, which went out alone


class Sender:
    """See the module head."""

    def __init__(
        self,
        channel: Channel,
        sink: PublishAnswers,
        silent: SilentDestinations,
        destination: Callable[[Publication], Destination],
        returned: Callable[[Publication | None], None],
    ) -> None:
        """`returned` receives each publication that had no route (None: unknown which)."""
        self.channel = channel
        self.frame_max = int(channel.connection.params.frame_max)  # as was negotiated
        self.careful = 0  # how many are sent one at a time
        self._number = channel.number
        self._send_frames = channel.connection.send_frames
        self._sink = sink
        self._silent = silent
        self._destination = destination
        self._returned_to = returned
        self._loop = asyncio.get_running_loop()
        self._turn_end = TurnEnd.of(self._loop)
        self._sequence = 0
        self._sent: dict[int, Pending] = {}  # by sequence number on the channel, in order
        self._returned: dict[int, str] = {}  # sequence number -> why it was returned; its confirm follows
        self._last_returned = 0  # the next one is later: a channel returns in the order of sending
        # Since when a destination has refused everything, and when it last did (loop time).
        self._nacked: dict[Destination, tuple[float, float]] = {}
        self._waiting: deque[Pending] = deque()
        self._alone = 0  # the sequence number of the publication sent alone
        self._confirmed: list[int] = []  # not reported yet
        channel.raw.add_on_return_callback(self._on_return)

    async def start(self) -> None:
        """Ask for confirms; raises Lost."""
        await self.channel.ask("confirm_delivery", ack_nack_callback=self._on_answer)

    @property
    def oldest(self) -> list[float]:
        """The time since which the oldest publication has been waiting for its answer; empty when none is."""
        return [pending.since for pending in itertools.islice(self._sent.values(), 1)]

    @property
    def unanswered(self) -> int:
        """How many publications wait for their answer."""
        return len(self._sent)

    def worn(self, now: float) -> bool:
        """Whether another channel should take over (see RENEW_AFTER); not while looking for the silent destination."""
        if self.careful:
            return False
        for where in [where for where, (_, last) in self._nacked.items() if last < now - FORGET]:
            del self._nacked[where]  # nothing is sent there any more
        return min((first for first, _ in self._nacked.values()), default=now) <= now - RENEW_AFTER

    def send(self, pending: Pending) -> None:
        """Send it, or keep it until the previous one has its answer."""
        if self.careful and self._sent:
            self._waiting.append(pending)
            return
        publication = pending.publication
        exchange, routing_key = self._destination(publication)
        message = self._number, exchange, routing_key, publication.properties, publication.body
        mandatory, most = publication.mandatory, self.frame_max
        try:
            if len(publication.body) <= LARGE:
                self._send_frames(encode_publish(*message, mandatory=mandatory, frame_max=most))
            else:
                pieces = encode_in_pieces(*message, mandatory=mandatory, frame_max=most)
                self.channel.connection.send_gradually(pieces)
        except ValueError as error:
            self._sink.refused(pending.publish_id, f"cannot be published: {error}")
            return
        self._sequence += 1
        if self.careful:
            self._alone = self._sequence
            pending = replace(pending, since=self._loop.time())
        self._sent[self._sequence] = pending

    def hand_back(self) -> list[Pending]:
        """Return the publications that were never sent: another channel takes over; this one only gets answers."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self.careful = 0
        return waiting

    def end(self) -> None:
        """Close the channel, and forget what it has not answered."""
        self.channel.on_lost = lambda _: None
        self.abandon()
        self.channel.close()

    def abandon(self) -> Abandoned:
        """Return the publications without an answer, because the channel has ended."""
        self._pass_on_confirmed()
        left = Abandoned(list(self._sent.values()), list(self._waiting), bool(self._alone))
        self._sent.clear()
        self._waiting.clear()
        return left

    # -- inside

    def _on_answer(self, frame: Any) -> None:
        method, sent = frame.method, self._sent
        numbers = [method.delivery_tag]
        if method.multiple:
            numbers = list(itertools.takewhile(method.delivery_tag.__ge__, sent))
        nacked = isinstance(method, pika.spec.Basic.Nack)
        for number in numbers:
            pending = sent.pop(number, None)
            if pending is None:
                continue
            if self._silent.entries:
                self._silent.remove(self._destination(pending.publication))
            if nacked:
                where, now = self._destination(pending.publication), self._loop.time()
                self._nacked[where] = self._nacked.get(where, (now, now))[0], now
                self._returned.pop(number, None)
                reason = "nacked: the broker could not store it (queue full or unavailable)"
                self._sink.refused(pending.publish_id, reason)
            elif self._returned and number in self._returned:
                self._sink.refused(pending.publish_id, self._returned.pop(number))
            else:
                if self._nacked:
                    self._nacked.pop(self._destination(pending.publication), None)
                if not self._confirmed:
                    self._turn_end.soon(self._pass_on_confirmed)
                self._confirmed.append(pending.publish_id)
        if self.careful:
            self._send_next()

    def _send_next(self) -> None:
        if self._alone and self._alone not in self._sent:
            self._alone = 0
            self.careful -= 1
        while self._waiting and not (self.careful and self._sent):
            self.send(self._waiting.popleft())

    def _pass_on_confirmed(self) -> None:
        if self._confirmed:
            publish_ids, self._confirmed = self._confirmed, []
            self._sink.confirmed(publish_ids)

    def _on_return(self, _channel: object, method: Any, properties: RawProperties, body: bytes) -> None:
        """Note that the oldest matching publication had no route: its confirm must not count."""
        reason = f"returned: {method.reply_text} (exchange {method.exchange!r}, routing key {method.routing_key!r})"
        number = self._find(method, properties.block, body) or self._find(method, None, None)
        if number:
            self._returned[number] = reason
            self._last_returned = number
        self._returned_to(self._sent[number].publication if number else None)

    def _find(self, method: Any, properties: bytes | None, body: bytes | None) -> int:
        if not self._sent:
            return 0
        where = (method.exchange, method.routing_key)
        first = next(iter(self._sent), 1)
        after = max(self._last_returned + 1, first)
        for number in itertools.chain(range(after, self._sequence + 1), range(first, after)):
            if number not in self._sent or number in self._returned:
                continue
            publication = self._sent[number].publication
            if (
                publication.mandatory
                and self._destination(publication) == where
                and (body is None or publication.body == body)
                and (properties is None or (publication.properties or b"\0\0") == properties)
            ):
                return number
        return 0
