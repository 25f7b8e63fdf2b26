"""Frames (frames.py) from and to a descriptor on a running loop.

Runs in every process that has a loop, on its thread. Reading never blocks it; an incomplete frame at the end of file is
ignored. Writing never blocks it either, and is bounded: a frame that does not fit is dropped (`send` returns False) or
waits for room (`put`).
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable

from mqworker.ipc.frames import READ_SIZE, FrameError, FrameParser, FrameTooLarge, pack, unread
from mqworker.ipc.turn_end import TurnEnd

BOUND = 64 << 20  # bytes that a FrameWriter keeps, and so the size of the largest frame that it accepts


class FrameReader:
    """Reads frames from a descriptor on the running loop; owns only its registration with the loop.

    Calls `on_frame(payload)` for each frame, then `on_end(reason)` once; the reason is "" at the end of file.
    """

    def __init__(self, fd: int, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._fd = fd
        self._on_frame = on_frame
        self._on_end = on_end
        self._parser = FrameParser()
        self._loop = asyncio.get_running_loop()
        self._turn_end = TurnEnd.of(self._loop)
        self._open = True
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self.read)

    def read(self) -> int:
        """Read once, without waiting; returns the number of bytes."""
        if not self._open:
            return 0
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._end(f"read failed: {error.strerror}")
            return 0
        self._turn_end.begin()
        try:
            if data:
                self._hand_out(data)
            else:
                self._end("")
        except FrameError as error:
            self._end(str(error))
        finally:
            self._turn_end.end()
        return len(data)

    def drain(self) -> None:
        """Read only what the dead writer left in the pipe: a copy that it forked may keep writing."""
        left = unread(self._fd)
        while left > 0 and (taken := self.read()):
            left -= taken

    def close(self) -> None:
        """Stop reading, without a call of `on_end`; the owner closes the descriptor."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)

    def _hand_out(self, data: bytes) -> None:
        for payload in self._parser.feed(data):
            if not self._open:
                break  # its owner closed this reader when it received the previous frame
            self._on_frame(payload)

    def _end(self, reason: str) -> None:
        self.close()
        self._on_end(reason)


class FrameWriter:
    """Writes frames to a non-blocking descriptor on the running loop, in order, keeping at most `bound` bytes.

    Others notice that a peer is gone or does not read (by its pidfd, its pulse). Here the frames for such a peer are
    dropped, and `put` raises BrokenPipeError once the peer is gone.
    """

    def __init__(self, fd: int, bound: int = BOUND) -> None:
        self._fd = fd
        self._bound = bound
        self._buffer = bytearray()
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self.dropped = 0
        os.set_blocking(fd, False)

    def send(self, payload: bytes, *, droppable: bool = False) -> bool:
        """Queue one frame; returns False if it was dropped. A droppable frame (a log line) gets a smaller buffer."""
        if not self._open or len(self._buffer) + len(payload) > (self._bound // 64 if droppable else self._bound):
            self.dropped += 1
            return False
        self._queue(payload)
        return True

    async def put(self, payload: bytes) -> None:
        """Queue one frame as soon as there is room for it; the caller sets the deadline.

        Raises FrameTooLarge at once if the frame can never fit, BrokenPipeError when the writer is closed.
        """
        if len(payload) > self._bound:
            raise FrameTooLarge(len(payload), self._bound)
        if not self._open:
            raise BrokenPipeError
        if not self._waiting and self._has_room(payload):
            self._queue(payload)
            return
        queued = self._loop.create_future()
        self._waiting.append((payload, queued))
        await queued

    async def flush(self, deadline: float) -> None:
        """Wait until all is written, at most `deadline` seconds."""
        end = self._loop.time() + deadline
        while self._open and self._buffer and self._loop.time() < end:  # noqa: ASYNC110 - runs once, at the end; an event would slow down every write
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Stop writing; the owner closes the descriptor."""
        if self._open:
            self._open = False
            self._loop.remove_writer(self._fd)
            while self._waiting:
                _, queued = self._waiting.popleft()
                if not queued.done():
                    queued.set_exception(BrokenPipeError())

    def _has_room(self, payload: bytes) -> bool:
        return not self._buffer or len(self._buffer) + len(payload) <= self._bound

    def _queue(self, payload: bytes) -> None:
        idle = not self._buffer
        self._buffer += pack(payload)
        if idle:
            self._write()

    def _write(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._fd, memoryview(self._buffer)[:READ_SIZE])
                del self._buffer[:written]
                if self._waiting:
                    self._admit()
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._write)
            return
        except OSError:
            self._buffer.clear()
            self.close()
            return
        self._loop.remove_writer(self._fd)

    def _admit(self) -> None:
        """Queue the waiting frames for which there is room; skip those whose caller has given up."""
        while self._waiting and (self._waiting[0][1].done() or self._has_room(self._waiting[0][0])):
            payload, queued = self._waiting.popleft()
            if not queued.done():
                self._buffer += pack(payload)
                queued.set_result(None)
