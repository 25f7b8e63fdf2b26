"""How long a broker has had to answer, without the time in which it could not.

Pure: requests, blocking and time in, the seconds waited out. Used by the connection, on which the requests are made. A
broker that blocks the connection (an alarm) reads nothing from it; one that is still taking what was written has not
seen yet what comes behind that. So the time of a request begins again when the one or the other ends.
"""

from typing import Generic, TypeVar

Request = TypeVar("Request")


class AnswerClock(Generic[Request]):
    """See the module head. All times are the loop's."""

    def __init__(self) -> None:
        self.blocked = False
        self._read_from = 0.0  # since when the broker has been reading from us
        self.open: dict[Request, float] = {}  # requests without an answer -> when they were made, in that order

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
        """Note that the broker has taken what it was sent."""
        self._read_from = now

    def waited(self, since: float, now: float) -> float:
        """Return for how many of the seconds since then the broker could have answered."""
        return 0.0 if self.blocked else now - max(since, self._read_from)

    def longest(self, now: float) -> float:
        """Return how long the oldest request has waited."""
        return self.waited(next(iter(self.open.values()), now), now)
