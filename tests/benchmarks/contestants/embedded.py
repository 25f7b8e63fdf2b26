"""mqworker on its embedded broker, which syncs every transaction to the disk; every result is checked."""

import json
import time
from pathlib import Path

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication
from tests.benchmarks.contestants.mqworker import CONFIG, FIRST, STAGE, STALLED, cpu_seconds, listen, running
from tests.support.embedded import INPUT, OUTPUT, Client

CONFIGURATION = CONFIG.replace('[broker]\nurl = "{url}"\n', "") + STAGE.format(
    name=FIRST, source=INPUT, target=OUTPUT, job="same", consumers=2, more=""
)


def run(code: Path, bodies: list[bytes]) -> tuple[float, float]:
    """Return messages a second and microseconds of CPU a message, from a backlog, after a tenth that warms up."""
    with running(CONFIGURATION, code) as service, Client(service) as client:
        _pass(service, client, bodies[: max(1, len(bodies) // 10)], 0)
        warm = client.sent
        cpu = cpu_seconds(service)
        seconds = _pass(service, client, bodies, warm)
        cpu = cpu_seconds(service) - cpu
        results = [result.body for result in client.results()[warm:]]
    assert sorted(results, key=lambda body: body["id"]) == list(map(json.loads, bodies))
    return len(bodies) / seconds, cpu / len(bodies) * 1e6


def _pass(service, client: Client, bodies: list[bytes], before: int) -> float:
    """Return the seconds from the start of listening to the last result."""
    blocks = (Properties(content_type="application/json", delivery_mode=2, message_id=f"{at}") for at in range(1 << 40))
    messages = (Publication("", INPUT, next(blocks).encode(), body) for body in bodies)
    client.store_all(messages)
    client.sent += len(bodies)
    began = progress = time.monotonic()
    listen(service, enabled=True)
    done = 0
    while done < len(bodies):
        time.sleep(0.05)
        if (ready := client.ready(OUTPUT) - before) > done:
            done, progress = ready, time.monotonic()
        assert time.monotonic() - progress < STALLED, f"{done} of {len(bodies)} results, and no more"
    seconds = time.monotonic() - began
    listen(service, enabled=False)
    return seconds
