"""One AMQP channel whose requests can be awaited.

Runs on the loop of its AmqpConnection. It owns the pika channel: every request in hand gets its answer, or `Lost` when
the channel or its connection ends; `on_lost` hears of the end once, synchronously, so that nothing happens in between.
How long an answer may take is the AmqpConnection's business (`AmqpConnection.sweep`).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pika.exceptions
import pika.spec

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost


class Channel:
    """An open channel; `raw` is pika's."""

    def __init__(self, wire: AmqpConnection, raw: Any, on_lost: Callable[[Lost], None] | None) -> None:
        self.raw = raw
        self.wire = wire
        self._on_lost = on_lost
        self._waiting: set[asyncio.Future[Any]] = set()
        self._got: asyncio.Future[Any] | None = None

    @classmethod
    async def open(cls, wire: AmqpConnection, on_lost: Callable[[Lost], None] | None = None) -> "Channel":
        """Open a channel; raises Lost."""
        if not wire.usable:
            raise Lost("the connection is closed")
        future = wire.asking()
        raw = wire.channel(on_open_callback=lambda _: _settle(future))
        self = cls(wire, raw, on_lost)
        self._waiting.add(future)
        raw.add_on_close_callback(self._closed)
        await future
        return self

    @property
    def number(self) -> int:
        """What its frames carry."""
        return int(self.raw.channel_number)

    @property
    def usable(self) -> bool:
        """Whether something can be sent now."""
        return bool(self.raw.is_open)

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Make the request that pika's channel calls `method` and return the broker's answer (a method frame's method).

        Raises Lost with the broker's reply code when it closes the channel instead.
        """
        if not self.usable:
            raise Lost("the channel is closed")
        future = self._future()
        getattr(self.raw, method)(**arguments, callback=lambda frame: _settle(future, frame.method))
        return await future

    async def cancel(self, consumer: str) -> None:
        """Cancel a consumer; what the broker sent before it heard of that is still delivered.

        pika's own `basic_cancel` gives such messages back, which marks them redelivered and leaves gaps in the tags.
        """
        await self._rpc(
            pika.spec.Basic.Cancel(consumer_tag=consumer, nowait=False),
            (pika.spec.Basic.CancelOk, {"consumer_tag": consumer}),
        )
        self.raw._cleanup_consumer_ref(consumer)

    async def confirm_again(self) -> None:
        """Ask for publisher confirms on a channel that has them: changes nothing, shows that the broker lives."""
        await self._rpc(pika.spec.Confirm.Select(), pika.spec.Confirm.SelectOk)

    async def _rpc(self, method: Any, reply: Any) -> None:
        if not self.usable:
            raise Lost("the channel is closed")
        future = self._future()
        self.raw._rpc(method, lambda _: _settle(future), [reply])
        await future

    async def get(self, queue: str) -> tuple[Any, bytes, bytes] | None:
        """Fetch one message, unacknowledged: (method, properties, body), or None when the queue is empty."""
        if not self.usable:
            raise Lost("the channel is closed")
        if self._got is None:  # once: pika keeps every such callback until the queue is empty
            self.raw.add_callback(self._empty, [pika.spec.Basic.GetEmpty], one_shot=False)
        future = self._got = self._future()
        self.raw.basic_get(queue, lambda _, method, properties, body: _settle(future, (method, properties.block, body)))
        message: tuple[Any, bytes, bytes] | None = await future
        return message

    async def first(self, answers: "asyncio.Queue[str]") -> str:
        """Return what is put into a queue first; raises Lost when the channel ends before that."""
        future = self._future()
        getter = asyncio.ensure_future(answers.get())
        getter.add_done_callback(lambda done: None if done.cancelled() else _settle(future, done.result()))
        try:
            answer: str = await future
        finally:
            getter.cancel()
        return answer

    def close(self) -> None:
        """Close, if open; unacknowledged messages go back to their queues."""
        if self.usable:
            self.raw.close()

    def _future(self) -> asyncio.Future[Any]:
        future = self.wire.asking()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _empty(self, _frame: object) -> None:
        if self._got is not None:
            _settle(self._got)

    def _closed(self, _channel: object, error: Exception) -> None:
        if isinstance(error, pika.exceptions.ChannelClosed):
            error = Lost(error.reply_text, error.reply_code)
        lost = error if isinstance(error, Lost) else Lost(str(error))
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(lost)
        if self._on_lost is not None:
            self._on_lost(lost)


def _settle(future: asyncio.Future[Any], value: Any = None) -> None:
    if not future.done():
        future.set_result(value)
