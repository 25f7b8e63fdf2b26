"""One AMQP connection: pika's protocol engine on a transport of the running asyncio loop.

Runs on the loop of the Producer or of the broker admin. Owns the socket: it receives bytes and passes frames to pika,
and keeps the property block of a message raw in both directions (pika's own decoder of header tables loses or refuses
legal values). It reports through the futures `opened` and `closed`. Every fault (garbage, end of file, an exception
inside pika, `abort`) ends the connection in one way: the socket is closed without waiting for the peer, every channel
is notified, and `closed` receives a `Lost` with the reason. Nothing here reconnects.

pika's own asyncio adapter is not used: its time limits cannot bound name lookup, login and TLS together, and it makes
a system call for each frame.

`AmqpConnection` has the methods that its three neighbours need: five are asyncio's protocol, three are called by pika,
and the others are used by the roles of a Link. Its `AnswerClock` knows how long answers take.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pika.exceptions
import pika.frame
import pika.spec

from mqworker.brokers.rabbitmq.answer_clock import AnswerClock
from mqworker.brokers.rabbitmq.fast_frames import FRAME, HEADER, METHOD, Deliveries
from mqworker.brokers.rabbitmq.loop_adapter import LoopAdapter

logging.getLogger("pika").setLevel(logging.CRITICAL)  # the Link reports each reason once, from `Lost`

ANSWER_DEADLINE = 8.0  # seconds that a broker may take to answer a request before its connection is aborted
READ_SIZE = 1 << 18  # bytes that are read at once, at most
FRAME_SLACK = 1 << 17  # bytes of a frame that are always accepted, before the size is negotiated


class Lost(Exception):  # noqa: N818 - the name says what happened to a connection or channel
    """A connection or channel ended; `code` is the broker's reply code, 0 when the broker gave none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class AnswerOverdue(Lost):
    """We aborted a connection because the broker did not answer on it in time."""


class RawProperties:
    """Replaces pika's BasicProperties: the block as it is on the wire."""

    __slots__ = ("block",)
    INDEX = pika.spec.BasicProperties.INDEX
    NAME = pika.spec.BasicProperties.NAME

    def __init__(self, block: bytes = b"") -> None:
        self.block = block

    def encode(self) -> list[bytes]:
        """Return the bytes unchanged; an empty block still has its flags."""
        return [self.block or b"\0\0"]


