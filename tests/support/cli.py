"""Runs the command line as a user would: another process, a clean environment, a deadline."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mqworker.address import Address, CallError
from mqworker.client import Client
from tests.support.waiting import wait_for

MQWORKER = (sys.executable, "-m", "mqworker")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without this machine's settings of mqworker and supervisord."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MQWORKER_", "SUPERVISOR_"))}
    return clean | {"PYTHONPATH": str(Path(__file__).parents[2])} | dict(extra or {})


def mqworker(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    deadline: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run one verb to its end."""
    return subprocess.run(
        [*MQWORKER, *arguments],
        cwd=cwd,
        env=environment(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )


@contextmanager
def service(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, until: str = "/readyz"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `mqworker run` in a project's folder until the block ends, ready when it starts; its log is in run.log."""
    settings = {"MQWORKER_CONTROL__PORT": "0", **dict(env or {})}
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(
            [*MQWORKER, "run", *arguments],
            cwd=folder,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(lambda: process.poll() is not None or answers(folder, until), 60, "the service is ready")
        yield process
    finally:
        end(process)


def answers(folder: Path, path: str) -> bool:
    """Return whether the service of a project's folder gives a good answer at this path."""
    try:
        with Client(Address(socket=str(folder / ".mqworker" / "control.sock")), 5) as client:
            client.request("GET", path)
    except CallError:
        return False
    return True


def end(process: subprocess.Popen[bytes], deadline: float = 90) -> int:
    """End a process as supervisord would: TERM, and KILL for its group when that has no effect."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(deadline)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
