"""A fast stage before a slow one, in two services: the queue between them is bounded by `max_backlog`."""

import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.support import embedded, foreign
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for
from tests.system.stage import config

MARK, MESSAGES = 500, 1500
FAST = "def handle(body):\n    return body\n"
SLOW = """\
import time
from pathlib import Path

def handle(body):
    if not Path(__file__).with_name("fast").exists():
        time.sleep(0.06)
    return body
"""
YIELDING = "def handle(body):\n    for part in range(10):\n        yield body | {'part': part}\n"

pytestmark = pytest.mark.system


class Watch:
    """Looks at the depth of the queue between the stages, and notes when the fast one goes on after a pause."""

    def __init__(self, ready: Callable[[], int]) -> None:
        self.most = 0
        self.least = MARK  # since the queue was full for the first time
        self.began: list[float] = []  # when the queue was full again, each time
        self._ready = ready
        self._low = True

    def look(self) -> int:
        """Look once; returns how often the queue was full again so far."""
        depth = self._ready()
        self.most = max(self.most, depth)
        if self.began:
            self.least = min(self.least, depth)
        if self._low and depth >= 0.95 * MARK:
            self.began.append(time.monotonic())
        self._low = depth < 0.85 * MARK or (self._low and depth < 0.95 * MARK)
        return len(self.began)


def check(
    first: ServiceProcess, after: ServiceProcess, ready: Callable[[str], int], mid: str, out: str, cycles: int
) -> None:
    """Both are at work: watch them, let the slow one be fast at the end, and see what they told."""
    watch = Watch(lambda: ready(mid))
    wait_for(lambda: watch.look() > cycles, 120, "the fast stage to stop and go")
    assert watch.most <= MARK
    assert watch.least > 0.7 * MARK  # the slow stage never waits for the fast one
    assert min(later - earlier for earlier, later in pairwise(watch.began)) > 5
    stage = first.stage("work")
    assert stage["problem"].startswith(f"held back: output queue {mid} holds ")
    assert stage["actual"]["output_backlog"] <= MARK
    assert "held back" in first.cli("status").stderr + first.cli("status").stdout
    assert first.ask("GET", "/readyz")[0] == 200
    after.write("fast", "")
    wait_for(lambda: ready(out) == MESSAGES, 120, "all results")
    words = [event["event"] for event in first.events()]
    assert words.count("held_back") - words.count("not_held_back") in (0, 1)
    assert words.count("held_back") <= 2  # it went on between, for less than five seconds each time
    first.event("not_held_back")


def whole(numbers: list[int]) -> None:
    """Check that each message arrived once."""
    assert Counter(numbers) == Counter(range(MESSAGES))


@pytest.mark.long
def test_a_fast_stage_waits_for_a_slow_one_on_the_embedded_broker(service):
    """The queue between never exceeds the mark, nothing is lost, and it stops and goes no faster than every 5 s."""
    output = f'output = {{ queue = "mid", max_backlog = {MARK} }}'
    first = service(embedded.config().replace('output = { queue = "out" }', output), {"jobs.py": FAST}).start()
    url = f"sqlite:////{str(first.folder / '.mqworker/broker.db').lstrip('/')}"
    after = service(config(url, "mid", 'output = "out"', consumers=1), {"jobs.py": SLOW}).start()
    with embedded.Client(first) as client:
        client.send(MESSAGES)
        check(first, after, client.ready, "mid", "out", 2)
        whole([result.body["n"] for result in client.results("out")])


@pytest.mark.long
@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", [pytest.param("classic", marks=pytest.mark.release), "quorum"])
def test_a_fast_stage_waits_for_a_slow_one_on_rabbitmq(rabbit, queue, service, kind):
    """The same on RabbitMQ."""
    mid, out = f"{queue}.out", f"{queue}.out.out"
    kinds = f'queue_type = "{kind}"'
    output = f'output = {{ queue = "{mid}", max_backlog = {MARK} }}'
    with foreign.Client(rabbit.url()) as client:
        first = service(config(rabbit.url(), queue, output, kinds), {"jobs.py": FAST}).start()
        after = service(config(rabbit.url(), mid, kinds, consumers=1), {"jobs.py": SLOW}).start()
        try:
            client.publish_all(queue, (json.dumps({"n": n}).encode() for n in range(MESSAGES)))
            check(first, after, client.ready, mid, out, 1)
            whole([json.loads(got.body)["n"] for got in client.rest(out)])
        finally:
            first.stop()
            after.stop()
            for name in (out, f"{mid}.dlq"):
                client.channel.queue_delete(name)


def test_a_held_back_stage_stops_in_order_and_goes_on(service):
    """What was delivered and not begun goes back at a stop; after a start it stays held back until there is room."""
    output = 'output = { queue = "out", max_backlog = 100 }'
    lines = embedded.config("queue_size = 4").replace('output = { queue = "out" }', output)
    running = service(lines, {"jobs.py": YIELDING}).start()
    with embedded.Client(running) as client:
        client.send(200)
        running.event("held_back")
        wait_for(lambda: running.stage("work")["actual"]["dispatched"] == 0, 20, "what was in hand to be done")
        assert running.stop() == 0
        held = client.ready("out")
        assert 100 <= held <= 100 + 10 * 2 * 4  # two lanes of four
        assert client.ready() + held // 10 == 200
        running.start()
        assert wait_for(lambda: running.stage("work")["problem"], 20, "the reason").startswith(
            "held back: output queue"
        )
        assert client.ready("out") == held
