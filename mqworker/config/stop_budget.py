"""How long an orderly stop may take: who has to be done by when, so that nobody is killed who would have ended alone.

    drain deadline < last Consumer < Producer < stage supervisor's kill < Service < whoever stops the Service

Pure. Used by the Producer, the Service and its stage supervisors, and by `mqworker conf` and `check` for supervisord
and systemd. The user's work gets the whole drain deadline; nothing after it is worth waiting for, because the end of
the broker connection gives everything back. So all that comes after it fits into five seconds.
"""

import math
from dataclasses import dataclass

LEAVE = 10.0  # seconds for a Consumer's `teardown`, as far as the drain deadline allows
CLOSE = 2.0  # seconds for the Service to close the control server and to write its log, if the budget has them


@dataclass(frozen=True)
class StopBudget:
    """All times count from the same moment as `drain`: seconds after the order, or CLOCK_MONOTONIC."""

    drain: float  # work in hand may go on until then; 0 seconds to give back at once

    def consumers(self, drained: float) -> float:
        """Return when the Consumers that are still there are killed and the broker connection is given up.

        `drained` is when the work in hand was finished: `teardown` may take LEAVE of what is left then, and 1 s always.
        """
        return max(min(drained + LEAVE, self.drain), min(drained, self.drain) + 1.0)

    @property
    def producer(self) -> float:
        """When the Producer has ended, if need be without having said what it gave back."""
        return self.drain + 2.0

    @property
    def kill(self) -> float:
        """When the stage supervisor kills the Producer."""
        return self.drain + 3.0

    @property
    def abandon(self) -> float:
        """When the Service goes on without a Producer that even a SIGKILL has not ended."""
        return self.drain + 3.5

    @property
    def service(self) -> float:
        """When the Service has ended."""
        return self.drain + 4.5

    @property
    def least(self) -> float:
        """What `stopwaitsecs` (supervisord), TimeoutStopSec (systemd) and their like must be at least."""
        return self.drain + 5.0

    @property
    def advised(self) -> int:
        """What `mqworker conf` prints for them: whole seconds, with some to spare for a slow machine."""
        return math.ceil(self.drain) + 10

    @property
    def successor(self) -> float:
        """How long the next instance waits for this one to end (supervisord that died does not stop us first)."""
        return self.drain + 15.0
