"""The replies to one request of an Admin; there may be several.

Runs on the loop of the caller, or in the thread that reads the embedded broker's file; pure.
"""

from mqworker.amqp import headers
from mqworker.amqp.properties import decode_leniently


class Replies:
    """The replies to one request, until all are there: a message that yields has one for each result."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[bytes, bytes]] = {}
        self._all = 0  # how many there are, according to the newest

    @property
    def came(self) -> str:
        """How many replies came, for the error of a caller that waited for all."""
        return f"{len(self._parts)} of {self._all} results came" if self._parts else "nobody has replied"

    def add(self, properties: bytes, body: bytes) -> bool:
        """Add a reply; returns whether it was the last missing one.

        If the number of parts differs, the reply is from another attempt, whose results are not mixed with the earlier
        ones.
        """
        table = decode_leniently(properties).headers
        part, parts = table.get(headers.PART), table.get(headers.PARTS)
        if type(part) is not int or type(parts) is not int or not 1 <= part <= parts:
            self._parts = {1: (properties, body)}
            return True
        if parts != self._all:
            self._parts, self._all = {}, parts
        self._parts[part] = properties, body
        return len(self._parts) >= parts

    def all(self) -> list[tuple[bytes, bytes]]:
        """Return them in the order of the results."""
        return [reply for _, reply in sorted(self._parts.items())]
