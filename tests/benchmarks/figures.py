"""The figures of a comparison, round by round, and what they come to. Pure.

A ratio is how well mqworker does beside the other of the same round, and above 1 is always better: for a rate ours by
theirs, for a cost theirs by ours.
"""

import statistics
from typing import Any, NamedTuple


class Case:
    """What is compared: rounds of one figure for each contestant, of which `subject` is measured against the others."""

    def __init__(self, key: str, what: str, unit: str, subject: str, goals: dict[str, float], *, cost: bool = False):
        self.key = key
        self.what = what
        self.unit = unit
        self.subject = subject
        self.goals = goals  # of the ratio to each other contestant: the median is to be at least so much
        self.cost = cost  # less is better
        self.rounds: list[dict[str, float]] = []

    def ratios(self, other: str) -> "Ratios":
        """Return the ratios to another contestant, pair by pair."""
        pairs = [(one[self.subject], one[other]) for one in self.rounds]
        return Ratios([theirs / ours if self.cost else ours / theirs for ours, theirs in pairs])

    def met(self) -> bool:
        """Return whether every goal is reached."""
        return all(self.ratios(other).median >= goal for other, goal in self.goals.items())

    def words(self) -> str:
        """Return lines to print."""
        medians = {name: statistics.median(one[name] for one in self.rounds) for name in self.rounds[0]}
        lines = [f"({self.key}) {self.what}: " + ", ".join(f"{name} {self._shown(medians[name])}" for name in medians)]
        for other, goal in self.goals.items():
            ratios = self.ratios(other)
            met = "met" if ratios.median >= goal else "MISSED"
            lines.append(f"    {self.subject} against {other}: {ratios}; goal {goal:.3f} {met}")
        return "\n".join(lines)

    def last(self) -> str:
        """Return the newest round as text."""
        return f"({self.key}) " + ", ".join(f"{name} {self._shown(figure)}" for name, figure in self.rounds[-1].items())

    def document(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        ratios = {other: self.ratios(other).document() | {"goal": goal} for other, goal in self.goals.items()}
        return {"case": self.key, "what": self.what, "unit": self.unit, "rounds": self.rounds, "ratios": ratios}

    def _shown(self, figure: float) -> str:
        return f"{figure:,.1f} {self.unit}"


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

    def __str__(self) -> str:
        return f"ratio min {min(self.all):.3f}, median {self.median:.3f}, max {max(self.all):.3f}"
