"""A connection that is kept: opened, used, and opened again for ever.

Runs as one task on the loop of its owner. The state machine has four steps: wait (full jitter), open (bounded),
serve (the owner's coroutine, while answers are watched), end; any error at any step leads to the end and from there
to the wait. The owner (`Role`) is called: `serve` for each new AmqpConnection, `lost` once for each that was served.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Protocol

from mqworker.brokers.rabbitmq.address import explain, parameters, refused
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection
from mqworker.config.model import BrokerConfig

CONNECT_DEADLINE = 5.0  # seconds for name look-up, TCP, TLS and login together
PING_EVERY = 4.0  # seconds between cheap requests: with the deadline of an answer a frozen broker shows within 13 s
SETTLED = 2.0  # seconds after which a session counts as good and the waits start small again
FIRST_WAIT, LONGEST_WAIT, REFUSED_WAIT = 1.0, 30.0, 5.0


def wait_before(failures: int, *, refused: bool) -> float:
    """Return the seconds to wait after so many failures in a row: full jitter between a floor and a doubling bound.

    A refused login waits longer: some directories behind a broker lock an account that is tried too often.
    """
    floor, first = (REFUSED_WAIT, 2 * REFUSED_WAIT) if refused else (0.1, FIRST_WAIT)
    return random.uniform(floor, min(LONGEST_WAIT, first * 2 ** min(failures - 1, 10)))  # noqa: S311 - jitter, no secret


class Role(Protocol):
    """What a kept connection is for."""

    async def serve(self, wire: AmqpConnection) -> None:
        """Use the connection until it ends; an exception ends it."""

    async def ping(self) -> None:
        """Make a cheap request."""

    def sweep(self, now: float) -> None:
        """Look at deadlines (loop time), once a second."""

    def lost(self, reason: str) -> None:
        """The connection that was served is over."""


class Reconnector:
    """Keeps one connection for a role."""

    def __init__(self, config: BrokerConfig, name: str, role: Role, tell: Callable[[str], None]) -> None:
        """`tell` hears in one sentence why there is no connection now."""
        self._config = config
        self._name = name
        self._role = role
        self._tell = tell
        self._wire: AmqpConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._hurried = False  # since the last good session
        self.on_open: Callable[[], None] = lambda: None
        self.opened = 0  # how many times

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._keep(), name=f"{self._name}: connection")

    def hurry(self) -> None:
        """Try at once if it waits, for the broker was just seen to take connections.

        Once for each good session: else two that open and end at once would hurry each other on without a pause.
        """
        if not self._hurried:
            self._hurried = True
            self._hurry.set()

    async def close(self, deadline: float) -> None:
        """End for good within `deadline` seconds."""
        wire = self._wire
        if wire is not None:
            await wire.shut(deadline)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        urls, failures = self._config.urls, 0
        while True:
            url = urls[failures % len(urls)]
            began = loop.time()
            error: BaseException
            try:
                wire = await AmqpConnection.open(parameters(url, self._config, self._name), CONNECT_DEADLINE)
            except Exception as caught:  # noqa: BLE001 - whatever it is, the next attempt may do better
                error, reason = caught, explain(caught, url)
            else:
                self.opened += 1
                self._wire = wire
                self.on_open()
                error, reason = await self._session(wire, url)
                if loop.time() - began > SETTLED:
                    failures, self._hurried = 0, False
            failures += 1
            self._tell(reason)
            await self._wait(wait_before(failures, refused=refused(error)))

    async def _wait(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _session(self, wire: AmqpConnection, url: str) -> tuple[BaseException, str]:
        tasks = [asyncio.create_task(self._role.serve(wire)), asyncio.create_task(self._watch(wire))]
        try:
            futures: list[asyncio.Future[Any]] = [wire.closed, *tasks]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            wire.abort(next((str(task.exception()) for task in tasks if task.done()), ""))
            error = await wire.closed
        finally:
            await _end(*tasks)
            wire.abort("given up")
            self._wire = None
            self._role.lost(f"connection lost: {wire.closed.result() if wire.closed.done() else 'closed'}")
        return error, explain(error, url)

    async def _watch(self, wire: AmqpConnection) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + PING_EVERY
        ping: asyncio.Task[None] | None = None
        try:
            while True:
                await asyncio.sleep(1)
                now = loop.time()
                wire.sweep(now)
                self._role.sweep(now)
                if now >= next_ping and not wire.blocked and (ping is None or ping.done()):
                    next_ping = now + PING_EVERY
                    ping = asyncio.create_task(self._role.ping())
        finally:
            if ping is not None:
                await _end(ping)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
