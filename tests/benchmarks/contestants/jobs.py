"""The jobs of the contestants that are not mqworker: what tests/benchmarks/handlers.py has, without mqworker.

Each contestant's workers import a copy of this file; the benchmark computes the right answers by it.
"""

import time
from collections.abc import Callable
from typing import Any

Job = Callable[[dict[str, Any]], dict[str, Any]]


def same(body: dict[str, Any]) -> dict[str, Any]:
    """Nothing but what the contestant itself costs."""
    return body


def burn(body: dict[str, Any]) -> dict[str, Any]:
    """Pure CPU time, as much as the message asks for."""
    total = 0
    for number in range(body["loops"]):
        total += number * number % 7
    return {"id": body["id"], "total": total}


def mixed(body: dict[str, Any]) -> dict[str, Any]:
    """Takes as long as the message says, and no CPU time."""
    time.sleep(body["seconds"])
    return body


JOBS: dict[str, Job] = {"same": same, "burn": burn, "mixed": mixed}
