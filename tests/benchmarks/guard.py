"""What a message costs, by count: how often each function is called for it in a Producer and in a Consumer.

    python -m tests.benchmarks.guard            counts, and compares with what was accepted
    python -m tests.benchmarks.guard --accept   accepts what is counted now; say in the commit what it buys

A count is nearly the same on a busy machine as on an idle one (within 5 %), so it can be part of every test run, where
a time cannot. A real service on the embedded broker runs a fixed number of messages: *one by one*, so that each pays
for its own turn of every loop, chunk, transaction and frame, and *from a backlog*, where those are shared and what is
left belongs to the message; what it costs to be there, counted while nothing comes, is taken off. Every process counts
itself with the standard library's profiler (the hook is in tests/support/inside), each call of a function in Python or
in C once: so a further system call counts, and needless work that calls anything. A loop that calls nothing is not
noticed; `scripts/bench --compare` notices it.

What was accepted is in guard.json, by the version of Python, because what counts as a call differs between them. So far
only 3.11 can count: since 3.12 a process has one profiler for all of its threads.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.embedded import OUTPUT, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

ACCEPTED = Path(__file__).with_name("guard.json")
VERSION = ".".join(platform.python_version_tuple()[:2])
ONE_BY_ONE, BACKLOG = "one by one", "from a backlog"
MESSAGES = {ONE_BY_ONE: 60, BACKLOG: 1_000}
PROCESSES = {"Producer": "mqw-producer", "Consumer": "mqw-consumer"}
WARM = 50  # messages
REST = 1.5  # seconds in which it is counted what time costs
LOOK = 0.002  # seconds between two looks for a result
TOTAL = 0.15  # by which part all calls may rise; runs on a busy machine differ by up to 5 %
MORE = {ONE_BY_ONE: 0.9, BACKLOG: 0.4}  # by how much a message those of one function may rise ...
PART = 0.25  # ... or by which part, if that is more: some depend on how long the run takes
SYSTEM = "built-in method posix.", "_socket.socket", "SemLock", "sqlite3"  # parts of names
TURN = "<method 'poll' of 'select.epoll' objects>"  # once in each turn of a Producer's loop
ACCEPTING = 3  # runs of which the least is accepted
SHOWN = 8  # functions in a message
KEPT = 0.05  # calls a message below which a function is not kept
HOW = "if it is worth it, `python -m tests.benchmarks.guard --accept` accepts these counts; say in the commit why"
JOBS = {"jobs.py": "def handle(body):\n    return body\n"}

Counts = dict[str, dict[str, dict[str, float]]]  # by mode, process and function: calls a message


def counted() -> Counts:
    """Run the service and return what it cost."""
    with tempfile.TemporaryDirectory(prefix="mqw-guard-") as name:
        folder = Path(name)
        with ServiceProcess(config(consumers=1), JOBS, MQWORKER_TEST_COUNT=name) as service:
            service.start()
            with Client(service) as client:
                client.send(WARM)
                client.finish()
                pids = {process: service.named(title)[0] for process, title in PROCESSES.items()}
                idle = _idle(folder, pids)
                found = {mode: _counted(service, client, folder, pids, mode, idle) for mode in MESSAGES}
                client.finish()
    return found


def _idle(folder: Path, pids: dict[str, int]) -> dict[str, dict[str, float]]:
    """Return how often each function is called in a second without messages: looks into the queue, and timers."""
    before = {process: _snapshot(folder, pid) for process, pid in pids.items()}
    began = time.monotonic()
    time.sleep(REST)
    after = {process: _snapshot(folder, pid) for process, pid in pids.items()}
    seconds = time.monotonic() - began
    return {
        process: {name: (calls - before[process].get(name, 0)) / seconds for name, calls in after[process].items()}
        for process in pids
    }


def _counted(
    service: ServiceProcess,
    client: Client,
    folder: Path,
    pids: dict[str, int],
    mode: str,
    idle: dict[str, dict[str, float]],
) -> dict[str, dict[str, float]]:
    """Return calls a message of each process, without those that the time cost that it took."""
    count = MESSAGES[mode]
    if mode == BACKLOG:
        _listening(service, enabled=False)
    before = {process: _snapshot(folder, pid) for process, pid in pids.items()}
    began = time.monotonic()
    if mode == BACKLOG:
        client.send(count)
        _listening(service, enabled=True)
        wait_for(lambda: client.ready(OUTPUT) == client.sent, 60, "the results of the backlog")
    else:
        for _ in range(count):
            client.send(1)
            _arrived(client)
    after = {process: _snapshot(folder, pid) for process, pid in pids.items()}
    seconds = time.monotonic() - began
    return {
        process: _between(
            before[process], after[process], {name: calls * seconds for name, calls in idle[process].items()}, count
        )
        for process in pids
    }


def _arrived(client: Client) -> None:
    began = time.monotonic()
    while client.ready(OUTPUT) < client.sent:
        time.sleep(LOOK)
        assert time.monotonic() - began < 60, "no result"


def least(runs: list[Counts]) -> Counts:
    """Return of each process and mode the run with the fewest calls: what a busy machine adds is not accepted. Pure."""
    found: Counts = {}
    for mode, processes in runs[0].items():
        columns = {process: [run[mode][process] for run in runs] for process in processes}
        found[mode] = {process: min(each, key=lambda calls: sum(calls.values())) for process, each in columns.items()}
    return found


def _listening(service: ServiceProcess, *, enabled: bool) -> None:
    status, told = service.ask("PUT", "/api/v1/stages/work/listening?wait=20", {"enabled": enabled})
    assert status == 200, told


def _snapshot(folder: Path, pid: int) -> dict[str, int]:
    """Return how often a process has called each function so far."""
    file = folder / str(pid)
    os.kill(pid, signal.SIGRTMIN + 5)
    wait_for(file.exists, 30, "the counts")
    counts = json.loads(file.read_text())
    file.unlink()
    return counts


def _between(before: dict[str, int], after: dict[str, int], idle: dict[str, float], messages: int) -> dict[str, float]:
    each = {name: (calls - before.get(name, 0) - idle.get(name, 0.0)) / messages for name, calls in after.items()}
    return {name: round(calls, 2) for name, calls in sorted(each.items()) if calls >= KEPT}


def risen(now: Counts, accepted: Counts) -> list[str]:
    """Return a sentence for each process and mode in which a message costs more than was accepted. Pure."""
    found = []
    for mode, processes in now.items():
        for process, counted_now in processes.items():
            calls = _as_accepted(counted_now, accepted[mode][process])
            before = _expected(accepted, mode, process, calls)
            total, most = sum(calls.values()), sum(before.values()) * (1 + TOTAL)
            rises = {name: number - before.get(name, 0.0) for name, number in calls.items()}
            single = {
                name: rise
                for name, rise in rises.items()
                if rise > max(MORE[mode], PART * before.get(name, 0.0)) and (mode == BACKLOG or _system(name))
            }
            if total > most or single:
                told = single or {name: rise for name, rise in rises.items() if rise > 0}
                largest = sorted(told.items(), key=lambda item: -item[1])[:SHOWN]
                functions = "; ".join(f"{name} {before.get(name, 0.0):.2f} -> {calls[name]:.2f}" for name, _ in largest)
                found.append(
                    f"{process}, messages {mode}: {total:.1f} calls a message, accepted are"
                    f" {sum(before.values()):.1f} (at most {most:.1f}). What rose: {functions}"
                )
    return found


def _as_accepted(calls: dict[str, float], accepted: dict[str, float]) -> dict[str, float]:
    """Return the calls of functions that have only moved to another module under their accepted names."""
    gone = {name.rpartition(":")[2]: name for name in accepted if name not in calls}
    return {name if name in accepted else gone.get(name.rpartition(":")[2], name): n for name, n in calls.items()}


def _system(name: str) -> bool:
    """Whether it is a system call: one by one, how often others are called depends on who is how fast."""
    return any(part in name for part in SYSTEM)


def _expected(accepted: Counts, mode: str, process: str, now: dict[str, float]) -> dict[str, float]:
    """Return what was accepted, for the number of turns that a backlog took now.

    On a busy machine it takes more of them, for fewer messages each. What one costs is known from messages one by one.
    """
    before = accepted[mode][process]
    alone = accepted[ONE_BY_ONE][process]
    if mode == ONE_BY_ONE or TURN not in alone:
        return before
    more = max(0.0, now.get(TURN, 0.0) - before.get(TURN, 0.0)) / alone[TURN]
    return {name: before.get(name, 0.0) + more * alone.get(name, 0.0) for name in before | alone}


def accepted() -> Counts | None:
    """Return what was accepted for this version of Python; None if nothing was."""
    return _all().get(VERSION)


def _all() -> dict[str, Any]:
    return json.loads(ACCEPTED.read_text()) if ACCEPTED.exists() else {}


def main() -> int:
    """See the module head; returns 1 if a count has risen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="accept what is counted now")
    asked = parser.parse_args()
    if sys.version_info >= (3, 12):
        parser.error("from Python 3.12 on, a process has one profiler for all threads: count with 3.11")
    now = least([counted() for _ in range(ACCEPTING)]) if asked.accept else counted()
    for mode, processes in now.items():
        for process, calls in processes.items():
            print(f"{process}, messages {mode}: {sum(calls.values()):.1f} calls a message")
    if asked.accept:
        ACCEPTED.write_text(json.dumps(_all() | {VERSION: now}, indent=1, sort_keys=True) + "\n")
        return 0
    before = accepted()
    if before is None:
        print(f"nothing was accepted for Python {VERSION} (--accept)")
        return 0
    sentences = risen(now, before)
    print("\n".join([*sentences, HOW] if sentences else ["no more than was accepted"]))
    return int(bool(sentences))


if __name__ == "__main__":
    sys.exit(main())
