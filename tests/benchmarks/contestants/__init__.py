"""What `scripts/bench` measures: one module for each contestant, all with the same job, bodies, queues and clock."""

from typing import NamedTuple


class Figures(NamedTuple):
    """What one run came to."""

    rate: float  # messages a second
    cpu_us: float  # CPU time a message of all its processes in microseconds
    results: list[bytes]  # in the order of the inputs
    repeats: int = 0  # results that came more than once: allowed by at-least-once, and told
