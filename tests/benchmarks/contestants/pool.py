"""`multiprocessing.Pool` as a contestant: the function that the stage runs, in two processes, without any broker."""

import json
import multiprocessing
import signal
import time

from tests.benchmarks.handlers import burn

CHUNK = 8  # messages


def run(bodies: list[bytes]) -> tuple[float]:
    """Return messages a second."""
    inputs = [json.loads(body) for body in bodies]
    chunk = CHUNK if len(inputs) > 50 * CHUNK else 1  # of a few long ones, the last chunk would keep one worker waiting
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers too; they end with the pool
    with multiprocessing.get_context("spawn").Pool(2, signal.signal, ignore) as workers:
        workers.map(burn, inputs[: max(4, len(inputs) // 10)], CHUNK)
        began = time.monotonic()
        answers = list(workers.imap_unordered(burn, inputs, chunk))
        seconds = time.monotonic() - began
    assert sorted(answer["id"] for answer in answers) == [body["id"] for body in inputs]
    return (len(inputs) / seconds,)
