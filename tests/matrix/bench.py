"""A bench: one broker and one service, shot at again and again, and the account of every message ever sent.

Runs in the main thread of a worker process of `tests.matrix.run` (a RabbitMQ node dies with the thread that started
it). Two kinds: `Stepped` arms a shot that the service fires at itself when it reaches the step (see
inject/sitecustomize.py); `Outside` shoots from outside, at random times, at a service under supervisord. A shot is over
when every message sent for it has its result and nothing is in hand any more; ids name their shot, so that what comes
later is charged to the right one.
"""

import contextlib
import http.client
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.matrix.cells import MESSAGES, PREFETCH, Cell
from tests.matrix.places import DEAD, INPUT, OUTPUT, Embedded, Rabbit
from tests.support.service import ServiceProcess
from tests.support.supervised import Supervised
from tests.support.waiting import wait_for

INJECT = Path(__file__).parent / "inject"
REST = 60.0  # seconds for everything to come to rest after a shot
STOP = {"consumer": 3.0, "producer": 8.0, "broker": 4.0, "service": 4.0, "supervisord": 1.0, "both": 4.0}
# seconds until what is stopped is continued if mqworker has not ended it; longer than each (shortened) deadline
SYNC = 0.7  # seconds of rest in which a classic queue has written what was acked (0.3 s sufficed when measured)
AGAIN = 0.5  # seconds of waiting for a step until more messages are sent

HANDLER = """\
import time


def work(body):
    time.sleep(0.002)
    return {"id": body["id"], "made": body["id"][::-1]}
"""


TASKS = """\
import asyncio


async def work(body):
    await asyncio.sleep(0.002)
    return {"id": body["id"], "made": body["id"][::-1]}
"""


class Kind(NamedTuple):
    """How the Consumers of a bench work."""

    seats: int = 1  # messages that one works on at once ...
    tasks: bool = False  # ... as coroutines, not in threads

    @property
    def handler(self) -> str:
        """The text of the job."""
        return TASKS if self.tasks else HANDLER

    @property
    def stopped(self) -> float:
        """Seconds until a stopped Consumer is continued, if it has not been ended; one with seats gets some more."""
        return STOP["consumer"] + (0.0 if self.seats == 1 and not self.tasks else 4.0)


def config(place: Rabbit | Embedded, kind: Kind) -> str:
    """Return the configuration of one stage; the hard time limit ends a stopped Consumer."""
    return f"""\
[service]
drain_deadline = 10
log_format = "json"
[control]
port = 0
[broker]
url = "{place.url}"
confirm_deadline = 1.5
[stages.work]
input = "{INPUT}"
output = {{ queue = "{OUTPUT}" }}
jobs = ["work:work"]
consumers = 2
concurrency = {kind.seats}
prefetch = {PREFETCH}
queue_type = "{place.kind}"
time_limit = {{ hard = 1.0 }}
"""


class Account(NamedTuple):
    """The totals of a cell."""

    shots: int
    sent: int
    lost: int
    dead: int
    invented: int
    repeats: int
    most: int  # repeats of one shot
    acted: int  # stopped processes that mqworker ended, or connections that it gave up, before they were continued
    slowest: float  # seconds until everything was at rest again
    trouble: str  # what kept a shot from being taken or from coming to rest


