"""The handlers that are measured; each stage gets a copy of this file, and the process pool imports it."""

import os
import time

from mqworker import Result

SIDE = 600  # of a matrix: about 10 ms of work on one CPU


def same(body: dict) -> dict:
    """Nothing but what mqworker itself costs."""
    return body


def touch(body: bytes) -> bytes:
    """Case (f): reads every byte of the body, and returns it."""
    body.count(b"\0")
    return body


def multiply(body: dict) -> dict:
    """Case (n): a product of two square matrices of ones, whose elements have a sum that is known."""
    import numpy as np  # noqa: PLC0415 - the other cases are measured without it

    ones = np.ones((body["size"], body["size"]))
    return {"id": body["id"], "total": int((ones @ ones).sum())}


def burn(body: dict) -> dict:
    """Case (c): pure CPU time, as much as the message asks for."""
    total = 0
    for number in range(body["loops"]):
        total += number * number % 7
    return {"id": body["id"], "total": total}


def wait(body: dict) -> dict:
    """Takes as long as the message says, and no CPU time."""
    time.sleep(body["seconds"])
    return body


def mixed(body: dict) -> dict:
    """Case (d): as `wait`, and notes where and when."""
    began = time.monotonic()
    time.sleep(body["seconds"])
    return body | {"pid": os.getpid(), "began": began, "ended": time.monotonic()}


def sorted_by_size(body: bytes) -> bytes | Result:
    """`large_bodies`: what is large goes to a queue of its own."""
    return Result(body, routing_key="large.big") if len(body) > 100_000 else body
