"""When `run --burst` is done: as soon as the input, the tree and the retry queues are empty.

Runs on the Service's main loop. A Producer knows only its own retries, but those of an earlier Producer or run wait at
the broker too, so the broker is asked before the end. It is asked twice, because a message on its way from a retry
queue to the input is in neither. If it does not answer, it is asked again.
"""

import asyncio
import contextlib

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.control.control import ControlError

IDLE_BEATS = 2  # beats, half a second each, during which every stage must be idle before each question
ANSWERS = 2  # answers in a row that must report no waiting retry
ASK_DEADLINE = 5.0  # seconds for the broker's answer


class Burst:
    """Counts idle beats, then asks the broker."""

    def __init__(self, broker_admin: BrokerAdminClient) -> None:
        self._broker_admin = broker_admin
        self._idle = 0  # beats since the last work or question
        self._empty = 0  # answers in a row that reported no waiting retry
        self._question: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self._empty >= ANSWERS

    def beat(self, *, idle: bool) -> None:
        """Note a beat of the Service; `idle`: every stage is idle, as far as its Producer knows."""
        if not idle:
            self._idle = self._empty = 0
            return
        self._idle += 1
        if self._question is not None and self._question.done():
            self._question.result()  # raises our own faults, which end the Service
            self._question = None
        if self._idle >= IDLE_BEATS and self._question is None:
            self._question = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        with contextlib.suppress(ControlError):
            retries = await self._broker_admin.ask("retries", {}, ASK_DEADLINE)
            self._empty = self._empty + 1 if self._idle and not retries else 0
        self._idle = 0
