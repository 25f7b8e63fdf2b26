"""All stages of a service, handled together; each has a StageSupervisor.

Lives in the Service's main thread, on its loop. Owns the supervisors and the balancer; passes their reports to the
Service's callbacks. An error in a supervisor is raised to the Service's loop.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec

from mqworker.config.load import Loaded
from mqworker.config.stop_budget import StopBudget
from mqworker.control.desired_state import Commit, Document, Revert, Undo
from mqworker.control.faults import Faults
from mqworker.control.operator import STORE_DEADLINE
from mqworker.control.stage_desired import Version
from mqworker.control.views import StageView
from mqworker.ipc.producer_messages import AskHeld, Held
from mqworker.ipc.records import LogEvent
from mqworker.ipc.stage_spec import StageSpec
from mqworker.ipc.stage_status import StageStatus
from mqworker.service.balancer import Balancer
from mqworker.service.producer_requests import ProducerAnswer, ProducerRequest
from mqworker.service.stage_supervisor import StageSupervisor


class Stages:
    """See the module head. `on_change` is called when there is something new to show, `on_log` with each log event.

    `faults` receives the faults that the stages count.
    """

    def __init__(
        self,
        loaded: Loaded,
        lock: int,
        on_change: Callable[[], None],
        on_log: Callable[[LogEvent], None],
        faults: Faults,
    ) -> None:
        specs = (_spec(loaded, name) for name in loaded.config.stages)
        self._supervisors = [StageSupervisor(spec, lock, on_change, on_log, faults) for spec in specs]
        self._balancer = Balancer(loaded.config)
        self._document = Document()  # without the numbers that the balancer assigns
        self._paused = False
        self._ending = False

    def prepare(self, document: Document) -> None:
        """Prepare the stages that will run according to this document."""
        for supervisor in self._supervisors:
            if document.stages[supervisor.name].running:
                supervisor.prepare()

    def want(self, document: Document, *, paused: bool) -> None:
        """Establish this state in every stage."""
        self._document, self._paused = document, paused
        self._balancer.want(document, self._statuses(), paused=paused)
        self._bring_about()

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        for supervisor in self._supervisors:
            supervisor.beat()
        if not self._ending and self._balancer.beat(self._document, self._statuses(), time.monotonic()):
            self._bring_about()

    def due(self) -> list[Commit | Undo | Revert]:
        """Return how the changes in progress must end, as far as that is known."""
        return [end for supervisor in self._supervisors if (end := supervisor.due()) is not None]

    def end(self, until: float) -> None:
        """Drain for good, by `until` at the latest (CLOCK_MONOTONIC); a second call can only bring that forward."""
        self._ending = True
        for supervisor in self._supervisors:
            supervisor.end(until)

    async def give_all_back(self) -> None:
        """End all stages after a fault of the Service; no message is charged for the work in hand."""
        now = time.monotonic()
        for supervisor in self._supervisors:
            with contextlib.suppress(Exception):  # the same fault may occur again, but not in every stage
                supervisor.end(now)
        while self.alive and time.monotonic() < StopBudget(now).abandon:  # noqa: ASYNC110 - runs once, at the end
            await asyncio.sleep(0.02)

    def dump_stacks(self) -> None:
        """Order every tree to write its stacks to the log."""
        for supervisor in self._supervisors:
            supervisor.dump_stacks()

    async def ask_held(self, stage: str, skip: str) -> Held:
        """Return the messages that a stage holds, or release one. Raises ControlError."""
        held = await self.ask(stage, AskHeld(0, skip))
        assert isinstance(held, Held)
        return held

    async def ask(self, stage: str, request: ProducerRequest, deadline: float = STORE_DEADLINE) -> ProducerAnswer:
        """Return the answer of a stage's Producer. Raises ControlError."""
        return await next(each for each in self._supervisors if each.name == stage).ask(request, deadline)

    @property
    def names(self) -> list[str]:
        """The names of all stages."""
        return [each.name for each in self._supervisors]

    def fallback(self, stage: str) -> Version | None:
        """Return the generation that a stage goes back to if its new code fails its trial."""
        return next(each for each in self._supervisors if each.name == stage).switch.fallback

    def views(self) -> dict[str, StageView]:
        """Return the desired and the actual state of every stage."""
        received = self._balancer.received
        views = (supervisor.view() for supervisor in self._supervisors)
        return {view.name: msgspec.structs.replace(view, received=received[view.name]) for view in views}

    @property
    def alive(self) -> bool:
        """Whether there is any Producer."""
        return any(supervisor.life.alive for supervisor in self._supervisors)

    @property
    def given_back(self) -> int:
        """How many messages were returned to the broker unfinished."""
        return sum(supervisor.life.given_back for supervisor in self._supervisors)

    @property
    def given_up(self) -> str:
        """One sentence about the first stage whose Producers die too often; "" if there is none."""
        for supervisor in self._supervisors:
            if supervisor.life.given_up:
                deaths = supervisor.life.budget.fruitless
                return f"the Producer of {supervisor.name} died {deaths} times in a row: giving up"
        return ""

    def _statuses(self) -> dict[str, StageStatus | None]:
        return {supervisor.name: supervisor.life.status for supervisor in self._supervisors}

    def _bring_about(self) -> None:
        document = self._balancer.applied(self._document)
        for supervisor in self._supervisors:
            supervisor.want(document, paused=self._paused)


def _spec(loaded: Loaded, name: str) -> StageSpec:
    config = loaded.config
    return StageSpec(
        service=config.service.name,
        stage=name,
        config=config.stages[name],
        broker=config.broker,
        root=str(loaded.root),
        state_dir=str(loaded.state_dir),
        drain_deadline=config.service.drain_deadline,
        shared=config.shared_classes,
    )
