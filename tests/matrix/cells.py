"""The cells of the kill matrix: who is killed or stopped, at which step of a delivery's life. Pure data."""

import signal
from typing import NamedTuple

STEPS = ("received", "dispatched", "computing", "handed up", "publishing", "confirmed", "acked")
STEPPED = ("consumer", "producer", "broker")  # targets that are met at a step
RANDOM = ("service", "supervisord", "both")  # and those at a random time
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
BROKERS = ("classic", "quorum", "sqlite")
PREFETCH = 20
MESSAGES = 60  # of one shot


class Cell(NamedTuple):
    """One cell; `step` is empty for targets that are hit at a random time."""

    target: str
    how: str  # kill | stop
    step: str

    def __str__(self) -> str:
        return "-".join(part.replace(" ", "_") for part in self if part)

    @property
    def signal(self) -> signal.Signals:
        """The signal that is sent."""
        return SIGNALS[self.how]


def cells(broker: str) -> list[Cell]:
    """Return all cells of a broker. SQLite has no process of its own: its "broker" is a thread of the Producer."""
    targets = [target for target in STEPPED if target != "broker" or broker != "sqlite"]
    stepped = [Cell(target, how, step) for target in targets for how in SIGNALS for step in STEPS]
    return stepped + [Cell(target, how, "") for target in RANDOM for how in SIGNALS]


def allowed(broker: str, cell: Cell) -> int:
    """Return how many repeated results one shot may cause by the promise in docs/guarantees.md."""
    if broker == "sqlite":
        return 0  # a result and the end of its input are one transaction
    if cell.target == "consumer":
        return 0  # its Producer lives and knows what is settled
    if broker == "classic" and cell.target == "broker" and cell.how == "kill":
        return MESSAGES  # what was acked since a message was last stored may come back too
    return PREFETCH
