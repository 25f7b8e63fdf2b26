"""Where publications go on RabbitMQ, what must exist before they are sent, and which destinations do not answer.

Runs on the loop of the Link, for the publishing side. A broker reports "no such exchange" by closing the channel, and
everything in progress on it is lost. So an exchange is looked up, and a delay queue declared, before the first
publication that needs it is sent; publications wait for that in order (`Preparation`). A destination that did not
answer is tried again after a wait, which doubles each time (`SilentDestinations`).
"""

import asyncio
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from mqworker.brokers.base import Publication
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.queues import (
    NOT_FOUND,
    YOUNG,
    attempt,
    delay_arguments,
    delay_queue,
    ensure_queue,
    queue_arguments,
)

Destination = tuple[str, str]  # exchange and routing key; a plain tuple, because one is made for each publication
RETRY_SILENT = (10.0, 120.0)  # seconds until a silent destination is tried again: the first wait, the longest wait


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A publication without an answer, and the time from which its deadline runs (loop time)."""

    publish_id: int
    publication: Publication
    since: float


def destination(input_queue: str, publication: Publication) -> Destination:
    """Return where a publication goes: with a delay, to one of the delay queues of the input queue."""
    if publication.delay:
        return "", delay_queue(input_queue, publication.delay)
    return publication.exchange, publication.routing_key


class SilentDestinations:
    """Destinations that did not answer: when each is tried again, and how long the next wait is."""

    def __init__(self) -> None:
        self.entries: dict[Destination, tuple[float, float]] = {}

    def closed(self, where: Destination, now: float) -> bool:
        """Return whether publishing to it is suspended now."""
        return where in self.entries and self.entries[where][0] > now

    def probe(self, where: Destination, now: float) -> bool:
        """Return whether one publication should now test if it answers again; meanwhile no other is sent."""
        if where not in self.entries:
            return False
        wait = self.entries[where][1]
        self.entries[where] = now + wait, wait
        return True

    def add(self, where: Destination, now: float) -> None:
        """Suspend publishing to it, for twice as long as the last time."""
        first, longest = RETRY_SILENT
        wait = min(longest, 2 * self.entries[where][1]) if where in self.entries else first
        self.entries[where] = now + wait, wait

    def remove(self, where: Destination) -> None:
        """Resume publishing to it: it has answered."""
        self.entries.pop(where, None)


class Preparation:
    """Exchanges and delay queues that publications need, by name or by delay in seconds."""

    def __init__(
        self,
        input_queue: str,
        send: Callable[[Pending], None],
        refuse: Callable[[Pending, str], None],
        missing: Callable[[], None],
    ) -> None:
        """`send` receives each waiting publication once what it needs exists.

        If that fails, `refuse` receives the publication instead; `missing` is called if what it needs does not exist.
        """
        self._input = input_queue
        self._send = send
        self._refuse = refuse
        self._missing = missing
        self._waiting: dict[str | int, list[Pending]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._young: dict[int, float] = {}  # delays whose queues are new -> until when they count as new (loop time)
        self.ready: set[str | int] = {"", 0}  # known to exist

    @property
    def oldest(self) -> list[float]:
        """For each need, the time since which its oldest publication has been waiting for an answer of the broker."""
        return [waiting[0].since for need, waiting in self._waiting.items() if need not in self._young]

    def wait_for(self, need: str | int, connection: AmqpConnection, pending: Pending) -> None:
        """Send this publication once an exchange or a delay queue exists."""
        if need in self._waiting:
            self._waiting[need].append(pending)
            return
        self._waiting[need] = [pending]
        task = asyncio.create_task(self._prepare(need, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abandon(self) -> list[Pending]:
        """Forget what is known to exist, and return the waiting publications: the channel has ended."""
        waiting = [pending for each in self._waiting.values() for pending in each]
        self._waiting, self.ready = {}, {"", 0}
        return waiting

    def cancel(self) -> None:
        """Stop asking: the connection has ended."""
        for task in self._tasks:
            task.cancel()

    async def _prepare(self, need: str | int, connection: AmqpConnection) -> None:
        problem = ""
        try:
            if isinstance(need, int):
                arguments = queue_arguments(connection, "quorum") | delay_arguments(self._input, need)
                if (await ensure_queue(connection, delay_queue(self._input, need), arguments)).made:
                    self._young[need] = asyncio.get_running_loop().time() + YOUNG
                await self._wait_out(need)
            else:
                await attempt(connection, "exchange_declare", exchange=need, passive=True)
        except Lost as lost:
            if not connection.usable:
                return  # `abandon` has returned the waiting publications
            problem = f"returned: {lost}"
            if lost.code == NOT_FOUND:
                self._missing()
        waiting, now = self._waiting.pop(need, []), asyncio.get_running_loop().time()
        if not problem and waiting:
            self.ready.add(need)
        for pending in waiting:
            if problem:
                self._refuse(pending, problem)
            else:
                self._send(replace(pending, since=max(now, pending.since)))

    async def _wait_out(self, delay: int) -> None:
        """Wait while a queue is young, even if it was made for another channel, which has ended in the meantime."""
        if delay in self._young:
            await asyncio.sleep(max(0.0, self._young[delay] - asyncio.get_running_loop().time()))
            self._young.pop(delay, None)
