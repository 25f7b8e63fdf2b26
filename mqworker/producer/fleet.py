"""The Consumers of a stage: starts and ends them, with their lanes, as staffing.py decides.

Lives in the Producer, on its loop; nothing else starts Consumers. Owns the lanes. `reconcile` may be called at any
time. If a Consumer cannot be started (no processes, descriptors or memory), its start is tried again later.
"""

from collections.abc import Iterator

from mqworker.consumer.register import InHandRegister
from mqworker.ipc.messages import Birth, Desired, StageSpec
from mqworker.ipc.spawn import Death
from mqworker.producer.lane import Lane, LaneOwner
from mqworker.producer.staffing import ConsumerFacts, Kill, Retire, Staffing, Start


class Fleet:
    """See the module head."""

    def __init__(self, spec: StageSpec, desired: Desired, register: InHandRegister, owner: LaneOwner) -> None:
        self.lanes: dict[int, Lane] = {}
        self._spec = spec
        self._desired = desired
        self._register = register
        self._owner = owner
        self._staffing = Staffing()
        self._leaving: set[int] = set()  # lanes that get no more work
        self._last_number = 0

    # --- what is wanted

    def want(self, desired: Desired) -> None:
        """Converge to the number of Consumers and the code of `desired`."""
        self._desired = desired
        self._staffing.want(desired.consumers, desired.code)

    def reconcile(self, now: float) -> None:
        """Start and retire Consumers, as far as that is possible now."""
        can_start = True
        for action in self._staffing.decide(self._facts(), now):
            match action:
                case Start(slot):
                    can_start = can_start and self._start(slot, now)
                case Retire(lane):
                    self._retire(self.lanes[lane])
                case Kill(lane, reason):
                    self.lanes[lane].kill(reason)

    def as_wanted(self) -> bool:
        """Whether number, code and parameters are as wanted."""
        generation = self._desired.generation
        return self._staffing.as_wanted(self._facts()) and all(
            lane.generation >= generation for lane in self.lanes.values()
        )

    # --- what there is

    def idle(self) -> Iterator[Lane]:
        """Lanes that can be fed now."""
        return (lane for lane in self.lanes.values() if lane.state == "idle" and lane.number not in self._leaving)

    def busy(self) -> list[Lane]:
        """Lanes with a chunk."""
        return [lane for lane in self.lanes.values() if lane.state == "busy"]

    def working(self) -> int:
        """How many Consumers share the work."""
        return sum(lane.state in ("idle", "busy") for lane in self.lanes.values())

    @property
    def crash_loop(self) -> bool:
        """Whether some slot keeps dying without having finished a message."""
        return self._staffing.crash_loop

    @property
    def problem(self) -> str:
        """Why the last Consumer could not be set up or started; empty if there is no problem."""
        return self._staffing.problem

    # --- what dispatch passes on

    def idled(self, lane: Lane) -> None:
        """Let an idle lane leave, if it must leave."""
        if lane.number in self._leaving and lane.state == "idle":
            lane.leave()

    def prospered(self, lane: Lane) -> None:
        """A Consumer has finished messages."""
        self._staffing.prospered(lane.slot, lane.code_generation)

    def died(self, lane: Lane, death: Death, now: float, *, attributed: bool) -> None:
        """Remove a dead lane; `attributed`: it died of a message that had killed before."""
        del self.lanes[lane.number]
        wanted = lane.number in self._leaving
        self._leaving.discard(lane.number)
        lane.in_hand_slot.end()
        problem = ""
        if lane.unfit is not None:
            problem = f"Consumers cannot be set up: {lane.unfit.failure.type}: {lane.unfit.failure.message}"
        elif not lane.done:
            problem = f"Consumers end before their first message: {death}"
        if not wanted:
            self._staffing.died(lane.slot, now, fruitful=lane.done > 0, problem=problem, attributed=attributed)

    def retire_all(self) -> None:
        """Retire all Consumers; busy ones finish first."""
        self._staffing.want(0, self._desired.code)
        for lane in list(self.lanes.values()):
            self._retire(lane)

    def kill_all(self, reason: str) -> None:
        """End all at once."""
        for lane in list(self.lanes.values()):
            self._leaving.add(lane.number)
            lane.kill(reason)

    # --- inside

    def _facts(self) -> list[ConsumerFacts]:
        return [
            ConsumerFacts(
                lane.number,
                lane.slot,
                lane.state,
                lane.since,
                lane.code_generation,
                bool(lane.replace_reason),
                lane.number in self._leaving,
            )
            for lane in self.lanes.values()
        ]

    def _start(self, slot: int, now: float) -> bool:
        desired = self._desired
        self._last_number += 1
        birth = Birth(
            *(slot, str(self._register.path), desired.generation, desired.jobs, desired.copy),
            *(desired.params, desired.log_level),
        )
        try:
            lane = Lane(self._last_number, self._spec, birth, self._register.slot(slot), self._owner)
        except OSError as error:
            self._staffing.start_failed(slot, now, error.strerror or str(error))
            return False
        self.lanes[lane.number] = lane
        return True

    def _retire(self, lane: Lane) -> None:
        self._leaving.add(lane.number)
        if lane.state == "starting":
            lane.kill("not wanted any more")
        else:
            self.idled(lane)
