"""One round of `scripts/rounds`: build a tree for one kind of work, compute some messages, tear the tree down.

What a round does is drawn first (`draw`, pure), and then played. It ends when no Consumer, and nothing that one has
started, is left; what stays is for the census.
"""

import random
from collections import Counter
from typing import NamedTuple

from tests.rounds import kinds
from tests.rounds.kinds import KINDS, Kind
from tests.rounds.operator import SOON, Operator
from tests.rounds.project import SOURCES, STAGES, STOPPED, TAGS
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

TWISTS = ("nothing", "scale", "new code", "parameters", "pause", "stop working")
ENDS = ("none", "restart", "rollback", "reset")
MOST = 3  # Consumers


class Plan(NamedTuple):
    """What a round does."""

    stage: str
    kind: Kind
    source: str  # "" if the messages are sent
    consumers: int
    messages: int
    factor: int
    twist: str  # what is changed while messages are worked on
    edition: str  # of the code, for those who take a new one
    end: str  # how the tree is torn down

    @property
    def words(self) -> str:
        return f"{self.source or self.kind.name}; {self.stage}; {self.consumers}; {self.twist}; {self.end}"


def draw(number: int, chance: random.Random) -> Plan:
    """Return the plan of a round; kinds and stages take turns: a short run has many, a long one each pair."""
    source = chance.choice([*SOURCES]) if number % 7 == 6 else ""
    stage = SOURCES[source] if source else list(STAGES)[(number + number // len(KINDS)) % len(STAGES)]
    kind = kinds.ROWS if source else KINDS[number * 4 % len(KINDS)]
    twists = [twist for twist in TWISTS if kind.calm or twist != "new code"]
    return Plan(
        *(stage, kind, source, chance.randint(1, MOST)),
        *(chance.randint(3, 8 if kind.calm else 4), chance.randint(1, 1000)),
        *(chance.choice(twists), chance.choice(TAGS), chance.choice([*ENDS, *(["stop"] * (stage == STOPPED))])),
    )


class Round:
    """See the module head."""

    def __init__(self, service: ServiceProcess, operator: Operator, plan: Plan, first: int) -> None:
        self._service, self._operator, self._plan = service, operator, plan
        *numbers, self._last = range(first, first + plan.messages)
        self._numbers = range(first, first + len(numbers))
        self._factors = [plan.factor]

    def play(self) -> None:
        """Do it all; AssertionError if something is not as it must be."""
        operator, plan = self._operator, self._plan
        stage = plan.stage
        if not self._service.stage(stage)["desired"]["running"]:
            operator.change(stage, "POST", "start")
        operator.change(stage, "PUT", "time-limit", {"soft": 0, "hard": plan.kind.hard})
        operator.change(stage, "PUT", "consumers", {"count": plan.consumers})
        operator.change(stage, "PUT", "jobs", {"jobs": plan.kind.jobs, "params": {"factor": plan.factor}})
        calm, rest = self._numbers[:1], self._numbers[1:]
        if not plan.source:
            self._prove(calm[0])
        else:
            rest = self._numbers
        self._work(rest)
        self._tear_down()

    def _work(self, numbers: range) -> None:
        """Have messages computed, and change something meanwhile."""
        operator, plan, stage = self._operator, self._plan, self._plan.stage
        before = operator.tag(stage)
        ends = plan.factor % 2 == 0
        if plan.twist == "pause":
            operator.change(stage, "PUT", "listening", {"enabled": False})
        if plan.source:
            operator.source(plan.source, numbers.start, len(numbers), ends=ends)
        else:
            self._send(numbers, calm=False)
        self._twist()
        self._check(numbers, {before, operator.tag(stage)}, calm=False)
        if plan.source:
            operator.stop_source(plan.source)

    def _twist(self) -> None:
        operator, plan, stage = self._operator, self._plan, self._plan.stage
        match plan.twist:
            case "scale":
                operator.change(stage, "PUT", "consumers", {"count": plan.consumers % MOST + 1})
            case "new code":
                operator.edit(plan.edition)
                operator.change(stage, "POST", "restart")
            case "parameters":
                self._factors.append(plan.factor + 1)
                operator.change(stage, "PATCH", "params", {"factor": plan.factor + 1})
            case "pause":
                operator.change(stage, "PUT", "listening", {"enabled": True})
            case "stop working":
                for path in ("/stopworking", "/startworking"):
                    status, told = self._service.ask("POST", f"{path}?stage={stage}")
                    assert status == 200, told

    def _send(self, numbers: range, *, calm: bool) -> None:
        for n in numbers:
            self._operator.send(self._plan.stage, n, self._plan.kind.message(n, calm))

    def _prove(self, n: int) -> None:
        """Have one message computed by whatever the stage works with now: until then, it keeps its old Consumers.

        One that does not kill: new code whose first message kills its Consumer is taken back.
        """
        stage = self._plan.stage
        jobs, factor, tag = self._operator.at_work(stage)
        (kind,) = (kind for kind in KINDS if kind.jobs == jobs)
        self._operator.send(stage, n, kind.message(n, True))
        wanted = Counter(kind.results(n, True, factor, tag))
        found = self._operator.results(stage, wanted.total())
        assert found == wanted, f"message {n}: {found} instead of {wanted}"
        if not wanted:
            self._operator.settled(stage, [n])

    def _check(self, numbers: range, tags: set[str], *, calm: bool) -> None:
        """Take the results, and compare them with what they must be, by one of these editions of the code."""
        kind, stage = self._plan.kind, self._plan.stage
        allowed = [
            {n: Counter(kind.results(n, calm, factor, tag)) for n in numbers}
            for factor in self._factors
            for tag in tags
        ]
        count = sum(each.total() for each in allowed[0].values())
        dead = list(numbers) if kind.dead and not calm else []
        found = self._operator.results(stage, count)
        for n in numbers:
            fitting = [wanted[n] for wanted in allowed if wanted[n] <= found]
            assert fitting, f"message {n}: none of {allowed} is in what came: {found}"
            found -= fitting[0]
        assert not found, f"results of nobody, or repeats: {found}"
        if silent := [n for n, wanted in allowed[0].items() if not wanted]:
            self._operator.settled(stage, silent)
        assert sorted(self._operator.dead(stage, len(dead))) == sorted(f"n-{n}" for n in dead)

    def _tear_down(self) -> None:
        operator, plan, stage = self._operator, self._plan, self._plan.stage
        match plan.end:
            case "restart":
                operator.edit(plan.edition)
                operator.change(stage, "POST", "restart")
                self._prove(self._last)
            case "rollback":
                operator.change(stage, "POST", "rollback", {})
                self._prove(self._last)
            case "reset" if any(view["name"] == "counts" for view in operator.ask("GET", "shared")["shared"]):
                operator.ask("POST", "shared/counts/reset")
            case "stop":
                operator.change(stage, "POST", "stop")
        operator.change(stage, "PUT", "consumers", {"count": 0})
        wait_for(lambda: not self._left(), SOON, f"nothing of a Consumer to be left, there is {self._left()}")

    def _left(self) -> dict[int, str]:
        """Return the processes of Consumers, and those that they have started."""
        return {
            pid: name
            for pid, name in self._service.pids().items()
            if name in {"mqw-consumer", "mqw-keeper", "mqw-check", "sleep", "sh"}
        }
