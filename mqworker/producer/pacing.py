"""The size of chunks and the prefetch, both derived from the measured service time.

Pure; used by the Producer. Between two chunks a Consumer waits for half a millisecond (its outcomes go up, the Producer
wakes on a busy machine, a put needs another thread), so a chunk holds several messages, and the next one may be put
ahead: with 10 ms of work in each message, a stage reached 0.90 of the rate of multiprocessing.Pool with 4 ms of work in
a chunk and nothing ahead. Long messages travel alone and wait for an idle Consumer. Messages that wait in a lane while
another Consumer is idle are revoked after 20 ms (mqworker/producer/dispatch.py).
"""

import math

from mqworker.ipc.histogram import Histogram

CHUNK_SECONDS = 0.016  # work that a chunk should carry
TOGETHER_SECONDS = 0.001  # work that is not divided among Consumers: each chunk costs them and us some 0.2 ms of CPU
AHEAD_LEAST = 64  # messages of a chunk that is put behind another one, unless a full chunk has fewer
AHEAD_BYTES = 1 << 16  # the largest message that may wait behind another in a lane
HELD_SECONDS = 1.0  # work that the prefetch should keep ready for each Consumer
PREFETCH_MAX = 1000
FIXED_EACH = 64  # messages for each Consumer on a queue where the prefetch must not change (decisions 9)
ORDERED_LEAST = 256  # messages; frequent keys need room for others between theirs
QUANTILE = 0.95
SHORTEST = 2.0**-21  # seconds; nothing counts as shorter
WINDOW = 512  # observations after which all older ones are halved


class ServiceTime:
    """Handler times of the stage: all of them for the metrics, recent ones for decisions and for who looks."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.count = 0
        self._recent = [0.0] * 40  # weight for each power of two, from 2^-20 s (1 us)
        self._weight = 0.0
        self._total = 0.0  # seconds, weighted alike

    def observe(self, seconds: float) -> None:
        """Count one message."""
        self.histogram.observe(seconds)
        self.count += 1
        self._recent[min(39, math.frexp(max(seconds, SHORTEST))[1] + 20)] += 1
        self._weight += 1
        self._total += seconds
        if self._weight >= WINDOW:
            self._recent = [weight / 2 for weight in self._recent]
            self._weight /= 2
            self._total /= 2

    @property
    def mean(self) -> float | None:
        """The mean of the recent messages, in seconds; None before the first message."""
        return self._total / self._weight if self.count else None

    def quantile(self, share: float = QUANTILE) -> float | None:
        """Return an upper bound, in seconds, for this share of the recent messages; None before the first message."""
        if not self.count:
            return None
        left = self._weight * share
        for power, weight in enumerate(self._recent):
            left -= weight
            if left <= 1e-9:
                return math.ldexp(1.0, power - 20)
        return math.ldexp(1.0, 19)


def chunk_size(high: float | None, held: int, lanes: int, bound: int) -> int:
    """Return the number of messages for one chunk: CHUNK_SECONDS of work, within a fair share and the lane's bound.

    The fair share is never so small that dividing costs more than it gains: stages in a row on a busy machine would
    otherwise spend a third of their CPU time on chunks of a few short messages.
    """
    if high is None:
        return 1
    by_time = int(CHUNK_SECONDS / high)
    fair = max(-(-held // max(1, lanes)), min(held, int(TOGETHER_SECONDS / high)))
    return max(1, min(by_time, fair, bound))


def may_wait(high: float | None) -> bool:
    """Whether a message may wait for the one that its Consumer works on: not if that usually takes long."""
    return high is not None and high <= CHUNK_SECONDS


def derive_prefetch(high: float | None, consumers: int, present: int) -> int:
    """Return a prefetch that keeps every Consumer busy without hoarding: at least 2 a Consumer, at most 1,000 in all.

    It changes in powers of two, and only when the present one is off by more than a factor of two, because each change
    needs a new consumer at the broker.
    """
    low = 2 * consumers
    if high is None or consumers == 0:
        return low
    most = max(PREFETCH_MAX, low)
    wish = min(most, max(low, int(consumers * HELD_SECONDS / high)))
    if wish < most:
        wish = max(low, 1 << (wish.bit_length() - 1))
    return present if low <= present <= most and present / 2 <= wish <= present * 2 and wish != most else wish


def ordered_prefetch(configured_consumers: int) -> int:
    """Return the prefetch of an ordered stage without a configured one: it follows from the configuration alone.

    Of Consumers that work on several messages at once, each counts as that many, as in the other two functions.

    A quorum queue gives out first, in the order in which it came back, what an epoch with another prefetch had, so live
    changes must not change it.
    """
    return max(min(PREFETCH_MAX, max(ORDERED_LEAST, FIXED_EACH * configured_consumers)), 2 * configured_consumers)


def fixed_prefetch(high: float | None, consumers: int) -> int:
    """Return a prefetch to keep for long: 64 a Consumer up to 1,000, or fewer once messages are known to take long."""
    low = 2 * consumers
    most = max(low, min(PREFETCH_MAX, FIXED_EACH * consumers))
    return most if high is None else max(low, min(most, int(consumers * HELD_SECONDS / high)))
