"""Whether a service that is built up and torn down again and again leaves anything behind: `scripts/rounds --help`.

One service, over HTTP: each round chooses a kind of work (plain jobs, programs, shared objects, arrays, large bodies,
sources, messages that fail or kill), a stage, its chain, parameters and number of Consumers; sends some messages and
checks every result, while the stage is scaled, paused or updated; then it tears the process tree down again. Processes,
descriptors, threads, semaphores, shared memory, temporary files, files in the state folder and memory are counted
after some rounds of warm-up, in the middle and at the end, with all Consumers gone. They must not grow: what did is
named, and the exit code is 1. `--broken` runs a service that leaks a descriptor with each Consumer: then 0 means that
it was seen.
"""

import argparse
import contextlib
import random
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.rounds import census
from tests.rounds.kinds import ROWS
from tests.rounds.operator import SOON, Operator
from tests.rounds.project import FILES, SOURCES, STAGES, STOPPED, TAGS, config
from tests.rounds.round import Plan, Round, draw
from tests.support.rabbitmq import RabbitNode
from tests.support.service import ServiceProcess, gone
from tests.support.waiting import Patience, wait_for

REST = 45.0  # seconds: beyond the life of the broker admin without questions
TOLD = 10  # rounds between two lines


class Broker:
    """The embedded broker, or a private RabbitMQ node."""

    def __init__(self, name: str, folder: Path) -> None:
        self._node = RabbitNode(folder / "node") if name == "rabbitmq" else None
        if self._node is not None:
            self._node.start()
        self.config = f'[broker]\nurl = "{self._node.url()}"' if self._node is not None else ""

    def count(self) -> Counter[str]:
        """Return what the node has of us."""
        if self._node is None:
            return Counter()
        asked = {
            "queues at the broker": "length(rabbit_amqqueue:list())",
            "connections at the broker": "length(rabbit_networking:connections())",
        }
        return Counter({what: int(self._node.eval(expression)) for what, expression in asked.items()})

    def close(self) -> None:
        """End the node."""
        if self._node is not None:
            self._node.close()


class Rounds:
    """The rounds of one service, and what it held in between."""

    def __init__(
        self, service: ServiceProcess, broker: Broker, temporary: Path, seed: int, minutes: float, *, verbose: bool
    ) -> None:
        self._until = time.monotonic() + minutes * 60
        self._every = 1 if verbose else TOLD
        self.done: Counter[str] = Counter()
        self.messages = 0
        self.rest = REST
        self._service, self._broker, self._temporary = service, broker, temporary
        self._chance = random.Random(seed)
        self._operator = Operator(service)

    def begin(self) -> None:
        """Stop what runs from the start of the service on; have the configured chain two generations back.

        Every edition of the code is checked once, in a stage that does not run: its copy stays for an hour.
        """
        for source in SOURCES:
            self._operator.stop_source(source)
        for stage in STAGES:
            for factor in (2, 1):
                self._operator.change(stage, "PUT", "jobs", {"jobs": ROWS.jobs, "params": {"factor": factor}})
        self._operator.change(STOPPED, "POST", "stop")
        for tag in reversed(TAGS):
            self._operator.edit(tag)
            self._operator.change(STOPPED, "POST", "restart")
            self._operator.tag(STOPPED)

    def play(self, count: int) -> None:
        """Play so many rounds, as long as there is time."""
        for _ in range(count):
            if time.monotonic() > self._until:
                break
            plan, began = draw(self.done["rounds"], self._chance), time.monotonic()
            try:
                Round(self._service, self._operator, plan, self.messages).play()
            except AssertionError as error:
                raise AssertionError(f"round {self.done['rounds']} ({plan.words}): {error}") from error
            self._note(plan, time.monotonic() - began)

    def _note(self, plan: Plan, seconds: float) -> None:
        self.messages += plan.messages
        self.done.update(
            ["rounds", f"kind: {plan.source or plan.kind.name}", f"twist: {plan.twist}", f"end: {plan.end}"]
        )
        if self.done["rounds"] % self._every == 0:
            say(f"{self.done['rounds']} rounds, {self.messages} messages; the last: {plan.words}; {seconds:.1f} s")

    def _rest(self) -> None:
        """Let all stages be as at any other count, whatever the last rounds have left."""
        for stage in STAGES:
            self._operator.change(stage, "PUT", "jobs", {"jobs": ROWS.jobs, "params": {"factor": 1}})
        self._operator.change(STOPPED, "POST", "stop")
        wait_for(lambda: not self._service.named("mqw-shared"), SOON, "shared objects that no chain has to have ended")

    def count(self, before: Counter[str] | None = None) -> Counter[str]:
        """Count when all is at rest: nothing has grown, or it is still so after REST seconds; a leak stays."""
        self._rest()
        patience = Patience(self.rest)
        last: Counter[str] = Counter()
        while True:
            now = census.count(self._service, self._temporary)
            now.update(self._broker.count())
            done = not census.grown(before, now) if before is not None else not census.grown(last, now)
            if done or patience.over():
                return now
            last = now
            time.sleep(1.0)


