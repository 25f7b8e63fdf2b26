"""An mqworker under measurement: a whole service, run from a given copy of the code.

It has one stage, or several in a row with the same job, each with 2 Consumers. The service is a child of the benchmark,
started anew for each measurement, so that no accident of one process's life (its memory layout, its hash seed) counts
more than once. A first tenth of the messages warms it up.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mqworker.consumer.resources import BY_OPENMP, OPENMP, OTHERS
from tests.benchmarks.queues import INPUT, OUTPUT, Queues
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

HANDLERS = Path(__file__).parent.with_name("handlers.py")
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
"""
STAGE = """
[stages.{name}]
input = "{source}"
jobs = ["bench_jobs:{job}"]
output = {{ queue = "{target}" }}
consumers = {consumers}
{more}
"""
FIRST = "bench"


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
    stages: int = 1,
    streams: int = 0,
) -> Measured:
    """Run the bodies through a stage with this job and `more` lines of configuration, whose code is `code`/mqworker.

    Or through several `stages` in a row. `keys` has the correlation id of each body, if they have any. Meanwhile so
    many `streams` of the Feed are read, as the operator's page reads them.
    """
    config = configuration(queues.url, job, more, consumers=consumers, stages=stages)
    with running(config, code) as service, _watched(service, streams):
        _relay(queues, service, bodies[: max(1, len(bodies) // 10)], keys, stages)
        seconds, cpu = _relay(queues, service, bodies, keys, stages)
    return Measured(seconds, cpu, queues.results(len(bodies)))


def configuration(url: str, job: str, more: str = "", *, consumers: int = 2, stages: int = 1) -> str:
    """Return a configuration with so many stages in a row."""
    places = [INPUT, *(f"bench.{number}" for number in range(1, stages)), OUTPUT]
    config = CONFIG.format(url=url)
    for number, (source, target) in enumerate(pairwise(places), 1):
        name = FIRST if number == 1 else f"{FIRST}{number}"
        config += STAGE.format(name=name, source=source, target=target, job=job, consumers=consumers, more=more)
    return config


@contextlib.contextmanager
def project(config: str, code: Path, jobs: str = "") -> Iterator[ServiceProcess]:
    """Prepare a service of this code with the handlers that are measured, and further `jobs`; it does not run yet."""
    handlers = RIGHT_CODE + HANDLERS.read_text() + jobs
    with ServiceProcess(config, {"bench_jobs.py": handlers}, BENCH_CODE=str(code)) as service:
        service.env["PYTHONPATH"] = str(code)  # comes before what is installed
        for name in (OPENMP, *BY_OPENMP, *OTHERS):
            service.env.pop(name, None)  # mqworker leaves alone what is set, so it would decide all measurements
        yield service


@contextlib.contextmanager
def running(config: str, code: Path) -> Iterator[ServiceProcess]:
    """Run a service of this code, whose first stage is paused."""
    with project(config, code) as service:
        service.start()
        listen(service, enabled=False)
        yield service


@contextlib.contextmanager
def _watched(service: ServiceProcess, streams: int) -> Iterator[None]:
    """Have streams of the Feed read; AssertionError if one ends before it is told to."""
    feed = f"http://localhost/api/v1/feed?topics=overview,stage:{FIRST},logs"
    reading = ["curl", "--silent", "--no-buffer", "--unix-socket", str(service.folder / ".mqworker/control.sock"), feed]
    with contextlib.ExitStack() as ending:
        readers = [subprocess.Popen(reading, stdout=subprocess.DEVNULL) for _ in range(streams)]
        for reader in readers:
            ending.callback(reader.wait)
            ending.callback(reader.terminate)
        yield
        assert all(reader.poll() is None for reader in readers), "a stream was refused, or has ended"


def _relay(
    queues: Queues, service: ServiceProcess, bodies: list[bytes], keys: Sequence[str], stages: int
) -> tuple[float, float]:
    """Return (seconds, CPU seconds of the tree) from the start of listening to the last result."""
    queues.fill(bodies, keys)
    settled, cpu = _settled(service), cpu_seconds(service)
    began = progress = time.monotonic()
    listen(service, enabled=True)
    done = 0
    while done < len(bodies):  # each look costs the broker, so there are few
        left = (len(bodies) - done) * (time.monotonic() - began) / max(done, 1)
        time.sleep(min(max(left / 2, 0.01), 0.2))
        if (ready := queues.ready(OUTPUT)) > done:
            done, progress = ready, time.monotonic()
        assert time.monotonic() - progress < STALLED, f"{done} of {len(bodies)} results, and no more"
    seconds = time.monotonic() - began
    cpu = cpu_seconds(service) - cpu
    # What is not acked would come again, once the service is killed.
    wait_for(lambda: _settled(service) == settled + stages * len(bodies), STALLED, "the acks")
    listen(service, enabled=False)
    return seconds, cpu


def _settled(service: ServiceProcess) -> int:
    """Return how many messages all stages have settled."""
    status, told = service.ask("GET", "/api/v1/stages")
    assert status == 200, told
    return sum(int(stage["actual"]["counters"]["settled"]) for stage in told["stages"])


def listen(service: ServiceProcess, *, enabled: bool) -> None:
    """Resume the first stage at once, or pause it and wait until it is so."""
    wait = "" if enabled else "?wait=20"
    status, told = service.ask("PUT", f"/api/v1/stages/{FIRST}/listening{wait}", {"enabled": enabled})
    assert status < 300, told


def cpu_seconds(service: ServiceProcess) -> float:
    """Return the CPU seconds that the living processes of the tree have used so far."""
    total = 0.0
    for pid in service.pids():
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of another process: nanoseconds
    return total
