"""The faults of a run in an order: those of every campaign, a Producer that dies silently, what an operator does.

Which kinds there are, and how often each comes. Unlike in other rounds, each one that is counted has hit somebody: it
waits for a process, a connection, a frame.
"""

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

from tests.chaos.faults import READY, Faults
from tests.chaos.ordered_load import CONSUMERS
from tests.chaos.rabbit import USER
from tests.support.waiting import wait_for

REST = 5.0  # seconds for a pause to be complete
SILENT = 8.0  # seconds; less than two heartbeats
FRAME = 3.0  # seconds until a frame comes: more than half a heartbeat

# How often each comes beside the others; first, each comes once.
TREE = {"consumer-kill": 12, "consumer-stop": 1, "producer-kill": 2, "producer-stop": 1, "service-kill": 1}
TREE |= {"service-term": 1, "pause": 3, "scale": 4, "restart": 1}
WIRE = {"cut": 2, "reset": 2, "half-close": 1, "reset-all": 2, "close-connections": 1, "halt": 1, "silent-death": 1}


def kinds(broker: str) -> dict[str, int]:
    """Return the kinds that a broker can have, and their weights."""
    return TREE if broker == "sqlite" else TREE | WIRE


def plan(broker: str, chance: random.Random) -> Iterator[str]:
    """Yield the kinds of faults of a run: first each of them, then by weight, for ever."""
    known = kinds(broker)
    yield from chance.sample(list(known), len(known))
    while True:
        yield from chance.choices(list(known), list(known.values()))


class OrderedFaults(Faults):
    """See the module head."""

    def inject(self, kind: str) -> None:
        """Inject one fault; on the wire, once the stage is connected."""
        if kind in WIRE:
            wait_for(lambda: self._rabbit.proxy.connections, READY, "a connection of the stage")
        super().inject(kind)

    def _one(self, comm: str) -> int:
        """Return a process of this kind, once there is one."""
        one = super()._one
        return wait_for(lambda: one(comm), READY, f"a process {comm}")

    # --- the operator

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

    def settle(self) -> None:
        """Leave the stage as it was found."""
        self._put("consumers", {"count": CONSUMERS})
        self._put("listening", {"enabled": True})

    # --- the network

    def _silent_death(self) -> None:
        """A Producer dies and the broker does not see it: it keeps what it has sent, while the next one is there."""
        self._rabbit.proxy.halt(True, False)
        self._producer_kill()
        time.sleep(SILENT)  # this is the fault
        self._rabbit.proxy.heal()

    def _close_connections(self) -> None:
        """The broker closes all connections of the stage, and of nobody else."""
        self._rabbit.node.ctl("close_all_user_connections", USER, "chaos")

    def _on_the_wire(self) -> None:
        kind, proxy = self.log[-1].kind, self._rabbit.proxy
        if kind == "halt":
            super()._on_the_wire()
            return
        before = proxy.harmed

        def hit() -> bool:
            proxy.heal()  # a connection on which nothing comes any more is left alone
            if proxy.harm(kind, self._chance.random() < 0.5, self._chance):
                with contextlib.suppress(AssertionError):
                    wait_for(lambda: proxy.harmed > before, FRAME, "a frame")
            return proxy.harmed > before

        wait_for(hit, READY, f"a connection to {kind}")
        proxy.heal()
