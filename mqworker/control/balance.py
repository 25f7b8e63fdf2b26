"""How many Consumers each stage with `consumers = "auto"` has: which stage gives one to which, and when.

Pure: facts and time in, numbers and moves out; service/balancer.py carries them out. The *weight* of a stage is the
work that it has and will get, in seconds: (waiting + 30 s x arrivals) x service time. Its *pressure* is its weight
divided by its Consumers: 30 s means that they can just do what arrives. Every 5 s one Consumer at most moves, to the
stage with the highest pressure; `Balance.decide` says when.

A stage's *share* is how many Consumers it is to have; its *count* follows, down at once, up when the Consumers that
others give up have left. So there are never more than the budget, however long a message takes that one of them ends.
"""

import math
import sys
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

EVERY = 5.0  # seconds between two moves
HORIZON = 30.0  # seconds of arrivals that count as if they were there
URGENT = 30.0  # pressure in seconds that a stage must exceed to get a Consumer
GAIN = 0.8  # a stage gives if its pressure is then at most this share of the one that the receiver has
HOLD = 30.0  # seconds for which a stage that has received a Consumer gives none: at least these
STARTS = 10.0  # and at least this many times as long as its Consumers take to start
TURN = 10.0  # seconds instead of both where there are fewer Consumers than stages
PATIENCE = 60.0  # seconds for which messages wait where there is no Consumer; then it is their turn in any case
LONGEST = 600.0  # seconds for which a new Consumer is waited for: as long as one may take, unless it is configured
NONE = 0.5  # what no Consumer counts as
UNKNOWN = 1.0  # seconds that a message takes in a stage that has not finished one


class Demand(NamedTuple):
    """What matters of one stage."""

    waiting: int = 0  # messages that more Consumers could take on: at the broker or held here, and in no lane
    arrivals: float = 0.0  # messages per second
    service_time: float = UNKNOWN  # seconds for one message
    present: int = 0  # its Consumers, also those that are starting or leaving
    ready: int = 0  # those of them that are set up
    prompt: bool = True  # the next one to leave is idle, or will soon be
    steady: bool = True  # a Producer runs, and no change of jobs or code is in progress
    failing: bool = False  # its Consumers keep dying: none of them is waited for

    @property
    def weight(self) -> float:
        """Seconds of work."""
        return (self.waiting + HORIZON * self.arrivals) * self.service_time


NOBODY = Demand(steady=False)


class Move(NamedTuple):
    """One Consumer goes from one stage to another."""

    giver: str
    receiver: str
    why: str


