"""A whole mqworker service as a user runs it: a subprocess in its own folder, called over HTTP, watched through /proc.

Every process below it carries a mark in its environment, so that orphans are found wherever they went, and are killed.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import wait_for

MARK = "MQWORKER_TEST_MARK"
INSIDE = Path(__file__).parent / "inside"
SEMAPHORES = Path("/dev/shm")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ServiceProcess:
    """See the module head. `files` are written beside mqworker.toml."""

    def __init__(self, config: str, files: dict[str, str] | None = None, **env: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mqw-"))
        self.mark = uuid.uuid4().hex
        self.env = os.environ | {MARK: self.mark, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(INSIDE)} | env
        self.env.pop("SUPERVISOR_ENABLED", None)
        self.write("mqworker.toml", config)
        for name, text in (files or {}).items():
            self.write(name, text)
        self.log = self.folder / "log"
        self.command = [sys.executable, "-m", "mqworker"]
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        """Write a file of the project, at once: whoever reads it meanwhile gets the old text or the new one."""
        new = self.folder / f".{name}.new" if "/" not in name else self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / name)

    # --- life

    def start(self, *arguments: str, ready: float | None = 30) -> "ServiceProcess":
        """Start `mqworker run`; wait until it is ready unless `ready` is None."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "run", *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready is not None:
            self.wait_ready(ready)
        return self

    def wait_ready(self, deadline: float = 30) -> None:
        """Wait until /readyz reports ready."""

        def ready() -> bool:
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.ask("GET", "/readyz")[0] == 200
            return False

        try:
            wait_for(ready, deadline, "the service to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None

    def signal(self, number: int) -> None:
        """Send a signal only to the Service."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self, deadline: float = 120) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(deadline)

    def wait(self, deadline: float = 120) -> int:
        """Return the exit code, once it ends by itself."""
        assert self.process is not None
        return self.process.wait(deadline)

    def close(self) -> None:
        """End everything, whatever its state."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)
        for path in SEMAPHORES.glob(f"sem.mp-{self.mark}-*"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self.log.exists():
            print(self.log.read_text()[-20_000:])  # pytest shows it when the test has failed
        self.close()

    # --- control

    def ask(
        self, method: str, path: str, body: Any = None, timeout: float = 60, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request over the unix socket; return (status, decoded JSON or text)."""
        connection = UnixConnection(str(self.folder / ".mqworker/control.sock"), timeout)
        try:
            data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.headers.get_content_type()
            return answer.status, json.loads(text) if kind.endswith("json") and text else text.decode()
        finally:
            connection.close()

    def stage(self, name: str) -> dict[str, Any]:
        """GET /stages/{name}."""
        status, told = self.ask("GET", f"/api/v1/stages/{name}")
        assert status == 200, told
        return told

    def cli(
        self,
        *arguments: str,
        timeout: float = 120,
        input: bytes | None = None,  # noqa: A002 - as subprocess calls it
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line in the project's folder."""
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            timeout=timeout,
            text=True,
            check=False,
            input=None if input is None else input.decode(),
        )

    # --- what is left to see

    def pids(self) -> dict[int, str]:
        """Return the pid and name of every process with our mark."""
        found = {}
        mark = f"{MARK}={self.mark}".encode()
        for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - in a hurry: tests ask all the time
            if int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in read(f"/proc/{name}/environ"):
                        found[int(name)] = read(f"/proc/{name}/comm").decode().strip()
        return found

    def leaked_semaphores(self) -> set[str]:
        """Named semaphores of its processes, living or dead, that no process has open any more."""
        found = {}
        for path in SEMAPHORES.glob(f"sem.mp-{self.mark}-*"):
            with contextlib.suppress(FileNotFoundError):
                found[path.stat().st_ino] = path.name
        for pid in self.pids() if found else ():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    if f"{SEMAPHORES}/" in line:
                        found.pop(int(line.split()[4]), None)
        return set(found.values())

    def named(self, comm: str) -> list[int]:
        """Return the pids of one kind: mqw-producer, mqw-consumer, mqw-admin ..."""
        return [pid for pid, name in self.pids().items() if name == comm]

    def events(self) -> list[dict[str, Any]]:
        """Return all log lines so far, checking that each is whole; the last one may be about to be written."""
        *lines, _ = self.log.read_text().split("\n")
        return [json.loads(line) for line in lines if line.startswith("{")]

    def event(self, word: str, deadline: float = 20) -> dict[str, Any]:
        """Wait for the first event of a kind."""
        return wait_for(
            lambda: next((event for event in self.events() if event["event"] == word), None), deadline, f"event {word}"
        )

    def descriptors(self, pid: int) -> int:
        """Return how many descriptors a process has open."""
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def read(path: str) -> bytes:
    """The beginning of a file of /proc, with all that a test looks for."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 17)
    finally:
        os.close(descriptor)


def gone(service: ServiceProcess, deadline: float = 10) -> None:
    """Wait until no process with the service's mark is left."""
    wait_for(lambda: not service.pids(), deadline, f"no process to be left, there is {service.pids()}")


def monotonic() -> float:
    """The tests' clock."""
    return time.monotonic()
