"""How a source reaches its broker: the third of the interfaces (see base.py), and what it reports.

Everything here is called on the thread of a loop, in a source's process, and never blocks it. `rabbitmq` and `sqlite`
implement the interface; the same contract tests (tests/brokers/test_outlet.py) run against each.
"""

from typing import Protocol

import msgspec

from mqworker.brokers.base import Publication
from mqworker.brokers.records import PositionRecord

RUNS_ELSEWHERE = "another service runs it"


class Inlet(msgspec.Struct, frozen=True):
    """What a source needs on its broker: the input queue of its stage, a lock, a queue for its position."""

    queue: str
    position: str  # the queue that holds one record, the newest
    lock: str  # a queue that only one connection can have
    queue_type: str = "classic"  # of the queues that are created here
    ordered: bool = False  # the stage keeps an order


class OutletSink(Protocol):
    """Receives the events of an Outlet. Calls come on the loop's thread, in the order of the events."""

    def waits(self, reason: str, *, standby: bool) -> None:
        """Receive why it is not open yet. `standby`: another service has the lock. Called again when this changes."""

    def opened(self, record: PositionRecord | None) -> None:
        """Receive that the lock is ours, so that the source runs here, and the last stored record."""

    def blocked(self, reason: str) -> None:
        """Receive why the broker stores nothing now, or "" when it does again; nothing is lost in the meantime."""

    def confirmed(self, number: int) -> None:
        """Receive that all publications up to this one are stored; the first has number 1."""

    def stored(self, number: int) -> None:
        """Receive that this record is stored, and replaces those before it; the first has number 1."""

    def depth(self, messages: int) -> None:
        """Receive the answer to `Outlet.ask_depth`."""

    def lost(self, reason: str) -> None:
        """Receive that the lock is gone; what was not confirmed may or may not be stored. Called once."""


class Outlet(Protocol):
    """A source's connection to its broker: lock, items and position are lost together.

    It never stops trying to open. Once it has been open and is lost, it cannot be used again.
    """

    def start(self) -> None:
        """Begin to connect; the result is reported to the OutletSink."""

    def send(self, publication: Publication, record: bytes | None) -> None:
        """Publish after `opened`; `record` may be stored once this one and all before it are confirmed."""

    def store(self, record: bytes) -> None:
        """Store this record once all publications so far are confirmed."""

    def ask_depth(self) -> None:
        """Ask how many messages are ready in the input queue; as `Link.ask_output_depth`."""

    async def close(self, deadline: float) -> None:
        """End within `deadline` seconds, and release the lock."""
