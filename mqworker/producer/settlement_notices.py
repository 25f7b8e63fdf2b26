"""What the Producer reports to the shared objects of its stage: which messages are settled, and which come again.

Lives in the Producer, on its loop, and never blocks it. Owns a connection to each object that the stage uses, with a
buffer. An object remembers the calls of a message until a notice says that the message is settled, and longer if the
message is published again, which is reported before it is. A notice that is lost, because an object is down for
long, costs memory there, and nothing else.
"""

import socket
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mqworker.amqp.properties import decode_leniently
from mqworker.config.model import StageConfig
from mqworker.ipc import frames
from mqworker.producer.entry import Entry, Plan
from mqworker.shared_state.folder import connect, folder_of
from mqworker.shared_state.identity import SIZE, identify
from mqworker.shared_state.messages import SettlementNotice

LATER = 1.0  # seconds until a connection is tried again
PATIENCE = 0.05  # seconds that a connection may take
MOST = 1 << 20  # bytes that wait for an object; what is more is dropped
TOGETHER = 256  # messages in one frame

_encode = msgspec.msgpack.Encoder().encode


class _Listener:
    """One shared object."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket: socket.socket | None = None
        self._frames: deque[bytes] = deque()
        self._size = 0  # of them, in bytes
        self._sent = 0  # bytes of the first one
        self._try_at = 0.0

    def put(self, frame: bytes) -> None:
        if self._size + len(frame) <= MOST:
            self._frames.append(frame)
            self._size += len(frame)

    def send(self, now: float) -> None:
        """Send what waits; if the object has ended since, to its successor, if there is one already."""
        for _ in range(2):
            if not self._connected(now):
                return
            try:
                self._send()
            except BlockingIOError:
                return
            except OSError:
                self.close()
            else:
                return

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._sent:  # the rest of a frame would not be read
            self._drop()

    def _connected(self, now: float) -> bool:
        if self._socket is None and now >= self._try_at:
            try:
                self._socket = connect(self._folder, PATIENCE)
            except OSError:
                self._try_at = now + LATER
                return False
            self._socket.setblocking(False)
        return self._socket is not None

    def _send(self) -> None:
        while self._frames and self._socket is not None:
            self._sent += self._socket.send(memoryview(self._frames[0])[self._sent :])
            if self._sent == len(self._frames[0]):
                self._drop()

    def _drop(self) -> None:
        self._size -= len(self._frames.popleft())
        self._sent = 0


class SettlementNotices:
    """See the module head."""

    def __init__(self, stage: str, config: StageConfig, state_dir: str, settled: bytearray) -> None:
        """`settled` receives the keys of messages that are settled."""
        self._stage, self._config, self._state_dir = stage, config, state_dir
        self._listeners: dict[str, _Listener] = {}
        self._settled = settled
        self._again = bytearray()

    def use(self, names: Iterable[str]) -> None:
        """Send notices to these objects from now on."""
        wanted = set(names)
        for name in self._listeners.keys() - wanted:
            self._listeners.pop(name).close()
        for name in wanted - self._listeners.keys():
            self._listeners[name] = _Listener(folder_of(self._state_dir, name))

    def planned(self, entry: Entry, plan: Plan) -> None:
        """Note a message's key; if it is about to be published again (retry, renewal, dead letter), report it first."""
        if not self._listeners:
            return
        entry.shared_key = self._key(entry)
        if plan.outcome not in ("result", "dropped"):
            self._again += entry.shared_key
            self.flush()
        elif len(self._settled) >= TOGETHER * SIZE:
            self.flush()

    def flush(self) -> None:
        """Send what was noted."""
        if not self._listeners:
            return
        if self._settled or self._again:
            notice = SettlementNotice(self._stage, bytes(self._settled), bytes(self._again))
            self._settled.clear()
            self._again.clear()
            frame = frames.pack(_encode(notice))
            for listener in self._listeners.values():
                listener.put(frame)
        now = time.monotonic()
        for listener in self._listeners.values():
            listener.send(now)

    def _key(self, entry: Entry) -> bytes:
        properties = decode_leniently(entry.properties)
        return identify(self._config, properties, entry.properties, entry.body)[0]
