"""A TCP proxy between mqworker and RabbitMQ that reads along and misbehaves on request.

One thread with its own asyncio loop; everything public may be called from any thread. It reports each frame to a `Wire`
before forwarding it, so that what mqworker does because of it comes later in that account. It owns its connections;
`close` ends them all. Bodies are never corrupted: AMQP has no checksum, framing is what a peer can see.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.chaos.amqp import Frame, Splitter
from tests.chaos.wire import Wire

READ = 1 << 16
TO_BROKER, TO_SERVICE = True, False


class _Pair:
    """One connection through the proxy: two pumps."""

    def __init__(self, proxy: "Proxy", number: int) -> None:
        self.number = number
        self.harm: dict[bool, str] = {}  # direction -> what to do with its next frame
        self.gates = {TO_BROKER: asyncio.Event(), TO_SERVICE: asyncio.Event()}
        self.halted = False
        self.task = asyncio.current_task()
        for gate in self.gates.values():
            gate.set()
        self._proxy = proxy
        self._writers: list[asyncio.StreamWriter] = []

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve until either side is gone."""
        self._writers.append(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._proxy.target, limit=READ)
        except OSError:
            self.reset()
            return
        self._writers.append(far_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, TO_BROKER)),
            asyncio.create_task(self._pump(far_reader, writer, TO_SERVICE)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self.reset()

    def reset(self) -> None:
        """End both sides with RST."""
        for writer in self._writers:
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: bool) -> None:
        splitter = Splitter(client=way)
        with contextlib.suppress(OSError):
            while data := await reader.read(READ):
                await self.gates[way].wait()
                if self._proxy.delay:
                    await asyncio.sleep(self._proxy.delay)
                frames = splitter.feed(data)
                harm, passing = self.harm.get(way), len(data)
                whole = [frame for frame in frames if _start(frame) >= 0]
                if harm and (whole or harm == "reset"):
                    passing = _start(whole[0]) if whole else 0
                else:
                    harm = None
                now = time.monotonic()
                for frame in frames:
                    if frame.end <= passing:
                        self._proxy.wire.saw(now, self.number, frame, client=way)
                writer.write(data[:passing])
                if harm:
                    self._proxy.harmed += 1
                    await self._harm(harm, data[passing : whole[0].end] if whole else b"", writer)
                    return
                await writer.drain()
        await self.gates[way].wait()  # an end does not pass either

    async def _harm(self, harm: str, frame: bytes, writer: asyncio.StreamWriter) -> None:
        """End this connection in a harmful way, at a frame that is not forwarded."""
        if harm == "cut":
            writer.write(frame[: len(frame) // 2])
        elif harm == "corrupt":
            writer.write(bytes((frame[0] ^ 0x55,)) + frame[1:])
        elif harm == "half-close":
            with contextlib.suppress(OSError):
                writer.write_eof()
        with contextlib.suppress(OSError):
            await writer.drain()
        if harm != "reset":
            await asyncio.sleep(0.05)  # for the peer to see it before the reset overtakes it


def _start(frame: Frame) -> int:
    return frame.end - 8 - len(frame.payload)


class Proxy:
    """See the module head. Listens on `port`, connects to `target`."""

    def __init__(self, target: int, wire: Wire) -> None:
        self.target = target
        self.wire = wire
        self.delay = 0.0  # seconds added to each read
        self.harmed = 0  # connections that were harmed so far
        self.port = 0
        self._pairs: dict[int, _Pair] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._ask(self._listen)

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        pair = self._pairs[self._count] = _Pair(self, self._count)
        task = pair.task
        assert task is not None
        self._tasks.add(task)
        try:
            await pair.run(reader, writer)
        except asyncio.CancelledError:
            pair.reset()
        finally:
            self._tasks.discard(task)
            del self._pairs[pair.number]
            self.wire.closed(pair.number)

    def _ask(self, what: Callable[..., Any], *arguments: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what(*arguments), self._loop).result(10)

    @property
    def connections(self) -> int:
        """Return how many there are."""
        return len(self._pairs)

    # --- misbehaviour

    def harm(self, kind: str, way: bool, chance: random.Random) -> bool:
        """Have one connection `cut`, `reset`, `corrupt` or `half-close` at its next frame; False if there is none."""

        async def arm() -> bool:
            pairs = list(self._pairs.values())
            if not pairs:
                return False
            chance.choice(pairs).harm[way] = kind
            return True

        return self._ask(arm)

    def reset_all(self) -> None:
        """Reset every connection now."""

        async def reset() -> None:
            for pair in list(self._pairs.values()):
                pair.reset()

        self._ask(reset)

    def halt(self, *ways: bool) -> None:
        """Let nothing pass on the existing connections; new ones are unaffected."""

        async def close() -> None:
            for pair in self._pairs.values():
                pair.halted = True
                for way in ways:
                    pair.gates[way].clear()

        self._ask(close)

    def heal(self) -> None:
        """Undo everything: halted connections are reset, as after a long partition."""

        async def reset() -> None:
            self.delay = 0.0
            for pair in list(self._pairs.values()):
                pair.harm.clear()
                if pair.halted and pair.task is not None:
                    pair.reset()
                    pair.task.cancel()  # what is held back never passes

        self._ask(reset)

    def close(self) -> None:
        """End everything."""

        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._ask(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
