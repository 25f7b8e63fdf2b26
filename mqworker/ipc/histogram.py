"""Durations, counted for the metrics.

Pure; each process has its own, and reports it as `Times`.
"""

from bisect import bisect_left

from mqworker.ipc.messages import BUCKETS, Times


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
