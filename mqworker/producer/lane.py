"""A lane: one Consumer, the queue down to it, and the messages that it sends up.

Lives in the Producer, on its loop. Owns the Consumer's process (a Child), its LaneQueue, its inbox, hatch and outbox,
and writes the stop word of its place in the in-hand register. A lane ends with its Consumer and is never used again.
Sends the StageSpec and a Birth once, then chunks; receives Uplinks. Reports to its LaneOwner: ready, outcomes, death. A
start that fails raises OSError and leaves nothing behind. Decisions 1 to 4 are the rules that keep it sound.

It has many small methods: most are one line for what an owner asks or a child reports, about parts that begin and end
together.
"""

import contextlib
import os
import signal
import time
from typing import Any, Protocol

import msgspec

from mqworker.config.programs import is_program
from mqworker.consumer.hatch import Hatch
from mqworker.consumer.inbox import Inbox
from mqworker.consumer.outbox import Outbox
from mqworker.consumer.process import Consumer
from mqworker.consumer.register import Seats
from mqworker.ipc.child import Child
from mqworker.ipc.consumer_messages import Birth, Chunk, Hello, Outcome, Outcomes, Piece, Stack, Unfit, Uplink
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.evidence import oom_kills
from mqworker.producer.lane_queue import LaneQueue
from mqworker.producer.lane_seats import LaneSeats

_uplinks = msgspec.msgpack.Decoder(Uplink)
_outcomes = msgspec.msgpack.Decoder(Outcome)


class LaneOwner(Protocol):
    """The owner of lanes, which receives their reports on the loop's thread."""

    def lane_ready(self, lane: "Lane") -> None:
        """Note that its Consumer is set up and idle."""

    def lane_outcomes(self, lane: "Lane", outcomes: Outcomes) -> None:
        """Receive outcomes; they and what has ended or was taken have changed what the lane may be fed."""

    def lane_died(self, lane: "Lane", death: Death) -> None:
        """Note that its Consumer is gone and everything that it sent was read. Called exactly once, and last."""

    def lane_log(self, event: LogEvent) -> None:
        """Pass on a log event of the Consumer."""

    def lane_labels(self, seq: int) -> dict[str, Any]:
        """Return the labels of the message in hand, for what its Consumer prints."""


