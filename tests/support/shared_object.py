"""A real process of a shared object, and how a test steers it."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mqworker.ipc.child import Child
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death
from mqworker.shared_state import folder
from mqworker.shared_state.client import SharedClient
from mqworker.shared_state.folder import folder_of
from mqworker.shared_state.identity import message_key
from mqworker.shared_state.messages import Pause, Resume, SharedReport, SharedSpec, SharedStatus, TakeSnapshot
from mqworker.shared_state.process import SharedObject
from tests.support.waiting import until

DEADLINE = 30.0
NAME = "tally"
ROOT = Path(__file__).parent.parent.parent
_reports = msgspec.msgpack.Decoder(SharedReport)


class Impatient(SharedObject):
    """One that waits less long for another process that uses its folder."""

    def main(self) -> None:
        folder.LOCK_PATIENCE = 0.5
        super().main()


class Shared:
    """One life of the process; `reports` and `logged` is what it has sent."""

    def __init__(self, state_dir: Path, **spec: Any) -> None:
        job = spec.pop("job", "tests.support.shared_classes:Tally")
        root = str(spec.pop("root", ROOT))
        digest = spec.pop("digest", "digest")
        spec.setdefault("tick_seconds", 3600.0)  # each tick is in the journal
        self.spec = SharedSpec(NAME, job, root, None, digest, str(state_dir), logging.INFO, **spec)
        self.folder = folder_of(state_dir, NAME)
        self.reports: list[Any] = []
        self.logged: list[LogEvent] = []
        self.child = Child(_reports, self.reports.append, self._died, self.logged.append)

    def _died(self, death: Death) -> None:
        self.reports.append(death)

    async def start(self, state: str = "serving") -> "Shared":
        self.child.start(SharedObject(NAME))
        self.child.send(self.spec)
        await self.until(lambda: self.status.state == state, f"the object to be {state}")
        return self

    async def refused(self) -> Any:
        """Start it, and return why it does not serve."""
        self.child.start(Impatient(NAME))
        self.child.send(self.spec)
        await until(lambda: self.child.death, DEADLINE, "its end")
        return self.reports[-2]

    async def until(self, true: Callable[[], Any], what: str) -> Any:
        """Wait for something that a report tells."""

        def told() -> Any:
            assert self.child.alive, self.reports[-3:]
            return any(isinstance(each, SharedStatus) for each in self.reports) and true()

        return await until(told, DEADLINE, what)

    @property
    def status(self) -> SharedStatus:
        return [each for each in self.reports if isinstance(each, SharedStatus)][-1]

    async def pause(self) -> None:
        self.child.send(Pause())
        await self.until(lambda: self.status.state == "paused", "the pause")

    async def resume(self) -> None:
        self.child.send(Resume())
        await self.until(lambda: self.status.state == "serving", "the end of the pause")

    async def take_snapshot(self) -> SharedStatus:
        """The report that tells that another snapshot was made."""
        before = self.status.snapshots
        self.child.send(TakeSnapshot())
        await self.until(lambda: self.status.snapshots > before, "a snapshot")
        return self.status

    async def fresh_status(self) -> SharedStatus:
        """The report after the next one, which may have been sent already: what had happened by now is in it."""
        before = len(self.reports)
        await until(lambda: len(self.reports) > before + 1, DEADLINE, "a later report")
        return self.status

    async def kill(self) -> None:
        await self.child.stop("the test wants it", DEADLINE)

    async def again(self, **spec: Any) -> "Shared":
        """Another life, after this one."""
        options = {name: getattr(self.spec, name) for name in ("job", "root", "digest", "tick_seconds")}
        return await Shared(Path(self.spec.state_dir), **options | spec).start()


class OneCall(SharedClient):
    """Each call is a run of the same message, or of none, in whichever thread it is made."""

    message = ""

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.message:
            self.begin(message_key(self.message, b"body"), has_id=True)
        return super().call(method, *args, **kwargs)


def client(state_dir: Path, message: str = "", **options: Any) -> OneCall:
    """Return a client for runs of a message, if one is named."""
    made = OneCall(state_dir, NAME, "s", **options)
    made.message = message
    return made


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what blocks, while the loop hears the object."""
    return await asyncio.to_thread(function, *arguments)