class AmqpConnection(asyncio.BufferedProtocol, LoopAdapter):
    """A connection that is being opened, is open, or has ended for good."""

    def __init__(self, parameters: Any) -> None:
        loop = asyncio.get_running_loop()
        self._error: Lost | None = None  # why it ended (pika reads it too)
        self.deliveries: dict[int, Deliveries] = {}  # by channel number
        self._frame_buffer = b""  # pika's name for the bytes of an incomplete frame
        self._read = memoryview(bytearray(READ_SIZE))
        self._answers = AnswerClock[asyncio.Future[Any]]()
        self.waited = self._answers.waited
        self.on_blocked: Callable[[], None] = lambda: None
        self.opened: asyncio.Future[Lost | None] = loop.create_future()
        self.closed: asyncio.Future[Lost] = loop.create_future()
        LoopAdapter.__init__(self, parameters, lambda _: self.opened.set_result(None), self._on_ended, self._on_ended)
        self.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        self.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))

    @classmethod
    async def open(cls, parameters: Any, deadline: float) -> "AmqpConnection":
        """Connect and log in within `deadline` seconds; raises Lost, OSError or TimeoutError."""
        connection = cls(parameters)
        tls = parameters.ssl_options
        try:
            async with asyncio.timeout(deadline):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    parameters.host,
                    parameters.port,
                    ssl=tls.context if tls else None,
                    server_hostname=tls.server_hostname if tls else None,
                )
                error = await connection.opened
        except BaseException:
            connection.abort("the attempt to connect was given up")
            raise
        if error is not None:
            raise error
        return connection

    @property
    def usable(self) -> bool:
        """Whether requests can be sent now."""
        return bool(self.is_open) and self._writable

    @property
    def blocked(self) -> bool:
        """Whether the broker has an alarm and reads nothing from us."""
        return self._answers.blocked

    def abort(self, reason: str | Lost) -> None:
        """End the connection at once, without notice to the peer."""
        if self._socket is not None and not self.closed.done():
            self._error = reason if isinstance(reason, Lost) else Lost(reason)
            self._socket.abort()

    async def shutdown(self, deadline: float) -> None:
        """Close normally (everything written is sent first), or abort after `deadline` seconds."""
        if self.usable and not self.blocked:
            self.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline):
                    await asyncio.shield(self.closed)
        self.abort("closed")

    def expect_answer(self) -> asyncio.Future[Any]:
        """Return a future for the answer to a request that is about to be made; its deadline runs from now."""
        future = self._loop.create_future()
        self._answers.ask(future, self._loop.time())
        future.add_done_callback(self._answers.answered)
        return future

    def check_deadlines(self, now: float) -> None:
        """Abort the connection when an answer is overdue."""
        if self._answers.longest(now) > ANSWER_DEADLINE:
            self.abort(AnswerOverdue(f"the broker has not answered for {ANSWER_DEADLINE:.0f} s"))

    def send_frames(self, frames: bytes) -> None:
        """Send frames that the caller has encoded."""
        self.bytes_sent += len(frames)
        self._adapter_emit_data(frames)

    def send_gradually(self, frames: Iterator[bytes]) -> None:
        """Send frames that are made only as they are written."""
        self._emit_gradually(frames)

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        self._on_stream_connected()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's interface
        """Return the buffer to read into: always the same, because allocating one for each read costs system calls."""
        return self._read

    def buffer_updated(self, nbytes: int) -> None:
        """Process what was read."""
        self._turn_end.begin()
        try:
            self._received(bytes(self._read[:nbytes]))
        finally:
            self._turn_end.end()

    def _received(self, data: bytes) -> None:
        """Pass complete frames to pika; an exception in pika ends this connection and nothing else."""
        self.bytes_received += len(data)
        buffer = self._frame_buffer + data if self._frame_buffer else data
        at, size = 0, len(buffer)
        try:
            while size - at >= 8 and self._socket is not None and not self._socket.is_closing():
                kind, channel, length = FRAME.unpack_from(buffer, at)
                if kind not in {1, 2, 3, 8} or length > max(self.params.frame_max, FRAME_SLACK):
                    raise Lost("the peer does not speak AMQP 0-9-1")  # noqa: TRY301 - all errors take one way out
                end = at + 8 + length
                if end > size:
                    break
                taker = self.deliveries.get(channel)
                if taker is not None and kind == METHOD and (after := taker.take_whole(buffer, at, end)):
                    at = after
                    continue
                start, at = at, end
                if taker is None or not taker.takes(kind, buffer, start + 7, end - 1):
                    self._process_frame(_frame(buffer[start:end]))
        except Exception as error:  # noqa: BLE001 - any error must end only this connection
            if not isinstance(error, Lost):
                self._loop.call_exception_handler({"message": "error in the AMQP connection", "exception": error})
            self._terminate_stream(error if isinstance(error, Lost) else Lost(f"broken frame: {error!r:.200}"))
        self._frame_buffer = buffer[at:]

    def pause_writing(self) -> None:
        """Stop writing large messages: the peer reads more slowly than we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on writing; a peer that was still reading had no time to answer, so that time does not count."""
        self._paused = False
        if self._before:
            self._answers.caught_up(self._loop.time())
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify all channels that the connection has ended."""
        if self._error is None:
            self._error = Lost(f"the connection broke: {exc}" if exc else "the broker closed the connection")
        self._on_stream_terminated(None)

    # -- what pika calls

    def _on_connection_close_from_broker(self, method_frame: Any) -> None:
        # keep the broker's own reason: pika would replace it by a guess while the connection is being opened
        self._terminate_stream(Lost(str(method_frame.method.reply_text), int(method_frame.method.reply_code)))

    def _on_ended(self, _connection: object, error: Exception) -> None:
        lost = error if isinstance(error, Lost) else Lost(str(error) or type(error).__name__)
        for future in list(self._answers.open):
            if not future.done():
                future.set_exception(lost)
        if not self.opened.done():
            self.opened.set_result(lost)
        if not self.closed.done():
            self.closed.set_result(lost)

    def _set_blocked(self, blocked: bool) -> None:
        self._answers.block(blocked, self._loop.time())
        self.on_blocked()


def _frame(data: bytes) -> Any:
    """Decode one whole frame as pika does, except that a message's properties stay bytes."""
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
