"""The HTTP threads' requests to Producers about their messages and Consumers.

Runs on the Service's main loop, called through Control; a part of Operations. Asks one stage, or all of them at once.
Raises ControlError; if all stages are asked, a failure becomes the answer of its stage.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.control.errors import ControlError
from mqworker.ipc import logs
from mqworker.ipc.inspection import (
    AskMessage,
    AskReplace,
    InspectionAnswer,
    InspectionRequest,
    MessageAnswer,
    ReplaceAnswer,
    StackAnswer,
)
from mqworker.ipc.producer_messages import Held
from mqworker.service.stages import Stages

LOOK = 25.0  # seconds until a silent broker admin counts as hanging and is killed: it may just be busy
FIND = 0.8  # seconds for a Producer to look for a message, so that an operator sees the answer within one

log = logging.getLogger("mqworker.service.inspection")


class Inspection:
    """See the module head. `changeable` raises ControlError for an unknown stage, or if the service is ending."""

    def __init__(self, stages: Stages, broker_admin: BrokerAdminClient, changeable: Callable[[str], object]) -> None:
        self._stages = stages
        self._broker_admin = broker_admin
        self._changeable = changeable

    async def ask_producer(self, stage: str, request: InspectionRequest, deadline: float) -> InspectionAnswer:
        """Return a Producer's answer. Raises ControlError, also if the Producer refuses."""
        self._changeable(stage)
        answer = await self._stages.ask(stage, request, deadline)
        assert not isinstance(answer, Held)
        if isinstance(answer, StackAnswer | ReplaceAnswer) and answer.refused:
            raise ControlError("unknown_slot" if answer.unknown else "refused", answer.refused)
        if isinstance(request, AskReplace):
            how = "killed, and replaced" if request.now else "to be replaced when it has finished what it has"
            message = f"stage {stage}: Consumer {request.slot} is {how}: an operator asked for that"
            logs.report(log, logging.INFO, "replaced", message, stage_name=stage)
        return answer

    async def find_message(self, message_id: str) -> dict[str, MessageAnswer | ControlError]:
        """Ask every stage for a message; a failure is the answer of its stage."""
        names = self._stages.names
        asked = (self._stages.ask(name, AskMessage(0, message_id), FIND) for name in names)
        found = await asyncio.gather(*asked, return_exceptions=True)
        answers: dict[str, MessageAnswer | ControlError] = {}
        for name, answer in zip(names, found, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, ControlError):
                raise answer
            assert isinstance(answer, MessageAnswer | ControlError)
            answers[name] = answer
        return answers

    async def find_letters(self, message_id: str, deadline: float, *, look: bool) -> dict[str, Any]:
        """Return the dead letters of a message, and how old this is by stage; without `look`, as last seen."""
        if not look and not self._broker_admin.answers:
            return {"letters": [], "ages": {}}
        patience = deadline if look else max(deadline, LOOK)
        asked = self._broker_admin.ask("dlq_find", {"message_id": message_id, "look": look}, patience)
        try:
            found: dict[str, Any] = await asyncio.wait_for(asked, None if look else deadline)
        except TimeoutError:
            raise ControlError("deadline", f"the broker admin did not answer within {deadline:g} s") from None
        return found
