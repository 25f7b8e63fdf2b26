"""An mqworker under measurement: a whole service with one stage, run from a given copy of the code.

The service is a child of the benchmark, started anew for each measurement, so that no accident of one process's life
(its memory layout, its hash seed) counts more than once. A first tenth of the messages warms it up.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.queues import OUTPUT, Queues
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

HANDLERS = Path(__file__).with_name("handlers.py")
STALLED = 30.0  # seconds without a new result after which a measurement is given up
# Fails the stage's start unless its Consumers, and so the processes that they descend from, run the code that is meant.
RIGHT_CODE = """\
import os
import mqworker
assert os.path.dirname(os.path.dirname(mqworker.__file__)) == os.environ["BENCH_CODE"], mqworker.__file__
"""
CONFIG = """
[broker]
url = "{url}"
[control]
port = 0
[stages.bench]
input = "bench.in"
jobs = ["bench_jobs:{job}"]
output = {{ queue = "bench.out" }}
consumers = {consumers}
{more}
"""


class Measured(NamedTuple):
    """What one measurement came to."""

    seconds: float  # from the start of listening to the last result
    cpu_seconds: float  # of the whole process tree
    results: list[bytes]  # in the order of the inputs


def measure(
    queues: Queues,
    job: str,
    code: Path,
    bodies: list[bytes],
    more: str = "",
    *,
    consumers: int = 2,
    keys: Sequence[str] = (),
) -> Measured:
    """Run the bodies through a stage with this job and `more` lines of configuration, whose code is `code`/mqworker.

    `keys` has the correlation id of each, if they have any.
    """
    config = CONFIG.format(url=queues.url, job=job, consumers=consumers, more=more)
    with _running(config, code) as service:
        _relay(queues, service, bodies[: max(1, len(bodies) // 10)], keys)
        seconds, cpu = _relay(queues, service, bodies, keys)
    return Measured(seconds, cpu, queues.results(len(bodies)))


@contextlib.contextmanager
def _running(config: str, code: Path) -> Iterator[ServiceProcess]:
    handlers = RIGHT_CODE + HANDLERS.read_text()
    with ServiceProcess(config, {"bench_jobs.py": handlers}, BENCH_CODE=str(code)) as service:
        service.env["PYTHONPATH"] = str(code)  # comes before what is installed
        service.start()
        _listen(service, enabled=False)
        yield service


def _relay(queues: Queues, service: ServiceProcess, bodies: list[bytes], keys: Sequence[str]) -> tuple[float, float]:
    """Return (seconds, CPU seconds of the tree) from the start of listening to the last result."""
    queues.fill(bodies, keys)
    settled, cpu = _settled(service), _cpu(service)
    began = progress = time.monotonic()
    _listen(service, enabled=True)
    done = 0
    while done < len(bodies):  # each look costs the broker, so there are few
        left = (len(bodies) - done) * (time.monotonic() - began) / max(done, 1)
        time.sleep(min(max(left / 2, 0.01), 0.2))
        if (ready := queues.ready(OUTPUT)) > done:
            done, progress = ready, time.monotonic()
        assert time.monotonic() - progress < STALLED, f"{done} of {len(bodies)} results, and no more"
    seconds = time.monotonic() - began
    cpu = _cpu(service) - cpu
    # What is not acked would come again, once the service is killed.
    wait_for(lambda: _settled(service) == settled + len(bodies), STALLED, "the acks")
    _listen(service, enabled=False)
    return seconds, cpu


def _settled(service: ServiceProcess) -> int:
    return int(service.stage("bench")["actual"]["counters"]["settled"])


def _listen(service: ServiceProcess, *, enabled: bool) -> None:
    """Resume the stage at once, or pause it and wait until it is so."""
    wait = "" if enabled else "?wait=20"
    status, told = service.ask("PUT", f"/api/v1/stages/bench/listening{wait}", {"enabled": enabled})
    assert status < 300, told


def _cpu(service: ServiceProcess) -> float:
    """Return the CPU seconds that the living processes of the tree have used so far."""
    total = 0.0
    for pid in service.pids():
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of another process: nanoseconds
    return total
