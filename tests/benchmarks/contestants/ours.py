"""mqworker as a contestant: a stage from a backlog, its latency, its memory. Every result is checked."""

import json
import time
from pathlib import Path

from tests.benchmarks.behind import waited
from tests.benchmarks.contestants.mqworker import Measured, configuration, listen, measure, running
from tests.benchmarks.handlers import SIDE, burn
from tests.benchmarks.proportional import proportional
from tests.benchmarks.queues import INPUT, Queues
from tests.support.waiting import wait_for


def run(
    queues: Queues,
    code: Path,
    job: str,
    bodies: list[bytes],
    more: str = "",
    *,
    consumers: int = 2,
    stages: int = 1,
    streams: int = 0,
) -> tuple[float, float]:
    """Return messages a second and microseconds of CPU a message, of several stages in a row by message and stage."""
    measured = measure(queues, job, code, bodies, more, consumers=consumers, stages=stages, streams=streams)
    if not bodies[0].startswith(b"{"):
        assert measured.results == bodies
    else:
        assert list(map(json.loads, measured.results)) == _right(job, list(map(json.loads, bodies)))
    return _figures(measured, stages * len(bodies))


def _figures(measured: Measured, passed: int) -> tuple[float, float]:
    return passed / measured.seconds, measured.cpu_seconds / passed * 1e6


def _right(job: str, bodies: list[dict]) -> list[dict]:
    """Return the results that the job has to have."""
    if job == "multiply":
        return [{"id": body["id"], "total": SIDE**3} for body in bodies]
    if job == "burn":
        total = burn(bodies[0])["total"]
        return [{"id": body["id"], "total": total} for body in bodies]
    return bodies


def mixed(queues: Queues, code: Path, bodies: list[bytes], consumers: int) -> tuple[float, float]:
    """Return messages a second, and how many short ones waited behind a long one while a Consumer was idle."""
    measured = measure(queues, "mixed", code, bodies, consumers=consumers)
    results = list(map(json.loads, measured.results))
    assert [one["id"] for one in results] == list(range(len(bodies)))
    return len(bodies) / measured.seconds, waited(results)


def latency(queues: Queues, code: Path, count: int) -> list[float]:
    """Return how long each of so many messages takes, one at a time, through a service with nothing else to do."""
    with running(configuration(queues.url, "same"), code) as service:
        listen(service, enabled=True)
        return queues.trips(count)


def memory(queues: Queues, code: Path, consumers: int) -> int:
    """Return the bytes of a service whose Consumers have each had a message, and are idle."""
    with running(configuration(queues.url, "wait", consumers=consumers), code) as service:
        queues.fill([json.dumps({"id": number, "seconds": 0.05}).encode() for number in range(4 * consumers)])
        listen(service, enabled=True)
        queues.results(4 * consumers)
        return sum(map(proportional, service.pids()))


def memory_with(queues: Queues, code: Path, waiting: int, seconds: float) -> int:
    """Return the bytes of a service that has worked for some time with so many messages waiting."""
    with running(configuration(queues.url, "wait"), code) as service:
        queues.fill([b'{"id":%d,"seconds":0.005}' % number for number in range(waiting)])
        listen(service, enabled=True)
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > seconds, 2 * seconds, "the time to pass")
        assert queues.ready(INPUT) > 0, "nothing waits any more"
        return sum(map(proportional, service.pids()))
