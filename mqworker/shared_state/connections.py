"""The connections of a shared object: receives frames of calls and settlement notices, sends frames of answers.

Lives on the loop of the process of the shared object. Calls are made as they are read; the answers wait until the
journal has been handed to the kernel (`send`), so one flush serves the frames of all connections that were ready
together. Nothing is read from a caller that does not read its answers; invalid bytes end only the connection that sent
them.
"""

import select
import socket
import time
from collections.abc import Callable, Iterator

import msgspec

from mqworker.ipc.frames import FrameError, FrameParser, pack
from mqworker.shared_state.messages import Answers, CallAnswer, Caller, Calls, Received, SettlementNotice
from mqworker.shared_state.state import SharedState
from mqworker.shared_state.values import MOST

READ = 1 << 16  # bytes; a larger buffer would be allocated from the system at each read, as costly as a call
UNREAD = 4 << 20  # bytes of answers that a caller may leave unread
_encode = msgspec.msgpack.Encoder().encode
_received = msgspec.msgpack.Decoder(Received)


class Connection:
    """One caller, or a Producer."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.parser = FrameParser()
        self.out = bytearray()
        self.frames: Iterator[bytes] | None = None  # received; they wait until the answers before them are read
        self.caller = Caller("", b"")
        self.events = select.EPOLLIN


class Connections:
    """All connections; `state` makes the calls."""

    def __init__(self, poll: select.epoll, state: SharedState, log: Callable[[str], None]) -> None:
        self._poll = poll
        self._state = state
        self._log = log
        self._all: dict[int, Connection] = {}
        self._answered: list[Connection] = []
        self._refusing = False
        self._refused = ""  # what was last logged about input that is not a call

    def __len__(self) -> int:
        return len(self._all)

    def accept(self, listening: socket.socket) -> None:
        """Accept the connections that are waiting."""
        while True:
            try:
                peer, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor left: they are accepted later
                if not self._refusing:
                    self._log(f"connections cannot be accepted: {error.strerror}")
                self._refusing = True
                return
            self._refusing = False
            peer.setblocking(False)
            self._all[peer.fileno()] = connection = Connection(peer)
            self._poll.register(peer, connection.events)

    def ready(self, fd: int, events: int) -> bool:
        """Read from a connection, or write to it; returns False if `fd` is not a connection."""
        connection = self._all.get(fd)
        if connection is None:
            return False
        if events & select.EPOLLOUT:
            self._write(connection)
            self._handle_frames(connection)
            self._listen(connection)
        elif events & select.EPOLLIN:
            self._read(connection)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._close(connection)
        return True

    def send(self) -> None:
        """Send the answers; called once the journal has been flushed."""
        for connection in self._answered:
            self._write(connection)
            if connection.out or connection.frames is not None:  # it reads slowly
                self._listen(connection)
        self._answered.clear()

    def close(self) -> None:
        """Close all connections: callers send again what was not answered."""
        for connection in list(self._all.values()):
            self._close(connection)
        self._answered.clear()

    def close_copies(self) -> None:
        """Close the copies of the connections in a process that user code has forked."""
        for connection in self._all.values():
            connection.peer.close()

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.peer.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.frames = connection.parser.feed(data)
        self._handle_frames(connection)

    def _handle_frames(self, connection: Connection) -> None:
        """Handle the frames that were received, as long as the caller reads its answers."""
        try:
            while connection.frames is not None and len(connection.out) < UNREAD:
                payload = next(connection.frames, None)
                if payload is None:
                    connection.frames = None
                else:
                    self._handle(connection, _received.decode(payload))
        except (FrameError, msgspec.MsgspecError, ValueError) as error:
            what = f"a connection was closed, because what it sent is not a call: {error}"
            if what != self._refused:  # a client that sends such bytes may do so again and again
                self._log(what)
            self._refused = what
            self._close(connection)

    def _handle(self, connection: Connection, received: Received) -> None:
        if type(received) is Calls:
            if any(len(each.body) > MOST for each in received.calls):
                raise ValueError("a call is too large")
            caller, call, now = connection.caller, self._state.call, time.time
            made = [CallAnswer(each.number, call(caller, each, now())) for each in received.calls]
            connection.out += pack(_encode(Answers(made)))
            self._answered.append(connection)
        elif isinstance(received, SettlementNotice):
            if len(received.settled) + len(received.again) > MOST:
                raise ValueError("too many keys at once")
            self._state.take_notice(received, time.time())
        elif isinstance(received, Caller):
            if len(received.params) > MOST:
                raise ValueError("the parameters are too large")
            connection.caller = received

    def _write(self, connection: Connection) -> None:
        out = connection.out
        try:
            while out:
                del out[: connection.peer.send(out)]
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _listen(self, connection: Connection) -> None:
        """Ask for the events that this connection needs now."""
        goes_on = connection.frames is not None
        reads = connection.frames is None and len(connection.out) < UNREAD
        events = (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if connection.out or goes_on else 0)
        fd = connection.peer.fileno()
        if fd >= 0 and events != connection.events:
            connection.events = events
            self._poll.modify(fd, events)

    def _close(self, connection: Connection) -> None:
        fd = connection.peer.fileno()
        if fd >= 0:
            del self._all[fd]
            self._poll.unregister(fd)
            connection.peer.close()
