"""The Consumers of a stage: starts and ends them, with their lanes, as staffing.py decides.

Lives in the Producer, on its loop; nothing else starts Consumers. Owns the lanes, which are in its roster. `reconcile`
may be called at any time. If a Consumer cannot be started (no processes, descriptors or memory), its start is tried
again later.
"""

import logging
from collections.abc import Iterable

from mqworker.consumer.register import InHandRegister
from mqworker.ipc import logs
from mqworker.ipc.consumer_messages import Birth
from mqworker.ipc.generation import Generation
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.spawn import Death
from mqworker.ipc.stage_spec import StageSpec
from mqworker.ipc.stage_status import SwitchState
from mqworker.producer.code_switch import Staff, Update
from mqworker.producer.lane import Lane, LaneOwner
from mqworker.producer.room import room_for
from mqworker.producer.roster import Roster
from mqworker.producer.staffing import OVERDUE, ConsumerFacts, Kill, Retire, Staffing, Start

NOT_WANTED = "it is not wanted any more"  # the reason for killing a Consumer that is still being set up

log = logging.getLogger("mqworker.fleet")


class Fleet:
    """See the module head."""

    def __init__(self, spec: StageSpec, desired: Desired, register: InHandRegister, owner: LaneOwner) -> None:
        self._spec = spec
        self._desired = desired
        self._register = register
        self._owner = owner
        self.staffing = Staffing(spec.config.setup_deadline, spec.config.update, register.places)
        self.roster = Roster(self.staffing.switch)
        self._generations: dict[int, Generation] = {}  # by the code that a Consumer may be started with
        self._last_number = 0

    # --- what is wanted

    def want(self, desired: Desired, now: float) -> None:
        """Converge to the number of Consumers and the code of `desired`, and set up its candidate."""
        candidate, switch = desired.candidate, self.staffing.switch
        self._desired = desired
        self._generations = {each.code: each for each in (desired.generation, candidate) if each is not None}
        update = self._spec.config.update if switch.over else switch.wanted.update
        if candidate is not None and candidate.code != switch.wanted.candidate:
            update = self._update(max(1, desired.consumers))
        present, code, number = desired.generation, 0, 0
        if candidate is not None:
            code, number = candidate.code, candidate.number
        self.staffing.want(Staff(desired.consumers, present.code, present.number, code, number, update), now)

    def _update(self, count: int) -> Update:
        """Return how the Consumers are to be replaced: as configured, unless there is no room for a second set."""
        configured = self._spec.config.update
        if configured != "switch":
            return configured
        why = room_for(count, [lane.pid for lane in self.roster.lanes.values()])
        if why:
            logs.report(log, logging.WARNING, "update", f"the Consumers are replaced one by one: {why}")
        return "rolling" if why else "switch"

    def reconcile(self, now: float) -> None:
        """Start and retire Consumers, as far as that is possible now."""
        can_start = True
        for action in self.staffing.decide(self._facts(self.roster.lanes.values()), now):
            match action:
                case Start(slot, code):
                    can_start = can_start and self._start(slot, code, now)
                case Retire(lane):
                    self.retire(self.roster.lanes[lane])
                case Kill(lane, reason):
                    self.roster.lanes[lane].kill(reason)

    def as_wanted(self) -> bool:
        """Whether number, code and parameters of the Consumers at work are as wanted.

        Where the number follows the load, nobody waits for those that end their last messages: they are no part of what
        was asked for.
        """
        wanted = self._desired.generation
        going = self.roster.leaving if self._desired.auto else ()
        lanes = [lane for lane in self.roster.lanes.values() if lane.number not in going or lane.code != wanted.code]
        return self.staffing.as_wanted(self._facts(lanes)) and all(
            lane.generation >= wanted.number for lane in lanes if lane.code == wanted.code
        )

    @property
    def switch(self) -> SwitchState | None:
        """How far the last change of jobs or code is; None once nothing is left of it."""
        switch, wanted = self.staffing.switch, self.staffing.switch.wanted
        if switch.over:
            return None
        ready = sum(lane.state == "idle" and lane.code == wanted.candidate for lane in self.roster.lanes.values())
        return SwitchState(
            revision=self._desired.revision,
            code=wanted.candidate or wanted.code,
            update=wanted.update,
            ready=ready,
            wanted=switch.candidates_wanted,
            on_trial=switch.on_trial,
            left=sum(lane.code in switch.before and lane.state != "idle" for lane in self.roster.lanes.values()),
            failed=switch.failed,
        )

    # --- what dispatch passes on

    def fails(self, lane: Lane, death: Death, now: float) -> bool:
        """Return whether a Consumer died of a message because its code is new, and has finished none."""
        why = f"a Consumer {death}; the new code had not finished a message"
        return not lane.kill_reason and self.staffing.switch.killed(lane.code, why, now)

    def prospered(self, lane: Lane) -> None:
        """Note that a Consumer has finished messages."""
        going = bool(lane.replace_reason) or lane.number in self.roster.leaving
        self.staffing.prospered(lane.slot, lane.code, going=going)

    def idled(self, lane: Lane) -> None:
        """Let an idle lane leave, if it must leave."""
        if lane.number in self.roster.leaving and lane.state == "idle":
            lane.leave()

    def retire(self, lane: Lane) -> None:
        """Give a lane no more work; it leaves when it is idle, or at once while it is starting."""
        self.roster.leaving.add(lane.number)
        if lane.state == "starting":
            lane.kill(NOT_WANTED)
        else:
            self.idled(lane)

    def died(self, lane: Lane, death: Death, now: float, *, attributed: bool) -> None:
        """Remove a dead lane; `attributed`: it died of a message that had killed before."""
        wanted = lane.number in self.roster.leaving
        self.roster.remove(lane, now)
        lane.in_hand_slot.end()
        lane.in_hand_slot.kind = ""  # what is left in its seats is in hand no more
        problem = ""
        if lane.unfit is not None:
            problem = f"Consumers cannot be set up: {lane.unfit.failure.type}: {lane.unfit.failure.message}"
        elif not lane.done:
            why = f" ({lane.kill_reason})" if lane.kill_reason else ""
            problem = f"Consumers end before their first message: {death}{why}"
        if not wanted:
            unfit = lane.unfit is not None or lane.kill_reason.startswith(OVERDUE)
            self.staffing.died(
                *(lane.slot, lane.code, now),
                fruitful=lane.done > 0,
                problem=problem,
                attributed=attributed,
                limit=bool(lane.kill_reason) and not unfit,
                unfit=unfit,
                going=bool(lane.replace_reason),
            )

    def retire_all(self) -> None:
        """Retire all Consumers; busy ones finish first."""
        self.staffing.want(self.staffing.switch.wanted._replace(consumers=0, candidate=0, number=0), 0.0)
        for lane in list(self.roster.lanes.values()):
            self.retire(lane)

    def kill_all(self, reason: str) -> None:
        """End all at once."""
        for lane in list(self.roster.lanes.values()):
            self.roster.leaving.add(lane.number)
            lane.kill(reason)

    # --- inside

    def _facts(self, lanes: Iterable[Lane]) -> list[ConsumerFacts]:
        return [
            ConsumerFacts(
                lane.number,
                lane.slot,
                lane.state,
                lane.since,
                lane.code,
                bool(lane.replace_reason),
                lane.number in self.roster.leaving,
            )
            for lane in lanes
        ]

    def _start(self, slot: int, code: int, now: float) -> bool:
        self._last_number += 1
        place = min(set(range(self._register.places)) - {lane.place for lane in self.roster.lanes.values()})
        birth = Birth(
            *(slot, str(self._register.path), place, self._desired.consumers),
            *(self._generations[code], self._desired.log_level),
        )
        try:
            lane = Lane(self._last_number, self._spec, birth, self._register.seats(place), self._owner)
        except OSError as error:
            self.staffing.start_failed(slot, code, now, error.strerror or str(error))
            return False
        self.roster.lanes[lane.number] = lane
        return True
