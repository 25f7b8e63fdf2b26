"""Keeps a connection open: opens it, lets its owner use it, and opens it again when it ends.

Runs as one task on the loop of its owner. There are four steps: wait (full jitter), open (bounded), serve (the owner's
coroutine, while the deadlines of answers are checked), end; an error at any step leads to the end, and from there to
the wait. If there are several hosts, each attempt takes the next one. Of the owner (`Role`), `serve` is called for each
new connection, and `lost` once for each connection that was served.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any, Protocol

from mqworker.brokers.rabbitmq.address import explain, parameters, refused
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection
from mqworker.config.model import BrokerConfig

CONNECT_DEADLINE = 5.0  # seconds for name lookup, TCP, TLS and login together
PING_EVERY = 4.0  # seconds between cheap requests, which show within 13 s whether a broker is frozen
STABLE_AFTER = 2.0  # seconds after which a session counts as good, so that delays start small again
FIRST_DELAY, LONGEST_DELAY, REFUSED_DELAY = 1.0, 30.0, 5.0


def retry_delay(failures: int, *, refused: bool) -> float:
    """Return how many seconds to wait after that many failures in a row: full jitter up to a bound that doubles.

    A refused login waits longer: some directories behind a broker lock an account after too many attempts.
    """
    floor, first = (REFUSED_DELAY, 2 * REFUSED_DELAY) if refused else (0.1, FIRST_DELAY)
    bound = min(LONGEST_DELAY, first * 2 ** min(failures - 1, 10))
    return random.uniform(floor, bound)  # noqa: S311 - jitter, no secret


class Role(Protocol):
    """What a connection is used for."""

    async def serve(self, connection: AmqpConnection) -> None:
        """Use the connection until it ends; an exception ends it."""

    async def ping(self) -> None:
        """Make a cheap request."""

    def check_deadlines(self, now: float) -> None:
        """Check the role's own deadlines (loop time); called once a second."""

    def lost(self, reason: str) -> None:
        """Give up what belongs to the served connection, because it has ended for this reason."""


class Reconnector:
    """Keeps one connection open for a role."""

    def __init__(self, config: BrokerConfig, name: str, role: Role, report: Callable[[str], None]) -> None:
        """`report` is called with one sentence that says why there is no connection now."""
        self._config = config
        self._name = name
        self._role = role
        self._report = report
        self._connection: AmqpConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._skip_delay = asyncio.Event()
        self._skipped = False  # whether a delay was skipped since the last good session
        self._given_up = False
        self.on_open: Callable[[], None] = lambda: None
        self.opened = 0  # how many times a connection was opened

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._keep(), name=f"{self._name}: connection")

    def retry_now(self) -> None:
        """Skip the present delay, because the broker has just accepted another connection of ours.

        Only once for each good session: otherwise two connections that open and end at once would make each other
        reconnect without a pause.
        """
        if not self._skipped:
            self._skipped = True
            self._skip_delay.set()

    def give_up(self) -> None:
        """Make no further connection once the present one has ended."""
        self._given_up = True

    async def close(self, deadline: float) -> None:
        """End for good within `deadline` seconds."""
        connection = self._connection
        if connection is not None:
            await connection.shutdown(deadline)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        urls, failures = itertools.cycle(self._config.urls), 0
        while True:
            url = next(urls)  # also after a good connection: its host may be the one that has died
            began = loop.time()
            error: BaseException
            try:
                connection = await AmqpConnection.open(parameters(url, self._config, self._name), CONNECT_DEADLINE)
            except Exception as caught:  # noqa: BLE001 - whatever it is, the next attempt may succeed
                error = caught
            else:
                self.opened += 1
                self._connection = connection
                self.on_open()
                error = await self._session(connection)
                if loop.time() - began > STABLE_AFTER:
                    failures, self._skipped = 0, False
            if self._given_up:
                return
            failures += 1
            self._report(explain(error, url))
            await self._wait(retry_delay(failures, refused=refused(error)))

    async def _wait(self, seconds: float) -> None:
        self._skip_delay.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._skip_delay.wait()

    async def _session(self, connection: AmqpConnection) -> BaseException:
        """Let the role use a connection until it ends; returns why it ended."""
        tasks = [asyncio.create_task(self._role.serve(connection)), asyncio.create_task(self._watch(connection))]
        try:
            futures: list[asyncio.Future[Any]] = [connection.closed, *tasks]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            failed = next((task.exception() for task in tasks if task.done() and task.exception()), None)
            alive = not connection.closed.done()
            connection.abort(str(failed or ""))
            ended = await connection.closed
            return failed if failed is not None and alive else ended  # a later failure is caused by the end
        finally:
            await _end(*tasks)
            connection.abort("given up")
            self._connection = None
            self._role.lost(str(connection.closed.result()) if connection.closed.done() else "closed")

    async def _watch(self, connection: AmqpConnection) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.time()  # at once: a queue may be about to expire, and this connection may not last long
        ping: asyncio.Task[None] | None = None
        try:
            while True:
                now = loop.time()
                connection.check_deadlines(now)
                self._role.check_deadlines(now)
                if now >= next_ping and not connection.blocked and (ping is None or ping.done()):
                    next_ping = now + PING_EVERY
                    ping = asyncio.create_task(self._role.ping())
                await asyncio.sleep(1)
        finally:
            if ping is not None:
                await _end(ping)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
