"""What connects the process of a shared object with the Service: its orders, and functions to report and to log."""

import os
import select
from collections import deque
from collections.abc import Callable

import msgspec

from mqworker.ipc import frames
from mqworker.shared_state.messages import SharedOrder, SharedReport

_order = msgspec.msgpack.Decoder(SharedOrder)


class Outside:
    """Takes orders one by one from the pipe `down`; `send` and `log` are functions to be called."""

    def __init__(self, down: int, send: Callable[[SharedReport], None], log: Callable[[str], None]) -> None:
        self.down, self.send, self.log = down, send, log
        self._parser = frames.FrameParser()
        self._orders: deque[SharedOrder] = deque()

    def read(self) -> bool:
        """Read the orders that have come, without waiting; returns False when the parent is gone."""
        while select.select([self.down], [], [], 0)[0]:
            if not (data := os.read(self.down, frames.READ_SIZE)):
                return False
            self._orders.extend(map(_order.decode, self._parser.feed(data)))
        return True

    def order(self) -> SharedOrder | None:
        """Return the next order that was read, None if there is none."""
        return self._orders.popleft() if self._orders else None
