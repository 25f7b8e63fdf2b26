"""The figures of a comparison, round by round, and what they come to. Pure.

A ratio is how well mqworker does beside the other of the same round, and above 1 is always better: for a rate ours by
theirs, for a cost theirs by ours.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Case:
    """What is compared: rounds of one figure for each contestant, of which `subject` is measured against the others."""

    def __init__(
        self,
        key: str,
        what: str,
        unit: str,
        subject: str,
        goals: dict[str, float] | None = None,
        *,
        part: str = "",
        cost: bool = False,
        limit: float | None = None,
    ):
        self.key = key  # the letter
        self.part = part  # which of several figures of one letter
        self.what = what
        self.unit = unit
        self.subject = subject
        self.goals = goals or {}  # of the ratio to each other contestant: the median is to be at least so much
        self.cost = cost  # less is better
        self.limit = limit  # of the subject's own median: at most (for a cost) or at least
        self.rounds: list[dict[str, float]] = []  # a contestant that cannot tell this figure is left out

    @property
    def name(self) -> str:
        """What identifies this figure in a saved run."""
        return f"{self.key} {self.part}".strip()

    def add(self, found: dict[str, Sequence[float]]) -> None:
        """Add a round: the figures of each contestant's runs, whose mean counts."""
        mean = statistics.mean if self.cost else statistics.harmonic_mean
        self.rounds.append({name: mean(figures) for name, figures in found.items() if figures})

    def median(self, name: str) -> float:
        """Return a contestant's median."""
        return statistics.median(one[name] for one in self.rounds)

    def ratios(self, other: str) -> "Ratios":
        """Return the ratios to another contestant, pair by pair."""
        pairs = [(one[self.subject], one[other]) for one in self.rounds]
        return Ratios([_ratio(theirs, ours) if self.cost else _ratio(ours, theirs) for ours, theirs in pairs])

    def measured(self) -> list[str]:
        """Return the contestants that have figures, the subject first."""
        names = dict.fromkeys([self.subject, *(self.rounds[0] if self.rounds else ())])
        return [name for name in names if all(name in one for one in self.rounds)]

    def met(self) -> bool:
        """Return whether every goal is reached that was measured."""
        within = self.limit is None or _within(self.median(self.subject), self.limit, cost=self.cost)
        beside = {other: goal for other, goal in self.goals.items() if other in self.measured()}
        return within and all(self.ratios(other).median >= goal for other, goal in beside.items())

    def last(self) -> str:
        """Return the newest round as text."""
        told = ", ".join(f"{name} {shown(figure)}" for name, figure in self.rounds[-1].items())
        return f"({self.name}) {told} {self.unit}"

    def document(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        others = [name for name in self.measured() if name != self.subject]
        return {
            "case": self.key,
            "part": self.part,
            "what": self.what,
            "unit": self.unit,
            "cost": self.cost,
            "subject": self.subject,
            "limit": self.limit,
            "medians": {name: self.median(name) for name in self.measured()},
            "ratios": {other: self.ratios(other).document() | {"goal": self.goals.get(other)} for other in others},
            "goals": self.goals,
            "rounds": self.rounds,
        }


class Ratios(NamedTuple):
    """One for each round."""

    all: list[float]

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.all)

    def document(self) -> dict[str, Any]:
        """Return them as plain data."""
        return {"min": min(self.all), "median": self.median, "max": max(self.all), "all": self.all}


def read(document: dict[str, Any]) -> Case:
    """Return the case of a document."""
    told = {name: document[name] for name in ("goals", "part", "cost", "limit")}
    case = Case(document["case"], document["what"], document["unit"], document["subject"], **told)
    case.rounds = document["rounds"]
    return case


def shown(figure: float) -> str:
    """Return a figure as text: whole when it is large, else with three digits that tell."""
    if figure >= 1000 or figure == 0:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 100 else f"{figure:.2f}" if figure >= 1 else f"{figure:.3f}"


def table(cases: list[Case]) -> str:
    """Return a readable table: for each contestant its median, mqworker's ratio to it, the goal and what came of it."""
    wide = max((len(name) for case in cases for name in (*case.measured(), *case.goals)), default=0)
    lines = []
    for case in cases:
        rounds = f"{len(case.rounds)} round{'s' * (len(case.rounds) != 1)}"
        less = ", less is better" if case.cost else ""
        lines.append(f"({case.name}) {case.what}, {case.unit}{less}, {rounds}")
        for name in case.measured():
            row = f"    {name:<{wide}}  {shown(case.median(name)):>10}"
            if name == case.subject:
                row += _own_goal(case)
            else:
                ratios = case.ratios(name)
                row += f"   ratio {ratios.median:6.3f} ({min(ratios.all):.3f} to {max(ratios.all):.3f})"
                if name in case.goals:
                    goal = case.goals[name]
                    row += f"   goal {goal:.3f}  {'met' if ratios.median >= goal else 'MISSED'}"
            lines.append(row)
        lines += [f"    {name:<{wide}}  not measured" for name in case.goals if name not in case.measured()]
    return "\n".join(lines)


def _own_goal(case: Case) -> str:
    if case.limit is None:
        return ""
    met = _within(case.median(case.subject), case.limit, cost=case.cost)
    return f"   goal: at {'most' if case.cost else 'least'} {shown(case.limit)}  {'met' if met else 'MISSED'}"


def _within(figure: float, limit: float, *, cost: bool) -> bool:
    return figure <= limit if cost else figure >= limit


def _ratio(part: float, whole: float) -> float:
    """Return the quotient; of two zeros 1, because neither is better."""
    return part / whole if whole else 1.0 if part == whole else float("inf")