def main() -> int:
    """See the module head."""
    parser = argparse.ArgumentParser(
        "scripts/rounds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=500, help="besides those of the warm-up")
    parser.add_argument("--warm-up", type=int, default=45, help="rounds before the first count")
    parser.add_argument("--broker", choices=("sqlite", "rabbitmq"), default="sqlite")
    parser.add_argument("--minutes", type=float, default=720, help="after which no further round begins")
    parser.add_argument("--rest", type=float, default=REST, help="seconds until growth counts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    parser.add_argument("--broken", action="store_true", help="a negative control")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # a job in the background ignores the second by default
        signal.signal(number, signal.default_int_handler)
    with TemporaryDirectory(prefix="mqw-rounds-") as folder, contextlib.ExitStack() as stack:
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        broker = Broker(asked.broker, Path(folder))
        stack.callback(broker.close)
        env = {"TMPDIR": str(temporary)} | ({"MQWORKER_TEST_BROKEN": "lanes"} if asked.broken else {})
        service = stack.enter_context(ServiceProcess(config(broker.config), FILES, **env))
        (service.folder / "solver").chmod(0o755)
        service.start()
        rounds = Rounds(service, broker, temporary, asked.seed, asked.minutes, verbose=asked.verbose)
        rounds.rest = asked.rest
        figures, began = run(rounds, asked.warm_up, asked.rounds), time.monotonic()
        assert service.stop() == 0
        gone(service, 10)
        left = service.leaked_semaphores()
        say(f"stopped within {time.monotonic() - began:.1f} s; semaphores left: {sorted(left) or 'none'}")
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        say(f"CPU time of all processes: {spent.ru_utime + spent.ru_stime:.0f} s")
    before, middle, after = figures
    return judged(census.grown(census.reference(before, middle), after) + sorted(left), broken=asked.broken)


def run(rounds: Rounds, warm_up: int, count: int) -> list[Counter[str]]:
    """Play the rounds; return and print the figures before, in the middle and after."""
    rounds.begin()
    names, figures = list[str](), list[Counter[str]]()
    for more in (warm_up, count // 2, count - count // 2):
        rounds.play(more)
        names.append(f"after {rounds.done['rounds']} rounds")
        figures.append(rounds.count(figures[0] if figures else None))
    say(f"{rounds.messages} messages, every result checked; {dict(sorted(rounds.done.items()))}\n")
    print(census.table(dict(zip(names, figures, strict=True))), flush=True)
    return figures


def judged(problems: list[str], *, broken: bool) -> int:
    """Print what has grown; return the exit code."""
    for problem in problems:
        print(f"grown: {problem}", flush=True)
    if not problems:
        print("nothing has grown", flush=True)
    return int(not problems if broken else bool(problems))


def say(what: str) -> None:
    """Print it at once."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AssertionError as error:
        sys.exit(f"scripts/rounds: {error}")
