"""Requests to a Producer, each answered once and identified by its number.

Lives in the Service's main thread, on its loop; one for each StageSupervisor. Raises ControlError: "busy" if the
Producer ends before it answers, "deadline" if it does not answer in time.
"""

import asyncio
from collections.abc import Callable
from itertools import count

from msgspec.structs import replace

from mqworker.control.errors import ControlError
from mqworker.control.operator import STORE_DEADLINE
from mqworker.ipc.inspection import InspectionAnswer, InspectionRequest
from mqworker.ipc.producer_messages import AskHeld, Held

ProducerRequest = AskHeld | InspectionRequest
ProducerAnswer = Held | InspectionAnswer


class ProducerRequests:
    """See the module head. `send` sends the Producer a request."""

    def __init__(self, send: Callable[[ProducerRequest], None]) -> None:
        self._send = send
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[ProducerAnswer]] = {}

    async def ask(self, request: ProducerRequest, deadline: float = STORE_DEADLINE) -> ProducerAnswer:
        """Return the Producer's answer to a request, which gets its number here."""
        number = next(self._numbers)
        answer: asyncio.Future[ProducerAnswer] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        self._send(replace(request, number=number))
        try:
            async with asyncio.timeout(deadline):
                return await answer
        except TimeoutError:
            raise ControlError("deadline", f"the Producer did not answer within {deadline:g} s") from None
        finally:
            del self._open[number]

    def answered(self, answer: ProducerAnswer) -> None:
        """Pass an answer on, if anybody still waits for it."""
        waiting = self._open.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def producer_died(self) -> None:
        """Fail all requests without an answer."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(ControlError("busy", "the Producer ended before it answered; try again"))
