"""Calls of a shared object, from a Consumer.

Runs where the handler runs. Each thread has its own connection, and so has a process that user code has forked. A call
waits until it is answered: if the object's process is restarted in the meantime, the call is sent again without the
handler noticing, and takes effect once. A call that belongs to no message is not sent again. Whatever interrupts a call
(a soft limit, the deadline) closes the connection, so that a late answer is never taken for that of the next call; in
addition, answers carry their call's number.

Raises SharedValueError for a value that would not arrive as it is, SharedUnavailable at the deadline, Reject and Retry
as the method raised them, SharedCallError for whatever else it raised.
"""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from mqworker.errors import SharedUnavailable, SharedValueError
from mqworker.ipc.frames import FrameError, FrameParser, close_fd, pack
from mqworker.shared_state import answers, values
from mqworker.shared_state.folder import connect, folder_of
from mqworker.shared_state.identity import NO_MESSAGE, link_key, proxy_key
from mqworker.shared_state.messages import Answers, Call, Caller, Calls
from mqworker.shared_state.proxy import SharedProxy, encode_arguments

DEADLINE: Final = 3600.0  # seconds of one call, including all waits: an object may be down until it is repaired
POLL: Final = 0.5  # seconds between two looks of a wait at its deadline
BACKOFF: Final = (0.002, 0.05)  # seconds between attempts to connect: the first pause, the longest
READ: Final = 1 << 16  # bytes; a larger buffer would be allocated from the system at each read
GROUP: Final = 4 << 20  # bytes of calls after which a frame takes no further call
GROUP_CALLS: Final = 256  # calls in one frame: the answer to each may have a MiB
_TIMEVAL = struct.Struct("@ll")

_encode = msgspec.msgpack.Encoder().encode
_answers = msgspec.msgpack.Decoder(Answers)


class Argument(NamedTuple):
    """The argument of a link's call, and the message that it belongs to."""

    message: bytes  # its key (identity.message_key)
    has_id: bool
    value: Any
    part: int = 0  # counts the values that jobs before the link have yielded


