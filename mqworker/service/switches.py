"""How the Service brings a change of code to its end, with the shared objects that the stage uses.

Runs on the Service's main loop. Asked again and again for as long as an end is due. Before a commit is stored, shared
objects whose class changes are loaded under it; if that fails, the change is undone.
"""

import asyncio
from collections.abc import Callable, Sequence

from mqworker.config.load import Loaded
from mqworker.control.desired_state import Commit, Document, Revert, Undo
from mqworker.service.shared_objects import Moves, SharedObjects


class Switches:
    """See the module head. `store` stores an end, `wake` lets the loop ask again."""

    def __init__(
        self,
        loaded: Loaded,
        shared: SharedObjects,
        store: Callable[[Commit | Undo | Revert], None],
        wake: Callable[[], None],
    ) -> None:
        self._config = loaded.config
        self._shared = shared
        self._store = store
        self._wake = wake
        self._preparing: dict[tuple[str, int], tuple[Moves, asyncio.Task[str]]] = {}  # (stage, code of its candidate)

    def end(self, due: Sequence[Commit | Undo | Revert], document: Callable[[], Document]) -> None:
        """Bring these changes to their end, as far as that can be now."""
        for each in due:
            if isinstance(each, Commit):
                self._commit(each, document())
            else:
                self._store(each)
        for stage, code in list(self._preparing):
            now = document().stages[stage]
            if now.candidate is None or now.candidate.code != code:  # it is over
                moves, task = self._preparing.pop((stage, code))
                task.cancel()
                if now.code != code:
                    self._shared.give_up(moves)

    def _commit(self, commit: Commit, document: Document) -> None:
        stage, key = document.stages[commit.stage], (commit.stage, commit.code)
        if key not in self._preparing:
            moves = self._shared.moves(stage)
            if not moves:
                self._store(commit)
                return
            deadline = self._config.stages[commit.stage].setup_deadline
            task = asyncio.create_task(self._shared.prepare(moves, deadline))
            task.add_done_callback(lambda _: self._wake())
            self._preparing[key] = moves, task
        _, task = self._preparing[key]
        if task.done():
            why = task.result()
            self._store(Undo(commit.stage, commit.code, why) if why else commit)
