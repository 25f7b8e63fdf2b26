"""Brings a change of code to its end, with the shared objects that the stage uses.

Runs on the Service's main loop, and is called again and again as long as an end is due. Before a commit is stored,
shared objects whose class changes are loaded with the new class; if that fails, the change is undone.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from mqworker.config.load import Loaded
from mqworker.control.desired_state import Commit, Document, Revert, Undo
from mqworker.service.shared_supervisors import Moves, SharedSupervisors


class Storing(Protocol):
    """Operations, as the switches see them."""

    document: Document
    ending: bool

    def end_switch(self, asked: Commit | Undo | Revert) -> None:
        """Store how a change ends, if it can be stored now."""


TRIES = 3  # times that shared objects may become ready and then cease to be, before the change is undone


class _Preparing(NamedTuple):
    moves: Moves
    task: asyncio.Task[str]
    tries: int


class Switches:
    """See the module head. `wake` makes the loop call `end` again."""

    def __init__(
        self, loaded: Loaded, shared: SharedSupervisors, operations: Storing, wake: Callable[[], None]
    ) -> None:
        self._config = loaded.config
        self._shared = shared
        self._operations = operations
        self._wake = wake
        self._preparing: dict[tuple[str, int], _Preparing] = {}  # (stage, code of its candidate)

    def end(self, due: Sequence[Commit | Undo | Revert]) -> None:
        """Bring these changes to their end, as far as that is possible now."""
        for each in due if not self._operations.ending else ():
            if isinstance(each, Commit):
                self._commit(each)
            else:
                self._operations.end_switch(each)
        for stage, code in list(self._preparing):
            now = self._operations.document.stages[stage]
            if now.candidate is None or now.candidate.code != code or self._operations.ending:
                moves, task, _ = self._preparing.pop((stage, code))
                task.cancel()
                if now.code != code:  # it was not committed
                    self._shared.give_up(moves, (stage, code))

    def _commit(self, commit: Commit) -> None:
        key = commit.stage, commit.code
        moves = self._shared.moves(self._operations.document.stages[commit.stage])
        preparing = self._preparing.get(key)
        if self._shared.are_prepared(moves):
            self._operations.end_switch(commit)
        elif preparing is None or (preparing.task.done() and not _why(preparing) and preparing.tries < TRIES):
            deadline = self._config.stages[commit.stage].setup_deadline
            task = asyncio.create_task(self._shared.prepare(moves, deadline, key))
            task.add_done_callback(lambda _: self._wake())
            self._preparing[key] = _Preparing(moves, task, 1 if preparing is None else preparing.tries + 1)
        elif preparing.task.done():
            why = _why(preparing) or "a shared object was ready for the new code, but did not stay ready"
            self._operations.end_switch(Undo(commit.stage, commit.code, why))


def _why(preparing: _Preparing) -> str:
    """Return why shared objects could not be made ready, or ""."""
    if preparing.task.cancelled():
        return ""
    error = preparing.task.exception()
    return preparing.task.result() if error is None else f"{type(error).__name__}: {error}"
