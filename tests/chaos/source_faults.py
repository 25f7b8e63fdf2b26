"""What the campaign of sources does to services, their processes and the broker, and what tells who worked when.

A part of `scripts/chaos --sources`. The generators write the notes that are read here.
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

SOURCES = ("one", "two")
VICTIMS = {"sources": "mqw-source", "producers": "mqw-producer"}
RECENT = 0.5  # seconds since a generator has worked that is taken for one that works
FROZEN = 40.0  # seconds: longer than the broker waits for a sign of life


class Note(NamedTuple):
    """A generator worked then, in this process and this call of it."""

    when: float
    pid: int
    life: str


class Handovers(NamedTuple):
    """How one life of a source followed another."""

    count: int
    longest: float  # seconds in which nobody worked between two
    both: float  # seconds in which an old one still worked beside its successor


def handovers(worked: list[Note]) -> Handovers:
    """Return what the notes of a source tell. Pure."""
    last = {note.life: note.when for note in sorted(worked)}
    seen: list[str] = []
    before = longest = both = 0.0
    for note in sorted(worked):
        if note.life not in seen:
            if seen:
                longest = max(longest, note.when - before)
                both = max([both, *(last[life] - note.when for life in seen)])
            seen.append(note.life)
        before = note.when
    return Handovers(max(0, len(seen) - 1), longest, both)


def notes(file: Path) -> list[Note]:
    """Return when which life of a source has worked."""
    rows = [line.split() for line in file.read_text().splitlines()]
    return [Note(float(when), int(pid), life) for when, pid, life in rows]


class Faults:
    """What is done to services, their processes and the broker."""

    def __init__(self, services: list[ServiceProcess], broker: Any, chance: random.Random, folder: Path) -> None:
        """`folder` holds the notes of the sources."""
        self.done: Counter[str] = Counter()
        self._services, self._broker, self._chance, self._folder = services, broker, chance, folder
        self._frozen: dict[int, float] = {}  # pid -> when it goes on

    @property
    def frozen(self) -> bool:
        """Whether something is frozen: nothing else is done meanwhile, so that only the heartbeat ends its lock."""
        return bool(self._frozen)

    def do(self, victim: str) -> bool:
        """Kill or freeze one of these; returns whether that is over, or has to be tried again when more was taken."""
        if victim == "brokers":
            self._broker.kill()
        elif victim == "services":
            service = self._chance.choice(self._services)
            assert service.process is not None
            service.signal(signal.SIGKILL)
            service.process.wait(10)
            service.start(ready=None)
        elif victim == "freezes":
            if not self._freeze():
                return finished(self._services, victim)
        else:
            wait_for(lambda: self._kill(victim) or finished(self._services, victim), 60, victim)
        self.done[victim] += 1
        say(f"done: {dict(self.done)}")
        return True

    def _kill(self, victim: str) -> bool:
        return kill_one(self._services, VICTIMS[victim], self._chance)

    def _freeze(self) -> bool:
        """Freeze the process of a source that works, if there is one now."""
        living = {pid for service in self._services for pid in service.named(VICTIMS["sources"])}
        for source in self._chance.sample(SOURCES, len(SOURCES)):
            file = self._folder / source
            worked = notes(file)[-1:] if file.exists() else []
            for note in worked:
                if note.pid in living and time.monotonic() - note.when < RECENT:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(note.pid, signal.SIGSTOP)
                        self._frozen[note.pid] = time.monotonic() + FROZEN
                        return True
        return False

    def thaw(self, now: float) -> None:
        """Let those go on whose time is up."""
        for pid in [pid for pid, due in self._frozen.items() if due <= now]:
            del self._frozen[pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kill_one(services: list[ServiceProcess], kind: str, chance: random.Random) -> bool:
    """Kill a process of this kind, if there is one now."""
    found = [pid for service in services for pid in service.named(kind)]
    with contextlib.suppress(ProcessLookupError):
        if found:
            os.kill(chance.choice(found), signal.SIGKILL)
            return True
    return False


def finished(services: list[ServiceProcess], victim: str) -> bool:
    """Return whether there is nobody left to kill: every source has published all that it has."""
    if victim not in ("sources", "freezes"):
        return False
    try:
        told = [service.ask("GET", "/api/v1/sources") for service in services]
    except OSError:  # one that was killed has not started again yet
        return False
    rows = [row for code, answer in told if code == 200 for row in answer["sources"]]
    return bool(rows) and not any(row["state"] in ("running", "starting", "backoff") for row in rows)


def say(what: str) -> None:
    """Print it at once."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