class Lane:
    """See the module head.

    `number` is unique in the Producer's life; `slot` is the number of its Consumer among those of the stage, which its
    successor takes over; `place` is that of its words in the in-hand register.
    """

    def __init__(self, number: int, spec: StageSpec, birth: Birth, words: Seats, owner: LaneOwner) -> None:
        self.number = number
        self.slot = birth.slot
        self.place = birth.place
        self.in_hand_slot = words.own
        self.seats: LaneSeats | None = None  # None: one message at a time
        self.code = birth.generation.code  # the generation whose code it imported
        copy = birth.generation.copy
        self.folders = (
            (spec.root,) if copy is None else (os.path.realpath(copy.path(spec.state_dir)), spec.root)
        )  # of its code
        self.has_program = any(map(is_program, birth.generation.jobs))  # the Consumer kills the program at a limit
        self.generation = birth.generation.number  # applied, as the Consumer reported it
        self.sent = birth.generation.number  # the newest generation that was sent down
        self.state = "starting"
        self.since = time.monotonic()  # when the state began, or the present chunk
        self.done = 0
        self._busy = 0.0  # seconds that it had chunks, without the present one
        self.rss = 0
        self.cpu = 0.0  # seconds that its Consumer has used, as last looked at
        self.unfit: Unfit | None = None
        self.replace_reason = ""  # why the Consumer asks to be replaced
        self.left = False  # the sentinel was put
        self.oom_kills = oom_kills()  # at its birth
        self.chunk = 0  # counts the chunks that were put
        self.taken = 0  # the newest that the Consumer has taken out of the queue
        self.ended = 0  # the newest that has ended
        self._words = words
        self._owner = owner
        self._labelled: tuple[int, dict[str, Any]] = (0, {})  # the message whose output was last logged
        with contextlib.ExitStack() as undo:
            self._inbox = Inbox()
            undo.callback(self._inbox.close)
            self._hatch = Hatch()
            undo.callback(self._hatch.close)
            self._queue = LaneQueue(self._inbox)
            undo.callback(self._queue.close)
            self._outbox = Outbox()
            undo.callback(self._outbox.settle)
            self._child = Child(  # a cycle until it has ended
                *(_uplinks, self._on_uplink, self._on_death, owner.lane_log),
                in_hand=self._printing,
                labels=self._labels_of,
            )
            self._child.start(Consumer(spec.stage, birth.slot, self._queue.far, self._inbox, self._hatch, self._outbox))
            undo.pop_all()
        self._queue.consumer_started()
        self._outbox.settle()
        self._child.send(spec)
        self._child.send(birth)

    @property
    def pid(self) -> int:
        """The Consumer's process id."""
        return self._child.pid

    @property
    def kill_reason(self) -> str:
        """Why we killed the Consumer; "" if we did not."""
        return self._child.kill_reason

    @property
    def crash(self) -> str:
        """What faulthandler has written about the thread in which the Consumer crashed; "": nothing."""
        return self._child.crash

    @property
    def output_tail(self) -> str:
        """The last output of the Consumer to stdout and stderr."""
        return self._child.output_tail

    def busy_seconds(self, now: float) -> float:
        """Return for how long it has had messages, since its birth; of one with seats, their share counts."""
        if self.seats is not None:
            return self.seats.busy_seconds(now)
        return self._busy + (now - self.since if self.state == "busy" else 0.0)

    # --- called by the owner

    @property
    def open(self) -> bool:
        """Whether a chunk may be put behind the one that the Consumer works on, or beside it."""
        return self.state == "busy" and self.taken == self.chunk

    def feed(self, chunk: Chunk) -> None:
        """Put one chunk into an idle or open lane: the Consumer has taken the previous one, so no put can block."""
        assert self.state == "idle" or self.open
        assert chunk.number == self.chunk + 1
        packed = self._queue.pack(chunk)  # first: if this raises, the lane is as it was
        if self.state == "idle":
            self._become("busy")
        self.chunk = chunk.number
        self.sent = chunk.generation
        if self.seats is not None:
            self.seats.put(chunk.items, time.monotonic())
        self._queue.put(packed)

    def stop_after_message(self) -> int:
        """Ask the Consumer to begin nothing more of what was put; returns the message in hand (0: none)."""
        self.in_hand_slot.stop = self.chunk
        return self.in_hand_slot.seq

    def leave(self) -> None:
        """Put the sentinel into an idle lane."""
        assert self.state == "idle"
        self._become("leaving")
        self.left = True
        self._queue.put(None)

    def ask_stack(self) -> None:
        """Ask the Consumer to write its stacks to its stderr; works even while native code holds the interpreter."""
        self._child.send_signal(signal.SIGUSR2)

    def kill(self, why: str) -> None:
        """End the Consumer now; `lane_died` follows."""
        self._child.kill(why)

    def in_hand(self) -> tuple[int, float]:
        """Return the message that it is working on (0: none), and when it began."""
        seq = self.in_hand_slot.seq
        started = self.in_hand_slot.started
        return (seq, started) if self.in_hand_slot.seq == seq else (0, 0.0)

    def read_outbox(self) -> int:
        """Take the outcomes that wait behind the message in hand, even if it killed; returns their number.

        Not while older ones are still in the pipe: results keep the order in which they were computed.
        """
        if self._child.unread:
            return 0
        try:
            outcomes = [_outcomes.decode(payload) for payload in self._outbox.news()]
        except msgspec.DecodeError:
            return 0
        if outcomes:
            if self._child.alive:  # otherwise all its lines have been read
                self._child.catch_up_output(read=True)
            self._owner.lane_outcomes(self, Outcomes(outcomes, self.generation))
        return len(outcomes)

    # --- called by the child

    def _printing(self) -> int:
        """Return the message to which present output belongs; 0: it may belong to several."""
        return self.in_hand_slot.seq if self.seats is None else self.seats.only

    def _labels_of(self, seq: int) -> dict[str, Any]:
        if self._labelled[0] != seq:
            self._labelled = seq, self._owner.lane_labels(seq)
        return self._labelled[1]

    def _become(self, state: str) -> None:
        now = time.monotonic()
        self._busy = self.busy_seconds(now)
        self.state = state
        self.since = now

    def _on_uplink(self, uplink: Uplink) -> None:
        match uplink:
            case Outcomes():
                self._on_outcomes(uplink)
            case Piece():
                self._hatch.take(uplink)
            case Stack():
                if self.seats is not None:
                    self.seats.stacks[uplink.seq] = uplink.text
            case Hello():
                if self.state == "starting" and self._child.alive:
                    self._queue.unlink_semaphores()
                    if uplink.seats:
                        self.seats = LaneSeats(uplink.kind, uplink.seats, self._words)
                    self._become("idle")
                    self._owner.lane_ready(self)
            case Unfit():
                self.unfit = uplink

    def _on_outcomes(self, uplink: Outcomes) -> None:
        if self._hatch.used:
            uplink = self._hatch.put_back(uplink)
        # Its lines come before what becomes of it. Seats write no marks: what is read later would be another message's.
        self._child.catch_up_output(read=uplink.printed or self.seats is not None)
        self.done += len(uplink.outcomes)
        self.generation = uplink.generation
        self.taken = max(self.taken, uplink.taken, uplink.ended)
        if self.seats is not None:
            self._seats_changed(self.seats, uplink)
        elif uplink.ended:
            self.ended = uplink.ended
            self.rss = uplink.rss
            self.replace_reason = uplink.leaving or self.replace_reason  # it does not change its mind
            if self.state == "busy" and self._child.alive:  # a dead Consumer gets nothing more
                self._become("idle" if self.ended == self.chunk else "busy")
        self._owner.lane_outcomes(self, uplink)

    def _seats_changed(self, seats: LaneSeats, news: Outcomes) -> None:
        """Note which messages are done or back, and whether any is left."""
        seats.settle(news, time.monotonic())
        self.rss = news.rss or self.rss
        self.replace_reason = news.leaving or self.replace_reason
        if self.open and not seats.out and self._child.alive:
            self._become("idle")

    def _on_death(self, death: Death) -> None:
        """Take the outcomes that it left in its outbox; its frames have already been read."""
        self._become("dead")
        self.done += self.read_outbox()
        self._queue.unlink_semaphores()
        self._queue.close()
        self._inbox.close()
        self._hatch.close()
        self._owner.lane_died(self, death)
