"""When and how the Service ends: from the first order to end to the exit code.

Pure: takes events and times (CLOCK_MONOTONIC), and returns a `DrainBy` if something has to be done. Owned by the
Service, which carries it out at once. The rules:

- The first TERM or INT, an operator's order or the end of `--burst` begins the drain, which takes at most the drain
  deadline. A signal while the service is starting ends the start, which the Service does itself.
- A second signal during the drain returns everything to the broker at once; so does a stage whose Producers die too
  often. Nothing postpones an end that has begun.
- Signals within SAME_TERM count as one: a wrapper passes on a signal that the whole group has received.
- The exit code is that of what ended the service: a signal (0), `--burst`, a stage that was given up, a fault of the
  service itself. If it would be 0 although a second signal came or work was returned unfinished, it is 75.
"""

from typing import NamedTuple

from mqworker.config.stop_budget import CLOSE, StopBudget
from mqworker.exits import Exit

SAME_TERM = 0.5  # seconds within which two signals to end count as one


class DrainBy(NamedTuple):
    """Take nothing new, and return at `until` what is still in hand; a second DrainBy never postpones that."""

    until: float
    first: bool = True
    hurried: bool = False  # by a second signal


class Ending:
    """See the module head."""

    def __init__(self, drain_deadline: float) -> None:
        self.state = "starting"  # starting | running | draining
        self.terms = 0  # signals that asked for the end
        self.code = Exit.OK
        self.stop: StopBudget | None = None  # set once the end has begun
        self._drain_deadline = drain_deadline
        self._last_term = 0.0

    def started(self) -> None:
        """Note that the service is running."""
        self.state = "running"

    def terminated(self, now: float) -> DrainBy | None:
        """Handle a signal that asks for the end."""
        if self.terms and now - self._last_term < SAME_TERM:
            return None
        self.terms += 1
        self._last_term = now
        if self.state == "draining" and self.terms == 2:
            self.code = self.code or Exit.GIVEN_BACK
            return self._drain(now, hurried=True)
        return self.drain(now)

    def drain(self, now: float) -> DrainBy | None:
        """Begin the end as on a first signal, unless it has begun or the service is still starting."""
        return self._drain(now + self._drain_deadline) if self.state == "running" else None

    def done(self, code: Exit, now: float) -> DrainBy | None:
        """Begin the end with this exit code, because the run has done all there was to do."""
        self.code = code
        return self.drain(now)

    def give_up(self, now: float) -> DrainBy:
        """End at once, because a stage cannot be kept running."""
        self.code = Exit.RESTARTS_EXHAUSTED
        return self._drain(now)

    def ended(self, given_back: int) -> None:
        """Note how many messages were returned to the broker unfinished, which affects the exit code."""
        if self.code == Exit.OK and given_back:
            self.code = Exit.GIVEN_BACK

    def failed(self) -> None:
        """Note a fault of the service itself."""
        self.code = Exit.INTERNAL

    def over(self, now: float, *, alive: bool) -> bool:
        """Return whether nothing is left to wait for; `alive`: some process has not ended."""
        return self.stop is not None and (not alive or now >= self.stop.abandon)

    def time_left(self, now: float) -> float:
        """Return the seconds that the next step of the end may take."""
        left = CLOSE if self.stop is None else self.stop.service - now
        return max(0.25, min(CLOSE, left))

    def _drain(self, until: float, *, hurried: bool = False) -> DrainBy:
        first = self.stop is None
        if self.stop is not None:
            until = min(until, self.stop.drain)  # a second signal may come after the deadline
        self.state = "draining"
        self.stop = StopBudget(until)
        return DrainBy(until, first, hurried)
