"""The service under a real supervisord, by the root's own supervisord.conf, in a folder that looks like a clone.

The file is copied as it is, so that `%(here)s` is the test's folder; MQWORKER_CONFIG names the test's configuration,
as a user would do it. `ask`, `stage`, `pids` and the rest come from ServiceProcess; `log` is the program's log.
"""

import contextlib
import subprocess
import sys
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from tests.support.service import ServiceProcess, gone
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
PROGRAM = "mqworker"


class Supervised(ServiceProcess):
    """See the module head."""

    def __init__(self, config: str, files: dict[str, str] | None = None, **env: str) -> None:
        super().__init__(config, files, **env)
        self.env["MQWORKER_CONFIG"] = str(self.folder / "mqworker.toml")
        self.state = self.folder / ".mqworker"
        self.state.mkdir(mode=0o700)  # as scripts/setup does
        (self.folder / ".venv").symlink_to(sys.prefix)
        (self.folder / "examples/energy_storage").mkdir(parents=True)
        self.conf = self.folder / "supervisord.conf"
        self.conf.write_bytes((ROOT / "supervisord.conf").read_bytes())
        self.log = self.state / "mqworker.log"
        socket = f"unix://{self.state}/supervisor.sock"
        self._rpc = ServerProxy("http://localhost", SupervisorTransport(serverurl=socket))

    def supervise(self, ready: float | None = 30) -> None:
        """Start supervisord, which starts the service; it goes to the background."""
        command = [ROOT / ".venv/bin/supervisord", "-c", self.conf]
        done = subprocess.run(command, cwd="/", env=self.env, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if ready is not None:
            self.wait_ready(ready)

    def supervisor(self) -> int:
        """The pid of supervisord."""
        return int((self.state / "supervisord.pid").read_text())

    def ctl(self, *arguments: str, timeout: float = 120) -> str:
        """Return the output of supervisorctl."""
        command = [ROOT / ".venv/bin/supervisorctl", "-c", self.conf, *arguments]
        done = subprocess.run(
            command, cwd="/", env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not done.stderr, done.stderr
        return done.stdout

    def info(self) -> dict[str, Any]:
        """Return what supervisord knows about the program; {} while it does not answer."""
        with contextlib.suppress(OSError, HTTPException, Fault):
            return self._rpc.supervisor.getProcessInfo(PROGRAM)
        self._rpc("close")()
        return {}

    def running(self, but: int = 0, deadline: float = 30) -> int:
        """Wait until the program is RUNNING with a pid other than `but`; return its pid."""

        def look() -> int:
            info = self.info()
            return info["pid"] if info and info["statename"] == "RUNNING" and info["pid"] != but else 0

        return wait_for(look, deadline, "the program to be RUNNING")

    def tick(self) -> None:
        """Have the watchdog look now too, not only every five seconds, where its section lists REMOTE_COMMUNICATION."""
        self._rpc.supervisor.sendRemoteCommEvent("tick", "")

    def shut(self) -> None:
        """Shut supervisord down, as `supervisorctl shutdown` does; nothing may be left."""
        assert "Shut down" in self.ctl("shutdown")
        gone(self, 60)
        wait_for(lambda: not self.leaked_semaphores(), 20, "no semaphore to be left")

    def close(self) -> None:
        """End everything, whatever its state."""
        super().close()
        self._rpc("close")()
