"""Routes for faults: the failures of a stage by reason, error type and place in the code.

Runs in the server's threads; reads what the main thread has merged from the Producers' reports.
"""

import time
from typing import Any

import msgspec

from mqworker.control.faults import Fault
from mqworker.http.routing import API, Api, Route
from mqworker.ipc import logs


def described(fault: Fault, now: float) -> dict[str, Any]:
    """Return a fault as plain data; `now`: wall clock."""
    document = msgspec.structs.asdict(fault)
    del document["minutes"]
    times = {"first": logs.timestamp(fault.first), "last": logs.timestamp(fault.last)}
    return document | times | {"trend": fault.trend(now)}


def faults(api: Api, stage: str) -> Any:
    """Return the faults of a stage."""
    found = api.control.faults.of(api.stage(stage).name)
    now, since = time.time(), api.snapshot().started
    return {
        "faults": [described(fault, now) for fault in found.faults],
        "other": found.other,
        "since": logs.timestamp(since),
    }


ROUTES = [
    Route(
        "GET", f"{API}/stages/<stage>/faults", faults, "Failures by reason, error type and place, the latest kind first"
    )
]
