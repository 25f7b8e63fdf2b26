"""The supervisor of one shared object: which code serves it, and how its state moves to other code.

Lives in the Service's main thread, on its loop. Owns the processes that serve the object one after another
(`shared_lives`), and during a move a second one, on trial. Kills a process whose call takes too long.

A move to new code: the object is paused and writes a snapshot; a second process loads the snapshot with the new class.
Only once that has succeeded may the change be committed; then the second process takes over. Callers wait in the
meantime. There is one move at a time; if either process dies, the move has failed, and nothing has changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from mqworker.control.views import SharedView
from mqworker.ipc import logs
from mqworker.ipc.records import LogEvent
from mqworker.service.shared_life import SharedCode, SharedLife
from mqworker.service.shared_lives import RETRY, SharedLives
from mqworker.shared_state.messages import Pause, Resume, TakeSnapshot

MOVE_DEADLINE = 600.0  # seconds to load the state under the code of a start
PAUSED = 30.0  # seconds that a loaded trial may wait for its commit, while callers wait
SHARE = 20  # a failed move is tried again after this many times its duration, because callers wait during a move

log = logging.getLogger("mqworker.service.shared_supervisor")


class _Move:
    """A move to other code; `owners` are those that have asked for it."""

    def __init__(self, code: SharedCode) -> None:
        self.code = code
        self.owners: set[object] = set()
        self.trial: SharedLife | None = None
        self.task: asyncio.Task[str]
        self.ready_at: float | None = None


class SharedSupervisor:
    """See the module head. `on_change` is called when there is something new to show, `on_log` with each log event."""

    def __init__(
        self,
        name: str,
        root: Path,
        state_dir: Path,
        deadline: float,
        on_change: Callable[[], None],
        on_log: Callable[[LogEvent], None],
    ) -> None:
        self.name = name
        self.ending = False
        self._deadline = deadline
        self._on_change = on_change
        self._lives = SharedLives(name, root, state_dir, on_change, self._life_ended, on_log)
        self._wanted: SharedCode | None = None  # the committed code: it serves, or there will be a move to it
        self._move: _Move | None = None
        self._move_at = 0.0  # when a failed move is tried again
        self._move_problem = ""  # why the committed code does not serve
        self._moving: asyncio.Task[None] | None = None  # the move to the committed code

    # --- what is wanted

    def want(self, code: SharedCode) -> None:
        """Serve the object with this committed code: at once if it was prepared, otherwise after a move."""
        self._wanted, self._move_at = code, 0.0
        self._lives.retry()
        if self._move is not None and self._move.code != code:
            self.give_up(self._move.code, self)
        self.beat()

    def use_level(self, level: int) -> None:
        """Log from this level on."""
        self._lives.use_level(level)

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        now = time.monotonic()
        move = self._move
        if move is not None and move.ready_at is not None:
            if move.code == self._wanted:
                self._take_over(move)
            elif now - move.ready_at > PAUSED:
                self._drop(move)
        life = self._lives.serving
        if life is not None:
            life.judge(self._deadline, now, moving=self._move is not None)
        if self._move is not None or self._wanted is None or self.ending:
            return
        if life is None:
            self._lives.begin(self._wanted, now)
        elif life.serves and life.code == self._wanted:
            if life.state == "paused":  # it was started paused for a move that is no longer needed
                life.send(Resume())
        elif life.serves and now >= self._move_at:
            self._move_at = now + RETRY
            self._moving = asyncio.create_task(self._moved())

    def reset(self) -> str:
        """Replace the object by a new one, and keep the memory of calls; returns why that is not possible, or ""."""
        life = self._lives.serving
        if self._move is not None or (life is not None and life.unfit is not None):
            return "its process is being replaced: try again in a moment"
        self._move_problem = ""
        if self._wanted is not None:
            self._lives.reset(self._wanted)
        self.beat()
        return ""

    def end(self, until: float) -> None:
        """End for good, with a snapshot, until `until` (CLOCK_MONOTONIC) at most."""
        self.ending = True
        if self._move is not None:
            self._drop(self._move)
        self._lives.end(until)

    @property
    def alive(self) -> bool:
        """Whether its process still exists."""
        return self._lives.serving is not None

    def view(self) -> SharedView:
        """Return the object for the snapshot."""
        lives, life = self._lives, self._lives.serving
        state = "down" if life is None else life.state
        job = self._wanted.job if self._wanted is not None else ""
        problem = lives.problem or self._move_problem
        return SharedView(self.name, job, state, problem, lives.restarts, life.status if life is not None else None)

    def _life_ended(self, life: SharedLife) -> None:
        """Go on after the end of a process."""
        move = self._move
        if move is not None and life is move.trial and move.ready_at is not None:
            self._drop(move)  # before that, `_load` notices the end, and why
        self.beat()
        self._on_change()

    # --- a move to other code

    def is_prepared(self, code: SharedCode) -> bool:
        """Return whether this code may be committed."""
        move, life = self._move, self._lives.serving
        if move is not None:
            return move.code == code and move.ready_at is not None
        return life is not None and life.code == code and life.serves

    async def prepare(self, code: SharedCode, deadline: float, owner: object) -> str:
        """Load the state with other code, beside the serving process; returns why that is not possible, or "".

        Afterwards `want` lets it serve; `give_up`, the death of a process or too long a wait undoes it.
        """
        try:
            async with asyncio.timeout(deadline):
                while self._move is not None and self._move.code != code:
                    await asyncio.wait({self._move.task})
                    if self._move is not None and self._move.code != code:
                        await asyncio.sleep(0.05)  # it waits for its commit
                life = self._lives.serving
                if life is not None and life.code == code:
                    why = await life.until("serving", "paused")
                else:
                    if self._move is None:
                        self._move = move = _Move(code)
                        move.task = asyncio.create_task(self._load(move))
                    self._move.owners.add(owner)
                    (done,), _ = await asyncio.wait({self._move.task})
                    why = "its process was replaced in the meantime" if done.cancelled() else done.result()
        except TimeoutError:
            self.give_up(code, owner)
            why = f"its state could not be loaded within {deadline:g} s"
        return why and f"the shared object {self.name}: {why}"

    def give_up(self, code: SharedCode, owner: object) -> None:
        """Go on with the serving code, if there is a move to this code that nobody else has asked for."""
        move = self._move
        if move is not None and move.code == code:
            move.owners.discard(owner)
            if not move.owners:
                self._drop(move)

    def _drop(self, move: _Move) -> None:
        """End a move, and go on with the serving process."""
        self._move = None
        if move.task is not asyncio.current_task():
            move.task.cancel()
        if move.trial is not None:
            move.trial.child.kill("the change was undone")
        self._lives.send(Resume())

    async def _load(self, move: _Move) -> str:
        """Pause, write a snapshot, and load it with the other code; returns why that is not possible, or ""."""
        try:
            life, why = self._lives.serving, ""
            if life is not None and not await life.until("serving", "paused"):
                life.forget_status()
                life.send(Pause())
                life.send(TakeSnapshot())
                why = await life.until("paused", empty=True)
            if not why:  # a process that cannot serve has everything in its files
                move.trial = trial = self._lives.start(move.code, trial=True)
                why = self._lives.problem if trial is None else await trial.until("trial")
                why = why or _described_worse(life, trial)
        except Exception as error:  # otherwise callers would wait for ever
            log.exception("the shared object %s could not be moved", self.name, extra={"event": "failed"})
            why = f"{type(error).__name__}: {error}"
        if why:
            self._drop(move)
        else:
            move.ready_at = time.monotonic()
            self.beat()
        return why

    async def _moved(self) -> None:
        """Move to the committed code; until that succeeds, the previous code serves."""
        code, began = self._wanted, time.monotonic()
        if code is None:
            return
        why = await self.prepare(code, MOVE_DEADLINE, self)
        if not why:
            return
        now = time.monotonic()
        self._move_at = now + max(RETRY, SHARE * (now - began))
        if self._move is None:
            self._lives.send(Resume())  # it may have been started paused
        what = f"{why}; the previous code serves it, and this is tried again"
        if what != self._move_problem:
            logs.report(log, logging.ERROR, "shared_code", what, shared=self.name)
        self._move_problem = what

    def _take_over(self, move: _Move) -> None:
        """Let the process on trial serve, in place of the previous one."""
        self._move, self._move_problem = None, ""
        assert move.trial is not None
        self._lives.replace(move.trial)


def _described_worse(before: SharedLife | None, trial: SharedLife | None) -> str:
    """Return why the new class does not fit the state, judged by its `describe`, which is called once, or ""."""
    found = trial.status.describe_problem if trial is not None and trial.status is not None else ""
    had = before.status.describe_problem if before is not None and before.status is not None else ""
    if not found or had:
        return ""
    return f"describe of the new class fails with this state ({found}): write a __setstate__ that fits it"
