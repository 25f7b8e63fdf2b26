"""The kinds of work of `scripts/rounds`: for each its chain of jobs, its messages, and what these have to come to.

Pure. Another kind is one more row of KINDS.
"""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.rounds.project import BREEDER, SOLVER

JSON = "application/json"
LARGE = 1 << 20  # bytes; such bodies do not go through the queue of a lane


class Message(NamedTuple):
    """What is sent."""

    body: bytes
    content_type: str = JSON


class Kind(NamedTuple):
    """See the module head. `results` gets a message's number, whether it is calm, the factor and the code's tag."""

    name: str
    jobs: tuple[str, ...]
    message: Callable[[int, bool], Message]
    results: Callable[[int, bool, int, str], Sequence[bytes]]
    hard: float = 0.0  # seconds, the hard limit of time
    calm: bool = True  # whether no message of it kills a Consumer: new code whose first message does is taken back
    dead: bool = False  # whether messages that are not calm become dead letters


def of_json(name: str, *jobs: str, each: Callable[[int], Sequence[dict[str, Any]]] | None = None, **more: Any) -> Kind:
    """Return a kind with JSON bodies, whose chain ends with `signed`; `each` says what is added to each result."""

    def message(n: int, calm: bool) -> Message:
        return Message(json.dumps({"n": n, "calm": calm}).encode())

    def results(n: int, calm: bool, factor: int, tag: str) -> list[bytes]:
        if more.get("dead") and not calm:
            return []
        own = {"n": n, "calm": calm, "value": n * factor, "tag": tag}
        return [canonical(JSON, json.dumps(own | added).encode()) for added in (each(n) if each else [{}])]

    return Kind(name, (*jobs, "jobs:signed"), message, results, **more)


def canonical(content_type: str | None, body: bytes) -> bytes:
    """Return a body in the form in which results are compared."""
    return json.dumps(json.loads(body), sort_keys=True).encode() if content_type == JSON else body


def array(n: int) -> np.ndarray:
    return np.arange(n, n + 1000, dtype="float32").reshape(10, 100)


def npy(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def large(n: int) -> bytes:
    return n.to_bytes(8, "big") * (LARGE // 8)


KINDS = (
    of_json("plain"),
    of_json("with a resource", "jobs:Resource", each=lambda _: [{"resource": True}]),
    of_json("several results", "jobs:several", each=lambda _: [{"part": part} for part in range(3)]),
    of_json("some without a result", "jobs:dropped", each=lambda n: [] if n % 2 else [{}]),
    of_json("a program", SOLVER, each=lambda _: [{"solved": True}]),
    of_json("a program that leaves children", BREEDER),
    of_json("children of a handler", "jobs:parent"),
    of_json("a shared object", "jobs:counted", each=lambda _: [{"calls": 1}]),
    of_json("a shared link", "jobs:Seen", each=lambda _: [{"first": True}]),
    of_json("fails once", "jobs:failing"),
    of_json("rejected", "jobs:rejecting", dead=True),
    of_json("kills its Consumer once", "jobs:killing", calm=False),
    of_json("hangs once", "jobs:hanging", hard=0.5, calm=False),
    Kind(
        *("arrays", ("jobs:doubled",)),
        message=lambda n, _: Message(npy(array(n)), "application/x-npy"),
        results=lambda n, *_: [npy(array(n) * 2)],
    ),
    Kind(
        *("large bodies", ("jobs:turned",)),
        message=lambda n, _: Message(large(n), "application/octet-stream"),
        results=lambda n, *_: [large(n)[::-1]],
    ),
)
ROWS = Kind(  # of a source, whose messages have nothing but a number
    *("a source", ("jobs:signed",)),
    message=lambda *_: Message(b""),
    results=lambda n, _, factor, tag: [canonical(JSON, json.dumps({"n": n, "value": n * factor, "tag": tag}).encode())],
)
