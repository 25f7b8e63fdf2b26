"""A process in the place of a Consumer that works on several messages at once: it only speaks the records.

So what its Producer makes of each state of such a Consumer can be seen at once and alone. What becomes of a message is
its body: `now` ends at once, `short` soon, `wait` when there is a file `go` in the folder of the configuration, `never`
not at all; `crash` fails as a thread that ended; `fault` is a native crash, in a thread or in the task that has the
loop; `leave` ends the process, `hold` has the loop for ever, `still` stops everything.
"""

import ctypes
import json
import os
import threading
import time
from pathlib import Path

import msgspec

from mqworker.consumer.lane_end import LaneEnd
from mqworker.consumer.register import open_seats
from mqworker.ipc import frames
from mqworker.ipc.consumer_messages import Birth, Failure, Hello, Item, Outcome, Outcomes
from mqworker.ipc.spawn import Spawned
from mqworker.ipc.stage_spec import StageSpec


class SeatSpeaker(Spawned):
    """See the module head. The parameter `kind` of its generation is threads or tasks."""

    title = "mqw-speaker"

    def __init__(self, stage, slot, queue, inbox, _hatch, _outbox):
        super().__init__(f"{stage}.consumer-{slot}", stage)
        self._queue, self._inbox = queue, inbox

    def main(self):
        lane = LaneEnd(self._queue, self._inbox)
        spec = msgspec.msgpack.decode(frames.read_frame(self.down.fileno()), type=StageSpec)
        birth = msgspec.msgpack.decode(frames.read_frame(self.down.fileno()), type=Birth)
        self.go, count = Path(spec.root) / "go", spec.config.concurrency
        self.kind = json.loads(birth.generation.params)["kind"]
        self.seats = open_seats(Path(birth.register), birth.place, count)
        self.seats.begin(self.kind, threading.get_ident() if self.kind == "tasks" else 0)
        generation, in_hand = birth.generation.number, {}
        self.send(Hello(os.getpid(), generation, self.kind, count))
        while True:
            self.seats.pulse = time.monotonic()
            taken, back = 0, ()
            if lane._arrived.poll(5):
                chunk = lane.wait()
                if chunk is None:
                    return
                taken, generation = chunk.number, chunk.generation
                free = [slot for slot in self.seats.slots if not slot.seq]
                began = time.monotonic()  # not before it came: tests compare when messages begin
                for item, slot in zip(chunk.items, free, strict=False):
                    slot.begin(item.seq, item.fingerprint or bytes(32), began)
                    in_hand[item.seq] = item, slot
                if self.seats.stop >= chunk.number:
                    back = tuple(item.seq for item in chunk.items)
            ended = [in_hand.pop(seq)[0] for seq in back]
            outcomes = []
            for item, slot in list(in_hand.values()):
                failure = self.act(json.loads(item.body), item, slot)
                if failure is not None:
                    outcomes.append(
                        Outcome(item.seq, time.monotonic() - slot.started, generation, failure=failure or None)
                    )
                    ended.append(in_hand.pop(item.seq)[0])
            if taken or outcomes:
                self.send(Outcomes(outcomes, generation, taken, back=back))
            for slot in self.seats.slots:
                if slot.seq in {item.seq for item in ended}:
                    slot.end()

    def act(self, what: str, item: Item, slot) -> Failure | bool | None:
        """Do it; return None while it goes on, False when it is done, and how it failed."""
        match what:
            case "now":
                return False
            case "short":
                return False if time.monotonic() - slot.started > 0.3 else None
            case "wait":
                return False if self.go.exists() else None
            case "crash":
                return Failure("crash", "SystemExit", "3")
            case "leave":
                os._exit(3)
            case "hold":
                self.seats.run(item.seq, self.seats.running_since if self.seats.running else time.monotonic())
            case "still":
                time.sleep(3600)
            case "fault" if self.kind == "tasks":
                self.seats.run(item.seq, time.monotonic())
                ctypes.string_at(0)
            case "fault":
                thread = threading.Thread(target=self.fault, args=(slot,))
                thread.start()
                thread.join()
        return None

    @staticmethod
    def fault(slot) -> None:
        slot.thread = threading.get_ident()
        ctypes.string_at(0)

    def send(self, record):
        frames.write_all(self.up.fileno(), frames.pack(msgspec.msgpack.encode(record)))
