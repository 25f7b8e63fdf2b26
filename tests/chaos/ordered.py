"""Whether a stage keeps its order whatever happens: `scripts/chaos --ordered --help`.

A stage with four Consumers gets messages of 20 keys, or in one single order, that take from 0.1 to 20 ms; 1 % fail
once, 0.2 % for good (three attempts, `retry.base` 0.05). On RabbitMQ the queue of results holds few and refuses more:
its receiver stops now and then, so that 1 % of the results are refused. Meanwhile Consumers, Producers, Services and
connections are killed or stopped at random, and the stage is paused, scaled and restarted. Then the first result of
each message must have come in order, each once or as a repeat that a fault explains, with `hold` and with `pass` as
they are written (tests/chaos/ordered_checker.py); and a run of 5,000 messages or more must have had each fault.

Builds that are broken on purpose must show: one that publishes out of turn and (with a classic queue) one that computes
messages of a key side by side, and one that consumes while the broker still holds what it sent to a dead Producer.

Progress goes to stderr. At the end, two tables go to stdout: what came of each run, and which faults it had. On
RabbitMQ 4: `scripts/chaos --rabbitmq 4 --ordered`.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.chaos import ordered_report
from tests.chaos.campaign import broker_for
from tests.chaos.controls import BROKEN
from tests.chaos.faults import READY
from tests.chaos.load import Queues
from tests.chaos.ordered_checker import Run, check
from tests.chaos.ordered_faults import OrderedFaults, plan
from tests.chaos.ordered_load import BY, HANDLER, config, make
from tests.chaos.ordered_output import LIMIT, Receiver
from tests.chaos.ordered_report import Row
from tests.chaos.records import Round
from tests.chaos.round import journal, say
from tests.chaos.source import Source
from tests.support.rabbitmq import major_version
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

BROKERS = ("sqlite", "classic", "quorum")
MODES = ("hold", "pass")
MESSAGES = 50_000  # by key
LEAST = 500  # messages in one single order; otherwise a tenth of those by key
BACKLOG = 1000  # messages that wait in the input
GAP = 0.7  # mean seconds between two faults
PATIENCE = 300.0  # seconds until nothing is left
SETTLE = 1.5  # seconds without anything left
CONTROL_MESSAGES = 1500


@dataclass
class Setting:
    """How a run is made; `scenario` does the harm while messages flow."""

    name: str
    kind: str
    by: str
    on_failure: str
    seed: int
    most: int
    scenario: Callable[[OrderedFaults, Source], None] | None = None  # None: faults of all kinds
    environment: dict[str, str] = field(default_factory=dict)


def under_fire(setting: Setting, faults: OrderedFaults, source: Source) -> None:
    """Inject faults until every message was sent."""
    chance = random.Random(f"{setting.name}.{setting.seed}.faults")
    for kind in plan(setting.kind, chance):
        if source.used_up:
            return
        faults.inject(kind)
        time.sleep(min(3.0, chance.expovariate(1 / GAP)))


def play(broker: Any, setting: Setting) -> Run:
    """Make one run."""
    queues = Queues(f"{setting.name}.{setting.seed}")
    round_ = Round(setting.name, setting.kind, secrets=broker.secrets)
    run = Run(round_, setting.by, setting.on_failure, [])
    if setting.kind == "sqlite":
        broker.prepare(queues, setting.kind)
        results: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    else:
        broker.prepare(queues, setting.kind, limit=LIMIT)
        results = _receiving(broker, queues, run)
    with results:
        text = config(queues, broker.url, setting.kind, setting.by, setting.on_failure)
        with ServiceProcess(text, {"work.py": HANDLER}) as service:
            service.env |= setting.environment
            try:
                _play(broker, queues, setting, service, round_)
            finally:
                broker.heal()
                round_.log = service.log.read_text(errors="replace")
                round_.starts, run.ended = journal(service.folder / "journal"), journal(service.folder / "ended")
    round_.outcomes += broker.drain(queues)
    broker.account(round_)
    broker.close(queues)
    return run


@contextlib.contextmanager
def _receiving(broker: Any, queues: Queues, run: Run) -> Iterator[None]:
    """Take the results off their queue as they come."""
    receiver = Receiver(broker.node.url(), queues.output, lambda: broker.wire.refused)
    receiver.start()
    try:
        yield
    finally:
        receiver.stop()
        run.refused = broker.wire.refused
        run.round.outcomes = receiver.outcomes


def _play(broker: Any, queues: Queues, setting: Setting, service: ServiceProcess, round_: Round) -> None:
    source = Source(lambda number: make(queues.run, number), setting.most, min(BACKLOG, setting.most // 3))
    faults = OrderedFaults(service, broker, queues, random.Random(f"{setting.name}.{setting.seed}"))
    service.start(ready=READY)
    round_.began, round_.clock = time.monotonic(), time.time() - time.monotonic()
    publisher = broker.publisher(queues, source)
    publisher.start()
    try:
        if setting.scenario is None:
            under_fire(setting, faults, source)
        else:
            setting.scenario(faults, source)
        broker.heal()
        faults.settle()
        wait_for(lambda: source.used_up, PATIENCE, "all messages to be sent")
        publisher.stop()
        _quiet(broker, queues, service, round_)
    finally:
        round_.ended = time.monotonic()
        publisher.stop()
        round_.tried, round_.confirmed, round_.stored = source.tried, source.safe, source.stored
        round_.faults = faults.log
        round_.violations += faults.violations
    round_.exits = [*faults.exits, service.stop(60)]


def _quiet(broker: Any, queues: Queues, service: ServiceProcess, round_: Round) -> None:
    """Wait until nothing is left for a while, neither in the queues nor in the tree."""
    since = time.monotonic()

    def quiet() -> bool:
        nonlocal since
        looked = time.monotonic()
        actual = service.stage("work")["actual"]
        held = bool(actual and any(actual[state] for state in ("held", "dispatched", "computed", "settling")))
        round_.unquiet = broker.left(queues) or ("messages in the tree" if held or not actual else "")
        if round_.unquiet:
            since = time.monotonic()
        return looked - since >= SETTLE

    with contextlib.suppress(AssertionError):
        wait_for(quiet, PATIENCE, "rest")
        round_.quiet = True


def one(broker: Any, setting: Setting) -> Row:
    """Make a run and tell what came of it; one that breaks off is a broken promise too, and no reason to end."""
    say(f"{setting.name}: {setting.most} messages, seed {setting.seed}")
    row = Row(setting.kind, setting.by, setting.on_failure, [])
    try:
        row.run = run = play(broker, setting)
        row.problems += check(run) + ordered_report.missing(run)
        say(f"{setting.name}: {ordered_report.words(run)}")
    except Exception as error:  # noqa: BLE001 - whatever it was, the other runs are of interest
        traceback.print_exc()
        row.problems.append(f"0 the run broke off: {error!r}")
    for problem in row.problems:
        say(f"{setting.name}: BROKEN {problem}")
    return row


# --- negative controls


def _calm(_faults: OrderedFaults, source: Source) -> None:
    """Load and nothing else."""
    wait_for(lambda: source.used_up, PATIENCE, "all messages to be sent")


def _silent_death(faults: OrderedFaults, _source: Source) -> None:
    """While messages flow, a Producer dies, and the broker does not see it."""
    time.sleep(1.0)
    faults.inject("silent-death")


# What is broken, by what it is in order, and what has to happen. The embedded broker has the first one only.
CONTROLS: dict[str, tuple[str, Callable[[OrderedFaults, Source], None]]] = {
    "release-out-of-turn": ("input", _calm),
    "key-side-by-side": ("key", _calm),
    "no-single-consumer": ("input", _silent_death),
}


def control(broker: Any, kind: str, name: str, seed: int) -> bool:
    """Return whether the checker distinguishes the broken build from the sound one."""
    path = os.pathsep.join(filter(None, (str(BROKEN), os.environ.get("PYTHONPATH"))))

    def problems(build: str, broken: str) -> list[str]:
        environment = {"PYTHONPATH": path, "CHAOS_BROKEN": broken}
        (by, scenario), title = CONTROLS[name], f"control-{name}-{build}-{kind}"
        return check(play(broker, Setting(title, kind, by, "hold", seed, CONTROL_MESSAGES, scenario, environment)))

    try:
        sound, broken = problems("sound", ""), problems("broken", name)
    except Exception:  # noqa: BLE001 - as in a run
        traceback.print_exc()
        return False
    for problem in sound:
        say(f"control {name}: the sound build failed: {problem}")
    seen = [problem for problem in broken if problem.startswith("20 ")]
    passed = not sound and bool(seen)
    words = seen[0][:200] if seen else "the checker saw nothing"
    say(f"control {name}, {kind}: {'seen' if passed else 'FAILED'} {words}")
    return passed


def main() -> int:
    """See the module head; returns 0 when every order was kept and every control was seen."""
    parser = argparse.ArgumentParser(
        "scripts/chaos --ordered", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=(*BROKERS, "all"), default="all")
    parser.add_argument("--by", choices=(*BY, "all"), default="all", help="what is in order")
    parser.add_argument("--on-failure", choices=(*MODES, "all"), default="all")
    parser.add_argument(
        "--messages",
        type=int,
        default=MESSAGES,
        help=f"of each run by key (default {MESSAGES}); one in a single order has a tenth, at least {LEAST}",
    )
    parser.add_argument("--seed", type=int, help="repeats a run's choice of faults (default: any)")
    parser.add_argument("--controls", choices=("yes", "no", "only"), default="yes", help="negative controls")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1_000_000)
    say(f"seed {seed}, RabbitMQ {major_version()}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows: list[Row] = []
    controls: dict[str, bool] = {}
    try:
        _campaign(asked, seed, rows, controls)
    finally:
        print(f"Seed {seed}, RabbitMQ {major_version()}, {time.strftime('%Y-%m-%d')}.\n")
        if rows:
            print(ordered_report.tables(rows) + "\n")
        for name, passed in controls.items():
            print(f"- broken on purpose: {name}: {'seen' if passed else 'NOT SEEN'}")
    good = not any(row.problems for row in rows) and all(controls.values())
    say("every order was kept" if good else "FAILED")
    return int(not good)


def _campaign(asked: argparse.Namespace, seed: int, rows: list[Row], controls: dict[str, bool]) -> None:
    """Make all runs that are asked for, and add what came of them."""
    with TemporaryDirectory(prefix="mqw-order-") as folder, contextlib.ExitStack() as stack:
        brokers: dict[str, Any] = {}
        for kind in _chosen(asked.broker, BROKERS):
            name = "sqlite" if kind == "sqlite" else "rabbit"
            if name not in brokers:
                brokers[name] = broker_for(kind, Path(folder))
                stack.callback(brokers[name].close)
            broker = brokers[name]
            for by in _chosen(asked.by, BY) if asked.controls != "only" else ():
                most = asked.messages if by == "key" else max(LEAST, asked.messages // 10)
                for mode in _chosen(asked.on_failure, MODES):
                    setting = Setting(f"{kind}-{by}-{mode}", kind, by, mode, seed, most)
                    rows.append(one(broker, setting))
            if asked.controls != "no":
                for title in CONTROLS if kind == "classic" else list(CONTROLS)[:1]:
                    controls[f"{title}, {kind}"] = control(broker, kind, title, seed)


def _chosen(asked: str, known: Any) -> tuple[str, ...]:
    return tuple(known) if asked == "all" else (asked,)


if __name__ == "__main__":
    sys.exit(main())
