"""What a publication means for its line: a result, a dead letter, or another attempt.

Pure except for `failed`, which it calls for each dead letter; used by the link. What cannot be a line (a result with a
line break in it, a body that is too long) becomes a dead letter here, and further results of that line are dropped.
"""

from collections.abc import Callable

from mqworker.brokers.base import Publication, Topology
from mqworker.brokers.files.letters import letter_for, letter_of
from mqworker.brokers.files.window import Line, Window
from mqworker.ipc.consumer_messages import Failure


class LineOutcomes:
    """See the module head. `failed` receives the number of the line and a short text."""

    def __init__(self, window: Window, topology: Topology, failed: Callable[[int, str], None]) -> None:
        assert topology.output is not None
        self._results = topology.output.exchange
        self._input, self._dead = topology.input, topology.dead
        self._window = window
        self._failed = failed

    def take(self, line: Line, publication: Publication) -> bool:
        """Record what was published for a line; returns whether that is another attempt, due after its delay."""
        if publication.exchange == self._results:
            self._add(line, publication.body)
        elif publication.routing_key == self._dead:
            self._kill(line, *letter_of(line, publication.properties))
        else:
            assert publication.routing_key == self._input
            line.properties, line.tag = publication.properties, 0
            return True
        return False

    def too_long(self, line: Line, most: int) -> None:
        """Settle a line that has more than `most` bytes, with a dead letter."""
        message = f"the line has {line.length:,} bytes; max_body allows {most:,}"
        self._kill(line, *letter_for(line, Failure("oversized", "TooLarge", message)))
        self._window.settle(line)

    def _add(self, line: Line, body: bytes) -> None:
        if line.dead:
            return
        if b"\n" not in body:
            self._window.add_result(line, body)
            return
        message = "a result has a line break in it: yield its lines one by one, or return something else"
        self._kill(line, *letter_for(line, Failure("unencodable", "LineBreak", message)))

    def _kill(self, line: Line, letter: bytes, about: str) -> None:
        self._window.kill(line, letter)
        self._failed(line.number, about)
