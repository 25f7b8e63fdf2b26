"""Gives each stage with `consumers = "auto"` its number of Consumers, as control/balance.py decides.

Lives in the Service's main thread, within Stages. Owns the present numbers, which are not stored: a service begins with
an even split. Reads the document and the Producers' reports; returns the document with the numbers in it, under the
same revision, so that no move looks like a change that somebody has made. Logs each move.
"""

import logging
from collections import Counter
from collections.abc import Mapping

import msgspec

from mqworker.config.model import AUTO, Config, most_consumers
from mqworker.control.balance import EVERY, NOBODY, UNKNOWN, Balance, Demand
from mqworker.control.desired_state import Document
from mqworker.control.stage_desired import StageDesired
from mqworker.ipc import logs
from mqworker.ipc.stage_status import StageStatus

Statuses = Mapping[str, StageStatus | None]

log = logging.getLogger("mqworker.service.balancer")


class Balancer:
    """See the module head."""

    def __init__(self, config: Config) -> None:
        self.received: Counter[str] = Counter()  # Consumers that each stage got from others
        self._balance = Balance({name: most_consumers(stage.concurrency) for name, stage in config.stages.items()})
        self._processes = config.service.processes
        self._configured = {name for name, stage in config.stages.items() if stage.consumers == AUTO}
        self._counted = set(self._configured)  # stages that share, by the configuration or at any time since
        self._own: dict[str, int] = {}  # stages that have no share now: the number of Consumers of each
        self._paused = False

    def want(self, document: Document, statuses: Statuses, *, paused: bool) -> None:
        """Share again if different stages take part, or have fixed numbers, than before."""
        self._paused = paused
        active = {name: stage for name, stage in document.stages.items() if stage.running and stage.working}
        sharing = [name for name, stage in active.items() if stage.auto]
        having = {name: self._own[name] for name in sharing if self._own.get(name)}
        self._counted.update(sharing)
        self._own = {
            name: active[name].consumers if name in active else 0 for name in document.stages if name not in sharing
        }
        fixed = sum(count for name, count in self._own.items() if name in self._configured)
        self._balance.fit(sharing, max(1, self._processes - fixed), having)
        self._settle(statuses)

    def beat(self, document: Document, statuses: Statuses, now: float) -> bool:
        """Make a move if one is due; returns whether the number of Consumers of any stage has changed."""
        facts = {
            name: demand_of(document.stages[name], statuses[name], now, paused=self._paused)
            for name in self._balance.shares
        }
        if move := self._balance.decide(facts, now):
            self.received[move.receiver] += 1
            logs.report(log, logging.INFO, "balanced", move.why, giver=move.giver, receiver=move.receiver)
        return self._settle(statuses)

    def applied(self, document: Document) -> Document:
        """Return the document with the present numbers."""
        stages = {
            name: msgspec.structs.replace(stage, consumers=self._balance.counts.get(name, 0)) if stage.auto else stage
            for name, stage in document.stages.items()
        }
        return msgspec.structs.replace(document, stages=stages)

    def _settle(self, statuses: Statuses) -> bool:
        present = {name: self._balance.taken(name, _slots(status)) for name, status in statuses.items()}
        others = sum(max(0, present[name] - count) for name, count in self._own.items() if name in self._counted)
        return self._balance.settle(present, others)


def demand_of(stage: StageDesired, status: StageStatus | None, now: float, *, paused: bool) -> Demand:
    """Return the facts about a stage that matter for sharing; `now`: CLOCK_MONOTONIC."""
    if status is None:
        return NOBODY
    order = status.order
    stuck = status.link.waits or (order is not None and order.stuck)  # another service has them, or another message
    takes = stage.listening and not paused and not stuck and status.hold_back not in ("unplaced", "output")
    waiting = 0
    if not status.crash_loop and status.hold_back != "output":  # more Consumers would not help
        waiting = status.held - (0 if order is None else order.locked) + (status.backlog or 0 if takes else 0)
    mine = [each for each in status.consumers if each.code == stage.code and each.state != "spare"]
    last = max(mine, key=lambda each: each.slot, default=None)
    ready = sum(each.state in ("idle", "busy") for each in mine)
    oldest = max((now - each.message_since for each in mine if each.message_since), default=0.0)
    seats = max((each.seats for each in mine), default=0) or 1  # messages that share a Consumer's time
    time = (max(UNKNOWN, oldest) if status.service_time is None else status.service_time) / seats
    if ready and status.capacity:  # follows changes sooner, and includes the way to a Consumer
        time = ready / status.capacity
    return Demand(
        waiting=waiting,
        arrivals=(status.arrival_rate or 0.0) if takes and not status.crash_loop else 0.0,
        service_time=time,
        present=len(_slots(status)),
        ready=ready,
        prompt=last is None or last.state != "busy" or time * seats <= EVERY,
        steady=stage.candidate is None,
        failing=status.crash_loop,
    )


def _slots(status: StageStatus | None) -> list[int]:
    """Return the slot of each Consumer, except those of a candidate or of the previous code."""
    return [each.slot for each in status.consumers if each.state != "spare"] if status is not None else []
