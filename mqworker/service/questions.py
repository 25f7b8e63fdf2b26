"""Questions to a Producer that it answers once, each by its number.

Lives in the Service's main thread, on its loop; one for each StageSupervisor. Fails with ControlError: "busy" if the
Producer ends before it answers, "deadline" if it does not answer in time.
"""

import asyncio
from collections.abc import Callable
from itertools import count

from mqworker.control.control import STORE_DEADLINE, ControlError
from mqworker.ipc.messages import AskHeld, Held


class Questions:
    """See the module head. `send` sends the Producer a question."""

    def __init__(self, send: Callable[[AskHeld], None]) -> None:
        self._send = send
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[Held]] = {}

    async def ask(self, skip: str) -> Held:
        """Return the Producer's answer."""
        number = next(self._numbers)
        answer: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        self._send(AskHeld(number, skip))
        try:
            async with asyncio.timeout(STORE_DEADLINE):
                return await answer
        except TimeoutError:
            raise ControlError("deadline", f"the Producer did not answer within {STORE_DEADLINE:g} s") from None
        finally:
            del self._open[number]

    def answered(self, held: Held) -> None:
        """Pass an answer on, if anybody still waits for it."""
        answer = self._open.get(held.number)
        if answer is not None and not answer.done():
            answer.set_result(held)

    def producer_died(self) -> None:
        """Fail what has no answer."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(ControlError("busy", "the Producer ended before it answered; try again"))
