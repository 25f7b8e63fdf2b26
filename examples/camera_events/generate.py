"""Prints camera events as JSON Lines, of other cameras each time: `python generate.py 1000 | mqworker send`."""

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any


def events(count: int, seed: int = 1, cameras: int = 200, first: int = 131_000_000_201) -> Iterator[dict[str, Any]]:
    """Yield events of random cameras, about one a second; the same arguments give the same events."""
    chance = random.Random(seed)  # noqa: S311 - test data, not a secret
    at = 1_632_192_265.0
    for number in range(count):
        at += chance.expovariate(1.0)
        yield {"n": number, "cid": first + chance.randrange(cameras), "time": round(at, 3)}


if __name__ == "__main__":
    now = int(time.time())
    for event in events(int(sys.argv[1]) if len(sys.argv) > 1 else 100, seed=now, first=1000 * now):
        sys.stdout.write(json.dumps(event) + "\n")
