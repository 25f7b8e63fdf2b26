"""The watchdog: an event listener of supervisord that restarts a service which has stopped to answer.

Runs as its own process under supervisord (`python -m mqworker.watchdog`). On every TICK_5 it asks the service's /livez
over the unix socket; after MISSES misses in a row it has supervisord kill the program (`signalProcess KILL`) and start
it again. Says what it does on stderr; stdout belongs to supervisord. An error of its own is told and never ends it; the
end of stdin does. The decision is pure (`Watchdog`).
"""

import argparse
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from supervisor import childutils
from supervisor.states import ProcessStates

from mqworker.client import Address, CallError, Client
from mqworker.config.load import ConfigError, load
from mqworker.exits import Exit

MISSES = 4  # in a row, one every 5 s
GRACE = 20.0  # seconds after a start in which nothing is expected
START_PATIENCE = 180.0  # and until a service that has not answered in this life is held to hang
ASK = 2.0  # seconds for one answer

QUIET, WARN, KILL = "quiet", "warn", "kill"


class Look(NamedTuple):
    """What one tick found."""

    pid: int  # 0: not running
    age: float  # seconds since its start
    answered: bool


class Watchdog:
    """Counts misses and decides. Only a service that the watchdog has ever heard can be killed for its silence."""

    def __init__(self) -> None:
        self.missed = 0
        self._pid = 0
        self._heard = 0  # the last pid that answered; 0: never, so perhaps the address is wrong

    def decide(self, look: Look) -> str:
        """Return KILL, WARN when silence begins, or QUIET."""
        if look.pid != self._pid:
            self._pid, self.missed = look.pid, 0
        if look.pid == 0 or look.answered or look.age < GRACE:
            self.missed = 0
            if look.pid and look.answered:
                self._heard = look.pid
            return QUIET
        self.missed += 1
        patient = self._heard != look.pid and look.age < START_PATIENCE
        if self.missed >= MISSES and self._heard and not patient:
            self.missed = 0
            return KILL
        return WARN if self.missed == 1 or self.missed % 12 == 0 else QUIET


def alive(address: Address) -> str:
    """Ask; returns what is wrong, or "" when it answers that it lives."""
    try:
        with Client(address, ASK) as client:
            client.request("GET", "/livez", timeout=ASK)
    except CallError as error:
        return str(error)
    return ""


class EventListener:
    """The edges: supervisord's events and calls, and the question."""

    def __init__(self, program: str, address: Address, rpc: Any) -> None:
        self._program = program
        self._address = address
        self._rpc = rpc
        self._guard = Watchdog()

    def tick(self) -> None:
        """Look, decide, act."""
        info = self._rpc.supervisor.getProcessInfo(self._program)
        running = info["state"] == ProcessStates.RUNNING
        why = alive(self._address) if running else ""
        verdict = self._guard.decide(Look(info["pid"] if running else 0, info["now"] - info["start"], not why))
        if verdict == WARN:
            tell(f"{self._program} (pid {info['pid']}) does not answer: {why}")
        elif verdict == KILL:
            tell(f"{self._program} (pid {info['pid']}) has not answered {MISSES} times in a row, killing it: {why}")
            self._rpc.supervisor.signalProcess(self._program, "KILL")


def tell(words: str) -> None:
    """Say it in the watchdog's log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} watchdog: {words}\n")
    sys.stderr.flush()


def main() -> int:
    """Serve events until supervisord closes stdin."""
    parser = argparse.ArgumentParser(prog="python -m mqworker.watchdog", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--program", default="mqworker", help="its name in supervisord, with the group if it has one")
    parser.add_argument("--config", type=Path, help="the configuration of the service")
    options = parser.parse_args()
    try:
        loaded = load(options.config, os.environ)
    except ConfigError as error:
        tell(str(error))
        return Exit.CONFIG
    tell(f"watching {options.program} at {loaded.socket}")
    listener = EventListener(
        options.program, Address(socket=str(loaded.socket)), childutils.getRPCInterface(os.environ)
    )
    while True:
        childutils.listener.ready()
        head = sys.stdin.readline()
        if not head:
            return 0
        sys.stdin.read(int(childutils.get_headers(head)["len"]))
        try:
            listener.tick()
        except Exception:  # noqa: BLE001 - a watchdog that dies guards nothing
            tell(f"this look failed: {traceback.format_exc(limit=-1).splitlines()[-1]}")
        childutils.listener.ok()


if __name__ == "__main__":
    sys.exit(main())
