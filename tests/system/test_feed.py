"""The Feed and the history of a running service: while Producers die, and while many listen."""

import contextlib
import os
import signal
import socket
import time

import pytest

from tests.support.embedded import Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import AMPLE, wait_for

pytestmark = pytest.mark.system

JOBS = "import time\n\ndef handle(body):\n    time.sleep(body.get('sleep', 0.0))\n    return body\n"
STREAMS = 12  # over TCP


def listen(url: str) -> socket.socket:
    """Begin a stream of the Feed, as a plain client does."""
    host, _, port = url.removeprefix("http://").partition(":")
    caller = socket.create_connection((host, int(port)), AMPLE)
    caller.sendall(f"GET /api/v1/feed?topics=overview,stage:work,logs HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert caller.recv(12) == b"HTTP/1.1 200"
    return caller


def past(running: ServiceProcess) -> list[float | None]:
    """Return how many messages had a result in each second."""
    code, told = running.ask("GET", "/api/v1/stages/work/history?series=result")
    assert code == 200, told
    return told["series"]["result"]


def test_it_goes_on_over_the_death_of_a_producer_and_keeps_nobody_from_steering(service):
    """The history goes on; with all streams taken, the command line steers at once, and says why nothing happens."""
    running = service(config(), {"jobs.py": JOBS}).start()
    with Client(running) as client, contextlib.ExitStack() as streams:
        client.send(300)
        wait_for(lambda: sum(filter(None, past(running))) >= 299, AMPLE, "the history of 300 messages")
        (killed,) = running.named("mqw-producer")
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: (running.stage("work")["actual"] or {"pid": killed})["pid"] != killed, AMPLE, "another one")
        client.send(200)
        wait_for(lambda: sum(filter(None, past(running))) >= 499, AMPLE, "the history of 200 more")

        url = running.event("started")["url"]
        followers = [streams.enter_context(listen(url)) for _ in range(STREAMS)]
        began = time.monotonic()
        assert running.cli("pause", "--stage", "work").returncode == 0
        for shown in (running.cli("status"), running.cli("status", "--url", url)):
            assert "work: Paused " in shown.stdout, shown
        assert running.cli("resume", "--stage", "work", "--url", url).returncode == 0
        print(f"paused, resumed and looked at beside {STREAMS} streams in {time.monotonic() - began:.2f} s")
        assert running.cli("scale", "0", "--stage", "work").returncode == 0
        assert running.stage("work")["why"]["code"] == "no_consumers"
        for follower in followers:
            follower.settimeout(AMPLE)
            told = b""
            while b'"no_consumers"' not in told:
                told += follower.recv(1 << 16)
        ids = [row.split(".") for row in told.decode().splitlines() if row.startswith("id: ")]
        ticks = [int(second) for _boot, second, _line in ids]
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert running.stop() == 0
