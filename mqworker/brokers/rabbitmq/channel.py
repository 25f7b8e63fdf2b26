"""One AMQP channel whose requests can be awaited.

Runs on the loop of its connection. Owns the pika channel: every request in progress gets its answer, or `Lost` when the
channel or its connection ends. `on_lost` is called once at the end, synchronously, so that nothing can happen between
the end and the call. The connection decides how long an answer may take (`AmqpConnection.check_deadlines`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pika.exceptions
import pika.spec

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost


class Channel:
    """An open channel; `raw` is pika's. If `watched`, the connection checks the deadlines of its requests."""

    def __init__(self, connection: AmqpConnection, raw: Any, *, watched: bool = True) -> None:
        self.raw = raw
        self.connection = connection
        self.on_lost: Callable[[Lost], None] = lambda _: None
        self._watched = watched
        self._waiting: set[asyncio.Future[Any]] = set()
        self._got: asyncio.Future[Any] | None = None
        self._ended_by = ""  # the broker's reason for closing it

    @classmethod
    async def open(cls, connection: AmqpConnection, *, watched: bool = True) -> "Channel":
        """Open a channel; raises Lost."""
        if not connection.usable:
            raise Lost("the connection is closed")
        future = connection.expect_answer() if watched else asyncio.get_running_loop().create_future()
        raw = connection.channel(on_open_callback=lambda _: _settle(future))
        self = cls(connection, raw, watched=watched)
        self._waiting.add(future)
        raw.add_on_close_callback(self._closed)
        try:
            await future
        except asyncio.CancelledError:  # otherwise the broker would keep it open until the connection ends
            with contextlib.suppress(pika.exceptions.AMQPError):
                raw.close()
            raise
        self._check_usable()  # the broker may have closed it in the same turn of the loop
        return self

    @property
    def number(self) -> int:
        """The channel number in its frames."""
        return int(self.raw.channel_number)

    @property
    def usable(self) -> bool:
        """Whether anything can be sent now."""
        return bool(self.raw.is_open)

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Make the request that pika's channel calls `method`; returns the broker's answer (a method frame's method).

        Raises Lost with the broker's reply code when it closes the channel instead.
        """
        self._check_usable()
        future = self._future()
        getattr(self.raw, method)(**arguments, callback=lambda frame: _settle(future, frame.method))
        return await future

    async def cancel(self, consumer: str) -> None:
        """Cancel a consumer; what the broker sent before it received the request is still delivered.

        pika's own `basic_cancel` returns such messages, which marks them redelivered and leaves gaps in the tags.
        """
        await self._rpc(
            pika.spec.Basic.Cancel(consumer_tag=consumer, nowait=False),
            (pika.spec.Basic.CancelOk, {"consumer_tag": consumer}),
        )
        self.forget_consumer(consumer)

    def forget_consumer(self, consumer: str) -> None:
        """Make pika forget a consumer: otherwise pika cancels it before it closes the channel or the connection."""
        self.raw._cleanup_consumer_ref(consumer)

    async def ping(self) -> None:
        """Ask for confirms on a channel that has them: this changes nothing, but shows that the broker is alive."""
        await self._rpc(pika.spec.Confirm.Select(), pika.spec.Confirm.SelectOk)

    async def get(self, queue: str) -> tuple[Any, bytes, bytes] | None:
        """Fetch one message, unacknowledged: (method, properties, body), or None when the queue is empty."""
        self._check_usable()
        if self._got is None:  # only once: pika keeps every such callback until the queue is empty
            self.raw.add_callback(self._empty, [pika.spec.Basic.GetEmpty], one_shot=False)
        future = self._got = self._future()
        self.raw.basic_get(queue, lambda _, method, properties, body: _settle(future, (method, properties.block, body)))
        return await future  # type: ignore[no-any-return]  # pika is untyped

    async def first(self, answers: "asyncio.Queue[str]") -> str:
        """Return the first item that is put into `answers`; raises Lost when the channel ends before that."""
        future = self._future()
        getter = asyncio.ensure_future(answers.get())
        getter.add_done_callback(lambda done: None if done.cancelled() else _settle(future, done.result()))
        try:
            return await future  # type: ignore[no-any-return]  # pika is untyped
        finally:
            getter.cancel()

    def close(self) -> None:
        """Close the channel if it is open, without waiting; unacknowledged messages go back to their queues."""
        if self.usable:
            self.raw.close()

    async def closed(self) -> None:
        """Close and wait for the broker's answer: unacknowledged messages are back in their places by then."""
        if self.raw.is_closed:
            return
        future = self.connection.expect_answer()
        self.raw.add_on_close_callback(lambda *_: _settle(future))
        self.close()
        await future

    # -- inside

    def _check_usable(self) -> None:
        if not self.usable:
            raise Lost(self._ended_by or "the channel is closed")

    async def _rpc(self, method: Any, reply: Any) -> None:
        self._check_usable()
        future = self._future()
        self.raw._rpc(method, lambda _: _settle(future), [reply])
        await future

    def _future(self) -> asyncio.Future[Any]:
        future = self.connection.expect_answer() if self._watched else asyncio.get_running_loop().create_future()
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
        self._ended_by = str(lost)
        self.on_lost(lost)


def _settle(future: asyncio.Future[Any], value: Any = None) -> None:
    if not future.done():
        future.set_result(value)
