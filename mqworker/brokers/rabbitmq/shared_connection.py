"""The connection that requests to RabbitMQ share, made on demand.

Runs on the loop of the broker admin process. Each request has channels of its own on the connection. A queue that does
not answer (a quorum queue without a leader) blocks the channel that asked it, which then does not even close. So a
connection on which a request passed its deadline gets no further requests, and is closed when the present ones have
ended: a slow request costs only its own answer, and blocked channels do not accumulate.

If there are several hosts, each gets a part of the first request's time, and the next request tries a host that
failed last of all: so a host that does not answer (frozen or switched off) does not keep requests from the others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mqworker.brokers.base import BrokerBrokeOff, BrokerRefused, BrokerUnavailable
from mqworker.brokers.rabbitmq.address import explain, parameters, refused
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.reconnector import CONNECT_DEADLINE
from mqworker.config.model import BrokerConfig


class SharedConnection:
    """See the module head."""

    def __init__(self, config: BrokerConfig, name: str) -> None:
        """`name` is the name that the broker shows; no connection is opened yet."""
        self._config = config
        self._name = name
        self._current: AmqpConnection | None = None  # for new requests
        self._connecting = asyncio.Lock()
        self._host = 0  # which URL is tried next; only grows
        self.requests: dict[AmqpConnection, int] = {}  # how many requests are on each connection

    @asynccontextmanager
    async def request(self, deadline: float) -> AsyncIterator[AmqpConnection]:
        """Provide a connection for one request; a fault becomes BrokerUnavailable or BrokerRefused.

        BrokerBrokeOff means that the broker has closed a channel of the request, but not the connection.
        """
        connection: AmqpConnection | None = None
        try:
            async with asyncio.timeout(deadline):
                connection = await self._connected(min(CONNECT_DEADLINE, deadline / len(self._config.urls)))
                self.requests[connection] += 1
                yield connection
        except TimeoutError:
            if connection is self._current:
                self._current = None
            raise BrokerUnavailable(f"the broker did not answer within {deadline:g} s") from None
        except Lost as lost:
            if connection is not None and connection.usable:
                raise BrokerBrokeOff(str(lost)) from None
            raise BrokerUnavailable(f"the connection to the broker was lost: {lost}") from None
        finally:
            if connection is not None:
                self.requests[connection] -= 1
                self._end_unused()

    async def close(self) -> None:
        """Close what is open."""
        self._current = None
        await asyncio.gather(*(connection.shutdown(1.0) for connection in self.requests))

    def _end_unused(self) -> None:
        """End the connections that get no new requests and have none left."""
        for connection, requests in list(self.requests.items()):
            if not requests and connection is not self._current:
                del self.requests[connection]
                connection.abort("a request passed its deadline on it")

    async def _connected(self, deadline: float) -> AmqpConnection:
        """Return the connection, opened if need be; `deadline`: seconds for each host."""
        async with self._connecting:
            if self._current is not None and self._current.usable:
                return self._current
            self._current = None
            self._end_unused()
            urls, reason = self._config.urls, "no broker.url"
            for _ in urls:
                url = urls[self._host % len(urls)]
                self._host += 1  # before the attempt: the request's deadline may pass during it
                try:
                    connection = await AmqpConnection.open(parameters(url, self._config, self._name), deadline)
                except (Lost, OSError, ValueError) as error:
                    reason = explain(error, url)
                    if refused(error):
                        raise BrokerRefused(reason) from None
                else:
                    self._host -= 1
                    self._current, self.requests[connection] = connection, 0
                    return connection
        raise BrokerUnavailable(reason)
