"""Frames between our processes: whatever splits, breaks or blocks them on the way."""

import asyncio
import contextlib
import os
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.ipc.frame_streams import FrameReader, FrameWriter
from mqworker.ipc.frames import (
    MAX_FRAME,
    READ_SIZE,
    FrameError,
    FrameParser,
    FrameTooLarge,
    pack,
    read_frame,
    write_all,
)

DEADLINE = 60.0  # seconds
PIPE = 1 << 16  # bytes that a pipe holds
payloads = st.lists(st.binary(max_size=40), max_size=6)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@given(payloads, st.lists(st.integers(0, 1000), max_size=12))
def test_frames_survive_any_splitting(frames, cuts):
    """However the stream is split, the same frames arrive, each as soon as its last byte does."""
    parser = FrameParser()
    pieces = split(b"".join(map(pack, frames)), cuts)
    assert [frame for piece in pieces for frame in parser.feed(piece)] == frames
    assert not parser._buffer


@given(payloads, st.binary(max_size=40), st.data())
def test_a_corrupted_frame_ends_the_stream(before, payload, data):
    """One wrong byte anywhere is a FrameError or a frame that never completes; earlier frames still count."""
    broken = bytearray(pack(payload))
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    parser = FrameParser()
    got = []
    with contextlib.suppress(FrameError):
        got.extend(parser.feed(b"".join(map(pack, before))))
        got += parser.feed(bytes(broken))
    assert got == before


def test_a_wrong_checksum_is_an_error():
    """A frame whose payload was altered is never delivered."""
    broken = bytearray(pack(b"payload"))
    broken[-1] ^= 1
    with pytest.raises(FrameError, match="checksum"):
        list(FrameParser().feed(bytes(broken)))


def test_a_frame_that_is_too_long_is_an_error_at_its_head():
    """An absurd length is refused before anything is buffered for it."""
    with pytest.raises(FrameError, match="bytes"):
        list(FrameParser().feed(struct.pack(">II", MAX_FRAME + 1, 0)))


@contextlib.contextmanager
def pipe() -> Iterator[list[int]]:
    """A pipe's two ends; a test that closes one replaces it by -1."""
    ends = list(os.pipe())
    try:
        yield ends
    finally:
        for fd in ends:
            if fd >= 0:
                os.close(fd)


def close(ends: list[int], which: int) -> None:
    os.close(ends[which])
    ends[which] = -1


class Heard:
    """Records what a FrameReader reports."""

    def __init__(self, fd: int) -> None:
        self.frames: list[bytes] = []
        self.ends: list[str] = []
        self.something = asyncio.Event()
        self.reader = FrameReader(fd, self.on_frame, self.on_end)

    def on_frame(self, payload: bytes) -> None:
        self.frames.append(payload)
        self.something.set()

    def on_end(self, reason: str) -> None:
        self.ends.append(reason)
        self.something.set()

    async def until(self, frames: int = 0, ends: int = 0) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.frames) < frames or len(self.ends) < ends:
                self.something.clear()
                await self.something.wait()


def test_many_frames_through_a_full_pipe():
    """What does not fit into the pipe waits in the writer, and arrives completely and in order."""
    frames = [os.urandom(size) for size in (0, 1, PIPE - 8, PIPE, 3 * PIPE, 2 * READ_SIZE + 1)] * 3

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1])
        for frame in frames:
            writer.send(frame)
        assert writer._buffer
        heard = Heard(ends[0])
        await heard.until(frames=len(frames))
        await writer.flush(DEADLINE)
        assert heard.frames == frames
        assert writer.dropped == 0
        assert not writer._buffer
        writer.close()
        close(ends, 1)
        await heard.until(ends=1)
        assert heard.ends == [""]

    with pipe() as ends:
        asyncio.run(main(ends))


def test_a_blocking_writer_and_a_reader_on_a_loop():
    """A Consumer's blocking writes all arrive, however slowly the loop reads."""
    frames = [bytes([number]) * 3 * PIPE for number in range(5)]

    async def main(ends: list[int]) -> None:
        thread = threading.Thread(target=lambda: [write_all(ends[1], pack(frame)) for frame in frames])
        thread.start()
        heard = Heard(ends[0])
        await heard.until(frames=len(frames))
        thread.join(DEADLINE)
        assert heard.frames == frames
        heard.reader.close()

    with pipe() as ends:
        asyncio.run(main(ends))


def test_half_a_frame_at_the_end_of_file_is_nothing():
    """A killed writer's complete frames count, its last half frame does not, and the end is reported once."""

    async def main(ends: list[int]) -> None:
        write_all(ends[1], pack(b"whole") * 2 + pack(b"half")[:-1])
        close(ends, 1)
        heard = Heard(ends[0])
        heard.reader.drain()
        assert heard.frames == [b"whole"] * 2
        await heard.until(ends=1)
        heard.reader.drain()
        assert (heard.frames, heard.ends) == ([b"whole"] * 2, [""])

    with pipe() as ends:
        asyncio.run(main(ends))


def test_foreign_bytes_end_the_connection():
    """When user code writes to the descriptor, earlier frames count, and the reader ends with the reason."""

    async def main(ends: list[int]) -> None:
        heard = Heard(ends[0])
        write_all(ends[1], pack(b"ours") + b"print() from somewhere\n" * 10)
        await heard.until(ends=1)
        write_all(ends[1], pack(b"ours again"))
        heard.reader.drain()
        assert heard.frames == [b"ours"]
        assert len(heard.ends) == 1
        assert "frame of" in heard.ends[0]

    with pipe() as ends:
        asyncio.run(main(ends))


