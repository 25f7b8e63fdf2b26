"""The faults: each is a function that does harm, heals it, and records when.

Runs in the campaign's main thread (only it may start processes: a node dies with the thread that started it). Which
faults occur, and when, is a pure function of the seed: `plan`.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pika.exceptions import AMQPChannelError

from tests.chaos.load import Queues
from tests.chaos.rabbit import Rabbit
from tests.chaos.records import Fault, Outcome
from tests.chaos.watch import alive, born, of_kind, written_by
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

ORPHAN_DEADLINE = 5.0
ARRIVAL = 0.5  # seconds until everything that was sent before has passed the proxy and the broker
LONG = 22.0  # seconds; longer than any deadline of mqworker
READY = 40.0  # seconds for a Service to be ready after it was killed

TREE = (
    "consumer-kill",
    "consumer-stop",
    "producer-kill",
    "producer-stop",
    "service-kill",
    "service-stop",
    "service-term",
)
BROKER = ("broker-kill", "broker-freeze", "close-connections", "disk-alarm", "output-unbound", "output-deleted")
FOREIGN = ("source-remade",)
NETWORK = ("cut", "reset", "corrupt", "half-close", "halt", "delay")
# How often each comes beside the others: what is quick comes often.
WEIGHTS = {"consumer-kill": 30, "consumer-stop": 4, "producer-kill": 6, "producer-stop": 2, "service-kill": 3}
WEIGHTS |= {"close-connections": 3, "broker-kill": 2, "output-unbound": 2, "delay": 2}
WEIGHTS |= {"cut": 8, "reset": 8, "corrupt": 5, "half-close": 4}  # all others: 1
AT_LEAST = {"consumer-kill": 8, "producer-kill": 2, "cut": 4, "reset": 2, "corrupt": 2}  # in one round


def plan(broker: str, chance: random.Random) -> Iterator[str]:
    """Yield the kinds of faults for one round: first each that the broker can have, then by weight, for ever."""
    known = TREE if broker == "sqlite" else TREE + BROKER + NETWORK
    if broker == "foreign":  # what others have made is not made again
        known = tuple(kind for kind in known if kind != "output-deleted") + FOREIGN
    if broker == "quorum":  # these cannot be deleted "if empty", and what is not empty must not be
        known = tuple(kind for kind in known if kind != "output-deleted")
    first = [kind for kind in known for _ in range(AT_LEAST.get(kind, 1))]
    chance.shuffle(first)
    yield from first
    while True:
        yield chance.choices(known, [WEIGHTS.get(kind, 1) for kind in known])[0]


class Faults:
    """See the module head. `log` is the fault log; `outcomes` are those that had to be taken off early."""

    def __init__(self, service: ServiceProcess, broker: Any, queues: Queues, chance: random.Random) -> None:
        self.log: list[Fault] = []
        self.violations: list[str] = []
        self.outcomes: list[Outcome] = []
        self.exits: list[int] = []
        self._killed: set[tuple[int, int]] = set()  # pid and start
        self._service, self._broker, self._queues, self._chance = service, broker, queues, chance

    def inject(self, kind: str) -> None:
        """Inject one fault; it is over, and recorded, when this returns."""
        action: Callable[[], None] = getattr(self, "_" + kind.replace("-", "_"), None) or self._on_the_wire
        with self._noted(kind):
            action()

    def kill_worker(self) -> None:
        """Kill a Consumer that has started a message, once there is one."""
        folder = self._service.folder / "journal"

        def worker() -> int:
            found = of_kind(self._service, "mqw-consumer")
            new = (pid for pid in found if (pid, born(pid)) not in self._killed)
            return next((pid for pid in new if written_by(pid, folder / str(pid))), 0)

        pid = wait_for(worker, READY, "a Consumer that has begun a message")
        self._killed.add((pid, born(pid)))
        with self._noted("consumer-kill"):
            self.log[-1].about = str(pid)
            self._signal(pid, signal.SIGKILL)

    @contextmanager
    def _noted(self, kind: str) -> Iterator[None]:
        fault = Fault(kind, time.monotonic(), float("inf"))
        self.log.append(fault)
        try:
            yield
        finally:
            fault.end = time.monotonic()

    @property
    def _rabbit(self) -> Rabbit:
        assert isinstance(self._broker, Rabbit)
        return self._broker

    # --- processes

    def _one(self, comm: str) -> int:
        """Return a process of this kind, or 0."""
        found = of_kind(self._service, comm)
        return self._chance.choice(found) if found else 0

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)

    def _consumer_kill(self) -> None:
        pid = self._one("mqw-consumer")
        self.log[-1].about = str(pid)
        self._signal(pid, signal.SIGKILL)

    def _consumer_stop(self) -> None:
        self._frozen(self._one("mqw-consumer"), self._chance.uniform(0.2, 1.0))

    def _producer_kill(self) -> None:
        below = of_kind(self._service, "mqw-consumer")
        self._signal(self._one("mqw-producer"), signal.SIGKILL)
        self._gone(below)

    def _producer_stop(self) -> None:
        self._frozen(self._one("mqw-producer"), self._chance.uniform(0.5, 2.0))

    def _service_stop(self) -> None:
        assert self._service.process is not None
        self._frozen(self._service.process.pid, self._chance.uniform(0.2, 1.0))

    def _service_kill(self) -> None:
        below = [pid for pid in self._service.pids() if alive(pid)]
        self._service.signal(signal.SIGKILL)
        self._service.wait(10)
        self._gone(below)
        self._service.start(ready=None)
        self._service.wait_ready(READY)

    def _service_term(self) -> None:
        self.exits.append(self._service.stop(30))
        self._gone([pid for pid in self._service.pids() if alive(pid)])
        self._service.start(ready=None)
        self._service.wait_ready(READY)

    def _frozen(self, pid: int, seconds: float) -> None:
        self._signal(pid, signal.SIGSTOP)
        time.sleep(seconds)  # this is the fault
        self._signal(pid, signal.SIGCONT)

    def _gone(self, pids: list[int]) -> None:
        try:
            wait_for(lambda: not any(map(alive, pids)), ORPHAN_DEADLINE, "the processes below to be gone")
        except AssertionError:
            left = [pid for pid in pids if alive(pid)]
            self.violations.append(f"{time.monotonic():.3f}: orphans: {left} are alive, their parent was killed")

    # --- the broker

    def _broker_kill(self) -> None:
        node = self._rabbit.node
        node.kill()
        node.start()

    def _broker_freeze(self) -> None:
        self._rabbit.node.freeze()
        time.sleep(self._chance.choice((1, 3, 10)))
        self._rabbit.node.thaw()

    def _close_connections(self) -> None:
        self._rabbit.node.close_connections()

    def _disk_alarm(self) -> None:
        self._rabbit.node.eval("rabbit_disk_monitor:set_disk_free_limit(1000000000000000)")
        time.sleep(self._chance.uniform(1, 4))
        self._rabbit.node.eval('rabbit_disk_monitor:set_disk_free_limit("1MB")')

    def _output_unbound(self) -> None:
        queues, channel = self._queues, self._rabbit.channel()
        with contextlib.suppress(AMQPChannelError):  # it was deleted, and mqworker has not made it again yet
            channel.queue_unbind(queues.output, queues.exchange, "out")
            time.sleep(self._chance.uniform(0.2, 1.0))
            channel.queue_bind(queues.output, queues.exchange, "out")  # mqworker may have done so before
            channel.close()

    def _output_deleted(self) -> None:
        """Happens under load, but the content is taken first, so that only mqworker can lose something.

        What is on its way into a queue that is being deleted RabbitMQ confirms and drops, also "if empty": so the
        Producer, which binds the queue again as well, stands still until what it has sent has arrived.
        """
        queues, rabbit, producer = self._queues, self._rabbit, self._one("mqw-producer")
        self._signal(producer, signal.SIGSTOP)
        try:
            channel = rabbit.channel()
            with contextlib.suppress(AMQPChannelError):  # something has come all the same: then it is not deleted
                channel.queue_unbind(queues.output, queues.exchange, "out")
                time.sleep(ARRIVAL)
                self.outcomes += rabbit.take(queues.output, "result")
                channel.queue_delete(queues.output, if_empty=True)
                channel.close()
        finally:
            self._signal(producer, signal.SIGCONT)

    def _source_remade(self) -> None:
        """Its owner declares the exchange of the input anew; the bindings are gone."""
        channel = self._rabbit.channel()
        channel.exchange_delete(self._queues.source)
        channel.exchange_declare(self._queues.source, "topic", durable=True)
        channel.close()

    # --- the network

    def _reset_all(self) -> None:
        self._rabbit.proxy.reset_all()

    def _long_halt(self) -> None:
        """Both connections are dead without showing it; new ones would work."""
        self._rabbit.proxy.halt(True, False)
        time.sleep(LONG)
        self._rabbit.proxy.heal()

    def _on_the_wire(self) -> None:
        kind = self.log[-1].kind
        proxy = self._rabbit.proxy
        if kind == "delay":
            proxy.delay = self._chance.choice((0.05, 0.5))
            time.sleep(self._chance.uniform(0.5, 2.0))
        elif kind == "halt":
            proxy.halt(*self._chance.choice(((True,), (False,), (True, False))))
            time.sleep(self._chance.choice((1, 4, 10)))
        else:
            proxy.harm(kind, self._chance.random() < 0.5, self._chance)
            time.sleep(self._chance.uniform(0.1, 0.4))  # for the next frame to come
        proxy.heal()
