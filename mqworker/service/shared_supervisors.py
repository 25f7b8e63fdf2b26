"""All shared objects of a service: which exist, with which code, and their part in a change of code.

Lives in the Service's main thread, on its loop. Owns a SharedSupervisor for each object that a running stage uses, or
is about to use. One object serves all stages, with the code that was committed last. An object that no stage uses any
more is kept for as long as a drain may take, because the previous Consumers may still call it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from mqworker.config.load import Loaded
from mqworker.config.model import SharedConfig
from mqworker.control.desired_state import Document
from mqworker.control.stage_desired import StageDesired, Version
from mqworker.control.views import SharedView
from mqworker.ipc import logs
from mqworker.ipc.records import LogEvent
from mqworker.service.shared_life import SharedCode
from mqworker.service.shared_supervisor import SharedSupervisor
from mqworker.shared_state.folder import SHARED, folder_of
from mqworker.shared_state.written_by import written_by

log = logging.getLogger("mqworker.service.shared_supervisors")

Moves = dict[str, SharedCode]  # the code with which each object must be ready to serve


class SharedSupervisors:
    """See the module head."""

    def __init__(self, loaded: Loaded, on_change: Callable[[], None], on_log: Callable[[LogEvent], None]) -> None:
        self._loaded = loaded
        self._on_change, self._on_log = on_change, on_log
        self._supervisors: dict[str, SharedSupervisor] = {}
        self._committed: dict[tuple[str, str], SharedCode] = {}  # (object, stage) -> the object's code in that stage
        self._needed: dict[str, SharedCode] = {}  # the code with which each object is served
        self._looked = False  # whether it has checked for the state of objects that no stage uses
        self._unneeded: dict[str, float] = {}  # object -> when it ends (CLOCK_MONOTONIC)

    def want(self, document: Document) -> None:
        """Serve the objects that the running stages use, or will use once a change is committed."""
        now, before = time.monotonic(), self._needed
        self._needed = needed = self._wanted(document)
        if not self._looked:
            self._looked = True
            self._report_unused(needed)
        for name in self._supervisors.keys() - needed.keys() - self._unneeded.keys():
            self._unneeded[name] = now + self._loaded.config.service.drain_deadline
        for name, code in needed.items():
            self._unneeded.pop(name, None)
            if before.get(name) != code or name not in self._supervisors:
                self._supervisor(name).want(code)
        for supervisor in self._supervisors.values():
            supervisor.use_level(logs.LEVELS[document.log_level])

    def _wanted(self, document: Document) -> Moves:
        """Return which objects are needed, each with the code that was committed last.

        At a start, that is the code that wrote the state, if a stage has it.
        """
        needed: Moves = {}
        for stage_name, stage in document.stages.items():
            for name, code in _codes(stage.version, stage.code).items() if stage.running else ():
                newly = self._committed.get((name, stage_name)) != code and name in self._needed
                self._committed[name, stage_name] = code
                if newly or (name in needed and name not in self._needed and self._wrote(name, code)):
                    needed[name] = code
                else:
                    needed.setdefault(name, self._needed.get(name, code))
            for name, code in self.moves(stage).items():
                needed.setdefault(name, self._needed.get(name, code))
        return needed

    def _report_unused(self, needed: Moves) -> None:
        """At the start, report which objects have a state but are used by no stage: they may have been renamed."""
        folder = self._loaded.state_dir / SHARED
        for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ():
            if name not in needed:
                what = f"no running stage uses the shared object {name}; its state stays in {folder / name}"
                logs.report(log, logging.WARNING, "shared_unused", what, shared=name)

    def _wrote(self, name: str, code: SharedCode) -> bool:
        return written_by(folder_of(self._loaded.state_dir, name)) == code.digest

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        now = time.monotonic()
        for name, supervisor in list(self._supervisors.items()):
            if not supervisor.ending and self._unneeded.get(name, now) < now:
                supervisor.end(now + self._loaded.config.service.drain_deadline)
            if supervisor.ending and not supervisor.alive:
                del self._supervisors[name]
                self._unneeded.pop(name, None)
                if name in self._needed:  # it is in use again by now
                    self._supervisor(name).want(self._needed[name])
            else:
                supervisor.beat()

    def reset(self, name: str) -> str | None:
        """Replace an object by a new one; returns why that is not possible, or "", or None if there is none."""
        return self._supervisors[name].reset() if name in self._supervisors else None

    async def close(self, seconds: float) -> None:
        """End all objects, each with a snapshot, within this time."""
        until = time.monotonic() + seconds
        for supervisor in self._supervisors.values():
            supervisor.end(until)
        while any(each.alive for each in self._supervisors.values()) and time.monotonic() < until + 1:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)

    def views(self) -> dict[str, SharedView]:
        """Return what is shown of each object."""
        return {name: supervisor.view() for name, supervisor in sorted(self._supervisors.items())}

    # --- a change of a stage's code

    def moves(self, stage: StageDesired) -> Moves:
        """Return the code with which objects must be ready to serve before a stage's candidate is committed."""
        candidate = stage.candidate
        return _codes(candidate.version, candidate.code) if candidate is not None else {}

    def are_prepared(self, moves: Moves) -> bool:
        """Return whether all objects are ready."""
        return all(
            name in self._supervisors and self._supervisors[name].is_prepared(code) for name, code in moves.items()
        )

    async def prepare(self, moves: Moves, deadline: float, owner: object) -> str:
        """Make all objects ready, for this owner; returns why that is not possible, or ""."""
        there = [(self._supervisors[name], code) for name, code in moves.items() if name in self._supervisors]
        found = await asyncio.gather(*(each.prepare(code, deadline, owner) for each, code in there))
        why = "; ".join(filter(None, found))
        if why:
            self.give_up(moves, owner)
        return why

    def give_up(self, moves: Moves, owner: object) -> None:
        """Let the objects go on with the serving code, unless others have asked for these moves too."""
        for name, code in moves.items():
            if name in self._supervisors:
                self._supervisors[name].give_up(code, owner)

    def _supervisor(self, name: str) -> SharedSupervisor:
        if name not in self._supervisors:
            config = self._loaded.config.shared.get(name)
            deadline = config.deadline if config is not None else SharedConfig(job="a:b").deadline
            self._supervisors[name] = SharedSupervisor(
                *(name, self._loaded.root, self._loaded.state_dir, deadline, self._on_change, self._on_log)
            )
        return self._supervisors[name]


def _codes(version: Version, build: int) -> Moves:
    """Return the code of each shared object that a generation uses."""
    unknown = build if version.copy is None else 0
    return {use.name: SharedCode(use.job, version.copy, unknown) for use in version.shared}
