"""How long an orderly stop may take: when each process must have ended, so that none is killed while it is ending.

    drain deadline < last Consumer < Producer < stage supervisor's kill < Service < whoever stops the Service

Pure. Used by the Producer, the Service and its stage supervisors, and by `mqworker conf` and `check` for supervisord
and systemd. The user's work gets the whole drain deadline; after that nothing is worth waiting for, because the end of
the broker connection returns everything. So everything that follows fits into five seconds.
"""

import math
from dataclasses import dataclass

LEAVE = 10.0  # seconds for a Consumer's `teardown`, as far as the drain deadline allows
CLOSE = 3.0  # seconds for the Service to close the control server and then to write its log, if the budget has them


@dataclass(frozen=True)
class StopBudget:
    """All times count from the same moment as `drain`: seconds after the order, or CLOCK_MONOTONIC."""

    drain: float  # until this time work in hand may go on; 0 returns everything at once

    def consumers(self, drained: float) -> float:
        """Return when the remaining Consumers are killed and the broker connection is closed.

        `drained` is when the work in hand was finished. `teardown` gets up to LEAVE of the time left, but at least 1 s.
        """
        return max(min(drained + LEAVE, self.drain), min(drained, self.drain) + 1.0)

    def sources(self, began: float) -> float:
        """Return when sources are killed; they stop at once at `began`, when the order comes (see source_lifecycle)."""
        return min(began + 4.5, self.drain + 3.0)

    @property
    def producer(self) -> float:
        """Return when the Producer must have ended, if need be without reporting what it returned."""
        return self.drain + 2.0

    @property
    def kill(self) -> float:
        """Return when the stage supervisor kills the Producer."""
        return self.drain + 3.0

    @property
    def abandon(self) -> float:
        """Return when the Service stops waiting for a Producer that even SIGKILL has not ended."""
        return self.drain + 3.5

    @property
    def service(self) -> float:
        """Return when the Service must have ended."""
        return self.drain + 4.5

    @property
    def least(self) -> float:
        """Return the minimum for `stopwaitsecs` (supervisord), TimeoutStopSec (systemd) and the like."""
        return self.drain + 5.0

    @property
    def advised(self) -> int:
        """Return what `mqworker conf` prints for these: whole seconds, with a reserve for a slow machine."""
        return math.ceil(self.drain) + 10

    @property
    def successor(self) -> float:
        """Return how long the next instance waits for this one to end (a dead supervisord does not stop us first)."""
        return self.drain + 15.0
