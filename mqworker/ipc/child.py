"""One life of a child process, seen from its parent.

Runs on the loop of a parent's main thread (Service, Producer, `mqworker check`). Owns the process, its pidfd and the
near ends of its three pipes: `down` carries frames to it, `up` frames from it, `output` its stdout and stderr. Passes
everything that it receives to three callbacks of its owner: records, log events (those that the child sends, and its
output line by line), the child's death.

What holds for every kind of child:

- One object is one life. A start that fails (no descriptor, process or memory left) raises OSError and leaves nothing
  behind: no process, no descriptor, no callback.
- Exactly one death is reported, and it is the last report: every record and line that the child wrote before it died
  comes first. Output of a copy that the child forked is ignored from then on, and does not delay the report.
- After `stop`, the process is gone and reaped. `kill` and `stop` are harmless when called twice, before the start or
  after the death.
- Nothing here blocks the loop, and every wait has a deadline. A deadline for the child itself (`kill_after`) is a
  separate timer, which runs on when a caller is cancelled: it ends the child, and so every wait for it.
- A child that sends something invalid is killed at once: bytes that are not frames, or a frame that is not a record. A
  child that closes `up` is killed after END_GRACE, because usually it has just died.
- An exception in a callback is logged, and only that record or line is lost; of lines, the first exception only.
"""

import asyncio
import atexit
import contextlib
import fcntl
import logging
import multiprocessing.process
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from mqworker.ipc import logs
from mqworker.ipc.frame_streams import FrameReader, FrameWriter
from mqworker.ipc.output import HOLDS, OutputReader, no_labels
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import SPAWN, Death, Spawned, keep_path_safe, reap
from mqworker.ipc.turn_end import TurnEnd

END_GRACE = 2.0  # seconds between the end of a child's pipe and the end of the child, on a busy machine
UP_HOLDS = 1 << 17  # bytes that the pipe up holds; a Consumer knows it by that, as other pipes hold half as much
KILL_DEADLINE = 2.0  # seconds from SIGKILL until it is gone; only a process stuck in the kernel takes longer

_encoder = msgspec.msgpack.Encoder()

living: set[int] = set()  # pids of this process's children that are not reaped yet
_owner = os.getpid()

log = logging.getLogger("mqworker.ipc.child")


