"""What the Consumers of a stage use: CPU and memory, as the kernel reports it, once a second.

Lives in the Producer, on its loop, called by the timers. So the figures of a Consumer that is stuck are fresh too. The
CPU of a slot is that of all Consumers that it had; what one used after the last look is missing.
"""

from collections.abc import Iterable

from mqworker.ipc import proc
from mqworker.ipc.proc import TICK
from mqworker.producer.lane import Lane

EVERY = 1.0  # seconds
CPU = "cpu_ms_"  # with the number of the slot: the name of its counter


class Usage:
    """See the module head."""

    def __init__(self) -> None:
        self._due = 0.0
        self._ended: dict[int, float] = {}  # slot -> seconds that its ended Consumers have used
        self._lanes: dict[int, tuple[int, float]] = {}  # lane -> slot, seconds

    def look(self, lanes: Iterable[Lane], now: float) -> None:
        """Note what each Consumer has used, if it is time for that."""
        if now < self._due:
            return
        self._due = now + EVERY
        before, self._lanes = self._lanes, {}
        for lane in lanes:
            found = proc.stat(lane.pid)
            if found is not None:
                lane.cpu = found.cpu * TICK
                lane.rss = proc.rss(lane.pid) or lane.rss
            self._lanes[lane.number] = lane.slot, lane.cpu
        for number, (slot, seconds) in before.items():
            if number not in self._lanes:
                self._ended[slot] = self._ended.get(slot, 0.0) + seconds

    @property
    def counters(self) -> dict[str, int]:
        """Milliseconds of CPU that the Consumers of each slot have used since the Producer began."""
        used = dict(self._ended)
        for slot, seconds in self._lanes.values():
            used[slot] = used.get(slot, 0.0) + seconds
        return {f"{CPU}{slot}": round(1000 * seconds) for slot, seconds in sorted(used.items())}
