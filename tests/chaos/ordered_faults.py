"""The faults of a run in an order: those of every campaign, a Producer that dies silently, what an operator does."""

import contextlib
import time
from typing import Any

from tests.chaos.faults import READY, Faults
from tests.chaos.ordered_load import CONSUMERS
from tests.support.waiting import wait_for

REST = 5.0  # seconds for a pause to be complete
SILENT = 8.0  # seconds; less than two heartbeats


class OrderedFaults(Faults):
    """The faults of every campaign, and what an operator does."""

    def _put(self, path: str, body: Any = None, method: str = "PUT") -> None:
        """Change the stage; ask again while the Service is busy starting."""

        def done() -> bool:
            with contextlib.suppress(OSError):
                return self._service.ask(method, f"/api/v1/stages/work/{path}", body)[0] < 300
            return False

        wait_for(done, READY, f"an answer to {path}")

    def _pause(self) -> None:
        self._put("listening", {"enabled": False})
        if self._chance.random() < 0.7:  # else it is resumed before everything is back
            with contextlib.suppress(AssertionError, OSError):  # results may be refused just now
                wait_for(self._rests, REST, "a rest")
        self._put("listening", {"enabled": True})

    def _rests(self) -> bool:
        actual = self._service.stage("work")["actual"]
        return bool(actual and actual["link"]["resting"])

    def _scale(self) -> None:
        self._put("consumers", {"count": self._chance.randint(1, CONSUMERS + 1)})

    def _restart(self) -> None:
        self._put("restart", method="POST")

    def _silent_death(self) -> None:
        """A Producer dies and the broker does not see it: it keeps what it has sent, while the next one is there."""
        self._rabbit.proxy.halt(True, False)
        self._producer_kill()
        time.sleep(SILENT)  # this is the fault
        self._rabbit.proxy.heal()

    def settle(self) -> None:
        """Leave the stage as it was found."""
        self._put("consumers", {"count": CONSUMERS})
        self._put("listening", {"enabled": True})
