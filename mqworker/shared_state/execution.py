"""The call in execution, in shared memory: if the process dies, the Service reads there whose call was running.

A memory-mapped file in the object's folder. Only the process of the shared object writes it, before and after each
call; the Service reads since when a call has been running, and once the process is dead, which call it was. There is no
lock: the start time is written last and cleared first, and can be read on its own.
"""

import struct
from pathlib import Path
from typing import NamedTuple

from mqworker.ipc.mapped import map_private

_HEAD = struct.Struct("<d16s16sH")  # started, message, call, length of what follows: stage, zero byte, method
_KEYS = slice(8, 40)
_NO_KEYS = bytes(32)
_TEXT = 512  # bytes at most
SIZE = _HEAD.size + _TEXT


class Execution(NamedTuple):
    """A call that is or was in execution."""

    started: float  # CLOCK_MONOTONIC
    stage: str
    message: bytes  # empty: it belongs to no message
    call: bytes
    method: str  # also "tick" and "describe", which belong to no stage


class ExecutionNote:
    """The file, mapped by the process of the shared object."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._map = map_private(path, SIZE)
        self._started = memoryview(self._map)[:8].cast("d")
        self._name = ("", "")  # the stage and method that the file holds now
        self.end()

    def begin(self, stage: str, message: bytes, call: bytes, method: str, now: float) -> None:
        """Note that a call begins; both keys have 16 bytes, or both are empty."""
        if self._name != (stage, method):
            self._name = stage, method
            name = b"%s\0%s" % (stage.encode()[: _TEXT // 2], method.encode()[: _TEXT // 2 - 1])
            _HEAD.pack_into(self._map, 0, 0.0, b"", b"", len(name))
            self._map[_HEAD.size : _HEAD.size + len(name)] = name
        self._map[_KEYS] = message + call or _NO_KEYS
        self._started[0] = now

    def end(self) -> None:
        """Note that it has ended."""
        self._started[0] = 0.0


def read_execution(path: Path) -> Execution | None:
    """Return the call in execution; None if there is no call or no file."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < SIZE:
        return None
    started, message, call, length = _HEAD.unpack_from(data)
    if not started:
        return None
    name = data[_HEAD.size : _HEAD.size + min(length, _TEXT)].decode(errors="replace")
    stage, _, method = name.partition("\0")
    return Execution(started, stage, message if any(message) else b"", call, method)
