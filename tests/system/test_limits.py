"""Time and memory limits of a whole service on the embedded broker: who is ended, what is told, who does not pay."""

import json

import pytest

from tests.support.embedded import DEAD, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

HANDLER = """\
import ctypes, os, re, resource, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
kept = []


def handle(body, message):
    how = body.get("how")
    if how == "segfault":
        print("about to read address 0")
        ctypes.string_at(0)
    if how == "regex":
        print("about to match")
        re.match("(a+)+$", "a" * 64 + "b")
    if how == "memory":
        bytearray(1 << 31)
    if how == "keep":
        kept.append(os.urandom(8 << 20))
    time.sleep(body.get("seconds", 0.003))
    return {"n": body["n"], "pid": os.getpid(), "crashes": message.headers.get("x-mqworker-crashes", 0),
            "attempt": message.attempt}
"""


def died(client: Client, count: int = 1) -> list[dict]:
    """Wait for so many dead letters, and return their headers."""
    wait_for(lambda: client.ready(DEAD) >= count, 30, f"{count} dead letters")
    return [dict(letter.properties.headers) for letter in client.results(DEAD)]


def shown(service: ServiceProcess) -> str:
    """What `mqworker dlq show` prints of the only dead letter."""
    listed = service.cli("dlq", "list", "--json")
    (letter,) = json.loads(listed.stdout)["work"]
    return service.cli("dlq", "show", letter["id"]).stdout


def test_a_segfault_is_shown_with_its_python_stack(service):
    """A dead letter tells the signal, how long it ran, what was printed, and where the Python code was."""
    running = service(config("crash = { max = 1 }"), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, how="segfault")
        (headers,) = died(client)
        assert headers["x-mqworker-reason"] == "crash"
        assert "about to read address 0" in headers["x-mqworker-exit"]
        assert "Fatal Python error" not in headers["x-mqworker-exit"]
        stack = headers["x-mqworker-traceback"]
        assert stack.startswith("Fatal Python error: Segmentation fault")
        assert "jobs.py" in stack
        told = shown(running)
        for words in (
            "killed by SIGSEGV",
            "peak memory",
            "after 0.",
            "about to read address 0",
            "string_at",
            "in handle",
        ):
            assert words in told, words