def test_a_closed_reader_is_silent():
    """Closing in the middle of a batch stops delivery at once."""

    async def main(ends: list[int]) -> None:
        got = []

        def on_frame(payload: bytes) -> None:
            got.append(payload)
            reader.close()

        reader = FrameReader(ends[0], on_frame, lambda reason: got.append(reason.encode()))
        write_all(ends[1], pack(b"last") + pack(b"too late"))
        reader.drain()
        close(ends, 1)
        reader.drain()
        assert got == [b"last"]

    with pipe() as ends:
        asyncio.run(main(ends))


def test_a_dead_reader_costs_the_writer_nothing():
    """Frames for a reader that is gone are dropped and counted; nothing is kept and nothing raises."""

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1])
        writer.send(b"x" * 4 * PIPE)
        close(ends, 0)
        started = time.monotonic()
        await writer.flush(DEADLINE)
        assert time.monotonic() - started < DEADLINE
        assert not writer._buffer
        writer.send(b"more")
        assert writer.dropped == 1

    with pipe() as ends:
        asyncio.run(main(ends))


def test_a_reader_that_does_not_read_is_bounded():
    """The writer keeps at most its bound, drops droppable frames early, and flush ends at its deadline."""

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1], bound=1 << 20)
        frame = b"x" * (1 << 14)
        for _ in range(200):
            writer.send(frame)
        assert writer.dropped > 0
        assert len(writer._buffer) <= (1 << 20) + 1024
        dropped = writer.dropped
        writer.send(b"log line", droppable=True)
        assert writer.dropped == dropped + 1
        started = time.monotonic()
        await writer.flush(0.05)
        assert 0.05 <= time.monotonic() - started < DEADLINE
        writer.close()
        writer.send(b"closed")
        assert writer.dropped == dropped + 2

    with pipe() as ends:
        asyncio.run(main(ends))


def test_droppable_frames_pass_while_the_reader_keeps_up():
    """A log line is sent like any other frame while there is room."""

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1])
        heard = Heard(ends[0])
        writer.send(b"log line", droppable=True)
        await heard.until(frames=1)
        assert (heard.frames, writer.dropped) == ([b"log line"], 0)
        heard.reader.close()

    with pipe() as ends:
        asyncio.run(main(ends))


def test_what_is_put_waits_for_room_and_arrives_in_order():
    """Frames beyond the bound are held back, not dropped; one whose sender gave up is left out, the rest follow."""
    frames = [bytes([number]) * (700 << 10) for number in range(8)]

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1], bound=1 << 20)
        puts = [asyncio.create_task(writer.put(frame)) for frame in frames]
        small = asyncio.create_task(writer.put(b"small"))
        await asyncio.sleep(0)
        assert [put.done() for put in puts] == [True] + [False] * 7
        assert len(writer._buffer) <= 1 << 20
        puts[3].cancel()
        heard = Heard(ends[0])
        await heard.until(frames=8)
        await small
        assert heard.frames == [*frames[:3], *frames[4:], b"small"]
        assert writer.dropped == 0
        heard.reader.close()

    with pipe() as ends:
        asyncio.run(main(ends))


def test_what_never_fits_is_refused_at_once():
    """A payload above the bound raises, with its size in words; the writer goes on."""

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1], bound=1 << 20)
        with pytest.raises(FrameTooLarge, match="1,048,577 bytes are too large"):
            await writer.put(bytes((1 << 20) + 1))
        await writer.put(b"fits")
        assert read_frame(ends[0]) == b"fits"

    with pipe() as ends:
        asyncio.run(main(ends))


def test_what_waits_for_room_hears_that_the_reader_is_gone():
    """Nobody waits for a pipe that has ended, nor begins to."""

    async def main(ends: list[int]) -> None:
        writer = FrameWriter(ends[1], bound=1 << 20)
        await writer.put(bytes(1 << 20))
        waiting = asyncio.create_task(writer.put(bytes(1 << 20)))
        await asyncio.sleep(0)
        close(ends, 0)
        async with asyncio.timeout(DEADLINE):
            for put in (waiting, writer.put(b"y")):
                with pytest.raises(BrokenPipeError):
                    await put

    with pipe() as ends:
        asyncio.run(main(ends))


def test_a_reader_drains_what_a_dead_writer_left_though_a_copy_writes_on():
    """What the pipe held is read, and then it ends: a copy that the dead one forked may never stop to write."""

    async def main(ends: list[int]) -> None:
        stop = threading.Event()

        def flood() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    write_all(ends[1], pack(b"x"))

        heard = Heard(ends[0])
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            await heard.until(frames=100)
            before = len(heard.frames)
            heard.reader.drain()
            assert len(heard.frames) - before <= 2 * PIPE // len(pack(b"x"))
        finally:
            stop.set()
            while thread.is_alive():
                heard.reader.drain()
            heard.reader.close()

    with pipe() as ends:
        asyncio.run(main(ends))


def test_a_frame_is_read_blockingly():
    """Whole, however it comes; a damaged one and an end of file are told apart."""
    with pipe() as ends:
        frame = os.urandom(3 * PIPE)
        thread = threading.Thread(target=write_all, args=(ends[1], pack(frame) + pack(b"") + b"\0" * 4 + b"\1" * 4))
        thread.start()
        assert read_frame(ends[0]) == frame
        assert read_frame(ends[0]) == b""
        with pytest.raises(FrameError, match="checksum"):
            read_frame(ends[0])
        thread.join(DEADLINE)
        write_all(ends[1], struct.pack(">II", MAX_FRAME + 1, 0))
        with pytest.raises(FrameError, match="bytes"):
            read_frame(ends[0])
        write_all(ends[1], pack(b"half")[:-1])
        close(ends, 1)
        with pytest.raises(EOFError):
            read_frame(ends[0])
