"""The time limits of the message in hand, for its programs; implements jobs.program.Clock.

Runs in a Consumer's main thread. A signal handler that raises in the middle of a run would leave the program behind. So
the soft limit is suspended for that time, and the run itself enforces both limits.
"""

import math
import time

from mqworker.consumer.alarm import Alarm
from mqworker.consumer.register import Slot


class MessageClock:
    """See the module head; `hard_limit` follows the chunks."""

    def __init__(self, alarm: Alarm, slot: Slot) -> None:
        self.hard_limit = 0.0
        self._alarm = alarm
        self._slot = slot

    def take_over(self) -> tuple[float, float]:
        """Return how many seconds are left until the soft and the hard limit (inf: none), and suspend the soft one."""
        hard = math.inf
        if self.hard_limit:
            hard = max(0.0, self._slot.started + self.hard_limit - time.monotonic())
        return self._alarm.lend() or math.inf, hard

    def give_back(self, soft: float) -> None:
        """Let the soft limit interrupt again, after this many seconds; 0: it has passed."""
        if soft < math.inf:
            self._alarm.go_on(soft)
