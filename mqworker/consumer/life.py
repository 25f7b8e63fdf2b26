"""The work of a Consumer, from its set-up to the sentinel.

Runs in the Consumer's process, on its main thread, and owns everything that `process` lists; it is a module of its own
because the Producer, which starts Consumers, needs nothing of it. In a Consumer that computes several messages at once,
outcomes and chunks are handled by the pump instead (`seated`, `pump`).
"""

import atexit
import json
import logging
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.labels import labels
from mqworker.consumer import resources
from mqworker.consumer.alarm import Alarm
from mqworker.consumer.hatch import Hatch
from mqworker.consumer.lane_end import LaneEnd
from mqworker.consumer.message_clock import MessageClock
from mqworker.consumer.outbox import Outbox
from mqworker.consumer.register import open_slot
from mqworker.consumer.work import RunOwner, Worker
from mqworker.ipc import frames, logs
from mqworker.ipc.consumer_messages import Birth, Chunk, Failure, Hello, Item, Outcomes, Unfit, Uplink
from mqworker.ipc.marks import Mark
from mqworker.ipc.pipes import capacity
from mqworker.ipc.proc import rss
from mqworker.ipc.spawn import be_plain
from mqworker.ipc.stage_spec import StageSpec
from mqworker.jobs.chain import Chain, kind_of
from mqworker.jobs.code_finder import use_code
from mqworker.jobs.failures import describe
from mqworker.jobs.loading import load_chain

if TYPE_CHECKING:
    from mqworker.consumer.seated import Seated

DEBUG = logging.DEBUG
HAND_UP = 0.005  # seconds of work after which outcomes are sent up before the chunk ends

_encoder = msgspec.msgpack.Encoder()


