"""The I/O loop that pika's protocol engine needs, on the transport of a running asyncio loop.

Runs on the loop of the connection. Owns the transport and the bytes written during the present turn of the loop, which
one system call sends at the end of the turn. The frames of a large message are made and written as the peer reads them,
a few MiB in a turn; later frames wait, because those of one message must stay together. Nothing here reads, decides or
reconnects.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pika.connection

from mqworker.ipc.turn_end import TurnEnd

TURN_BYTES = 1 << 22  # bytes of large messages after which the loop gets a turn: two milliseconds


class LoopAdapter(pika.connection.Connection):  # type: ignore[misc]  # pika is untyped
    """Timers and output for `AmqpConnection`."""

    def __init__(self, parameters: Any, on_open: Any, on_error: Any, on_close: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn_end = TurnEnd.of(self._loop)
        self._socket: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._before: deque[Iterator[bytes]] = deque()  # frames that must be written before `_out`
        self._paused = False  # the peer is not reading what was written
        super().__init__(
            parameters,
            on_open_callback=on_open,
            on_open_error_callback=on_error,
            on_close_callback=on_close,
            internal_connection_workflow=False,
        )

    @property
    def _writable(self) -> bool:
        return self._socket is not None and not self._socket.is_closing()

    def _flush(self) -> None:
        if self._before and not self._write_gradually():
            return
        out, self._out = self._out, []
        if self._writable:
            self._socket.writelines(out)  # type: ignore[union-attr]  # see `_writable`

    def _write_gradually(self) -> bool:
        """Write what must come before `_out`; returns whether all of it is written."""
        written = 0
        while self._before and self._writable and not self._paused:
            if written > TURN_BYTES:
                self._loop.call_soon(self._flush)
                break
            frame = next(self._before[0], None)
            if frame is None:
                self._before.popleft()
                continue
            self._socket.write(frame)  # type: ignore[union-attr]  # see `_writable`
            written += len(frame)
        return not self._before

    def _emit_gradually(self, frames: Iterator[bytes]) -> None:
        out, self._out = self._out, []
        if not self._before and not out:
            self._turn_end.soon(self._flush)
        self._before += (iter(out), frames)

    # -- what pika calls

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: asyncio.TimerHandle) -> None:
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError  # `AmqpConnection.open` does it

    def _adapter_disconnect_stream(self) -> None:
        if self._socket is not None:
            self._socket.abort()

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._out and not self._before:
            self._turn_end.soon(self._flush)
        self._out.append(data)
