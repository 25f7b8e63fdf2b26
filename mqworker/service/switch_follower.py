"""How a change of a stage's jobs or code ends: committed, undone, or reverted after its first messages.

Pure; owned by a StageSupervisor, and asked by the Service's main loop, which stores the answer. A report of the
Producer counts only if it is about the last state that was sent to the Producer.
"""

from mqworker.control.desired_state import Commit, Revert, Undo
from mqworker.control.stage_desired import StageDesired, Version
from mqworker.control.switch import Previous
from mqworker.ipc.stage_status import StageStatus
from mqworker.producer.code_switch import TRIAL


class SwitchFollower:
    """See the module head; times are CLOCK_MONOTONIC."""

    def __init__(self, stage: str) -> None:
        self._name = stage
        self._stage: StageDesired | None = None
        self._previous: Previous | None = None  # the generation that the last commit replaced
        self._committed_at = 0.0
        self._lost = ""  # how the Producer died during a change

    def want(self, stage: StageDesired, now: float) -> None:
        """Note the stage's desired state; a commit is recognised by its code."""
        was, self._stage = self._stage, stage
        if was is None:
            return
        if _newest(stage) != _newest(was) or not stage.running:
            self._previous, self._lost = None, ""  # a newer change ends what is left of an older one
        if was.candidate is not None and stage.code == was.candidate.code:
            self._previous, self._committed_at = Previous(was.version, was.code), now

    @property
    def fallback(self) -> Version | None:
        """The generation that the stage goes back to if the new code fails its trial; None if there is none."""
        return None if self._previous is None else self._previous.version

    def producer_died(self, how: str, now: float) -> None:
        """Note that the Producer died without being ordered to."""
        stage = self._stage
        if stage is not None and stage.candidate is not None:
            self._lost = how
        elif self._previous is not None:
            if now - self._committed_at < TRIAL:
                self._lost = f"{how} before the new code had finished a message"
            else:
                self._previous = None

    def due(self, status: StageStatus | None, sent: int) -> Commit | Undo | Revert | None:
        """Return how the change in progress ends; `sent`: the revision of the last state that the Producer was sent."""
        stage, switch = self._stage, status.switch if status is not None else None
        if stage is None:
            return None
        candidate, previous = stage.candidate, self._previous
        if status is not None and sent and status.revision == sent and not (switch is not None and switch.on_trial):
            previous = self._previous = None  # the new code has finished a message
        reason = self._lost
        code = candidate.code if candidate is not None else stage.code
        if not reason and switch is not None and (switch.revision, switch.code) == (sent, code):
            reason = switch.failed
            if candidate is not None and not reason and switch.ready >= switch.wanted > 0:
                return Commit(self._name, code)
        if not reason:
            return None
        if candidate is not None:
            return Undo(self._name, candidate.code, reason, "lost" if self._lost else "failed")
        return None if previous is None else Revert(self._name, stage.code, previous, reason)


def _newest(stage: StageDesired) -> tuple[int, int]:
    """Return the stage's generation, and the code of its candidate."""
    return stage.generation, stage.candidate.code if stage.candidate is not None else 0
