"""What the runs in an order came to, as tables for docs/guarantees.md. Pure.

A run that broke off is a row too: it has a setting and problems, and no records.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos import logcheck
from tests.chaos.attribution import repeated
from tests.chaos.ordered_checker import Run, late
from tests.chaos.ordered_faults import kinds
from tests.chaos.ordered_load import KEYS, MAX_ATTEMPTS
from tests.chaos.ordered_output import SHARE

LARGE = 5000  # messages: a run with so many has to have had every fault
LEAST = 0.7  # of the refusals that were asked for: which results meet a full queue is a matter of chance
SHOWN = 20  # broken promises of one run


@dataclass
class Row:
    """A run, and what was wrong with it."""

    broker: str
    by: str
    on_failure: str
    problems: list[str]
    run: Run | None = None

    @property
    def name(self) -> list[str]:
        """What run it was, in three cells."""
        return [self.broker, f"{KEYS} keys" if self.by == "key" else "the input", self.on_failure]


def missing(run: Run) -> list[str]:
    """Return what a large run should have had, and had not: a test that is easier than it was meant proves little."""
    if len(run.messages) < LARGE:
        return []
    came = {fault.kind for fault in run.round.faults}
    problems = [f"0 no fault of the kind {kind} came" for kind in kinds(run.round.broker) if kind not in came]
    results = _results(run)
    if run.round.broker != "sqlite" and run.refused < LEAST * SHARE * results:
        problems.append(f"0 only {run.refused} of {results} results were refused")
    return problems


def words(run: Run) -> str:
    """Return a line about a run."""
    cells = dict(zip(_HEAD[3:-1], _cells(run), strict=True))
    told = ", ".join(f"{name} {cell}" for name, cell in cells.items() if cell)
    return f"{told}; faults: {', '.join(f'{kind} {count}' for kind, count in _faults(run).most_common()) or 'none'}"


def tables(rows: list[Row]) -> str:
    """Return two tables, what came of the runs and which faults they had, and all broken promises."""
    every = dict.fromkeys(kind for row in rows for kind in (*kinds(row.broker), *_faults(row.run)))
    outcome = [_line(_HEAD), _line("---" for _ in _HEAD)]
    faults = [_line([*_HEAD[:3], *every]), _line("---" for _ in range(3 + len(every)))]
    for row in rows:
        cells = _cells(row.run) if row.run else ["it broke off", *("" for _ in _HEAD[5:])]
        outcome.append(_line([*row.name, *cells, f"{len(row.problems)}" if row.problems else "**0**"]))
        found = _faults(row.run)
        faults.append(_line([*row.name, *(str(found[kind] or "") for kind in every)]))
    broken = [f"- {' '.join(row.name)}: {problem}" for row in rows for problem in row.problems[:SHOWN]]
    return "\n".join([*outcome, "", *faults, *([""] if broken else []), *broken])


_HEAD = [
    *("broker", "in order", "on failure", "messages", "failed once", "failed for good", "results refused"),
    *("connections lost", "late, as `pass` allows", "repeated", "dead", "seconds", "broken promises"),
]


def _cells(run: Run) -> list[str]:
    round_ = run.round
    known = [message for message in run.messages if message.id in round_.confirmed]
    once = sum(message.fails == 1 for message in known)
    always = sum(message.fails == MAX_ATTEMPTS for message in known)
    lost = sum(
        event.get("event") == "link" and event.get("connected") is False for event in logcheck.events(round_.log)
    )
    embedded = round_.broker == "sqlite"
    return [
        f"{len(known):,}",
        _share(once, len(known)),
        _share(always, len(known)),
        "" if embedded else _share(run.refused, _results(run)),
        "" if embedded else f"{lost}",
        f"{len(late(run))}" if run.on_failure == "pass" else "",
        f"{sum(len(each) - 1 for each in repeated(round_).values())}",
        f"{sum(outcome.queue == 'dead' for outcome in round_.outcomes)}",
        f"{round_.ended - round_.began:.0f}",
    ]


def _results(run: Run) -> int:
    return sum(outcome.queue == "result" for outcome in run.round.outcomes)


def _faults(run: Run | None) -> Counter[str]:
    return Counter(fault.kind for fault in run.round.faults) if run else Counter()


def _share(count: int, whole: int) -> str:
    return f"{count} ({100 * count / max(whole, 1):.2g} %)"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
