"""Length-prefixed, checksummed frames over a pipe or socket between two of our own processes.

Runs in every process. A frame is `length (4) crc32 (4) payload`, big-endian. The reading end trusts nothing: user code
may have written to the descriptor, so a frame that is too long or whose checksum is wrong ends the connection
(`FrameError`). The functions here block or do no I/O at all: they serve a process that has nothing else to do. This
module imports little, because each new Consumer waits for its imports. Frames on a loop are in frame_streams.py.
"""

import contextlib
import fcntl
import os
import struct
import termios
import zlib
from collections.abc import Iterator

HEAD = struct.Struct(">II")
MAX_FRAME = 1 << 30
READ_SIZE = 1 << 16  # bytes; for a block from 128 KiB on, the allocator may ask the kernel at each read


class FrameError(Exception):
    """The bytes read are not our frames."""


class FrameTooLarge(ValueError):  # noqa: N818 - a fact about the payload, reported to whoever wanted to send it
    """The payload is larger than the writer's bound."""

    def __init__(self, size: int, bound: int) -> None:
        self.size = size
        super().__init__(f"{size:,} bytes are too large to be passed on; at most {bound:,} can be")


def pack(payload: bytes) -> bytes:
    """Return one frame."""
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload


class FrameParser:
    """Turns a stream of bytes into frames; does no I/O."""

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


def unread(fd: int) -> int:
    """Return how many bytes a pipe holds."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def read_frame(fd: int) -> bytes:
    """Read one frame, blocking; raises EOFError when the writer is gone, FrameError when the bytes are not a frame."""
    length, checksum = HEAD.unpack(_read_exactly(fd, HEAD.size))
    if length > MAX_FRAME:
        raise FrameError(f"frame of {length} bytes")
    payload = _read_exactly(fd, length)
    if zlib.crc32(payload) != checksum:
        raise FrameError("wrong checksum")
    return payload


def _read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, min(size - len(data), READ_SIZE))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, blocking; raises OSError when the reader is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def close_fd(fd: int) -> None:
    """Close a descriptor that may already be closed."""
    with contextlib.suppress(OSError):
        os.close(fd)