class Child:
    """See the module head. `decoder` decodes the records that the child sends; LogEvents go to `on_log`.

    `in_hand` and `labels` tell which message the child's output is about (`ipc/output.py`).
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Any],
        on_record: Callable[[Any], None],
        on_death: Callable[[Death], None],
        on_log: Callable[[LogEvent], None],
        in_hand: Callable[[], int] = int,
        labels: Callable[[int], dict[str, Any]] = no_labels,
    ) -> None:
        self.pid = 0
        self.death: Death | None = None
        self.kill_reason = ""  # why we killed it
        self._decoder = decoder
        self._on_record = on_record
        self._on_death = on_death
        self._on_log = on_log
        self._in_hand = in_hand
        self._labels = labels
        self._loop = asyncio.get_running_loop()
        self._process: Spawned | None = None
        self._gone = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None  # runs from the end of `up` to the end of the child
        self._last_output = self._last_crash = ""
        self._refused_signal = False

    def start(self, process: Spawned) -> None:
        """Start it; raises OSError."""
        assert self._process is None, "one object is one life"
        assert threading.current_thread() is threading.main_thread(), "its death signal belongs to the starting thread"
        with contextlib.ExitStack() as far, contextlib.ExitStack() as undo:
            undo.callback(self._forget_owner)
            down_far, down = _pipe(far, undo)
            up, up_far = _pipe(undo, far)
            output, output_far = _pipe(undo, far)
            for pipe, size in ((output, HOLDS), (up, UP_HOLDS)):
                with contextlib.suppress(OSError):  # the user's pipes may take no more memory
                    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, size)
            process.attach(down_far, up_far, output_far)
            keep_path_safe()
            with process.signals_held():
                process.start()
            undo.callback(_end_unwatched, process)
            # Otherwise multiprocessing waits for it at our exit, and reaps it at each start: we lose its peak memory.
            multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]  # internal
            assert process.pid is not None
            pidfd = os.pidfd_open(process.pid)
            undo.callback(os.close, pidfd)
            reader = FrameReader(up.fileno(), self._on_frame, self._on_up_end)
            undo.callback(reader.close)
            lines = OutputReader(
                *(output.fileno(), process.name, process.pid, process.stage),
                *(self._on_log, process.token, self._in_hand, self._labels),
            )
            undo.callback(lines.finish)
            self._loop.add_reader(pidfd, self._on_exit)
            undo.pop_all()
        self._process, self.pid, self._pidfd = process, process.pid, pidfd
        self._reader, self._lines, self._writer = reader, lines, FrameWriter(down.fileno())
        self._pipes = down, up, output
        living.add(self.pid)

    @property
    def alive(self) -> bool:
        """Whether it was started and its death has not been noticed yet."""
        return self._process is not None and self.death is None

    @property
    def output_tail(self) -> str:
        """Return the last 8 KiB that it wrote to stdout and stderr."""
        return self._lines.tail if self.alive else self._last_output

    @property
    def crash(self) -> str:
        """Return the stack of the thread in which it crashed, as faulthandler wrote it to its stderr; "": none."""
        return self._lines.crash if self.alive else self._last_crash

    # --- called by the owner

    @property
    def unread(self) -> bool:
        """Whether it has sent something that was not read yet."""
        return self.alive and self._pipes[1].poll()

    def notice_death(self) -> None:
        """Report its death now if it is dead already, instead of when the loop comes to it."""
        if self.alive:
            self._on_exit()

    def catch_up_output(self, *, read: bool) -> None:
        """Log the lines of the messages that have ended, if `read` also those unread; called while records arrive."""
        self._lines.catch_up(read=read)

    def send(self, record: msgspec.Struct) -> bool:
        """Send a record down; returns False if it was dropped, because the child is gone or does not read."""
        return self.alive and self._writer.send(_encoder.encode(record))

    async def put(self, record: msgspec.Struct) -> None:
        """Send a record down as soon as there is room for it; the caller sets the deadline.

        Raises FrameTooLarge at once if the record can never fit, BrokenPipeError when the child is gone.
        """
        if not self.alive:
            raise BrokenPipeError
        await self._writer.put(_encoder.encode(record))

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if not self.alive:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # dead, and about to be reaped
        except OSError as error:  # user code made it another user's process
            if not self._refused_signal:
                self._refused_signal = True
                what = f"process {self.pid} could not be sent {number.name}: {error.strerror}"
                logs.report(log, logging.ERROR, "signal_refused", what, child_pid=self.pid)

    def kill(self, why: str) -> None:
        """Kill it now; the first reason is kept."""
        if self.alive:
            self.kill_reason = self.kill_reason or why
            self.send_signal(signal.SIGKILL)

    def kill_after(self, seconds: float, why: str) -> asyncio.TimerHandle:
        """Kill it after `seconds`, unless the timer is cancelled; harmless if it is dead by then."""
        return self._loop.call_later(seconds, self.kill, why)

    async def wait(self, deadline: float) -> Death | None:
        """Wait at most `deadline` seconds until its death is reported; None if it lives or was never started."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline):
                    await self._gone.wait()
        return self.death

    async def stop(self, why: str, deadline: float = KILL_DEADLINE) -> Death | None:
        """Kill it and wait for its death; returns None if it was never started or is stuck in the kernel."""
        self.kill(why)
        return await self.wait(deadline)

    # --- called by the loop

    def _on_frame(self, payload: bytes) -> None:
        try:
            record = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            self.kill(f"what it sent is not a record: {error}")
            return
        try:
            if isinstance(record, LogEvent):
                self._on_log(record)
            else:
                self._on_record(record)
        except Exception:
            log.exception("a record of process %d could not be handled", self.pid, extra={"event": "record_failed"})

    def _on_up_end(self, reason: str) -> None:
        if reason:
            self.kill(f"its pipe carried something else: {reason}")
        elif self._grace is None:
            self._grace = self.kill_after(END_GRACE, "it closed its pipe")

    def _on_exit(self) -> None:
        process = self._process
        assert process is not None
        death = reap(process)
        if death is None:
            return
        self._loop.remove_reader(self._pidfd)
        living.discard(self.pid)
        self.death = death
        turn_end = TurnEnd.of(self._loop)
        turn_end.begin()  # what its last records lead to comes after the report of its death
        with contextlib.ExitStack() as steps:  # these run in reverse order, and each runs even if another raises
            steps.callback(turn_end.end)
            steps.callback(self._gone.set)
            steps.callback(self._on_death, death)
            steps.callback(self._release)
            steps.callback(self._lines.finish)
            steps.callback(self._reader.drain)

    def _release(self) -> None:
        """Close everything."""
        if self._grace is not None:
            self._grace.cancel()
        self._reader.close()
        self._writer.close()
        os.close(self._pidfd)
        for pipe in self._pipes:
            pipe.close()
        assert self._process is not None
        self._process.close()
        self._last_output, self._last_crash = self._lines.tail, self._lines.crash
        del self._reader, self._lines
        self._forget_owner()

    def _forget_owner(self) -> None:
        """Drop the callbacks: their cycle would keep the owner in memory until a full garbage collection."""
        self._on_record = self._on_death = self._on_log = _ignore
        self._in_hand, self._labels = int, no_labels


def _kill_living() -> None:
    """Kill what is left at an ordinary exit, which only an exception brings about.

    From Python 3.13 on, the exit waits for multiprocessing's resource tracker, and that for our children, before it is
    so far that they die with us.
    """
    for pid in living if os.getpid() == _owner else ():
        with contextlib.suppress(OSError):  # it is gone, or has become another user's
            os.kill(pid, signal.SIGKILL)


atexit.register(_kill_living)


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[Connection, Connection]:
    """Return the two ends of a pipe; each stack closes its end."""
    ends = SPAWN.Pipe(duplex=False)
    return reading.enter_context(ends[0]), writing.enter_context(ends[1])


def _end_unwatched(process: Spawned) -> None:
    """End a process that was just started and cannot be watched; it has done nothing yet and ends at once."""
    process.kill()
    process.join(KILL_DEADLINE)
    if reap(process) is not None:
        process.close()


def _ignore(_: Any) -> None:
    """Replace a callback of an owner who has received the death."""
