"""One round: a service under load, a scenario of faults, quiescence, all outcomes; everything recorded in a Round.

Runs in the campaign's main thread. It ends what it started, even when a scenario fails or on Ctrl-C.
"""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import READY, Faults
from tests.chaos.load import HANDLER, TASKS, Queues, config, make
from tests.chaos.records import Round, Start
from tests.chaos.source import Source
from tests.chaos.watch import Control, Operator, Processes, of_kind, size, size_at_rest
from tests.support.service import ServiceProcess, gone
from tests.support.waiting import wait_for

LOOK = 0.5  # seconds between looks whether it is quiet


@dataclass
class Setting:
    """How a round is made; `scenario` does the harm while messages flow."""

    name: str
    seed: int
    scenario: Callable[[Faults, Source], None]
    most: int = 1_000_000  # messages
    backlog: int = 1500
    consumers: int = 3
    seats: int = 1  # messages that one of them works on at once ...
    tasks: bool = False  # ... as coroutines, not in threads
    seconds: float = 0.001  # mean time of a message
    poison: float = 0.01
    killers: bool = True
    operator: bool = True
    warm_up: float = 2.0  # seconds under load before the first fault
    settle: float = 3.0  # seconds without anything left that count as quiescence
    patience: float = 90.0  # seconds until that has to be so
    environment: dict[str, str] = field(default_factory=dict)


def say(words: str) -> None:
    """Print one line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def play(broker: Any, kind: str, setting: Setting) -> Round:
    """Play the round; see the module head."""
    queues = Queues(f"{setting.name}.{setting.seed}")
    round_ = Round(setting.name, kind, secrets=broker.secrets, seats=setting.seats)
    broker.prepare(queues, kind)
    text = config(queues, broker.url, kind, setting.consumers, setting.seats)
    with ServiceProcess(text, {"work.py": TASKS if setting.tasks else HANDLER}) as service:
        service.env |= setting.environment
        try:
            _play(broker, queues, setting, service, round_)
        finally:
            broker.heal()
            round_.log = service.log.read_text(errors="replace")
            round_.starts = journal(service.folder / "journal")
    broker.account(round_)
    round_.outcomes += broker.drain(queues)
    broker.close(queues)
    return round_


def _play(broker: Any, queues: Queues, setting: Setting, service: ServiceProcess, round_: Round) -> None:
    chance = random.Random(f"{setting.name}.{setting.seed}")

    def message(number: int) -> Any:
        return make(queues.run, number, poison=setting.poison, killers=setting.killers, seconds=setting.seconds)

    source = Source(message, setting.most, setting.backlog)
    faults = Faults(service, broker, queues, chance)
    service.start(ready=READY)
    round_.began, round_.clock = time.monotonic(), time.time() - time.monotonic()
    publisher = broker.publisher(queues, source)
    processes, control = Processes(service), Control(service)
    operator = None
    try:
        publisher.start()
        time.sleep(setting.warm_up)
        wait_for(lambda: len(of_kind(service, "mqw-consumer")) >= setting.consumers, READY, "all Consumers")
        round_.sizes.append(size(service))
        if setting.operator:
            operator = Operator(service, control, setting.consumers, str(chance.random()))
        setting.scenario(faults, source)
        broker.heal()
        if operator is not None:
            operator.settle()
        publisher.stop()
        _quiet(broker, queues, setting, control, round_)
        round_.sizes.append(size_at_rest(service, round_.sizes[0]))
    finally:
        round_.ended = time.monotonic()
        for looker in (operator, control, processes):
            if looker is not None:
                looker.stop()
        publisher.stop()
        round_.tried, round_.confirmed, round_.stored = source.tried, source.safe, source.stored
        round_.faults, round_.outcomes = faults.log, faults.outcomes
        round_.answers, round_.samples = control.answers, control.samples
        round_.violations = faults.violations + processes.violations
    round_.exits = [*faults.exits, service.stop(60)]
    try:
        gone(service)
        wait_for(lambda: not processes.left(), 5, "named semaphores to be gone")
    except AssertionError as error:
        round_.violations.append(f"{error}; semaphores {processes.left()}")


def _quiet(broker: Any, queues: Queues, setting: Setting, control: Control, round_: Round) -> None:
    """Wait until nothing is left anywhere for a while: neither in the queues nor in the tree."""
    end = time.monotonic() + setting.patience
    since = time.monotonic()
    while time.monotonic() < end:
        looked = time.monotonic()
        round_.unquiet = broker.left(queues)
        if not round_.unquiet and (not control.samples or control.samples[-1].in_tree):
            round_.unquiet = "messages in the tree"
        if round_.unquiet:
            since = time.monotonic()
        elif looked - since >= setting.settle:
            round_.quiet = True
            return
        time.sleep(LOOK)


def journal(folder: Path) -> list[Start]:
    """Return all starts of messages, in order of time."""
    starts = []
    for path in folder.glob("*"):
        for line in path.read_text().splitlines():
            when, _, name = line.partition(" ")
            starts.append(Start(float(when), int(path.name), name))
    return sorted(starts)
