"""Durations, counted for the metrics.

Pure; each process has its own Histogram, and reports it as Times, a frozen record.
"""

from bisect import bisect_left

import msgspec

BUCKETS = (
    *(base * 10.0**power for power in range(-4, 3) for base in (1, 2.5, 5)),
    1000.0,
    1800.0,
)  # of handler time: upper bounds in seconds, 0.1 ms to half an hour; one more bucket has no upper bound


class Times(msgspec.Struct, frozen=True, array_like=True):
    """A histogram of durations in seconds over BUCKETS, since its process started."""

    counts: tuple[int, ...]
    total: float


class Histogram:
    """Durations in seconds since the start of the process."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    @property
    def times(self) -> Times:
        """Return it as it is reported."""
        return Times(tuple(self.counts), self.total)
