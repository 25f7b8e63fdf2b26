"""A lane: one bounded JoinableQueue down to one Consumer, and that Consumer's own pipes up.

Lives in the Producer, on its loop. Owns the Consumer process, both of its pipes, its pidfd and its slot; it dies with
its Consumer and is never used again. Says (to its LaneOwner): ready, outcomes, death. The rules that keep it sound are
in design.md ("Lanes") and decisions.md 1 to 4; the comments below name what each line prevents.
"""

import asyncio
import contextlib
import errno
import multiprocessing.process
import os
import signal
import time
from multiprocessing import util
from multiprocessing.queues import JoinableQueue
from typing import Any, Protocol

import msgspec

from mqworker.consumer.outbox import Outbox
from mqworker.consumer.process import Birth, Consumer
from mqworker.consumer.register import Slot
from mqworker.ipc.frames import FrameReader
from mqworker.ipc.messages import Chunk, Hello, LogEvent, Outcome, Outcomes, StageSpec, Unfit, Uplink
from mqworker.ipc.output import OutputReader
from mqworker.ipc.spawn import SPAWN, Death, reap
from mqworker.producer.evidence import oom_kills

END_GRACE = 2.0  # seconds between the end of a Consumer's pipe and its own, on a busy machine

_encoder = msgspec.msgpack.Encoder()
_uplinks = msgspec.msgpack.Decoder(Uplink)
_outcomes = msgspec.msgpack.Decoder(Outcome)


class LaneOwner(Protocol):
    """Who hears a lane; all on the loop's thread."""

    def lane_ready(self, lane: "Lane") -> None:
        """Hear that its Consumer is set up and idle."""

    def lane_outcomes(self, lane: "Lane", words: Outcomes) -> None:
        """Take outcomes; with `words.end` the lane is idle again."""

    def lane_died(self, lane: "Lane", death: Death) -> None:
        """Hear that its Consumer is gone and all that it said was read. Comes exactly once, and last."""

    def lane_log(self, event: LogEvent) -> None:
        """Pass an event of the Consumer on."""