class Bench:
    """What both kinds share; once entered, `service` runs and the queues exist."""

    service: ServiceProcess

    def __init__(self, broker: str, seed: int, kind: Kind) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mqw-matrix-")
        self.folder = Path(self._folder.name)
        self._arms = self.folder / "arms"
        self._arms.mkdir()
        self.place = Embedded(self.folder) if broker == "sqlite" else Rabbit(self.folder / "node", broker)
        self.seed = seed
        self.kind = kind
        self.sent: dict[str, str] = {}  # id -> shot
        self.results = Counter[str]()
        self.dead = Counter[str]()
        self.invented = 0
        self.slowest = dict[str, float]()
        self._acted = Counter[str]()
        self._numbers = 0

    def __enter__(self) -> Self:
        try:
            self.place.start()
            self.service = self.make()
            self.rest()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "service"):
            self.service.close()
        self.place.close()
        self._folder.cleanup()

    def make(self) -> ServiceProcess:
        """Return a service, started."""
        raise NotImplementedError

    def hit(self, shot: str, cell: Cell, chance: random.Random) -> None:
        """Send messages and shoot; return when nothing is stopped or missing any more."""
        raise NotImplementedError

    # --- a cell

    def run(self, cell: Cell, times: int) -> Account:
        """Fire this many shots at one cell."""
        trouble, taken = "", 0
        for number in range(times):
            shot = f"{cell}.{number}"
            try:
                self.rest()
                began = time.monotonic()
                self.hit(shot, cell, random.Random(f"{self.seed} {shot}"))
                taken += 1
                self._collect(shot)
                self.rest()
                self.slowest[shot] = time.monotonic() - began
            except AssertionError as error:
                trouble = f"{shot}: {error}\n{self.service.log.read_text()[-5000:]}"
                break
        return self._judge(cell, taken, trouble)

    def send(self, shot: str, count: int) -> None:
        """Send this many messages more, all confirmed."""
        ids = [f"{shot}.{self._numbers + n}" for n in range(count)]
        self._numbers += count
        self.sent |= dict.fromkeys(ids, shot)
        self.place.publish(ids)

    def _collect(self, shot: str) -> None:
        def over() -> bool:
            self._take()
            return all(self.results[each] or self.dead[each] for each in mine)

        mine = [each for each, owner in self.sent.items() if owner == shot]
        wait_for(over, REST, "every message to have its result")

    def _take(self) -> None:
        for queue, count in ((OUTPUT, self.results), (DEAD, self.dead)):
            for each, body in self.place.take(queue):
                count[each] += 1
                if each not in self.sent or body.get("made", each[::-1]) != each[::-1]:
                    self.invented += 1

    def rest(self) -> None:
        """Wait until the service has all its Consumers, is connected and has nothing in hand."""

        def at_rest() -> bool:
            status = self.status()
            return (
                status is not None
                and status["state"] == "running"
                and status["link"]["connected"]
                and status["link"]["consuming"]
                and [consumer["state"] for consumer in status["consumers"]] == ["idle", "idle"]
                and not any(status[key] for key in ("held", "dispatched", "settling", "kept"))
                and not self.place.depth(INPUT)
            )

        try:
            wait_for(at_rest, REST, "the service to be at rest")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.status()}") from None

    def status(self) -> dict[str, Any] | None:
        """Return what the service reports about its stage; None while it does not."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            code, told = self.service.ask("GET", "/api/v1/stages/work", timeout=2)
            return told["actual"] if code == 200 else None
        return None

    def acted(self, shot: str) -> None:
        """Record that mqworker did not wait for the stopped process to be continued."""
        self._acted[shot.rpartition(".")[0]] += 1

    def _judge(self, cell: Cell, taken: int, trouble: str) -> Account:
        mine = {each: shot for each, shot in self.sent.items() if shot.rpartition(".")[0] == str(cell)}
        repeats = Counter[str]()
        for each, shot in mine.items():
            repeats[shot] += max(0, self.results[each] - 1)
        return Account(
            shots=taken,
            sent=len(mine),
            lost=sum(not self.results[each] and not self.dead[each] for each in mine),
            dead=sum(self.dead[each] for each in mine),
            invented=self.invented,
            repeats=sum(repeats.values()),
            most=max(repeats.values(), default=0),
            acted=self._acted[str(cell)],
            slowest=max((self.slowest.get(shot, 0.0) for shot in set(mine.values())), default=0.0),
            trouble=trouble,
        )


class Stepped(Bench):
    """Shoots at a step."""

    def make(self) -> ServiceProcess:
        self.service = ServiceProcess(
            config(self.place, self.kind), {"work.py": self.kind.handler}, MQWORKER_TEST_MATRIX=str(self._arms)
        )
        self.service.env["PYTHONPATH"] = str(INJECT)
        return self.service.start()

    def hit(self, shot: str, cell: Cell, chance: random.Random) -> None:
        if cell.target == "broker" and cell.how == "kill":
            time.sleep(SYNC)  # what the harness itself has acked is gone for good
        wanted = {"step": cell.step, "target": cell.target, "signal": cell.signal, "broker": self.place.pid}
        shots = 0
        self.send(shot, MESSAGES)
        while not self._fire(f"{shot}.{shots}", wanted, chance):
            shots += 1
            assert shots < 20, "the step is not reached"
            self.send(shot, MESSAGES // 2)
        pid = int((self._arms / f"{shot}.{shots}.fired").read_text())
        if cell.how == "stop":
            self._continue(shot, cell, pid)
        elif cell.target == "broker":
            assert isinstance(self.place, Rabbit)
            self.place.node.kill()  # reaps it
            self.place.start()
        else:
            wait_for(lambda: state(pid) in "ZX", 5, "the killed process to be dead")

    def _fire(self, name: str, wanted: dict[str, Any], chance: random.Random) -> bool:
        """Arm; return whether it was fired. Every second shot comes just before the step, the others just after."""
        number = int(name.split(".")[1])
        shot = wanted | {"id": name, "nth": chance.randint(1, 5), "before": number % 2 == 0}
        armed, claimed = self._arms / "armed", self._arms / f"{name}.claimed"
        armed.with_suffix(".new").write_text(json.dumps(shot))
        armed.with_suffix(".new").rename(armed)
        try:
            with contextlib.suppress(AssertionError):
                wait_for(claimed.exists, AGAIN, "a claim")
        finally:
            armed.unlink()
        with contextlib.suppress(FileExistsError):
            claimed.touch(exist_ok=False)  # from now on nobody fires it
            return False
        wait_for((self._arms / f"{name}.fired").exists, 10, "the shot to be fired")
        return True

    def _continue(self, shot: str, cell: Cell, pid: int) -> None:
        def ended() -> bool:
            if cell.target == "broker":
                status = self.status()
                return status is not None and not status["link"]["connected"]
            return state(pid) in "ZX"

        wait_for(lambda: state(pid) in "TZX", 5, "the process to be stopped")
        try:
            patience = self.kind.stopped if cell.target == "consumer" else STOP[cell.target]
            wait_for(ended, patience, "mqworker to act")
            self.acted(shot)
        except AssertionError:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Outside(Bench):
    """Shoots at a random time at Service, supervisord, or both."""

    service: Supervised

    def make(self) -> ServiceProcess:
        self.service = Supervised(
            config(self.place, self.kind), {"work.py": self.kind.handler}, MQWORKER_TEST_MATRIX=str(self._arms)
        )
        self.service.env["PYTHONPATH"] = str(INJECT)  # for the deadlines: no shot is ever armed
        self.service.supervise()
        return self.service

    def hit(self, shot: str, cell: Cell, chance: random.Random) -> None:
        service, supervisor = self.service.running(), self.service.supervisor()
        pids = {"service": [service], "supervisord": [supervisor], "both": [service, supervisor]}[cell.target]
        chance.shuffle(pids)
        progress = chance.randrange(MESSAGES * 2 // 3)  # the random time: when so many results are there
        self.send(shot, MESSAGES)
        wait_for(lambda: self.place.depth(OUTPUT) >= progress, REST, "some results")
        for pid in pids:
            os.kill(pid, cell.signal)
        if cell.how == "stop":
            time.sleep(STOP[cell.target])  # what stops is continued by us
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        elif supervisor in pids:
            wait_for(lambda: state(supervisor) in "ZX", 5, "supervisord to be dead")
            self.service.supervise(None)


def state(pid: int) -> str:
    """Return the state of a process, one letter of proc(5); X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
