"""What flows through a stage: how fast messages come and are settled, and how busy its Consumers are.

Pure: samples in, figures out; used by the Producer's timers. Nothing shows how many messages others publish, so the
arrivals follow from what is settled and from how the number of unsettled ones changes: arrived = settled + growth. If
other services consume from the same queue, what they take counts as not arrived.
"""

import math
from collections import deque
from typing import NamedTuple

EVERY = 0.25  # seconds between two samples
RATE_WINDOW = 5.0  # seconds over which the rate is measured
WINDOW = 30.0  # seconds over which utilisation and capacity are
SOON, FEW, LONG = 10.0, 10, 1800.0  # arrivals: seconds at least; more until there are FEW messages; seconds at most
SAME = 5.0  # seconds after which a depth that has not changed counts as read again
SHORTEST = 1.0  # seconds of observation before anything is said
ENOUGH = 100  # messages in the window: from then on, what the Consumers have done shows what they can do


class Sample(NamedTuple):
    """One look at a stage; `busy` and `available` grow from the start of the Producer."""

    time: float  # CLOCK_MONOTONIC
    settled: int  # since the start
    in_flight: int  # messages received and not settled
    depth: int | None  # messages ready in the input queue, as last read from the broker; None: unknown
    busy: float  # seconds in which Consumers had messages, of all Consumers together
    available: float  # seconds in which they were set up
    held_up_by: str = ""  # what keeps Consumers idle at this moment although messages wait here

    @property
    def unsettled(self) -> int:
        """Messages at the broker and here."""
        return (self.depth or 0) + self.in_flight


class Flow:
    """The samples of a recent period, and what follows from them."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._read: deque[Sample] = deque()  # those just after the depth was read: others may hold an old one

    def observe(self, sample: Sample) -> None:
        """Add a sample."""
        before = self._samples[-1].depth if self._samples else None
        self._samples.append(sample)
        if sample.depth is None:
            self._read.clear()
        elif not self._read or sample.depth != before or sample.time - self._read[-1].time >= SAME:
            self._read.append(sample)
        for samples, seconds in ((self._samples, WINDOW), (self._read, LONG)):
            while len(samples) > 2 and sample.time - samples[1].time >= seconds:
                samples.popleft()

    @property
    def rate(self) -> float:
        """Messages settled per second."""
        first, last = self._since(RATE_WINDOW)
        return (last.settled - first.settled) / max(last.time - first.time, EVERY)

    @property
    def arrival_rate(self) -> float | None:
        """Messages that came to the input queue, per second; None while it is not known.

        Rare ones are counted over a longer time: otherwise one of them would look like many for a while.
        """
        seconds, arrived, most = 0.0, 0, math.inf
        for first in reversed(self._read):
            last = self._read[-1]
            seconds = last.time - first.time
            arrived = last.settled - first.settled + last.unsettled - first.unsettled
            if seconds >= SOON and arrived >= FEW:
                break
            most = FEW / seconds if seconds >= SOON else most  # fewer than FEW have come since then
        return max(0.0, min(arrived / seconds, most)) if seconds >= SHORTEST else None

    @property
    def utilisation(self) -> float | None:
        """The share of their time in which the Consumers had messages, 0 to 1; None while there are no Consumers."""
        first, last = self._since(WINDOW)
        available = last.available - first.available
        return min(1.0, (last.busy - first.busy) / available) if available >= SHORTEST else None

    @property
    def held_up_by(self) -> str:
        """What last kept Consumers idle although messages waited here; "" if nothing has for a while."""
        return next((sample.held_up_by for sample in reversed(self._samples) if sample.held_up_by), "")

    def capacity(self, consumers: int, service_time: float | None) -> float | None:
        """Return how many messages this many Consumers can settle per second; None while it is not known, and for none.

        `service_time`: seconds. Where there are enough messages, their way to and from the Consumers counts too.
        """
        if not consumers:
            return None
        first, last = self._since(WINDOW)
        settled, busy = last.settled - first.settled, last.busy - first.busy
        if settled >= ENOUGH and busy > 0:
            return consumers * settled / busy
        return consumers / service_time if service_time else None

    def _since(self, seconds: float) -> tuple[Sample, Sample]:
        """Return the newest sample, and the newest of those that are at least this much older, if there is one."""
        if not self._samples:
            nothing = Sample(0.0, 0, 0, None, 0.0, 0.0)
            return nothing, nothing
        last = self._samples[-1]
        older = (sample for sample in reversed(self._samples) if last.time - sample.time >= seconds)
        return next(older, self._samples[0]), last