class Lane:
    """See the module head. `number` is unique in the Producer's life, `slot` is its place among the Consumers."""

    def __init__(self, number: int, spec: StageSpec, birth: Birth, slot: Slot, owner: LaneOwner) -> None:
        self.number = number
        self.slot = birth.slot
        self.in_hand_slot = slot
        self.code_generation = birth.generation  # the generation whose code it imported
        self.generation = birth.generation  # applied, as the Consumer reported it
        self.sent = birth.generation  # the newest one that was sent down
        self.state = "starting"
        self.since = time.monotonic()  # when the state began
        self.done = 0
        self.rss = 0
        self.unfit: Unfit | None = None
        self.replace_reason = ""  # why the Consumer wants to be replaced
        self.kill_reason = ""  # why it was killed by us
        self.left = False  # the sentinel was put
        self.oom_kills = oom_kills()  # at its birth
        self.chunk = 0  # counts its chunks
        self.output: OutputReader
        self._grace: asyncio.TimerHandle | None = None  # runs from the end of its pipe to its own
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._queue: JoinableQueue[bytes | None] = SPAWN.JoinableQueue(
            1
        )  # one chunk; the bound in messages is the chunk's
        # A reader that was killed must not make the feeder thread talk, nor end it before it has closed the writing
        # end (which `_ignore_epipe` would do), and an exit of ours must not wait for it.
        self._queue._on_queue_feeder_error = _nothing  # type: ignore[attr-defined]  # internal
        self._queue.cancel_join_thread()
        self._start_feeder()
        with contextlib.ExitStack() as failed:  # a start without descriptors or processes leaves nothing behind
            failed.callback(self._close_queue)
            self._up, up_far = SPAWN.Pipe(duplex=False)
            failed.callback(self._up.close)
            # Our copies of the far ends are closed at once: else the Consumer's death would not show as end of file.
            with up_far:
                self._out, out_far = SPAWN.Pipe(duplex=False)
                failed.callback(self._out.close)
                with out_far:
                    self._board = Outbox()
                    failed.callback(self._board.settle)
                    self._process = Consumer(spec, birth, self._queue, up_far, out_far, self._board)
                    self._process.start()
                    self._board.settle()
            failed.callback(self._process.kill)
            assert self._process.pid is not None
            self.pid: int = self._process.pid
            self._pidfd = os.pidfd_open(self.pid)
            failed.pop_all()
        self._queue._reader.close()  # type: ignore[attr-defined]  # else the feeder never sees a broken pipe
        # Else the start of another Consumer would reap this one without a look at its peak memory.
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]  # internal
        self._loop.add_reader(self._pidfd, self._on_death)
        self._reader = FrameReader(self._up.fileno(), self._on_frame, self._on_end)
        self.output = OutputReader(self._out.fileno(), self._process.name, self.pid, spec.stage, owner.lane_log)

    # --- what the owner does with it

    def feed(self, chunk: Chunk) -> None:
        """Put one chunk into an idle lane: the only put until its end has come back, so that it cannot block."""
        assert self.state == "idle"
        self._become("busy")
        self.sent = chunk.generation
        self._queue.put_nowait(_encoder.encode(chunk))

    def stop_after_message(self) -> int:
        """Tell the Consumer to begin nothing more of its chunk; returns what it is working on (0: nothing)."""
        self.in_hand_slot.stop = self.chunk
        return self.in_hand_slot.seq

    def leave(self) -> None:
        """Put the sentinel into an idle lane."""
        assert self.state == "idle"
        self._become("leaving")
        self.left = True
        self._queue.put_nowait(None)

    def ask_stack(self) -> None:
        """Have the Consumer write its stacks to its stderr, even while native code holds the interpreter."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR2)

    def kill(self, why: str) -> None:
        """End the Consumer now; `lane_died` follows."""
        self.kill_reason = self.kill_reason or why
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def in_hand(self) -> tuple[int, float]:
        """The message that it is working on (0: none), and since when."""
        seq = self.in_hand_slot.seq
        started = self.in_hand_slot.started
        return (seq, started) if self.in_hand_slot.seq == seq else (0, 0.0)

    def read_outbox(self) -> int:
        """Take the outcomes that the Consumer could not hand up yet: its next message runs, or killed it. How many."""
        try:
            outcomes = [_outcomes.decode(payload) for payload in self._board.news()]
        except (msgspec.DecodeError, msgspec.ValidationError):
            return 0
        if outcomes:
            self._owner.lane_outcomes(self, Outcomes(outcomes, end=False, generation=self.generation))
        return len(outcomes)

    # --- what it hears

    def _become(self, state: str) -> None:
        self.state = state
        self.since = time.monotonic()

    def _on_frame(self, payload: bytes) -> None:
        try:
            words = _uplinks.decode(payload)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            self.kill(f"unreadable words: {error}")
            return
        match words:
            case Outcomes():
                self.done += len(words.outcomes)
                self.generation = words.generation
                if words.end:
                    self.rss = words.rss
                    self.replace_reason = words.leaving
                    if self.state == "busy":
                        self._become("idle")
                self._owner.lane_outcomes(self, words)
            case Hello():
                if self.state == "starting":
                    self._forget_semaphores()
                    self._become("idle")
                    self._owner.lane_ready(self)
            case LogEvent():
                self._owner.lane_log(words)
            case Unfit():
                self.unfit = words

    def _on_end(self, reason: str) -> None:
        """A Consumer that cannot be heard any more is of no use: its pipe was closed, or written to by a stranger."""
        if reason:
            self.kill(f"its pipe carried something else: {reason}")
        else:  # as a rule it has just died, which its pidfd is about to tell
            self._grace = self._loop.call_later(END_GRACE, self._still_there)

    def _still_there(self) -> None:
        if self.state not in ("leaving", "dead") and self.unfit is None:
            self.kill("it closed its pipe")

    def _on_death(self) -> None:
        death = reap(self._process)
        if death is None:
            return
        self._loop.remove_reader(self._pidfd)
        self._become("dead")  # it gets nothing more
        self._reader.drain()  # complete frames that it left behind still count, and so does its board
        self.done += self.read_outbox()
        self._reader.close()
        del self._reader  # it holds us: as a cycle our semaphores would stay mapped until a full garbage collection
        if self._grace is not None:
            self._grace.cancel()
        self.output.finish()
        self._forget_semaphores()
        os.close(self._pidfd)
        self._up.close()
        self._out.close()
        self._close_queue()
        self._process.close()
        self._owner.lane_died(self, death)

    # --- multiprocessing's leftovers

    def _start_feeder(self) -> None:
        """Start the queue's thread now: where no thread can be had, that is a start that failed, not a put."""
        queue: Any = self._queue
        try:
            with queue._notempty:
                queue._start_thread()
        except RuntimeError as error:
            queue._thread = None
            self._close_queue()
            raise OSError(errno.EAGAIN, str(error)) from None

    def _close_queue(self) -> None:
        """Let the feeder thread end. It closes the writing end itself, so that no descriptor is closed twice."""
        queue: Any = self._queue
        queue._reader.close()
        if queue._thread is None:
            queue._writer.close()
        queue.close()

    def _forget_semaphores(self) -> None:
        """Unlink the queue's named semaphores as soon as both sides have them open.

        Else eight of them stay in /dev/shm until the Service ends when this Producer is killed (decisions 4).
        """
        queue: Any = self._queue
        locks = [queue._rlock, queue._wlock, queue._sem, queue._unfinished_tasks]
        cond = queue._cond
        locks += [cond._lock, cond._sleeping_count, cond._woken_count, cond._wait_semaphore]
        names = {lock._semlock.name for lock in locks if lock is not None}
        for finalizer in list(util._finalizer_registry.values()):  # type: ignore[attr-defined]  # internal
            if getattr(finalizer._callback, "__qualname__", "") == "SemLock._cleanup" and finalizer._args[0] in names:
                finalizer()


def _nothing(_error: Exception, _item: object) -> None:
    """The item could not be sent: the Consumer is dead, and what was in its lane is dispatched again."""
