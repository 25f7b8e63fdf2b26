"""Routes for one Consumer: where it is in its code, and replacing it by a new one.

Runs in the server's threads. Each request is a question to the stage's Producer, through Control. Both are POSTs: the
first interrupts system calls of user code, for an instant.
"""

from typing import Any

import msgspec

from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, body


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to replace a Consumer: when it has finished what it has, or now, which charges its message with a crash."""

    now: bool = False


def stack(api: Api, stage: str, slot: str) -> Any:
    """Return where a Consumer is."""
    found = api.control.stack(api.stage(stage).name, _number(slot))
    return {
        "slot": found.slot,
        "pid": found.pid,
        "message_id": found.message_id or None,
        "seconds": round(found.seconds, 3) if found.seconds else None,
        "stack": found.text,
    }


def replace(api: Api, stage: str, slot: str) -> Any:
    """Replace a Consumer."""
    asked, number = body(Replacement), _number(slot)
    answer = api.control.replace_consumer(api.stage(stage).name, number, now=asked.now)
    return {"slot": number, "pid": answer.pid, "now": asked.now}, 202


def _number(slot: str) -> int:
    if not (slot.isascii() and slot.isdecimal() and len(slot) < 6):
        raise Problem(404, f"there is no Consumer {slot!r}: they have numbers, from 0", kind="unknown_slot")
    return int(slot)


_ONE = f"{API}/stages/<stage>/consumers/<slot>"
ROUTES = [
    Route("POST", f"{_ONE}/stack", stack, "Where a Consumer is in its code"),
    Route("POST", f"{_ONE}/replace", replace, "Replace a Consumer by a new one", body=Replacement),
]
