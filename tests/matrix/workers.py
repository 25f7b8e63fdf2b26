"""Worker processes of which nothing is left, whenever SIGTERM or SIGINT comes: no broker, no service, no folder.

Runs in the main thread of the command. Starts a process for each call, so many at a time, and returns what the calls
return. All of them have one temporary folder, which is in the environment of whatever they start, wherever that goes.
At the end, and when the first of the two signals comes, they are terminated, so that each closes what it has; what is
left of any of them after that is found by that folder, and killed. A second signal changes nothing. If this process is
killed, its workers end as if terminated.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from mqworker.ipc.spawn import PR_SET_PDEATHSIG, prctl
from tests.support.waiting import wait_for

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CLOSING = 30.0  # seconds that workers may take to close what they have
KILLED = 30.0  # seconds until what was killed must be gone
FOLDER = "TMPDIR"


class Failure(NamedTuple):
    """A call that returned nothing."""

    why: str


def run_all(work: Callable[..., Any], calls: Iterable[tuple[Any, ...]], at_once: int) -> list[Any]:
    """Return what each call returns, or a Failure, in the order of their ends; SystemExit when a signal comes.

    `work` and what it returns are pickled.
    """
    came: list[int] = []

    def end(number: int, _frame: object) -> None:
        if not came:
            came.append(number)
            raise SystemExit(128 + number)

    before, workers = os.environ.get(FOLDER), list[BaseProcess]()
    resource_tracker.ensure_running()  # before the folder is in the environment, because it outlives this call
    folder = tempfile.mkdtemp(prefix="mqw-matrix-")
    handlers = dict(zip(SIGNALS, map(signal.getsignal, SIGNALS), strict=True))
    try:
        for number in SIGNALS:
            signal.signal(number, end)
        try:
            os.environ[FOLDER] = folder
            return _run(work, list(calls), at_once, workers)
        finally:
            _end(workers, folder)
    finally:
        _end(workers, folder)  # the signal, which raises once, may have come while the first one was at it
        if before is None:
            os.environ.pop(FOLDER, None)
        else:
            os.environ[FOLDER] = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run(work: Callable[..., Any], calls: list[tuple[Any, ...]], at_once: int, workers: list[BaseProcess]) -> list[Any]:
    context, running, answers = get_context("spawn"), dict[Any, BaseProcess](), []
    while calls or running:
        while calls and len(running) < at_once:
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(sender, os.getpid(), work, calls.pop(0)))
            workers.append(worker)
            worker.start()
            sender.close()
            running[receiver] = worker
        for receiver in connection.wait(list(running)):
            worker = running.pop(receiver)
            try:
                answers.append(receiver.recv())
            except EOFError:
                worker.join()
                answers.append(Failure(f"its process ended with {worker.exitcode}"))
            receiver.close()
    return answers


def _work(sender: connection.Connection, parent: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends it to all, and the parent terminates this one then
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    try:
        answer = work(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        answer = Failure(f"{error!r:.500}")
    sender.send(answer)


def _end(workers: list[BaseProcess], folder: str) -> None:
    started = [worker for worker in workers if worker.pid is not None]
    for worker in started:
        worker.terminate()
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not any(worker.is_alive() for worker in started), CLOSING, "the workers to end")
    wait_for(lambda: not _kill(folder), KILLED, "what they have started to be gone")
    for worker in started:
        worker.join()
    shutil.rmtree(folder, ignore_errors=True)


def _kill(folder: str) -> bool:
    """Kill every process with the folder in its environment; return whether there was one."""
    found, mark = False, os.fsencode(folder)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found
