"""The roster: the lanes that a stage has, and which of them get messages.

Lives in the Producer, on its loop; a part of the fleet, and all that feeding, limits and status need of it. A lane gets
messages if it is not leaving and its code is the one in use, which the switch decides.
"""

from collections.abc import Iterator

from mqworker.producer.code_switch import CodeSwitch
from mqworker.producer.lane import Lane
from mqworker.producer.lane_seats import LaneSeats


class Roster:
    """See the module head."""

    def __init__(self, switch: CodeSwitch) -> None:
        self.lanes: dict[int, Lane] = {}  # by number
        self.seated: dict[int, Lane] = {}  # those of them whose Consumers work on several messages at once
        self.leaving: set[int] = set()  # those that get no more work
        self.switch = switch
        self._busy_before = 0.0  # seconds that lanes had messages which have ended

    def idle(self) -> Iterator[Lane]:
        """Lanes for one message at a time that can be fed now."""
        at_work = self.switch.at_work
        return (
            lane
            for lane in self.lanes.values()
            if lane.state == "idle" and lane.seats is None and lane.number not in self.leaving and lane.code in at_work
        )

    def open(self) -> Iterator[Lane]:
        """Lanes for one message at a time that can be given a second chunk."""
        at_work = self.switch.at_work
        return (
            lane
            for lane in self.lanes.values()
            if lane.open and lane.seats is None and lane.number not in self.leaving and lane.code in at_work
        )

    def with_seats(self) -> list[tuple[Lane, LaneSeats]]:
        """Lanes for several messages at once that get any, with what they know of those."""
        at_work = self.switch.at_work
        return [
            (lane, lane.seats)
            for lane in self.seated.values()
            if lane.seats is not None
            and not lane.seats.closed_at
            and lane.state in ("idle", "busy")
            and lane.number not in self.leaving
            and lane.code in at_work
        ]

    @property
    def vacant(self) -> bool:
        """Whether a Consumer that gets messages could begin one now."""
        return any(self.idle()) or any(seats.room for _, seats in self.with_seats())

    def at_work(self, lane: Lane) -> bool:
        """Whether its Consumer may get messages, once it is set up."""
        return lane.code in self.switch.at_work

    def state_of(self, lane: Lane) -> str:
        """Return a lane's state as an operator sees it: an idle one that may get no message is spare."""
        return "spare" if lane.state == "idle" and not self.at_work(lane) else lane.state

    def busy(self) -> list[Lane]:
        """Lanes with a chunk."""
        return [lane for lane in self.lanes.values() if lane.state == "busy"]

    def working(self) -> int:
        """How many Consumers share the work."""
        return sum(lane.state in ("idle", "busy") and self.at_work(lane) for lane in self.lanes.values())

    def busy_seconds(self, now: float) -> float:
        """Return for how long Consumers have had messages, all of them together, since the start."""
        return self._busy_before + sum(lane.busy_seconds(now) for lane in self.lanes.values())

    def remove(self, lane: Lane, now: float) -> None:
        """Forget a lane that is dead."""
        del self.lanes[lane.number]
        self.seated.pop(lane.number, None)
        self.leaving.discard(lane.number)
        self._busy_before += lane.busy_seconds(now)
