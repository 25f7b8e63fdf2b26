"""The bare pika relay (`pika_relay`) as a contestant; its results have no ids and are only counted."""

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.queues import INPUT, OUTPUT, Queues

STALLED, SLOWEST = 60.0, 50  # seconds; messages a second, of 8 MB
PROGRAM = Path(__file__).with_name("pika_relay.py")


def run(queues: Queues, bodies: list[bytes], *options: str) -> tuple[float, float]:
    """Return messages a second and microseconds of CPU a message."""
    queues.fill(bodies)
    command = [sys.executable, str(PROGRAM), queues.url, INPUT, OUTPUT, str(len(bodies)), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=STALLED + len(bodies) / SLOWEST)
    told = json.loads(done.stdout)
    assert queues.ready(OUTPUT) == len(bodies)
    return len(bodies) / told["seconds"], told["cpu_seconds"] / len(bodies) * 1e6
