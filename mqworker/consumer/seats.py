"""The seats of a Consumer that works on several messages at once: what is in hand, and what becomes of it.

Pure; used by the pump. A seat is one of the positions for a message. It becomes free when the outcome of its message is
written, not when it is computed: so if the Producer stops reading, the seats limit what a Consumer holds.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec

from mqworker.amqp.labels import labels
from mqworker.config.model import StageConfig
from mqworker.ipc.consumer_messages import Item

SMALL = 1024  # bytes of a body that may stay in memory as long as anything refers to its message


class Setting(NamedTuple):
    """The settings with which a message is computed, as they are when it begins."""

    generation: int
    params: bytes  # JSON object
    soft: float
    hard: float


class SeatedMessage:
    """A message in hand."""

    def __init__(self, seat: int, item: Item, setting: Setting, queue: str, lost: MemoryError | OSError | None) -> None:
        """`queue` is the stage's input; `lost` says why the body is not there."""
        self.seat = seat
        self.item = item
        self.setting = setting
        self.lost = lost
        self.reported = False  # its stack was reported when its time was up
        self._queue = queue
        self._labels: dict[str, Any] | None = None

    @property
    def labels(self) -> dict[str, Any]:
        """Return the labels that identify it in the log."""
        item = self.item  # read first: an item without its body has labels already, whichever thread asks
        if self._labels is None:
            self._labels = labels(item.properties, item.body, self._queue)
        return self._labels

    def drop_body(self) -> None:
        """Drop the body of a finished message: the context of a pooled connection may keep its first message alive."""
        if len(self.item.body) > SMALL:
            self._labels = self.labels
            self.item = msgspec.structs.replace(self.item, body=b"")


class Finished(NamedTuple):
    """A message that is computed but not yet written."""

    work: SeatedMessage
    outcome: bytes  # encoded
    large: list[bytes]  # bodies that are sent before the outcome
    out_of_memory: bool


current: ContextVar[SeatedMessage | None] = ContextVar(
    "mqworker_message", default=None
)  # the message for which the present code runs


class SeatTable:
    """See the module head."""

    def __init__(self, count: int, config: StageConfig) -> None:
        self.in_hand: dict[int, SeatedMessage] = {}  # by seq
        self._config = config
        self._free = list(range(count - 1, -1, -1))  # the last one is taken next
        self._done = 0
        self._leaving = ""

    def take(
        self, items: Sequence[Item], setting: Setting, lost: MemoryError | OSError | None = None
    ) -> list[SeatedMessage]:
        """Give each message a seat; there are enough, because the Producer knows how many are free."""
        works = [SeatedMessage(self._free.pop(), item, setting, self._config.input.queue, lost) for item in items]
        self.in_hand |= {work.item.seq: work for work in works}
        return works

    def leave(self, work: SeatedMessage) -> None:
        """Free the seat of a message that is given back, or whose outcome has been written."""
        del self.in_hand[work.item.seq]
        self._free.append(work.seat)

    def written(self, finished: Finished, rss: int) -> str:
        """Note that an outcome was written; returns why this Consumer should be replaced by a fresh one, "" if not.

        The first reason stays.
        """
        self.leave(finished.work)
        finished.work.drop_body()
        self._done += 1
        config = self._config
        if finished.out_of_memory:
            self._leaving = self._leaving or "memory"
        elif config.max_messages and self._done >= config.max_messages:
            self._leaving = self._leaving or "max_messages"
        elif config.max_rss and rss >= config.max_rss:
            self._leaving = self._leaving or "max_rss"
        return self._leaving
