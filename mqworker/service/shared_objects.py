"""All shared objects of a service: which there are, with which code, and their part in a change of code.

Lives in the Service's main thread, on its loop. Owns a SharedSupervisor of each object that a running stage uses, or is
about to use. One object serves all stages; the code that was committed last serves it.
"""

import asyncio
import time
from collections.abc import Callable

from mqworker.config.load import Loaded
from mqworker.config.model import SharedConfig
from mqworker.control.control import SharedView
from mqworker.control.desired_state import Document
from mqworker.control.stage_desired import StageDesired, Version
from mqworker.ipc import logs
from mqworker.ipc.messages import LogEvent
from mqworker.service.shared_supervisor import SharedCode, SharedSupervisor

Moves = list[tuple[SharedSupervisor, SharedCode]]  # which objects take over which code


class SharedObjects:
    """See the module head."""

    def __init__(self, loaded: Loaded, on_change: Callable[[], None], on_log: Callable[[LogEvent], None]) -> None:
        self._loaded = loaded
        self._on_change, self._on_log = on_change, on_log
        self._supervisors: dict[str, SharedSupervisor] = {}
        self._leaving: list[SharedSupervisor] = []
        self._wanted: dict[tuple[str, str], SharedCode] = {}  # (object, stage) -> the code that the stage has for it

    def want(self, document: Document) -> None:
        """Serve the objects that the running stages use, or will use once a change is committed."""
        level = logs.LEVELS[document.log_level]
        needed: set[str] = set()
        for stage_name, stage in document.stages.items():
            for name, code in _codes(stage.version).items() if stage.running else ():
                needed.add(name)
                changed = self._wanted.get((name, stage_name)) != code
                self._wanted[name, stage_name] = code
                if name not in self._supervisors or changed:
                    self._supervisor(name).want(code, level)
            if stage.candidate is not None:
                for name, code in _codes(stage.candidate.version).items():
                    needed.add(name)
                    if name not in self._supervisors:
                        self._supervisor(name).want(code, level)
        for name in self._supervisors.keys() - needed:
            leaving = self._supervisors.pop(name)
            leaving.end(time.monotonic() + self._loaded.config.service.drain_deadline)
            self._leaving.append(leaving)
            self._wanted = {key: code for key, code in self._wanted.items() if key[0] != name}
        for supervisor in self._supervisors.values():
            supervisor.use_level(level)

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        for supervisor in self._supervisors.values():
            supervisor.beat()
        self._leaving = [each for each in self._leaving if each.alive]

    def reset(self, name: str) -> bool:
        """Replace an object by a new one; returns False if there is none of this name."""
        if name not in self._supervisors:
            return False
        self._supervisors[name].reset()
        return True

    async def close(self, seconds: float) -> None:
        """End all, each with a snapshot, within this time."""
        until = time.monotonic() + seconds
        everyone = [*self._supervisors.values(), *self._leaving]
        for supervisor in everyone:
            supervisor.end(until)
        while any(each.alive for each in everyone) and time.monotonic() < until + 1:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)

    def views(self) -> dict[str, SharedView]:
        """Return what there is to show of each object."""
        return {name: supervisor.view() for name, supervisor in sorted(self._supervisors.items())}

    # --- a change of a stage's code

    def moves(self, stage: StageDesired) -> Moves:
        """Return the objects that have to take over other code before a stage's candidate is committed."""
        if stage.candidate is None:
            return []
        return [
            (self._supervisors[name], code)
            for name, code in _codes(stage.candidate.version).items()
            if name in self._supervisors and self._supervisors[name].needs_move(code)
        ]

    async def prepare(self, moves: Moves, deadline: float) -> str:
        """Load the state of these objects under other code; returns why that cannot be, or ""."""
        for supervisor, code in moves:
            if why := await supervisor.prepare(code, deadline):
                self.give_up(moves)
                return why
        return ""

    def give_up(self, moves: Moves) -> None:
        """Let the objects go on with the code of before."""
        for supervisor, _ in moves:
            supervisor.give_up()

    def _supervisor(self, name: str) -> SharedSupervisor:
        if name not in self._supervisors:
            config = self._loaded.config.shared.get(name)
            deadline = config.deadline if config is not None else SharedConfig(job="a:b").deadline
            self._supervisors[name] = SharedSupervisor(
                *(name, self._loaded.root, self._loaded.state_dir, deadline, self._on_change, self._on_log)
            )
        return self._supervisors[name]


def _codes(version: Version) -> dict[str, SharedCode]:
    """Return the code of each shared object that a generation uses."""
    return {use.name: SharedCode(use.job, version.copy) for use in version.shared}
