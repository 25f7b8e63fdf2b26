"""The publishing side of a Link: one confirm channel after another, and an answer for every publication.

Runs on the loop of the Link, as the role of the publishing connection. Each publication gets exactly one answer:
confirmed, refused or (together with all others in progress) `publishes_lost`. Once a second, the age of the oldest one
is checked, which saves a timer for each.

When the broker closes the channel because of one publication, the next ones are sent one at a time until that one is
found. The same happens when the channel falls silent: one queue that does not answer (a quorum queue without a leader)
keeps all others on the channel waiting. Publications to it are then refused here, or take a longer delay queue, and
from time to time one of them is sent alone, to see whether the queue answers again.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from mqworker.amqp.headers import HEADER_FRAME, ROOM
from mqworker.brokers.base import Publication, PublishAnswers, Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, AnswerOverdue, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.destinations import Destination, Pending, Preparation, SilentDestinations, destination
from mqworker.brokers.rabbitmq.queues import NOT_FOUND
from mqworker.brokers.rabbitmq.reconnector import STABLE_AFTER, retry_delay
from mqworker.brokers.rabbitmq.replaced import ReplacedSenders
from mqworker.brokers.rabbitmq.result_route import ResultRoute
from mqworker.brokers.rabbitmq.sender import Sender
from mqworker.config.model import BrokerConfig

NOT_CONNECTED = "not connected to the broker"
_TOO_LARGE = re.compile(r"larger than (?:configured )?max size (\d+)")


class Publishing:
    """Role of the publishing connection."""

    def __init__(
        self,
        config: BrokerConfig,
        topology: Topology,
        sink: PublishAnswers,
        route: ResultRoute,
        report: Callable[[str], None],
        missing: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`route` decides which way results take; `report` is called with what prevents publishing now, "" for nothing.

        `missing` is called when something that a publication needs does not exist, `changed` when the broker blocks us.
        """
        self._deadline = config.confirm_deadline
        self._configured = self._largest = config.max_message_size  # bytes
        self._sink = sink
        self._report = report
        self._missing = missing
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._connection: AmqpConnection | None = None
        self._sender: Sender | None = None
        self._ended = asyncio.Event()  # the sender's channel
        self._renewing = False  # it has not ended, but another one is to replace it
        self._replaced = ReplacedSenders()  # by the present sender
        self._careful = 0  # how many publications the next sender sends one at a time
        self._destination: Callable[[Publication], Destination] = partial(destination, topology.input)
        self._silent = SilentDestinations()
        self._route = route
        self._preparation = Preparation(topology.input, self._send_prepared, self._refuse, missing)

    @property
    def ready(self) -> bool:
        """Whether a publication can be sent now."""
        return self._sender is not None

    @property
    def header_room(self) -> int:
        """How many bytes of properties fit into a header frame of the negotiated size."""
        return ROOM if self._connection is None else min(ROOM, self._connection.params.frame_max - HEADER_FRAME)

    @property
    def delays(self) -> list[int]:
        """The delays, in seconds, whose queues this channel has used."""
        return [need for need in self._preparation.ready if isinstance(need, int) and need]

    @property
    def blocked(self) -> bool:
        """Whether the broker has an alarm and reads nothing from us."""
        return self._connection is not None and self._connection.blocked

    def give_up(self, reason: str) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.abort(reason)

    def publish(self, publish_id: int, publication: Publication, later: float = 0.0) -> None:
        """Send it, keep it until it can be sent, or refuse it; its deadline is `later` seconds later than usual."""
        sender, connection, now = self._sender, self._connection, time.monotonic()  # the loop's clock, too
        size, silent = len(publication.body), self._silent
        if self._route.altered:
            publication = self._route.of(publication)
        if silent.entries:
            publication = self._detour(publication, now)
        if sender is None or connection is None or not sender.channel.usable:
            self._sink.refused(publish_id, NOT_CONNECTED)
        elif size > self._largest:
            reason = f"too large: {size} bytes, the broker takes {self._largest}"
            self._sink.refused(publish_id, reason, too_large=True)
        elif len(publication.properties) + HEADER_FRAME > sender.frame_max:
            reason = f"too large: {len(publication.properties)} bytes of properties and headers"
            self._sink.refused(publish_id, reason, too_large=True)
        elif silent.entries and silent.closed(where := self._destination(publication), now):
            reason = f"no answer for exchange {where[0]!r}, routing key {where[1]!r}"
            self._sink.refused(publish_id, reason)
        else:
            if silent.entries and silent.probe(self._destination(publication), now):
                sender.careful += 1
            pending = Pending(publish_id, publication, now + later)
            need = publication.delay or publication.exchange
            if need in self._preparation.ready:
                sender.send(pending)
            else:
                self._preparation.wait_for(need, connection, pending)

    # -- what the connection calls

    async def serve(self, connection: AmqpConnection) -> None:
        """Publish on one channel after another until the connection ends."""
        failures = 0
        self._largest = self._configured  # a broker that was restarted may have another limit
        while True:
            began = self._loop.time()
            channel = await Channel.open(connection)
            sender = Sender(channel, self._sink, self._silent, self._destination, self._returned)
            channel.on_lost = partial(self._lose, sender)
            await sender.start()
            if self._sender is not None:  # replaced: nothing to report
                self._careful = self._sender.careful
                for pending in self._sender.hand_back():
                    self._refuse(pending, "not sent: the channel was replaced")
                self._replaced.keep(self._sender)
            sender.careful = self._careful
            self._connection, self._sender = connection, sender
            self._ended.clear()
            connection.on_blocked = self._changed
            self._report("")
            self._renewing = False
            await self._ended.wait()
            if self._renewing:
                continue
            failures = 1 if self._loop.time() - began > STABLE_AFTER else failures + 1
            await asyncio.sleep(retry_delay(failures, refused=False))

    async def ping(self) -> None:
        """Make a request that shows whether the broker is alive."""
        if self._sender is not None:
            with contextlib.suppress(Lost):
                await self._sender.channel.ping()

    def check_deadlines(self, now: float) -> None:
        """Abort the connection when an answer is overdue; the time during an alarm does not count."""
        self._replaced.close_answered()
        waiting = self._preparation.oldest + self._replaced.oldest
        waiting += self._sender.oldest if self._sender is not None else []
        if self._connection is not None and self._connection.waited(min(waiting, default=now), now) > self._deadline:
            self._connection.abort(AnswerOverdue(f"no confirm within {self._deadline:g} s"))
        elif self._sender is not None and not self.blocked and not self._renewing and self._sender.worn(now):
            self._renewing = True
            self._ended.set()

    def lost(self, reason: str) -> None:
        """Report all publications without an answer, because the connection has ended."""
        self._preparation.cancel()
        self._lose(self._sender, Lost(f"connection lost: {reason}"))
        self._connection, self._renewing = None, False

    # -- inside

    def _detour(self, publication: Publication, now: float) -> Publication:
        """Avoid a delay queue that does not answer: the next one has twice the delay."""
        while publication.delay and self._silent.closed(self._destination(publication), now):
            publication = replace(publication, delay=2 * publication.delay)
        return publication

    def _send_prepared(self, pending: Pending) -> None:
        if self._sender is not None and self._sender.channel.usable:
            self._sender.send(pending)
        else:
            self._refuse(pending, NOT_CONNECTED)

    def _refuse(self, pending: Pending, reason: str) -> None:
        self._sink.refused(pending.publish_id, reason)

    def _returned(self, publication: Publication | None) -> None:
        if publication is not None and publication.delay:
            self._preparation.ready.discard(publication.delay)  # its delay queue is gone
        elif publication is not None:
            self._route.returned(publication)
        self._missing()

    def _lose(self, sender: Sender | None, lost: Lost) -> None:
        if sender is None or sender is not self._sender:
            return
        self._sender = None
        self._ended.set()
        self._careful = sender.careful
        sent, waiting, alone = sender.abandon()
        waiting = self._preparation.abandon() + waiting
        unanswered = self._replaced.give_up()
        if self._connection is not None and self._connection.usable:
            sent = self._attribute(lost, sent)
        elif isinstance(lost, AnswerOverdue):
            if alone and not unanswered:
                self._silent.add(self._destination(sent[0].publication), self._loop.time())
            self._careful = len(sent) + unanswered
        self._report(f"publishing stopped: {lost}")
        for pending in waiting:
            self._refuse(pending, f"not sent: {lost}")
        if sent or unanswered:
            self._sink.publishes_lost(str(lost))

    def _attribute(self, lost: Lost, sent: list[Pending]) -> list[Pending]:
        """Refuse the publications that made the broker close the channel, if it is clear which; returns the others."""
        if lost.code == NOT_FOUND:
            self._missing()
        limit = _TOO_LARGE.search(str(lost))
        if limit:
            self._largest = min(self._largest, int(limit[1]))
            found = [pending for pending in sent if len(pending.publication.body) > self._largest]
        else:
            found = sent if len(sent) == 1 else []
            self._careful = 0 if found else len(sent)
        for pending in found:
            reason = f"refused by the broker: {lost}"
            self._sink.refused(pending.publish_id, reason, too_large=limit is not None)
        return [pending for pending in sent if pending not in found]
