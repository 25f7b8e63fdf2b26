"""All sources of a service; each has a SourceSupervisor.

Lives in the Service's main thread, on its loop. Owns the supervisors. With `run --burst`, schedules do not run. An
error in a supervisor is raised to the Service's loop.
"""

from collections.abc import Callable

from mqworker.config.load import Loaded
from mqworker.control.desired_state import Document
from mqworker.control.errors import ControlError
from mqworker.control.views import SourceView
from mqworker.ipc import logs
from mqworker.ipc.records import LogEvent
from mqworker.ipc.source_messages import RunDone
from mqworker.service.source_supervisor import SourceSupervisor


class Sources:
    """See the module head. `on_change` is called when there is something new to show, `on_log` with each log event."""

    def __init__(
        self, loaded: Loaded, on_change: Callable[[], None], on_log: Callable[[LogEvent], None], *, burst: bool
    ) -> None:
        self._config = loaded.config
        self._burst = burst
        where = str(loaded.root), str(loaded.state_dir)
        self._supervisors = {
            name: SourceSupervisor(name, loaded.config, where, on_change, on_log) for name in loaded.config.sources
        }

    def want(self, document: Document) -> None:
        """Establish this state in every source."""
        level = logs.LEVELS[document.log_level]
        for name, supervisor in self._supervisors.items():
            desired = document.sources[name]
            skipped = self._burst and self._config.sources[name].scheduled
            supervisor.want(desired, level, running=desired.running and not skipped)

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        for supervisor in self._supervisors.values():
            supervisor.beat()

    def again(self, name: str) -> None:
        """Let a finished source begin again."""
        self._supervisors[name].again()

    async def run(self, name: str, patience: float) -> RunDone:
        """Call a scheduled function now, and wait for its end. Raises ControlError."""
        if not self._config.sources[name].scheduled:
            what = f"source {name} has no schedule: its generator runs by itself (`mqworker sources start` begins it)"
            raise ControlError("refused", what)
        return await self._supervisors[name].run(patience)

    def end(self, kill_at: float) -> None:
        """End all for good, by `kill_at` at the latest (CLOCK_MONOTONIC); a second call can only bring that forward."""
        for supervisor in self._supervisors.values():
            supervisor.end(kill_at)

    def dump_stacks(self) -> None:
        """Order every process to write its stacks to the log."""
        for supervisor in self._supervisors.values():
            supervisor.dump_stacks()

    def views(self) -> dict[str, SourceView]:
        """Return what is shown of each source."""
        return {name: supervisor.view() for name, supervisor in self._supervisors.items()}

    @property
    def alive(self) -> bool:
        """Whether there is any process."""
        return any(supervisor.life.alive for supervisor in self._supervisors.values())

    @property
    def over(self) -> bool:
        """Whether, as things are, nothing more will come from any source."""
        return all(supervisor.life.is_over for supervisor in self._supervisors.values())
