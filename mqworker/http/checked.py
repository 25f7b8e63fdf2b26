"""The answer to a change that the user's code has to accept first: once it is in force, or was undone.

Runs in the server's threads; a part of `generations`. Passes the change to the main thread, which has a code check look
at it and stores it, then waits for snapshots. Fails with ControlError or ChangeRefused when it is refused, and with a
Problem when what was accepted is undone.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from mqworker.control.operator import Operator, Stored
from mqworker.control.stage_desired import StageDesired, Undone
from mqworker.control.views import Snapshot, StageView
from mqworker.http.problems import Problem
from mqworker.http.routing import WAIT_MAX, Api, requested_wait

CheckedChange = Callable[[Operator, float], Coroutine[Any, Any, Stored]]  # the second: a deadline, in seconds
PROOF = 2.0  # seconds to wait for the first message that new code finishes


def change_checked(api: Api, stage: str, change: CheckedChange) -> tuple[dict[str, Any], int, StageDesired]:
    """Answer within `?wait=` once the change is checked and in force; without it, once it is checked and stored."""
    wait = requested_wait()
    api.stage(stage)
    end = time.monotonic() + wait
    with api.waiting() if wait else api.places.slow():  # the code is checked in any case
        patience = wait or WAIT_MAX
        stored = api.control.ask(lambda operator: change(operator, patience), patience)
        left = max(0.0, end - time.monotonic())
        if stored.change:
            answer, status = _switched(api, stage, stored, left)
        else:
            answer, status = api.stored(stored.revision, stage, left)
    desired = api.stage(stage).desired
    return answer | {"generation": desired.generation}, status, desired


def _switched(api: Api, stage: str, stored: Stored, wait: float) -> tuple[dict[str, Any], int]:
    """Answer for a change that needs other Consumers, once it is committed; raises a Problem if it was undone.

    If there are messages in hand, it also waits for a moment until the new code has finished one.
    """
    answer: dict[str, Any] = {"revision": stored.revision, "change": stored.change}
    end = time.monotonic() + wait

    def over(snapshot: Snapshot) -> bool:
        candidate = snapshot.stages[stage].desired.candidate
        return candidate is None or candidate.code != stored.change

    def in_force(snapshot: Snapshot) -> bool:
        view = snapshot.stages[stage]
        return bool(_undone(view, stored)) or (view.applied >= revision and _proved(view, stored))

    applied = api.wait_for(over, wait)
    revision = api.snapshot().document.revision
    if applied:
        answer["revision"] = revision  # of the commit, or a later one
        left = max(0.0, end - time.monotonic())
        applied = api.wait_for(in_force, min(left, PROOF)) or api.wait_for(
            lambda snapshot: snapshot.stages[stage].applied >= revision, max(0.0, left - PROOF)
        )
    view = api.stage(stage)
    if not wait:
        return answer | {"applied": applied and not _undone(view, stored)}, 202
    for undone in _undone(view, stored):
        what = (
            f"generation {undone.generation} was undone: {undone.reason}; generation {view.desired.generation} works on"
        )
        if undone.kind == "taken back":
            raise Problem(409, what, kind="taken_back", **answer)
        raise Problem(422, what, kind="undone", **answer)
    return answer | {"applied": applied}, 200 if applied else 202


def _undone(view: StageView, stored: Stored) -> list[Undone]:
    return [undone for undone in view.desired.undone if undone.code == stored.change]


def _proved(view: StageView, stored: Stored) -> bool:
    """Whether new code has finished a message, or has none to finish."""
    status = view.actual
    if status is None or status.switch is None or status.switch.code != stored.change:
        return True
    return not (status.held or status.dispatched or status.rate or status.switch.failed)
