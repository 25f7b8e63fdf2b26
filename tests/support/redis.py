"""A Redis server of a test's own, on a unix socket in its folder, which keeps nothing."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import wait_for


def available() -> bool:
    """Return whether there is a server to start."""
    return shutil.which("redis-server") is not None


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run one in this folder, whose path must be short, and yield its URL."""
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / "redis.log").read_text()
            return socket.exists()

        wait_for(listens, 20, "redis-server to listen")
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(20)
