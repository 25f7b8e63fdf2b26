"""The watchdog: an event listener of supervisord that restarts a service which no longer answers.

Runs as a process of its own under supervisord (`python -m mqworker.watchdog`). Owns nothing. Receives a TICK_5 event on
stdin every five seconds, and asks the service's /livez over the unix socket; after MISSES misses in a row it has
supervisord kill the program (`signalProcess KILL`), which starts it again. Logs to stderr, because stdout carries the
protocol of events. An error of its own is logged and never ends it; the end of stdin does. What it decides is pure
(`Watchdog`).
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from supervisor import childutils
from supervisor.states import ProcessStates

from mqworker.address import Address, CallError
from mqworker.client import Client
from mqworker.config.load import ConfigError, load
from mqworker.config.stop_budget import StopBudget
from mqworker.exits import Exit

MISSES = 4  # missed answers in a row, one every 5 s
GRACE = 20.0  # seconds after a start during which no answer is expected
START_PATIENCE = 180.0  # seconds after a start until a service that has not answered since then counts as hanging
ASK = 2.0  # seconds for one answer

QUIET, WARN, KILL = "quiet", "warn", "kill"


class Look(NamedTuple):
    """The program as one tick found it."""

    pid: int  # 0: not running
    age: float  # seconds since its start
    answered: bool


class Watchdog:
    """Counts misses and decides. A service that has never answered is not killed: perhaps the address is wrong."""

    def __init__(self) -> None:
        self.missed = 0
        self._pid = 0
        self._answered = 0  # the last pid that answered; 0: none ever

    def decide(self, look: Look) -> str:
        """Return KILL, WARN when silence begins, or QUIET."""
        if look.pid != self._pid:
            self._pid, self.missed = look.pid, 0
        if look.pid == 0 or look.answered or look.age < GRACE:
            self.missed = 0
            if look.pid and look.answered:
                self._answered = look.pid
            return QUIET
        self.missed += 1
        patient = self._answered != look.pid and look.age < START_PATIENCE
        if self.missed >= MISSES and self._answered and not patient:
            self.missed = 0
            return KILL
        return WARN if self.missed == 1 or self.missed % 12 == 0 else QUIET


def check_alive(address: Address) -> str:
    """Ask the service whether it is alive; returns "", or what is wrong."""
    try:
        with Client(address, ASK) as client:
            client.request("GET", "/livez", timeout=ASK)
    except CallError as error:
        return str(error)
    return ""


class EventListener:
    """Carries out what the Watchdog decides: the request to the service, and supervisord's calls."""

    def __init__(self, program: str, address: Address, rpc: Any) -> None:
        self._program = program
        self._address = address
        self._rpc = rpc
        self._watchdog = Watchdog()

    def tick(self) -> None:
        """Look at the program, decide, act."""
        info = self._rpc.supervisor.getProcessInfo(self._program)
        running = info["state"] == ProcessStates.RUNNING
        problem = check_alive(self._address) if running else ""
        look = Look(info["pid"] if running else 0, info["now"] - info["start"], not problem)
        verdict = self._watchdog.decide(look)
        program = f"{self._program} (pid {info['pid']})"
        if verdict == WARN:
            log(f"{program} does not answer: {problem}")
        elif verdict == KILL:
            log(f"{program} has not answered {MISSES} times in a row, killing it: {problem}")
            self._rpc.supervisor.signalProcess(self._program, "KILL")

    def check_stopwaitsecs(self, drain_deadline: float) -> None:
        """Log it when supervisord may kill the program in the middle of an orderly stop."""
        group, _, name = self._program.rpartition(":")
        least = StopBudget(drain_deadline).least
        for config in self._rpc.supervisor.getAllConfigInfo():
            given = config["stopwaitsecs"]
            if config["name"] == name and group in ("", config["group"]) and given < least:
                log(f"{self._program}: stopwaitsecs is {given:g}, but an orderly stop may take {least:g} s: raise it")


def log(sentence: str) -> None:
    """Write a line to the watchdog's log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} watchdog: {sentence}\n")
    sys.stderr.flush()


def main() -> int:
    """Handle events until supervisord closes stdin."""
    parser = argparse.ArgumentParser(prog="python -m mqworker.watchdog", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--program", default="mqworker", help="its name in supervisord, with the group if it has one")
    parser.add_argument("--config", type=Path, help="the configuration of the service")
    options = parser.parse_args()
    try:
        loaded = load(options.config, os.environ, runs=())
    except ConfigError as error:
        log(str(error))
        return Exit.CONFIG
    log(f"watching {options.program} at {loaded.socket}")
    listener = EventListener(
        options.program, Address(socket=str(loaded.socket)), childutils.getRPCInterface(os.environ)
    )
    with _errors_logged("stopwaitsecs could not be checked"):
        listener.check_stopwaitsecs(loaded.config.service.drain_deadline)
    while True:
        childutils.listener.ready()
        head = sys.stdin.readline()
        if not head:
            return 0
        sys.stdin.read(int(childutils.get_headers(head)["len"]))
        with _errors_logged("this look failed"):
            listener.tick()
        childutils.listener.ok()


@contextmanager
def _errors_logged(what: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - a watchdog that dies guards nothing
        log(f"{what}: {traceback.format_exc(limit=-1).splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(main())
