"""The Consumers of a stage: how many, how old, who comes and who goes.

Lives in the Producer, on its loop, and is the only one that starts Consumers. It is told what should be (`want`) and
brings it about in `reconcile`, which may be called at any time: new Consumers first, old ones leave when a new one is
ready, the busy finish first, a slot that keeps dying waits longer each time. It owns the lanes and the slot file.
"""

from collections.abc import Iterator
from pathlib import Path

from mqworker.consumer.process import Birth
from mqworker.consumer.register import COUNT, InHandRegister
from mqworker.ipc.messages import Desired, StageSpec
from mqworker.ipc.restart_budget import Budget
from mqworker.ipc.spawn import Death
from mqworker.producer.lane import Lane, LaneOwner

START_DEADLINE = 600.0  # seconds for imports and `setup`, which may load a model
LEAVE_DEADLINE = 10.0  # seconds for `teardown` after the sentinel


class Fleet:
    """See the module head."""

    def __init__(self, spec: StageSpec, slots: InHandRegister, owner: LaneOwner) -> None:
        self.lanes: dict[int, Lane] = {}
        self.problem = ""  # why the last Consumer could not be set up or started
        self._spec = spec
        self._slots = slots
        self._owner = owner
        self._wanted = 0
        self._desired: Desired | None = None
        self._leaving: set[int] = set()  # lanes that get no more work
        self._budgets: dict[int, Budget] = {}
        self._numbers = 0

    # --- what is wanted

    def want(self, desired: Desired, count: int) -> None:
        """Aim at `count` Consumers that run the code of `desired`."""
        if self._desired is not None and desired.code > self._desired.code:
            self._budgets.clear()  # new code deserves a new chance
            self.problem = ""
        self._desired = desired
        self._wanted = count

    def reconcile(self, now: float) -> None:
        """Start and retire Consumers as far as can be done now."""
        desired = self._desired
        if desired is None:
            return
        staying = [lane for lane in self.lanes.values() if lane.number not in self._leaving]
        fresh = [lane for lane in staying if lane.code_generation >= desired.code and not lane.replace_reason]
        stale = [lane for lane in staying if lane not in fresh]
        missing = self._wanted - len(fresh)
        if stale:
            starting = sum(lane.state == "starting" for lane in fresh)
            missing = min(missing, max(1, self._wanted // 4) - starting)
        for _ in range(missing):
            if not self._start(desired, now):
                break
        ready = sum(lane.state != "starting" for lane in fresh)
        surplus = ready + len(stale) - self._wanted
        self._retire(sorted(stale, key=_busy), min(surplus, len(stale)))
        self._retire(sorted(fresh, key=_busy), len(fresh) - self._wanted)
        self._enforce_deadlines(now)

    def settled(self) -> bool:
        """Whether it is as wanted: number, code, parameters."""
        desired = self._desired
        return (
            desired is not None
            and len(self.lanes) == self._wanted
            and not self._leaving
            and all(
                lane.state != "starting"
                and lane.code_generation >= desired.code
                and lane.generation >= desired.generation
                for lane in self.lanes.values()
            )
        )

    # --- what there is

    def idle(self) -> Iterator[Lane]:
        """Lanes that can be fed now."""
        return (lane for lane in self.lanes.values() if lane.state == "idle" and lane.number not in self._leaving)

    def working(self) -> int:
        """How many Consumers share the work."""
        return sum(lane.state in ("idle", "busy") for lane in self.lanes.values())

    @property
    def crash_loop(self) -> bool:
        """Whether some slot keeps dying without having finished a message."""
        return any(budget.crash_loop for budget in self._budgets.values())

    def next_due(self, now: float) -> float | None:
        """When a slot's backoff ends."""
        return min((budget.due for budget in self._budgets.values() if budget.due > now), default=None)

    # --- what the owner passes on

    def idled(self, lane: Lane) -> None:
        """Let a lane that is idle go, if it is to leave."""
        if lane.number in self._leaving and lane.state == "idle":
            lane.leave()

    def prospered(self, lane: Lane) -> None:
        """Hear that a Consumer has finished its first messages: its slot is sound again."""
        self._budgets.setdefault(lane.slot, Budget()).prospered()
        if self._desired is not None and lane.code_generation >= self._desired.code:
            self.problem = ""

    def died(self, lane: Lane, death: Death, now: float, *, innocent: bool) -> None:
        """Take a dead lane off, and charge its slot when nobody wanted its end.

        It is `innocent` when it died of a message that had killed before: that one pays, and the good ones behind it
        do not wait for a Consumer.
        """
        del self.lanes[lane.number]
        wanted = lane.number in self._leaving
        self._leaving.discard(lane.number)
        lane.in_hand_slot.end()
        budget = self._budgets.setdefault(lane.slot, Budget())
        if lane.unfit is not None:
            failure = lane.unfit.failure
            self.problem = f"Consumers cannot be set up: {failure.type}: {failure.message}"
        elif not wanted and not lane.done and not innocent:
            self.problem = f"Consumers end before their first message: {death}"
        if not wanted and not innocent:
            budget.died(now, fruitful=lane.done > 0)

    def retire_all(self) -> None:
        """Want nobody any more; the busy finish first."""
        self._wanted = 0
        self._retire(list(self.lanes.values()), len(self.lanes))

    def kill_all(self, why: str) -> None:
        """End all at once."""
        for lane in list(self.lanes.values()):
            self._leaving.add(lane.number)
            lane.kill(why)

    # --- inside

    def _start(self, desired: Desired, now: float) -> bool:
        used = {lane.slot for lane in self.lanes.values()}
        slot = next(number for number in range(COUNT) if number not in used)
        if not self._budgets.setdefault(slot, Budget()).may_start(now):
            return False
        self._numbers += 1
        birth = Birth(slot, Path(self._slots.path), desired.generation, desired.params, desired.log_level)
        try:
            lane = Lane(self._numbers, self._spec, birth, self._slots.slot(slot), self._owner)
        except OSError as error:  # no more processes, descriptors or memory: again later
            self.problem = f"a Consumer could not be started: {error.strerror}"
            self._budgets[slot].died(now, fruitful=False)
            return False
        self.lanes[lane.number] = lane
        return True

    def _retire(self, lanes: list[Lane], count: int) -> None:
        for lane in lanes[: max(0, count)]:
            self._leaving.add(lane.number)
            if lane.state == "starting":
                lane.kill("not wanted any more")
            else:
                self.idled(lane)

    def _enforce_deadlines(self, now: float) -> None:
        for lane in list(self.lanes.values()):
            if lane.state == "starting" and now - lane.since > START_DEADLINE:
                lane.kill(f"it was not set up within {START_DEADLINE:g} s")
            elif lane.state == "leaving" and now - lane.since > LEAVE_DEADLINE:
                lane.kill(f"it did not end within {LEAVE_DEADLINE:g} s")


def _busy(lane: Lane) -> bool:
    return lane.state == "busy"
