"""The jobs of this project: a job receives the decoded body of a message and returns its result."""

from dataclasses import dataclass
from math import isqrt


@dataclass
class Params:
    """What can be changed while the service is running: `mqworker params set largest_n=5000`."""

    largest_n: int = 10_000_000_000

    def __post_init__(self) -> None:
        if self.largest_n < 2:
            raise ValueError("largest_n must be at least 2")


def largest(body: dict[str, int], params: Params) -> dict[str, int]:
    """Find the largest prime number up to n: {"n": 20} gives {"prime": 19}."""
    n = body["n"]
    if not 2 <= n <= params.largest_n:
        raise ValueError(f"n must be between 2 and {params.largest_n}, and is {n}")
    while any(n % divisor == 0 for divisor in range(2, isqrt(n) + 1)):
        n -= 1
    return {"prime": n}
