"""A Consumer that works on several messages at once: its crew, which uses threads or tasks, and its pump.

Runs in a Consumer's main thread; made by `life` in place of the chain of a serial Consumer. `work` ends with the
sentinel.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqworker.consumer.desk import Maker
from mqworker.consumer.hatch import Hatch
from mqworker.consumer.lane_end import LaneEnd
from mqworker.consumer.pump import LanePump
from mqworker.consumer.register import open_seats
from mqworker.consumer.seats import current
from mqworker.consumer.thread_seats import ThreadSeats
from mqworker.ipc.consumer_messages import Birth, Uplink
from mqworker.ipc.stage_spec import StageSpec
from mqworker.jobs.chain import Chain


class Seated:
    """See the module head."""

    def __init__(
        self, spec: StageSpec, birth: Birth, kind: str, common: Chain, log: logging.Logger, lane: LaneEnd,
        hatch: Hatch, up: int, send: Callable[[Uplink], None],
    ) -> None:  # fmt: skip
        """`common` is the chain, not set up; `up` is the pipe that `send` writes to."""
        self.kind = kind
        self.count = spec.config.concurrency
        seats = open_seats(Path(birth.register), birth.place, self.count)
        seats.begin(kind, threading.get_ident() if kind == "tasks" else 0)
        self._pump = LanePump(spec, birth.generation, lane, hatch, up, seats, send)
        maker = Maker(spec, birth.generation, common, log)
        if kind == "tasks":
            from mqworker.consumer.task_seats import TaskSeats  # noqa: PLC0415 - asyncio only where it is used

            self._crew: ThreadSeats | TaskSeats = TaskSeats(maker, seats, self._pump.finished)
        else:
            self._crew = ThreadSeats(maker, seats, self._pump.finished)

    def setup(self) -> None:
        """Set up the user's jobs; raises whatever they raise."""
        self._crew.setup()

    def work(self) -> None:
        """Work on the messages that come down the lane."""
        self._crew.work(self._pump)

    def teardown(self) -> None:
        """Tear the user's jobs down."""
        self._crew.teardown()


def labels_of_current() -> dict[str, Any]:
    """Return the labels of the message for which the calling code runs, if there is one."""
    work = current.get()
    return {} if work is None else work.labels