class Balance:
    """The shares of the stages, and what was moved lately; times are CLOCK_MONOTONIC.

    `most`: how many Consumers a stage can have, where that is bounded; others get the rest.
    """

    def __init__(self, most: Mapping[str, int] = MappingProxyType({})) -> None:
        self._most = most
        self.shares: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self._budget = 0
        self._due = 0.0
        self._given: dict[str, float] = {}  # since when a stage waits for a Consumer that it was given
        self._starting: dict[str, float] = {}  # since when that one may start: the giver's has left
        self._start_up: dict[str, float] = {}  # seconds that the last of these took to start
        self._received: dict[str, float] = {}  # when the last Consumer that it was given was ready, or was given up on
        self._waiting: dict[str, float] = {}  # since when messages wait where there is no Consumer

    def fit(self, stages: Iterable[str], budget: int, having: Mapping[str, int] = MappingProxyType({})) -> None:
        """Let these stages share this many: as before, and evenly where that is not possible.

        `having`: the Consumers of stages that had a number of their own until now.
        """
        shares = {stage: min(self.shares.get(stage, 0), self._top(stage)) for stage in stages}
        self.counts |= {stage: count for stage, count in having.items() if stage not in self.shares}
        self.shares, self._budget = shares, budget
        if not shares:
            return
        for _ in range(sum(shares.values()), min(budget, sum(map(self._top, shares)))):
            shares[min((each for each in shares if shares[each] < self._top(each)), key=shares.__getitem__)] += 1
        for _ in range(budget, sum(shares.values())):
            shares[max(reversed(shares), key=shares.__getitem__)] -= 1
        while 0 in shares.values() and max(shares.values()) > 1:
            shares[max(reversed(shares), key=shares.__getitem__)] -= 1
            shares[min(shares, key=shares.__getitem__)] += 1

    def taken(self, stage: str, slots: Collection[int]) -> int:
        """Return for how many a stage counts whose Consumers have these slots: it will start those that are missing."""
        count = min(self.shares.get(stage, 0), self.counts.get(stage, 0))
        return max(len(slots), count + sum(slot >= count for slot in slots))

    def settle(self, present: Mapping[str, int], others: int = 0) -> bool:
        """Adapt the counts to the shares, as far as there is room; returns whether any has changed.

        `present`: the Consumers that these stages have now, also those that leave (`taken`). `others`: what is left of
        Consumers of stages that have no share any more.
        """
        before = self.counts
        self.counts = {stage: min(share, before.get(stage, 0)) for stage, share in self.shares.items()}
        room = self._budget - others - sum(max(count, present.get(each, 0)) for each, count in self.counts.items())
        for stage, share in self.shares.items():
            more = min(share - self.counts[stage], room)
            if more > 0 and present.get(stage, 0) <= self.counts[stage]:  # none of its own Consumers is leaving
                self.counts[stage] += more
                room -= more
        return self.counts != before

    def decide(self, facts: Mapping[str, Demand], now: float) -> Move | None:
        """Return the move to make now, if there is one, and count it into the shares; may be called at any time.

        One moves if the highest pressure exceeds 30 s, and that of the giver stays at least 20 % below it. So it does
        not come back, and the higher one of the two pressures falls. A stage that has received one keeps what it has
        for a while, from when it is set up. Each stage keeps one; where there are too few for that they take turns, and
        the time for which messages have waited where there is no Consumer is added to the pressure there. Beside a
        stage with work for days that would take days, so after a minute they are next, whatever the pressures.
        """
        self._look(facts, now)
        if now < self._due:
            return None
        pressures = {stage: self._pressure(stage, each, now) for stage, each in facts.items() if stage in self.shares}
        able = [stage for stage in pressures if facts[stage].steady and facts[stage].waiting and self._has_room(stage)]
        overdue = {stage: waited for stage in able if (waited := self._waited(stage, now)) >= PATIENCE}
        receiver = max(overdue or able, key=lambda stage: overdue.get(stage, pressures[stage]), default=None)
        if receiver is None:
            return None
        high = math.inf if overdue else pressures[receiver]
        if high <= URGENT:
            return None
        after = {
            stage: facts[stage].weight / (self.shares[stage] - 1 or NONE)
            for stage in pressures
            if stage != receiver and self._may_give(stage, facts[stage], now)
        }
        givers = [stage for stage, low in after.items() if low <= GAIN * high]
        giver = min(givers, key=lambda stage: (not self._is_prompt(stage, facts[stage]), after[stage]), default=None)
        if giver is None:
            return None
        self._due = now + EVERY
        self.shares[giver] -= 1
        self.shares[receiver] += 1
        self._forget(giver)
        self._forget(receiver)
        self._given[receiver] = now
        return Move(giver, receiver, self._why(giver, receiver, facts[receiver], pressures, overdue.get(receiver)))

    # --- inside

    def _top(self, stage: str) -> int:
        """Return how many Consumers a stage can have."""
        return self._most.get(stage, sys.maxsize)

    def _has_room(self, stage: str) -> bool:
        return self.shares[stage] < self._top(stage)

    def _look(self, facts: Mapping[str, Demand], now: float) -> None:
        """Note which Consumers may start, which are set up by now, and where messages wait without any Consumer."""
        for stage in list(self._given):
            if stage not in self.shares:
                self._forget(stage)
            elif self.counts.get(stage, 0) >= self.shares[stage]:
                self._starting.setdefault(stage, now)
                self._look_at_start(stage, facts.get(stage, NOBODY), now)
        in_vain = [stage for stage, each in facts.items() if each.waiting and not self.counts.get(stage)]
        self._waiting = {stage: self._waiting.get(stage, now) for stage in in_vain}

    def _look_at_start(self, stage: str, facts: Demand, now: float) -> None:
        since = self._starting[stage]
        ready = facts.ready >= self.shares[stage]
        if ready:
            self._start_up[stage] = now - since
        if ready or facts.failing or now - since >= LONGEST:
            self._received[stage] = now
            self._forget(stage)

    def _forget(self, stage: str) -> None:
        """Wait no longer for a Consumer that this stage was given."""
        self._given.pop(stage, None)
        self._starting.pop(stage, None)

    def _waited(self, stage: str, now: float) -> float:
        """Return for how long messages have waited where there is no Consumer, and none is on its way."""
        return 0.0 if self.shares[stage] else now - self._waiting.get(stage, now)

    def _pressure(self, stage: str, facts: Demand, now: float) -> float:
        return facts.weight / (self.shares[stage] or NONE) + self._waited(stage, now)

    def _may_give(self, stage: str, facts: Demand, now: float) -> bool:
        few = len(self.shares) > self._budget
        if not facts.steady or self.shares[stage] <= (0 if few else 1) or stage in self._starting:
            return False
        if stage in self._given:  # the giver's takes long to leave: what has not come can be passed on
            return not few and now - self._given[stage] >= HOLD
        hold = TURN if few else max(HOLD, STARTS * self._start_up.get(stage, 0.0))
        return now - self._received.get(stage, -hold) >= hold

    def _is_prompt(self, stage: str, facts: Demand) -> bool:
        """Whether a stage gives soon; what has not come to it is given at once."""
        return facts.prompt or stage in self._given

    def _why(
        self, giver: str, receiver: str, facts: Demand, pressures: Mapping[str, float], overdue: float | None
    ) -> str:
        """Return a move in one sentence, after it."""
        there, left = self.shares[receiver], self.shares[giver]
        what = f"one Consumer moves from {giver} (now {left}) to {receiver} (now {there}): {facts.waiting:,} messages"
        if overdue is not None:
            return f"{what} have waited there for {overdue:.0f} s without a Consumer"
        work = f"{what} wait there, {facts.arrivals:.3g} arrive per second, each takes {facts.service_time:.3g} s"
        before = f"its {there - 1} had" if there > 1 else "without a Consumer that was"
        return f"{work}; {before} a pressure of {pressures[receiver]:.3g} s, {giver} {pressures[giver]:.3g} s"
