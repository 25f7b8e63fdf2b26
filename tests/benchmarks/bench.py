"""What a case is made with: queues, copies of the code, peers, sizes. A case makes trials of it, and runs nothing."""

from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.queues import Queues
from tests.benchmarks.rounds import Run

AGAINST = 0.97  # "not slower" than a commit of before, with 3 % for the accuracy of the measurement
CELERY, SOLO, DRAMATIQ, FASTSTREAM, BLOCKING = "Celery", "Celery solo", "Dramatiq", "FastStream", "blocking worker"


class Sizes(NamedTuple):
    """How much is measured."""

    rounds: int = 5
    small: int = 100_000  # messages of one run that does no work
    peers: int = 20_000  # the same, of a peer that needs several times as long for each
    work: float = 5.0  # seconds of CPU time of one run that does work, for each of two Consumers
    large: int = 256  # MB of one run of large bodies
    trips: int = 500  # messages of one run of latency
    calls: int = 20_000  # calls of each process in one run of shared calls
    lines: int = 20_000  # lines of a file in one run
    programs: int = 2_000  # the same where a program is started for each
    waiting: int = 1_000_000  # messages of the largest backlog


class Bench(NamedTuple):
    """See the module head."""

    queues: Queues
    codes: dict[str, Path]  # copies of mqworker's code by name; the first is the subject
    peers: dict[str, Any]  # what contestants.peers has installed
    sizes: Sizes
    folder: Path  # for what is written
    wanted: frozenset[str] | None = None  # contestants, if only these are to be measured

    @property
    def subject(self) -> str:
        """The name of what is measured against the others."""
        return next(iter(self.codes))

    @property
    def code(self) -> Path:
        """The subject's code."""
        return self.codes[self.subject]

    @property
    def against(self) -> bool:
        """Whether a commit of before is the only other contestant."""
        return len(self.codes) > 1

    def goals(self, beside: dict[str, float]) -> dict[str, float]:
        """Return the goals beside others, or that against a commit."""
        if self.against:
            return dict.fromkeys(list(self.codes)[1:], AGAINST)
        return {name: goal for name, goal in beside.items() if self.wanted is None or name in self.wanted}

    def others(self, runs: dict[str, Run]) -> dict[str, Run]:
        """Return those other contestants that are here and wanted; none of them beside a commit."""
        if self.against:
            return {}
        return {name: run for name, run in runs.items() if self.wanted is None or name in self.wanted}
