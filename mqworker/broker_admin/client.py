"""The Service's side of the broker admin: starts the process on demand and gives every question a deadline.

Lives on the Service's main loop and owns the process and its pipe. Sends AdminQuestions, receives AdminAnswers and log
events. A process that dies, or does not answer in time, costs the questions in progress, each with a sentence.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from mqworker.broker_admin.process import BrokerAdmin
from mqworker.config.model import Config
from mqworker.control.control import ControlError
from mqworker.ipc.frames import FrameReader, FrameWriter
from mqworker.ipc.messages import AdminAnswer, AdminQuestion, LogEvent
from mqworker.ipc.spawn import SPAWN, reap

GRACE = 2.0  # seconds that the process has beyond a question's deadline before it is held to hang

_encoder = msgspec.msgpack.Encoder()
_answers = msgspec.msgpack.Decoder(AdminAnswer | LogEvent)


class BrokerAdminClient:
    """The Service's side of the desk; lives on its main loop."""

    def __init__(self, config: Config, forward: Callable[[LogEvent], None]) -> None:
        self._config = config
        self._forward = forward
        self._process: BrokerAdmin | None = None
        self._pending: dict[int, asyncio.Future[AdminAnswer]] = {}
        self._ids = 0

    async def ask(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Ask one question; raises ControlError. A desk that does not answer by then is ended, and born again."""
        if self._process is None:
            try:
                self._start()
            except OSError as error:
                words = f"the desk could not be started: {error.strerror}; try again"
                raise ControlError("unavailable", words) from None
        self._ids += 1
        number = self._ids
        future: asyncio.Future[AdminAnswer] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._writer.send(_encoder.encode(AdminQuestion(number, verb, deadline, arguments)))
        try:
            answer = await asyncio.wait_for(future, deadline + GRACE)
        except TimeoutError:
            self.stop("it did not answer")
            raise ControlError("deadline", f"the broker did not answer within {deadline:g} s") from None
        finally:
            self._pending.pop(number, None)
        if answer.error:
            raise ControlError(answer.kind, answer.error)
        return answer.value

    def pids(self) -> set[int]:
        """Its process, if there is one."""
        return {self._process.pid} if self._process is not None and self._process.pid else set()

    def stop(self, why: str) -> None:
        """End the process; the questions in progress fail."""
        process, self._process = self._process, None
        if process is None:
            return
        self._reader.close()
        self._writer.close()
        self._pipe.close()
        process.kill()
        process.join(2)
        if reap(process) is not None:
            process.close()
        for number, future in self._pending.items():
            if not future.done():
                future.set_result(AdminAnswer(number, error=f"the desk was ended: {why}", kind="unavailable"))

    def _start(self) -> None:
        self._pipe, far = SPAWN.Pipe(duplex=True)
        process = BrokerAdmin(self._config, far)
        try:
            process.start()
        except OSError:
            self._pipe.close()
            raise
        finally:
            far.close()
        self._process = process
        self._writer = FrameWriter(self._pipe.fileno())
        self._reader = FrameReader(self._pipe.fileno(), self._on_answer, lambda _reason: self.stop("it died"))

    def _on_answer(self, payload: bytes) -> None:
        answer = _answers.decode(payload)
        if isinstance(answer, LogEvent):
            self._forward(answer)
            return
        future = self._pending.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)