class ConsumerLife:
    """See the module head. `token` is that of the Consumer's marks, `up` the descriptor of its pipe."""

    def __init__(
        self, name: str, token: str, down: Connection, up: int, lane: LaneEnd, hatch: Hatch, outbox: Outbox
    ) -> None:
        self._name = name
        self._token = token
        self._down = down
        self._up = up
        self._lane = lane
        self._hatch = hatch
        self._outbox = outbox

    def live(self) -> None:
        """Set up, send Hello, compute until the sentinel."""
        sys.dont_write_bytecode = True  # a .pyc hides the second of two edits in one second from a restart
        self._sending = threading.Lock()
        self._alarm = Alarm()
        self._mark = Mark(1, self._token, (sys.stdout, sys.stderr))
        self._item: Item | None = None  # the message in hand
        self._shared: RunOwner | None = None
        self._labelled: tuple[int, dict[str, Any]] = (0, {})  # the last message that was logged about
        self._spec = spec = msgspec.msgpack.decode(frames.read_frame(self._down.fileno()), type=StageSpec)
        self._birth = birth = msgspec.msgpack.decode(frames.read_frame(self._down.fileno()), type=Birth)
        self._down.close()
        self._handler = handler = logs.ForwardingHandler(self._send, self._name, spec.stage)
        handler.labels = self._labels
        logs.use(handler, birth.log_level)
        self._level = birth.log_level
        self._log = log = logs.JobLogger(f"mqworker.job.{spec.stage}", handler, birth.log_level)
        be_plain()
        try:
            working = self._load(log)
            working.setup()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; the Producer decides what follows
            what = describe(error)
            self._send(Unfit(Failure("setup", what.type, what.message, what.traceback)))
            return
        kind, seats = ("serial", 0) if isinstance(working, Chain) else (working.kind, working.count)
        self._send(Hello(os.getpid(), birth.generation.number, kind, seats))
        try:
            if isinstance(working, Chain):
                self._work(working)
            else:
                working.work()
        finally:
            try:
                working.teardown()
            finally:
                atexit._run_exitfuncs()  # multiprocessing does not run these in its child processes

    def _load(self, log: logging.Logger) -> "Chain | Seated":
        """Apply the stage's resources, import the code, and return what works with it; the caller sets it up."""
        spec, birth, generation = self._spec, self._birth, self._birth.generation
        resources.take(spec.config, birth.slot, birth.consumers)
        root, copy = use_code(spec.root, generation.copy, spec.state_dir)
        jobs = load_chain(generation.jobs, root, copy, spec.shared)
        kind = kind_of(jobs, spec.config.concurrency)
        if kind != "serial":
            from mqworker.consumer.seated import Seated, labels_of_current  # noqa: PLC0415 - where it is used

            self._handler.labels = labels_of_current
            common = Chain(jobs, json.loads(generation.params), spec.stage, log)
            return Seated(spec, birth, kind, common, log, self._lane, self._hatch, self._up, self._send)
        self._slot = open_slot(Path(birth.register), birth.place)
        self._clock = MessageClock(self._alarm, self._slot)
        shared = programs = None
        if generation.shared:
            from mqworker.consumer.shared_calls import SharedCalls  # noqa: PLC0415 - where there are any

            self._shared = shared = SharedCalls(spec, self._slot, self._alarm)
        if any(job.program is not None for job in jobs):
            from mqworker.jobs.program import Programs  # noqa: PLC0415 - as above

            programs = Programs(spec.stage, spec.config, self._clock)
        return Chain(jobs, json.loads(generation.params), spec.stage, log, shared, programs)

    def _work(self, chain: Chain) -> None:
        spec, done, pid = self._spec, 0, os.getpid()
        worker = Worker(chain, spec.stage, spec.config, spec.broker, self._alarm, self._shared)
        worker.begin_generation(self._birth.generation.number)
        self._pipe_holds = capacity(self._up)
        chunk, reported = self._lane.wait(), False  # reported: the Producer knows that the chunk is taken
        while chunk is not None:
            self._begin(chunk, chain, worker)
            if chunk.more and not reported:
                self._send(Outcomes([], worker.generation, taken=chunk.number))
            outcomes, computed, printed = self._compute(chunk, worker)
            done += computed
            memory = rss(pid)
            leaving = self._leaving(worker, done, memory)
            following = self._lane.present()
            taken = 0 if following is None else following.number
            self._send(Outcomes(outcomes, worker.generation, taken, chunk.number, memory, leaving, printed))
            self._outbox.clear()
            chunk, reported = following or self._lane.wait(), following is not None

    def _compute(self, chunk: Chunk, worker: Worker) -> tuple[list[Any], int, bool]:
        """Compute the messages of a chunk, up to one that must not begin.

        Returns the outcomes that were not sent up (they are in the outbox), the number of messages, and whether they
        have printed anything.
        """
        slot, outbox, up, mark, labels_now = self._slot, self._outbox, self._up, self._mark.end, self._labels
        level, holds, asks_ahead, lost = self._level, self._pipe_holds, worker.asks_ahead, self._lane.lost
        outcomes: list[Any] = []  # encoded one by one, so that an error fails only its message
        last, printed, computed = b"", False, 0
        handed_up = time.monotonic()
        for item in chunk.items:
            now = time.monotonic()
            if outcomes and (now - handed_up > HAND_UP or not outbox.add(last)):
                self._hand_up(outcomes, worker, printed)
                outcomes, printed = [], False
                handed_up = now
            slot.begin(item.seq, item.fingerprint or fingerprint(item.properties, item.body), now)
            if slot.stop >= chunk.number:  # after begin: otherwise this message could be dispatched elsewhere too
                slot.end()
                return outcomes, computed, printed  # they are in the outbox already
            if asks_ahead and item is chunk.items[0] and not chunk.stop_at_failure:
                worker.ask_ahead(chunk.items)
            self._item = item
            if level <= DEBUG:
                logs.report(self._log, logging.DEBUG, "begun", "started")
            last, large = worker.compute_encoded(item, lost)
            outcomes.append(msgspec.Raw(last))
            if capacity(up) != holds:  # user code closed the pipe: a death now charges the right message
                os._exit(1)
            printed = mark(labels_now) or printed
            self._item = None
            if large:  # while it is in hand, so that a death now is charged to it
                self._send_in_pieces(large)
                self._hand_up(outcomes, worker, printed)  # without its bodies, it must not be in the outbox
                outcomes, printed = [], False
            slot.end()
            computed += 1
            if worker.failed and chunk.stop_at_failure:
                break  # the end of the chunk returns the others
        if outcomes and not outbox.add(last):  # what follows may end this process
            self._hand_up(outcomes, worker, printed)
            outcomes, printed = [], False
        return outcomes, computed, printed

    def _hand_up(self, outcomes: list[Any], worker: Worker, printed: bool) -> None:
        self._send(Outcomes(outcomes, worker.generation, printed=printed))
        self._outbox.clear()

    def _begin(self, chunk: Chunk, chain: Chain, worker: Worker) -> None:
        """Adopt what has changed since the last chunk."""
        worker.soft_limit = chunk.soft_limit
        worker.hard_limit = self._clock.hard_limit = chunk.hard_limit
        if chunk.params is not None:
            chain.apply_params(json.loads(chunk.params))
        if chunk.generation != worker.generation:
            worker.begin_generation(chunk.generation)
        if chunk.log_level != self._level:
            self._level = chunk.log_level
            logs.set_level(self._level)

    def _labels(self) -> dict[str, Any]:
        """Return the labels of the message in hand, if there is one."""
        item = self._item
        if item is None:
            return {}
        labelled = self._labelled  # a thread may replace it in the meantime
        if labelled[0] != item.seq:
            labelled = item.seq, labels(item.properties, item.body, self._spec.config.input.queue)
            self._labelled = labelled
        return labelled[1]

    def _leaving(self, worker: Worker, done: int, memory: int) -> str:
        """Return why this Consumer should be replaced by a fresh one; "" if it should not."""
        config = self._spec.config
        if worker.out_of_memory:
            return "memory"
        if config.max_messages and done >= config.max_messages:
            return "max_messages"
        if config.max_rss and memory >= config.max_rss:
            return "max_rss"
        return ""

    def _send_in_pieces(self, bodies: list[bytes]) -> None:
        for body in bodies:
            for piece in self._hatch.put(body):
                self._send(piece)
        bodies.clear()  # so that they take no memory while the next message is computed

    def _send(self, uplink: Uplink) -> None:
        data = frames.pack(_encoder.encode(uplink))
        with self._alarm, self._sending:  # a frame that the soft time limit cut short would end this Consumer
            frames.write_all(self._up, data)
