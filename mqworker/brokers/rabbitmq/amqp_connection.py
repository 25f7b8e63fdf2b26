"""One AMQP connection: pika's protocol engine on a transport of the running asyncio loop.

Runs on the loop of the Producer or of the desk. It owns the socket: it hears bytes and gives frames to pika,
gathers what pika writes in one turn of the loop into one system call, and keeps the property block of a message raw
in both directions (pika's own reading of header tables loses or refuses legal values). It says `opened` and
`closed` as futures. Whatever goes wrong (garbage, end of file, an exception inside pika, `abort`) ends the
connection in one way: the socket is closed without waiting for the peer, every channel is told, `closed` gets a
`Lost` that says why. Nothing here reconnects.

pika's own asyncio adapter is not used: its time limits cannot bound name look-up, login and TLS together, and it
makes a system call for each frame.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any

import pika.connection
import pika.exceptions
import pika.frame
import pika.spec

from mqworker.brokers.rabbitmq.fast_frames import HEADER, Deliveries

logging.getLogger("pika").setLevel(logging.CRITICAL)  # the reasons that `Lost` carries are said once, by the Link

ANSWER_DEADLINE = 8.0  # seconds a broker may take to answer a request before its connection is given up
FRAME_SLACK = 1 << 17  # bytes of a frame that are always accepted, before the size is negotiated


class Lost(Exception):  # noqa: N818 - what is lost is a connection or a channel, not a mistake
    """A connection or channel ended; `code` is the broker's reply code, 0 when the broker said nothing."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Silence(Lost):
    """We gave a connection up because the broker did not answer on it in time."""


class RawProperties:
    """Stands in for pika's BasicProperties: the block as it is on the wire."""

    __slots__ = ("block",)
    INDEX = pika.spec.BasicProperties.INDEX
    NAME = pika.spec.BasicProperties.NAME

    def __init__(self, block: bytes = b"") -> None:
        self.block = block

    def encode(self) -> list[bytes]:
        """Give the bytes back; an empty block still has its flags."""
        return [self.block or b"\0\0"]


