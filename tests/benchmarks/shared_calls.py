"""Calls of a shared object from four processes, beside the same calls through a BaseManager's proxy.

Each caller warms up, says that it is ready, and makes its calls when it is told to. Ours are journaled and remembered,
each for a message of its own; the manager's are neither. At the end every entry must have been counted once.

A caller runs as `python -m tests.benchmarks.shared_calls KIND PLACE NUMBER COUNT CHUNK`.
"""

import asyncio
import sys
import time
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from mqworker.shared_state.client import Argument, SharedClient
from mqworker.shared_state.identity import message_key
from tests.support.shared_classes import Tally
from tests.support.shared_object import NAME, ROOT, Shared

CALLERS = 4
CHUNK = 64  # calls of a link that go together
WARM = 256
KEY = b"of this benchmark"


class Manager(BaseManager):
    """Serves one Tally to every caller."""


def ours(folder: Path, count: int, chunk: int) -> float:
    """Return calls a second of a shared object; `count` of each caller, `chunk` together (1: proxy calls)."""
    return asyncio.run(_ours(folder, count, chunk))


async def _ours(folder: Path, count: int, chunk: int) -> float:
    shared = await Shared(folder).start()
    try:
        rate = await _rate("mqworker", str(folder), count, chunk)
        expected = {"entries": CALLERS * (count + WARM), "wrong": 0}
        await shared.until(lambda: shared.status.described == expected, f"{expected}")
    finally:
        await shared.child.stop("measured", 20.0)
    return rate


def managers(folder: Path, count: int) -> float:
    """Return calls a second of a manager's proxy."""
    tally = Tally()
    Manager.register("tally", callable=lambda: tally, exposed=["add", "describe"])
    manager = Manager(str(folder / "manager"), KEY)
    manager.start()
    try:
        rate = asyncio.run(_rate("manager", str(folder / "manager"), count, 1))
        expected = {"entries": CALLERS * (count + WARM), "wrong": 0}
        told = manager.tally().describe()  # type: ignore[attr-defined]  # registered above
        assert told == expected, told
    finally:
        manager.shutdown()
    return rate


async def _rate(kind: str, place: str, count: int, chunk: int) -> float:
    """Return the calls a second of all callers."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.benchmarks.shared_calls", kind, place]
    callers = [
        await asyncio.create_subprocess_exec(
            *(*command, str(number), str(count), str(chunk)), cwd=ROOT, stdin=pipe, stdout=pipe
        )
        for number in range(CALLERS)
    ]
    for caller in callers:
        assert caller.stdout is not None
        assert await caller.stdout.readline() == b"ready\n"
    began = time.monotonic()
    for caller in callers:
        assert caller.stdin is not None
        caller.stdin.write(b"go\n")
    codes = await asyncio.gather(*(caller.wait() for caller in callers))
    seconds = time.monotonic() - began
    assert codes == [0] * CALLERS, codes
    return CALLERS * count / seconds


def main() -> None:
    """Be one caller."""
    kind, place, number, count, chunk = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    call = _manager(place) if kind == "manager" else _client(place, chunk)
    call(f"warm {number} ", WARM)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    call(f"{number} ", count)


def _manager(place: str) -> Any:
    Manager.register("tally")
    manager = Manager(place, KEY)
    manager.connect()
    tally = manager.tally()  # type: ignore[attr-defined]  # registered above

    def call(prefix: str, count: int) -> None:
        for at in range(count):
            tally.add(f"{prefix}{at}")

    return call


def _client(place: str, chunk: int) -> Any:
    client = SharedClient(place, NAME, "s")
    proxy = client.proxy()

    def call(prefix: str, count: int) -> None:
        for at in range(count):
            client.begin(message_key(f"{prefix}{at}", b"body"), has_id=True)
            proxy.add(f"{prefix}{at}")
            client.end()

    def call_together(prefix: str, count: int) -> None:
        for begin in range(0, count, chunk):
            names = [f"{prefix}{at}" for at in range(begin, min(begin + chunk, count))]
            arguments = [Argument(message_key(name, b"body"), True, {"id": name}) for name in names]
            for answer in client.links("tally", arguments):
                answer.result()

    return call if chunk == 1 else call_together


if __name__ == "__main__":
    main()
