"""The Service's side of the broker admin: starts the process on demand, and gives every request a deadline.

Runs on the Service's main loop. Owns the process; sends it AdminRequests and receives AdminAnswers, AdminProgress (for
service/bulk_operations) and log events. A request always gets an answer or a ControlError, at the latest ADMIN_GRACE
after its deadline, whether or not its caller still waits: a process that has not answered by then hangs, so it is
killed, and the next request starts another. Its death fails the requests in progress, each with a sentence.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mqworker.broker_admin.process import BrokerAdmin
from mqworker.config.model import Config
from mqworker.control.errors import ControlError
from mqworker.control.operator import ADMIN_GRACE
from mqworker.ipc.admin_messages import AdminAnswer, AdminProgress, AdminReport, AdminRequest
from mqworker.ipc.child import KILL_DEADLINE, Child
from mqworker.ipc.frames import FrameTooLarge
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death

_answers = msgspec.msgpack.Decoder(AdminReport)


class BrokerAdminClient:
    """The Service's side of the broker admin; lives on its main loop."""

    def __init__(self, config: Config, on_log: Callable[[LogEvent], None]) -> None:
        self._config = config
        self._on_log = on_log
        self._life: _Life | None = None
        self._last_id = 0
        self.on_progress: Callable[[AdminProgress], None] = lambda _: None  # called for each report
        self.on_end: Callable[[str], None] = lambda _: None  # called when the process ends, and its operations with it

    async def ask(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Make one request; raises ControlError. A process that does not answer in time is killed and started again."""
        life = self._living()
        self._last_id += 1
        request = AdminRequest(self._last_id, verb, time.monotonic() + deadline, arguments)
        try:
            answer = await life.ask(request, deadline)
        except FrameTooLarge as error:
            raise ControlError("too_large", f"the request is too large: {error}") from None
        except TimeoutError:
            raise ControlError("deadline", f"the broker admin accepted no request for {deadline:g} s") from None
        except BrokenPipeError:
            raise ControlError("unavailable", f"the broker admin has ended ({life.why_ended}); try again") from None
        if answer.error:
            raise ControlError(answer.kind, answer.error)
        return answer.value

    @property
    def alive(self) -> bool:
        """Whether there is a process that can be asked."""
        return self._life is not None and self._life.usable

    @property
    def answers(self) -> bool:
        """Whether the process has answered a request, and so may remember something."""
        return self._life is not None and self._life.usable and self._life.answered

    async def stop(self, why: str, deadline: float = KILL_DEADLINE) -> None:
        """End the process; the requests in progress fail."""
        if self._life is not None:
            await self._life.child.stop(why, deadline)

    def _living(self) -> "_Life":
        """The process to ask; a new one is started if there is none, or if the present one is about to end."""
        if self._life is None or not self._life.usable:
            try:
                self._life = _Life(self._config, self._on_log, self._progress, self._ended)
            except OSError as error:
                what = f"the broker admin could not be started: {error.strerror}; try again"
                raise ControlError("unavailable", what) from None
        return self._life

    def _progress(self, progress: AdminProgress) -> None:
        self.on_progress(progress)

    def _ended(self, why: str) -> None:
        self.on_end(why)


class _Life:
    """One process and the requests that it has not answered."""

    def __init__(
        self,
        config: Config,
        on_log: Callable[[LogEvent], None],
        on_progress: Callable[[AdminProgress], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._waiting: dict[int, asyncio.Future[AdminAnswer]] = {}
        self.answered = False
        self._on_progress = on_progress
        self._on_end = on_end
        self.child = Child(_answers, self._on_answer, self._on_death, on_log)
        self.child.start(BrokerAdmin())
        self.child.send(config)

    @property
    def usable(self) -> bool:
        """Whether it can be asked: it is alive and has not been killed."""
        return self.child.alive and not self.child.kill_reason

    @property
    def why_ended(self) -> str:
        """Why the process can no longer be asked."""
        return self.child.kill_reason or (f"it {self.child.death}" if self.child.death else "it closed its pipe")

    async def ask(self, request: AdminRequest, deadline: float) -> AdminAnswer:
        """Send a request and wait for its answer; the process's deadline stays in force if the caller is cancelled.

        Raises FrameTooLarge, BrokenPipeError, and TimeoutError if the pipe has no room until the deadline.
        """
        loop = asyncio.get_running_loop()
        answer = self._waiting[request.id] = loop.create_future()
        try:
            async with asyncio.timeout(deadline):
                await self.child.put(request)
        except BaseException as error:
            self._waiting.pop(request.id, None)
            if isinstance(error, BrokenPipeError):
                self.child.kill("it closed its pipe")
            raise
        left = request.due + ADMIN_GRACE - time.monotonic()
        clock = loop.call_later(left, self._hangs, request.id, deadline)
        answer.add_done_callback(lambda _: clock.cancel())
        return await asyncio.shield(answer)

    def _hangs(self, number: int, deadline: float) -> None:
        self._settle(
            number, AdminAnswer(number, error=f"the broker did not answer within {deadline:g} s", kind="deadline")
        )
        self.child.kill("it did not answer")

    def _on_answer(self, answer: AdminAnswer | AdminProgress) -> None:
        if isinstance(answer, AdminProgress):
            self._on_progress(answer)
            return
        self.answered = True
        self._settle(answer.id, answer)

    def _on_death(self, _death: Death) -> None:
        what = f"the broker admin was ended: {self.why_ended}"
        for number in list(self._waiting):
            self._settle(number, AdminAnswer(number, error=what, kind="unavailable"))
        self._on_end(what)

    def _settle(self, number: int, answer: AdminAnswer) -> None:
        future = self._waiting.pop(number, None)
        if future is not None:
            future.set_result(answer)
