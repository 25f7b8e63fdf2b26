"""Watches the service from outside while faults occur, all the time, in separate threads.

`Processes` searches /proc for what must never be (two Producers) and for the named semaphores of the tree; `Control`
requests health ten times a second and status twice, and records every answer. Both end with `stop`, and raise nothing.
"""

import contextlib
import os
import random
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.chaos.records import Answer, Sample, Size, grown
from tests.support.service import ServiceProcess

PATIENCE = 15.0  # seconds for any call: beyond the longest deadline of the control API
PROCESSES_EVERY, HEALTH_EVERY, STATUS_EVERY = 0.2, 0.1, 0.5
OPERATOR_EVERY = 0.7
REST = 40.0  # seconds: beyond the idle time of the control port's connections
TICKS = os.sysconf("SC_CLK_TCK")  # a second
TWICE = 3  # looks in a row at two Producers: one is between its end and the reaping of it


def parent(pid: int) -> int:
    """Return the pid of a process's parent; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """Return whether it lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def born(pid: int) -> int:
    """Return when a process started, in ticks since boot; 0 when it is gone. A pid is used again."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def written_by(pid: int, file: Path) -> bool:
    """Return whether this process has written the file, and not one before it that had the same number."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - born(pid) / TICKS
    try:
        return time.time() - file.stat().st_mtime < age
    except OSError:
        return False


def of_kind(service: ServiceProcess, comm: str) -> list[int]:
    """Live processes of one kind, without the copies that a parent is for a moment when it starts something."""
    named = [pid for pid, name in service.pids().items() if name == comm]
    return [pid for pid in named if parent(pid) not in named and alive(pid)]


def size(service: ServiceProcess) -> Size:
    """Return the descriptors and threads now, the most of each kind of process."""
    found = Size(time.monotonic())
    for pid, name in service.pids().items():
        with contextlib.suppress(OSError):
            for what, folder in ((found.descriptors, "fd"), (found.threads, "task")):
                what[name] = max(what.get(name, 0), len(list(Path(f"/proc/{pid}/{folder}").iterdir())))
    return found


def size_at_rest(service: ServiceProcess, before: Size) -> Size:
    """Return the descriptors and threads once they are about as before, or after REST seconds: a leak stays."""
    end = time.monotonic() + REST
    while grown(before, now := size(service)) and time.monotonic() < end:
        time.sleep(0.5)  # connections that nobody uses any more are being closed
    return now


class Looker(threading.Thread):
    """Something that is repeated until it is stopped."""

    def __init__(self, service: ServiceProcess, every: float) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.service = service
        self._every = every
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(self._every):
            self.look()

    def look(self) -> None:
        """Do it once."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop repeating."""
        self._over.set()
        self.join(60)


class Processes(Looker):
    """See the module head."""

    def __init__(self, service: ServiceProcess) -> None:
        self.violations: list[str] = []
        self.semaphores: set[str] = set()
        self._two = 0
        super().__init__(service, PROCESSES_EVERY)

    def look(self) -> None:
        producers = of_kind(self.service, "mqw-producer")
        self._two = self._two + 1 if len(producers) > 1 else 0
        if self._two == TWICE:
            self.violations.append(f"{time.monotonic():.3f}: {len(producers)} Producers at once: {producers}")
        for pid in producers:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    if "/dev/shm/" in line and "(deleted)" not in line:
                        self.semaphores.add(line.rpartition("/")[2])

    def left(self) -> list[str]:
        """Return the tree's named semaphores that still exist.

        Before one has its name, for some microseconds, glibc's sem_open has it as `sem.` and six characters; a SIGKILL
        then leaves that file of 32 bytes, which nobody can know as ours.
        """
        return [name for name in self.semaphores if name.startswith("sem.mp-") and Path(f"/dev/shm/{name}").exists()]


class Control(Looker):
    """Health and status, and each answer's time."""

    def __init__(self, service: ServiceProcess) -> None:
        self.answers: list[Answer] = []
        self.samples: list[Sample] = []
        self._status_due = 0.0
        super().__init__(service, HEALTH_EVERY)

    def look(self) -> None:
        self.ask("GET", "/livez")
        if time.monotonic() >= self._status_due:
            self._status_due = time.monotonic() + STATUS_EVERY
            told = self.ask("GET", "/api/v1/stages/work")
            actual = told.get("actual") if isinstance(told, dict) else None
            if actual:
                tree = sum(actual[state] for state in ("held", "dispatched", "computed", "settling"))
                self.samples.append(
                    Sample(
                        *(time.monotonic(), actual["pid"], actual["counters"], tree),
                        *(actual["prefetch"], actual["stall"], told["restarts"]),
                    )
                )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Make one call; return its answer."""
        began = time.monotonic()
        status, told = 0, None
        with contextlib.suppress(OSError, HTTPException, ValueError):
            status, told = self.service.ask(method, path, body, timeout=PATIENCE)
        self.answers.append(Answer(began, path, status, time.monotonic() - began))
        return told


class Operator(Looker):
    """Operates the controls at random; `settle` leaves the stage as it was found."""

    def __init__(self, service: ServiceProcess, control: Control, consumers: int, seed: str) -> None:
        self._control, self._consumers = control, consumers
        self._chance = random.Random(seed)
        super().__init__(service, OPERATOR_EVERY)

    def look(self) -> None:
        stage = "/api/v1/stages/work"
        draw = self._chance.random()
        if draw < 0.35:
            self._control.ask("PUT", f"{stage}/listening", {"enabled": False})
            self._over.wait(self._chance.uniform(0, 0.4))
            self._resume()
        elif draw < 0.6:
            self._scale(self._chance.randint(1, self._consumers + 1))
        elif draw < 0.7:
            self._control.ask("POST", f"{stage}/restart")
        elif draw < 0.8:
            self._control.ask("PUT", f"{stage}/time-limit", {"soft": 0, "hard": self._chance.choice((0, 60))})
        else:
            for path in (f"{stage}/params", "/readyz", "/metrics", "/api/v1/queues"):
                self._control.ask("GET", path)

    def _resume(self) -> None:
        """Listen again, even if the Service is away just now: what it stored before it was killed still holds."""
        while self._control.ask("PUT", "/api/v1/stages/work/listening", {"enabled": True}) is None:
            if self._over.wait(0.1):
                return

    def _scale(self, count: int) -> None:
        self._control.ask("PUT", "/api/v1/stages/work/consumers", {"count": count})

    def settle(self) -> None:
        """Stop, and restore everything."""
        self.stop()
        self._scale(self._consumers)
        self._control.ask("PUT", "/api/v1/stages/work/listening", {"enabled": True})
