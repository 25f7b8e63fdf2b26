"""Length-prefixed, checksummed frames over a pipe or socket between two of our own processes.

Runs in every process. A frame is `length (4) crc32 (4) payload`, big-endian. The reading end trusts nothing: user code
may have written to the descriptor, so a frame that is too long or whose checksum is wrong ends the connection
(`FrameError`), and a half frame at the end of file is nothing. Reading never blocks the loop; the writing end of a loop
never blocks either and is bounded; a Consumer, which has nothing else to do, writes blockingly.
"""

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator

HEAD = struct.Struct(">II")
MAX_FRAME = 1 << 30
READ_SIZE = 1 << 18


class FrameError(Exception):
    """The bytes read are not our frames."""


def pack(payload: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload


class FrameParser:
    """Turns a stream of bytes into frames; no I/O in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each frame that `data` completes; raises FrameError."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEAD.size:
                length, checksum = HEAD.unpack_from(buffer, at)
                if length > MAX_FRAME:
                    raise FrameError(f"frame of {length} bytes")
                end = at + HEAD.size + length
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[at + HEAD.size : end])
                at = end
                if zlib.crc32(payload) != checksum:
                    raise FrameError("wrong checksum")
                yield payload
        finally:
            del buffer[:at]


class FrameReader:
    """Reads frames from a descriptor on the running loop; owns nothing but its place in the loop.

    `on_frame(payload)` for each frame, then once `on_end(reason)`: "" for end of file.
    """

    def __init__(self, fd: int, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._fd = fd
        self._on_frame = on_frame
        self._on_end = on_end
        self._parser = FrameParser()
        self._loop = asyncio.get_running_loop()
        self._open = True
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self.read)

    def read(self) -> bool:
        """Take what is there now; True while there may be more."""
        if not self._open:
            return False
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(f"read failed: {error.strerror}")
            return False
        if not data:
            self._end("")
            return False
        try:
            self._hand_out(data)
        except FrameError as error:
            self._end(str(error))
            return False
        return self._open

    def drain(self) -> None:
        """Take all that the dead writer left behind."""
        while self.read():
            pass

    def close(self) -> None:
        """Stop reading, silently; the descriptor stays its owner's."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)

    def _hand_out(self, data: bytes) -> None:
        for payload in self._parser.feed(data):
            if not self._open:
                break  # closed by what it said
            self._on_frame(payload)

    def _end(self, reason: str) -> None:
        self.close()
        self._on_end(reason)


class FrameWriter:
    """Writes frames to a non-blocking descriptor on the running loop, in order, keeping at most `bound` bytes.

    A peer that is gone or does not read is noticed elsewhere (its pidfd, its pulse): here its frames are dropped.
    """

    def __init__(self, fd: int, bound: int = 64 << 20) -> None:
        self._fd = fd
        self._bound = bound
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self.dropped = 0
        os.set_blocking(fd, False)

    def send(self, payload: bytes, *, droppable: bool = False) -> None:
        """Queue one frame; a droppable one (a log line) is given up early when the reader lags."""
        if not self._open or len(self._buffer) + len(payload) > (self._bound // 64 if droppable else self._bound):
            self.dropped += 1
            return
        idle = not self._buffer
        self._buffer += pack(payload)
        if idle:
            self._write()

    async def flush(self, deadline: float) -> None:
        """Wait until all is written, at most `deadline` seconds."""
        end = self._loop.time() + deadline
        while self._open and self._buffer and self._loop.time() < end:  # noqa: ASYNC110 - once, at the end; an event would cost every write
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Stop writing; the descriptor stays its owner's."""
        if self._open:
            self._open = False
            self._loop.remove_writer(self._fd)

    def _write(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._fd, memoryview(self._buffer)[:READ_SIZE])
                del self._buffer[:written]
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._write)
            return
        except OSError:
            self._buffer.clear()
            self.close()
            return
        self._loop.remove_writer(self._fd)


def write_all(fd: int, data: bytes) -> None:
    """Write blockingly, whole; raises OSError when the reader is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def close_fd(fd: int) -> None:
    """Close a descriptor that may already be closed."""
    with contextlib.suppress(OSError):
        os.close(fd)