class AmqpConnection(asyncio.Protocol, pika.connection.Connection):  # type: ignore[misc]  # pika is untyped
    """A connection being opened, open, or over for good."""

    def __init__(self, parameters: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket: asyncio.Transport | None = None
        self._error: Lost | None = None  # why it ended (pika reads it too)
        self._out: list[bytes] = []
        self.deliveries: dict[int, Deliveries] = {}  # by channel number
        self._frame_buffer = b""  # what pika calls the bytes of a frame that is not complete
        self._asked: dict[asyncio.Future[Any], float] = {}
        self._unblocked_at = 0.0
        self.blocked = False
        self.on_blocked: Callable[[], None] = lambda: None
        self.opened: asyncio.Future[Lost | None] = self._loop.create_future()
        self.closed: asyncio.Future[Lost] = self._loop.create_future()
        pika.connection.Connection.__init__(
            self,
            parameters,
            on_open_callback=lambda _: self.opened.set_result(None),
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
            internal_connection_workflow=False,
        )
        self.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        self.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))

    @classmethod
    async def open(cls, parameters: Any, deadline: float) -> "AmqpConnection":
        """Connect and log in within `deadline` seconds; raises Lost, OSError or TimeoutError."""
        wire = cls(parameters)
        tls = parameters.ssl_options
        try:
            async with asyncio.timeout(deadline):
                await wire._loop.create_connection(
                    lambda: wire,
                    parameters.host,
                    parameters.port,
                    ssl=tls.context if tls else None,
                    server_hostname=tls.server_hostname if tls else None,
                )
                error = await wire.opened
        except BaseException:
            wire.abort("the attempt to connect was given up")
            raise
        if error is not None:
            raise error
        return wire

    @property
    def usable(self) -> bool:
        """Whether requests can be made now."""
        return bool(self.is_open) and self._socket is not None and not self._socket.is_closing()

    def abort(self, reason: str | Lost) -> None:
        """End the connection at once, without a word to the peer."""
        if self._socket is not None and not self.closed.done():
            self._error = reason if isinstance(reason, Lost) else Lost(reason)
            self._socket.abort()

    async def shut(self, deadline: float) -> None:
        """Close in good order (what was written goes out), or abort after `deadline` seconds."""
        if self.usable and not self.blocked:
            self.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline):
                    await asyncio.shield(self.closed)
        self.abort("closed")

    def asking(self) -> asyncio.Future[Any]:
        """Return a future for the answer to a request that is about to be made; its deadline runs from now."""
        future = self._loop.create_future()
        self._asked[future] = self._loop.time()
        future.add_done_callback(lambda _: self._asked.pop(future, None))
        return future

    def waited(self, since: float, now: float) -> float:
        """Return the seconds the broker could have answered since then: none count while it has us blocked."""
        return 0.0 if self.blocked else now - max(since, self._unblocked_at)

    def sweep(self, now: float) -> None:
        """Give the connection up when an answer is overdue."""
        oldest = next(iter(self._asked.values()), now)
        if self.waited(oldest, now) > ANSWER_DEADLINE:
            self.abort(Silence(f"the broker has not answered for {ANSWER_DEADLINE:.0f} s"))

    def emit(self, frames: bytes) -> None:
        """Send frames that were made elsewhere."""
        self.bytes_sent += len(frames)
        self._adapter_emit_data(frames)

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        self._on_stream_connected()

    def data_received(self, data: bytes) -> None:
        """Hand complete frames to pika; any exception on the way ends this connection and nothing else."""
        self.bytes_received += len(data)
        buffer = self._frame_buffer + data if self._frame_buffer else data
        at, size = 0, len(buffer)
        try:
            while size - at >= 8 and self._socket is not None and not self._socket.is_closing():
                end = at + 8 + int.from_bytes(buffer[at + 3 : at + 7])
                if buffer[at] not in {1, 2, 3, 8} or end - at > max(self.params.frame_max, FRAME_SLACK) + 8:
                    raise Lost("the peer does not speak AMQP 0-9-1")  # noqa: TRY301 - one way out for all errors
                if end > size:
                    break
                taker = self.deliveries.get(buffer[at + 1] << 8 | buffer[at + 2])
                start, at = at, end
                if taker is None or not taker.takes(buffer[start], buffer, start + 7, end - 1):
                    self._process_frame(_frame(buffer[start:end]))
        except Exception as error:  # noqa: BLE001 - whatever it is must cost this connection alone
            if not isinstance(error, Lost):
                self._loop.call_exception_handler({"message": "error in the AMQP connection", "exception": error})
            self._terminate_stream(error if isinstance(error, Lost) else Lost(f"broken frame: {error!r:.200}"))
        self._frame_buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody that it is over."""
        if self._error is None:
            why = f"the connection broke: {exc}" if exc else "the broker closed the connection"
            self._error = Lost(why)
        self._on_stream_terminated(None)

    # -- what pika calls

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: asyncio.TimerHandle) -> None:
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError  # `open` does it

    def _adapter_disconnect_stream(self) -> None:
        if self._socket is not None:
            self._socket.abort()

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._socket is not None and not self._socket.is_closing():
            self._socket.writelines(out)

    def _on_connection_close_from_broker(self, method_frame: Any) -> None:
        # kept as it was said: pika would replace it by a guess when the connection is still opening
        self._terminate_stream(Lost(str(method_frame.method.reply_text), int(method_frame.method.reply_code)))

    def _ended(self, _connection: object, error: Exception) -> None:
        lost = error if isinstance(error, Lost) else Lost(str(error) or type(error).__name__)
        for future in list(self._asked):
            if not future.done():
                future.set_exception(lost)
        if not self.opened.done():
            self.opened.set_result(lost)
        if not self.closed.done():
            self.closed.set_result(lost)

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        self._unblocked_at = self._loop.time()
        self.on_blocked()


def _frame(data: bytes) -> Any:
    """One whole frame as pika knows it, but for the properties of a message, which stay bytes."""
    if data[0] == HEADER:
        size = int.from_bytes(data[11:19])
        return pika.frame.Header(int.from_bytes(data[1:3]), size, RawProperties(data[19:-1]))
    return pika.frame.decode_frame(data)[1]


def tls_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Return a client context that checks the host; OSError or ssl.SSLError when a file cannot be used."""
    context = ssl.create_default_context(cafile=ca or None)
    if cert:
        context.load_cert_chain(cert, key or None)
    return context
