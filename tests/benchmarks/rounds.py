"""Rounds: every contestant twice in each, in mirrored order, so that neither a drift of the machine nor going first
counts for anybody. Runs in the benchmark's process; reports what runs, and how long all of it will still take.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from tests.benchmarks.figures import Case

Run = Callable[[], Sequence[float | None]]  # one figure for each case of the trial, None where it cannot tell it


class Trial(NamedTuple):
    """What is measured in the same rounds."""

    title: str
    cases: list[Case]
    contestants: dict[str, Run]
    seconds: float  # that a run takes, roughly, on average: only the time left is reckoned by it
    rounds: int

    @property
    def runs(self) -> int:
        """How many runs there are in all."""
        return 2 * self.rounds * len(self.contestants)

    @property
    def letters(self) -> str:
        """The letters of its cases."""
        return " ".join(dict.fromkeys(case.key for case in self.cases))


class Told(Protocol):
    """Where progress goes."""

    def line(self, words: str) -> None:
        """Report something that stays."""

    def now(self, words: str) -> None:
        """Report what runs now, until something else is reported."""


class TimeLeft:
    """How long the trials that are planned will still take, by what those so far have taken."""

    def __init__(self, trials: list[Trial], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._planned = sum(trial.seconds * trial.runs for trial in trials)
        self._done = 0.0

    def ran(self, trial: Trial) -> None:
        """A run of the trial is over."""
        self._done += trial.seconds

    def words(self) -> str:
        """Return the time left as text."""
        pace = (self._clock() - self._began) / self._done if self._done else 1.0
        left = pace * (self._planned - self._done)
        return f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left"


def run(trial: Trial, left: TimeLeft, told: Told) -> None:
    """Add every round of a trial to its cases."""
    told.line(f"({trial.letters}) {trial.title}: {', '.join(trial.contestants)}; {left.words()}")
    for number in range(trial.rounds):
        found: dict[str, list[Sequence[float | None]]] = {name: [] for name in trial.contestants}
        for name in mirrored(list(trial.contestants), number):
            told.now(f"({trial.letters}) round {number + 1} of {trial.rounds}: {name}; {left.words()}")
            found[name].append(trial.contestants[name]())
            left.ran(trial)
        for at, case in enumerate(trial.cases):
            columns = {name: [one[at] for one in runs] for name, runs in found.items()}
            case.add({name: [figure for figure in figures if figure is not None] for name, figures in columns.items()})
        words = "; ".join(case.last() for case in trial.cases)
        told.line(f"round {number + 1} of {trial.rounds}: {words}; {left.words()}")


def mirrored(names: list[str], number: int) -> Iterator[str]:
    """Yield every name twice, in an order that reads the same backwards; the next round begins with the last."""
    turn = names if number % 2 else names[::-1]
    yield from turn
    yield from reversed(turn)