class LinkAnswer(NamedTuple):
    """The answer to one of a group of a link's calls; the handler gets it later, in its turn."""

    answer: bytes
    value: Any  # the argument
    call: str  # "object.handle", for errors
    error: SharedValueError | None = None

    def result(self) -> Any:
        """Return what the link has returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return answers.result(self.answer, self.value, self.call)


class SharedClient:
    """One shared object, called from one stage.

    `deadline`: seconds until a call raises SharedUnavailable. `waits` is called with True when a call begins to wait
    for an object that is down, and with False when that wait ends: the wait should not count toward any time limit.
    """

    def __init__(
        self,
        state_dir: str | Path,
        name: str,
        stage: str,
        *,
        deadline: float = DEADLINE,
        waits: Callable[[bool], None] | None = None,
    ) -> None:
        self.name = name
        self.deadline = deadline
        self._folder = folder_of(state_dir, name)
        self._caller = Caller(stage, b"{}")
        self._waits = waits
        self._local = threading.local()
        self._links: dict[tuple[str, int], bytes] = {}
        self._before: dict[tuple[str, bytes], int] = {}  # how many equal calls this run has made
        self._number = 0
        self.end()

    def use_params(self, params: bytes) -> None:
        """Pass these parameters, a JSON object, with all further calls."""
        self._caller = Caller(self._caller.stage, params)

    def begin(self, message: bytes, *, has_id: bool) -> None:
        """Begin a run of a message: until `end`, the calls of this thread and process belong to the message."""
        self._message, self._has_id = message, has_id
        self._owner = threading.get_ident(), os.getpid()
        self._before.clear()

    def end(self) -> None:
        """End the run; later calls belong to no message and are not remembered."""
        self._message, self._has_id = NO_MESSAGE, False
        self._owner = (0, 0)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the object and return its result."""
        body, canonical = encode_arguments(method, args, kwargs)
        message, key = self._message, NO_MESSAGE
        if message and self._owner != (threading.get_ident(), os.getpid()):
            message = NO_MESSAGE
        if message:
            same = method, canonical
            before = self._before.get(same, 0)
            self._before[same] = before + 1
            key = proxy_key(method, canonical, before)
        self._number += 1
        call = Call(self._number, message, self._has_id and bool(message), key, method, body)
        return answers.result(self._exchange([call])[0], call=f"{self.name}.{method}")

    def link(self, link: str, value: Any, part: int = 0) -> Any:
        """Call `handle` for the message of this run; `link` is the name of this link of the chain."""
        argument = Argument(self._message, self._has_id, value, part)
        return self.links(link, [argument])[0].result()

    def links(self, link: str, arguments: Iterable[Argument]) -> list[LinkAnswer]:
        """Call `handle` for several messages at once, in order; an answer has what its call has returned or raised."""
        found: list[LinkAnswer | None] = []
        calls: list[Call] = []
        taken: list[tuple[int, Any]] = []
        name = f"{self.name}.handle"
        for argument in arguments:
            try:
                body = values.encode(argument.value, "the argument")
            except SharedValueError as error:
                found.append(LinkAnswer(b"", None, name, error))
                continue
            self._number += 1
            taken.append((len(found), argument.value))
            found.append(None)
            key = self._link_key(link, argument.part)
            calls.append(Call(self._number, argument.message, argument.has_id, key, "", body))
        made = [answer for group in _groups(calls) for answer in self._exchange(group)]
        for (at, value), answer in zip(taken, made, strict=True):
            found[at] = LinkAnswer(answer, value, name)
        return [each for each in found if each is not None]

    def proxy(self) -> SharedProxy:
        """Return what a handler receives in an argument with the object's name."""
        return SharedProxy(self)

    def close(self) -> None:
        """Close this thread's connection; the next call opens one."""
        self._local.__dict__.pop("line", None)

    def _link_key(self, link: str, part: int) -> bytes:
        key = self._links.get((link, part))
        if key is None:
            if len(self._links) > 4096:
                self._links.clear()
            key = self._links[link, part] = link_key(link, part)
        return key

    def _exchange(self, calls: list[Call]) -> list[bytes]:
        """Send a group of calls and return the answers, however often the object is restarted in the meantime."""
        frame = pack(_encode(Calls(calls)))
        until = time.monotonic() + self.deadline
        pause, once = BACKOFF[0], not all(call.message for call in calls)
        while True:
            line = self._connected(until)
            if once and line.is_closed():  # it led to a process that has since ended
                self.close()
                continue
            try:
                line.send(frame, self._caller, until)
                return line.receive(calls, until)
            except (OSError, EOFError, FrameError, msgspec.MsgspecError):
                self.close()
                if time.monotonic() > until:
                    raise self._unavailable("was not answered") from None
                if once:
                    what = f"the process of the shared object {self.name!r} has ended in this call"
                    raise SharedUnavailable(
                        f"{what}; it belongs to no message, so it is not repeated: it may have had its effect"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, BACKOFF[1])
            except BaseException:  # a soft limit or another interruption: the next call must not get the answer
                self.close()
                raise

    def _connected(self, until: float) -> "_Line":
        line: _Line | None = getattr(self._local, "line", None)
        if line is not None and line.pid == os.getpid():
            return line
        self.close()
        pause, waiting = BACKOFF[0], False
        try:
            while True:
                try:
                    line = self._local.line = _Line(self._folder)
                except OSError as error:
                    if time.monotonic() > until:
                        raise self._unavailable(f"is down ({error.strerror or error})") from None
                else:
                    return line
                if not waiting and self._waits is not None:
                    waiting = True
                    self._waits(True)
                time.sleep(pause)
                pause = min(2 * pause, BACKOFF[1])
        finally:
            if waiting and self._waits is not None:
                self._waits(False)

    def _unavailable(self, why: str) -> SharedUnavailable:
        return SharedUnavailable(f"the shared object {self.name!r} {why}, within {self.deadline:g} s")


class _Line:
    """A connection, used by one thread of one process; it is closed when nothing refers to it any more."""

    def __init__(self, folder: Path) -> None:
        """Connect; raises OSError."""
        self.pid = os.getpid()
        self._caller: Caller | None = None
        self._parser = FrameParser()
        self._fd = -1
        calling = connect(folder, POLL)
        calling.settimeout(None)  # the kernel's time limit, set below, needs no extra system call
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            calling.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(POLL), int(POLL % 1 * 1e6)))
        self._fd = calling.detach()

    def __del__(self) -> None:
        if self._fd >= 0:
            close_fd(self._fd)

    def is_closed(self) -> bool:
        """Return whether the object has closed the connection; valid only before a call is sent."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, frame: bytes, caller: Caller, until: float) -> None:
        """Send a frame of calls, preceded by the Caller if the object does not have it yet; raises OSError."""
        if caller is not self._caller:
            frame = pack(_encode(caller)) + frame
            self._caller = caller
        left = memoryview(frame)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                _look_at(until)

    def receive(self, calls: Sequence[Call], until: float) -> list[bytes]:
        """Return the answers to these calls; raises OSError, EOFError, FrameError."""
        while True:
            try:
                data = os.read(self._fd, READ)
            except BlockingIOError:
                _look_at(until)
                continue
            if not data:
                raise EOFError
            for payload in self._parser.feed(data):
                made = _answers.decode(payload).answers
                if len(made) == len(calls) and made[0].number == calls[0].number:
                    return [each.answer for each in made]


def _look_at(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError


def _groups(calls: list[Call]) -> list[list[Call]]:
    """Divide calls into frames of bounded size."""
    groups: list[list[Call]] = []
    size = GROUP
    for call in calls:
        if size >= GROUP or len(groups[-1]) == GROUP_CALLS:
            groups.append([])
            size = 0
        groups[-1].append(call)
        size += len(call.body)
    return groups
