"""Time and memory limits of a whole service on the embedded broker: what ends, what is reported, who is unaffected."""

import json
from typing import Any

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config, put, steady
from tests.support.memory import virtual_memory
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

HANDLER = """\
import ctypes, itertools, os, resource, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
kept = []


def handle(body, message):
    how = body.get("how")
    if how == "segfault":
        print("about to read address 0")
        ctypes.string_at(0)
    if how == "native":
        print("about to count")
        all(itertools.repeat(1))  # holds the interpreter and looks at no signal
    if how == "memory":
        bytearray(1 << 31)
    if how == "keep":
        kept.append(os.urandom(8 << 20))
    time.sleep(body.get("seconds", 0.003))
    return {"n": body["n"], "pid": os.getpid(), "crashes": message.headers.get("x-mqworker-crashes", 0),
            "attempt": message.attempt}
"""


def died(client: Client, count: int = 1) -> list[dict]:
    """Wait for this many dead letters, and return their headers."""
    wait_for(lambda: client.ready(DEAD) >= count, 30, f"{count} dead letters")
    return [dict(letter.properties.headers) for letter in client.results(DEAD)]


def both(pids: list[int]) -> list[int]:
    """Return the two, once there are two: one that has just started has no name yet."""
    return pids if len(pids) == 2 else []


def shown(service: ServiceProcess) -> str:
    """Return what `mqworker dlq show` prints for the only dead letter."""
    listed = service.cli("dlq", "list", "--json")
    (letter,) = json.loads(listed.stdout)["work"]
    return service.cli("dlq", "show", letter["id"]).stdout


def test_a_segfault_is_shown_with_its_python_stack(service):
    """A dead letter shows the signal, how long it ran, what was printed, and where the Python code was."""
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


SOFT = ("time_limit = { soft = 0.8 }", "retry = { max_attempts = 2, base = 1 }", "crash = { max = 1 }")


def test_limits_of_time_end_a_message_and_change_while_running(service):
    """Soft: an exception, retried, then dead. Lifted while running. Hard: killed in native code too, with its stack."""
    running = service(config(*SOFT), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, seconds=30)
        good = client.send(20)
        (headers,) = died(client)
        assert headers["x-mqworker-reason"] == "timeout"
        assert headers["x-mqworker-error-type"].endswith("SoftTimeLimit")
        assert headers["x-mqworker-attempt"] == 2
        assert "in handle" in headers["x-mqworker-traceback"]
        assert "x-mqworker-crashes" not in headers
        put(running, "time-limit", {"soft": 0, "hard": 0})
        client.send(1, seconds=1.2)
        wait_for(lambda: client.ready(OUTPUT) == len(good) + 1, 20, "a result that took longer than the old limit")
        put(running, "time-limit", {"soft": 0.8, "hard": 2})
        client.send(1, how="native")
        good = client.send(50)
        headers = died(client, 2)[1]
        assert headers["x-mqworker-reason"] == "timeout"
        assert "hard time limit of 2 s" in headers["x-mqworker-message"]
        assert headers["x-mqworker-crashes"] == 1
        assert "in handle" in headers["x-mqworker-traceback"]
        assert "killed by SIGKILL" in headers["x-mqworker-exit"]
        assert "about to count" in headers["x-mqworker-exit"]
        wait_for(lambda: client.ready(OUTPUT) == 71, 20, "all the others")
        assert {result.body["crashes"] for result in client.results()} == {0}
        assert {result.body["attempt"] for result in client.results()} == {1}


@pytest.mark.parametrize(
    ("limit", "how", "count"), [("max_messages = 20", "count", 200), ("max_rss = 120_000_000", "keep", 60)]
)
def test_recycling_costs_nobody_anything(service, limit, how, count):
    """Consumers replaced by number or memory: all computed once, none charged, and one is ready at any time."""
    running = service(config(limit), {"jobs.py": HANDLER}).start()
    ready = set()
    with Client(running) as client:
        client.send(count, how=how, seconds=0.02)

        def over() -> bool:
            states = [consumer["state"] for consumer in running.stage("work")["actual"]["consumers"]]
            ready.add(sum(state in ("idle", "busy") for state in states))
            return client.ready(OUTPUT) >= count

        wait_for(over, 60, "all results")
        assert min(ready) >= 1, ready
        results = client.finish()
        assert {(result.body["crashes"], result.body["attempt"]) for result in results} == {(0, 1)}
        assert len({result.body["pid"] for result in results}) > 2  # the first two go on until the next are ready
        steady(running)

        def ended() -> list[dict[str, Any]]:
            return [event for event in running.events() if event["event"] == "consumer_ended"]

        ends = wait_for(lambda: len(ended()) >= 2 and ended(), 20, "two to be replaced")
        assert all(limit.split()[0] in end["msg"] and end["level"] == "info" for end in ends), ends
        assert running.stage("work")["restarts"] == 0


def test_memory_that_cannot_be_had_ends_the_message_and_replaces_its_consumer(service):
    """MemoryError under memory_limit: dead with reason memory, a new Consumer, the others are not charged."""
    lines = ("memory_limit = 1_000_000_000", "retry = { max_attempts = 1 }")
    running = service(config(*lines), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        before = set(wait_for(lambda: both(running.named("mqw-consumer")), 20, "both Consumers"))
        client.send(30)
        client.send(1, how="memory")
        client.send(30)
        (headers,) = died(client)
        assert (headers["x-mqworker-reason"], headers["x-mqworker-error-type"]) == ("memory", "MemoryError")
        assert "in handle" in headers["x-mqworker-traceback"]
        wait_for(lambda: client.ready(OUTPUT) == 60, 20, "all the others")
        assert {(result.body["crashes"], result.body["attempt"]) for result in client.results()} == {(0, 1)}
        steady(running)
        wait_for(lambda: len(set(running.named("mqw-consumer")) & before) == 1, 30, "one to be replaced")
        client.send(10)
        wait_for(lambda: client.ready(OUTPUT) == 70, 20, "the new one at work")


def test_a_body_for_which_no_consumer_has_memory_ends_dead_and_harms_nobody(service):
    """Below `memory_limit` too: each attempt is charged to it alone, and its dead letter says what was missing."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(10)
        client.finish()
        needed = max(map(virtual_memory, running.named("mqw-consumer")))
        assert running.stop() == 0
        lines = (f"memory_limit = {needed + (32 << 20)}", "max_body = 134_217_728", "retry = { max_attempts = 2 }")
        running.write("mqworker.toml", config(*lines))
        running.start()
        client.send_raw([b'{"pad": "' + b"x" * (64 << 20) + b'"}'])
        client.send(100)
        (headers,) = died(client)
        assert (headers["x-mqworker-reason"], headers["x-mqworker-error-type"]) == ("memory", "MemoryError")
        assert headers["x-mqworker-message"] == "no memory for its body of 67,108,875 bytes"
        assert (headers["x-mqworker-attempt"], headers.get("x-mqworker-crashes", 0)) == (2, 0)
        wait_for(lambda: client.ready(OUTPUT) == 110, 20, "all the others")
        assert {(result.body["crashes"], result.body["attempt"]) for result in client.results()} == {(0, 1)}
        assert running.stage("work")["restarts"] == 0
