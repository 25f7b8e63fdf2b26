"""How long a broker has had to answer, not counting the time in which it could not.

Pure: takes requests, blocking and time, returns the seconds waited. Used by the connection on which the requests are
made. A broker that blocks the connection (an alarm) reads nothing from it, and one that is still reading what was
written has not seen later requests yet. So the time of a request starts again when either state ends.
"""

from typing import Generic, TypeVar

Request = TypeVar("Request")


class AnswerClock(Generic[Request]):
    """See the module head. All times are the loop's."""

    def __init__(self) -> None:
        self.blocked = False
        self._read_from = 0.0  # since when the broker has been reading from us
        self.open: dict[Request, float] = {}  # requests without an answer -> when they were made; oldest first

    def ask(self, request: Request, now: float) -> None:
        """Note that a request is made."""
        self.open[request] = now

    def answered(self, request: Request) -> None:
        """Note that a request was answered, or no longer needs an answer."""
        self.open.pop(request, None)

    def block(self, blocked: bool, now: float) -> None:
        """Note that the broker blocks us, or has stopped doing so."""
        self.blocked = blocked
        self._read_from = now

    def caught_up(self, now: float) -> None:
        """Note that the broker has read what was sent to it."""
        self._read_from = now

    def waited(self, since: float, now: float) -> float:
        """Return for how many seconds since `since` the broker could have answered."""
        return 0.0 if self.blocked else now - max(since, self._read_from)

    def longest(self, now: float) -> float:
        """Return how long the oldest request has waited."""
        return self.waited(next(iter(self.open.values()), now), now)
