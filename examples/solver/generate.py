"""Prints vans and their parcels as JSON Lines: `python generate.py 1000 | mqworker send`."""

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any


def vans(count: int, seed: int = 1, parcels: int = 60) -> Iterator[dict[str, Any]]:
    """Yield vans with at most so many parcels each; the same arguments give the same ones."""
    chance = random.Random(seed)  # noqa: S311 - test data, not a secret
    for number in range(count):
        there = [
            {"name": f"p{n}", "weight": chance.randint(1, 40), "value": chance.randint(1, 99)}
            for n in range(chance.randint(0, parcels))
        ]
        yield {"van": number, "capacity": chance.randint(20, 400), "parcels": there}


if __name__ == "__main__":
    for van in vans(int(sys.argv[1]) if len(sys.argv) > 1 else 100, seed=int(time.time())):
        sys.stdout.write(json.dumps(van) + "\n")
