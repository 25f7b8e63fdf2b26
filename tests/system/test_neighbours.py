"""Messages that share a chunk: what was finished before a bad one is neither held back by it nor computed again."""

import os
from collections import Counter

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import Patience, wait_for

pytestmark = pytest.mark.system

JOBS = """
import ctypes, os, time
from pathlib import Path

STARTS = Path(__file__).with_name("starts")


def handle(body):
    with STARTS.open("a") as file:
        file.write(f"{body['n']}\\n")
    time.sleep(body.get("seconds", 0) if "does" not in body else 0)
    if body.get("does") == "exit":
        os._exit(3)
    if body.get("does") == "native":
        told = os.open(Path(__file__).with_name("told"), os.O_RDWR)
        ctypes.PyDLL(None).read(told, ctypes.create_string_buffer(1), 1)  # holds the interpreter's lock until told
    return {"n": body["n"]}
"""


def counters(service: ServiceProcess) -> dict[str, int]:
    """Return the stage's counters, which it reports once a second."""
    return service.stage("work")["actual"]["counters"]


def together(service: ServiceProcess, client: Client, does: str, **body: float) -> int:
    """Have one Consumer receive 20 short messages, a special one, and 20 more at once; return its number."""
    client.send(50)
    client.finish()  # so that messages are known to be short, and share a chunk
    stage = "/api/v1/stages/work"
    assert service.ask("PUT", f"{stage}/listening?wait=30", {"enabled": False})[0] == 200
    client.send(20)
    (bad,) = client.send(1, does=does, **body)
    client.send(20)
    assert service.ask("PUT", f"{stage}/listening", {"enabled": True})[0] < 300
    return bad


def test_a_result_does_not_wait_for_the_message_after_it(service):
    """Results before a long message in native code are published while it runs, those behind it when it is over."""
    running = service(config("prefetch = 100", consumers=1), {"jobs.py": JOBS}).start()
    os.mkfifo(running.folder / "told")
    with Client(running) as client:
        together(running, client, "native")
        wait_for(lambda: client.ready(OUTPUT) >= 70, 4, "the results before the long one")
        assert client.ready(OUTPUT) == 70
        with (running.folder / "told").open("r+b", buffering=0) as fifo:
            fifo.write(b"x")
        client.finish(20)
    assert running.stop() == 0


def test_what_was_finished_before_a_crash_is_not_done_again(service):
    """Only the message that ends its Consumer is charged: its neighbours on both sides are computed once."""
    running = service(config("prefetch = 100", "crash = { max = 1 }", consumers=1), {"jobs.py": JOBS}).start()
    with Client(running) as client:
        bad = together(running, client, "exit")
        wait_for(lambda: (client.ready(OUTPUT), client.ready(DEAD)) == (90, 1), 30, "90 results and a dead letter")
        assert [dead.body["n"] for dead in client.results(DEAD)] == [bad]
    starts = Counter(map(int, (running.folder / "starts").read_text().split()))
    assert {n: times for n, times in starts.items() if times > 1} == {}
    assert len(starts) == 91
    assert running.stop() == 0


def test_what_is_taken_back_from_a_busy_consumer_is_computed_once(service):
    """Chunks are revoked repeatedly while other Consumers idle: every message is started once and has one result."""
    running = service(config("prefetch = 100", consumers=3), {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(60)
        client.finish()
        patience = Patience(60)
        while counters(running)["redispatched"] < 20:  # how often a look meets a chunk worth taking is the scheduler's
            assert not patience.over(), "hardly any chunk was taken back"
            for milliseconds in range(50, 80, 3):
                client.send(20, seconds=0.001)
                client.send(1, seconds=milliseconds / 1000)
                client.send(20, seconds=0.001)
                client.finish()
        assert len((running.folder / "starts").read_text().split()) == client.sent
    assert running.stop() == 0
