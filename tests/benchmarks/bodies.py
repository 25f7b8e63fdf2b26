"""The messages that are measured. Kept while several contestants get the same ones."""

import json
import random
import time
from functools import lru_cache

from tests.benchmarks.handlers import burn

PAD = "x" * 172
LONG, SHORT, PART = 0.5, 0.0002, 0.01  # seconds of a long and a short message, and the part of the long ones


@lru_cache(1)
def small(count: int) -> list[bytes]:
    """Return messages that ask for nothing, all of 200 bytes."""
    return [json.dumps({"id": number, "pad": PAD + "x" * (9 - len(str(number)))}).encode() for number in range(count)]


@lru_cache(1)
def loops(milliseconds: float) -> int:
    """Return for how many loops `burn` takes so long here."""
    began = time.process_time()
    burn({"id": 0, "loops": 300_000})
    return max(1, int(300_000 * milliseconds / 1000 / (time.process_time() - began)))


def heavy(milliseconds: float, seconds: float) -> list[bytes]:
    """Return messages that take so much CPU time each, and so many seconds in all on two CPUs."""
    count = max(4, int(2 * seconds / milliseconds * 1000))
    return [json.dumps({"id": number, "loops": loops(milliseconds)}).encode() for number in range(count)]


@lru_cache(1)
def mixed(count: int) -> list[bytes]:
    """Return messages of which few wait long and most hardly; the same ones at each call.

    The last twentieth is short, so that no contestant ends by chance with one long message alone.
    """
    chance = random.Random("mixed")
    wanted, last = int(count * PART), count - count // 20
    slow = set(chance.sample(range(last), min(wanted, last)))
    return [
        json.dumps({"id": number, "seconds": LONG if number in slow else SHORT}).encode() for number in range(count)
    ]


@lru_cache(1)
def large(kilobytes: int, megabytes: int) -> list[bytes]:
    """Return bodies of this size that no codec can shorten, so many MB in all."""
    rest = random.Random(kilobytes).randbytes(kilobytes * 1000 - 8)
    return [b"%08d" % number + rest for number in range(max(4, megabytes * 1000 // kilobytes))]
