"""What a source stores at the broker: the position up to which everything that it published is confirmed.

Pure. The record is the body of the only message in a queue that belongs to the source. After the broker was killed,
there may be two: the one with the highest number is the newest.
"""

from collections.abc import Iterable
from typing import Any

import msgspec


class PositionRecord(msgspec.Struct, frozen=True):
    """A position, and what an operator may want to know about it."""

    number: int  # counts the records of a source over all of its lives
    position: Any = msgspec.UNSET  # of the last item that has one
    due: int | None = None  # the last tick that is done, in milliseconds since the epoch
    job: str = ""
    host: str = ""
    at: float = 0.0  # wall clock


_decode = msgspec.json.Decoder(PositionRecord).decode


def newest(bodies: Iterable[bytes]) -> PositionRecord | None:
    """Return the record with the highest number; None if none of these bodies is a record."""
    found = []
    for body in bodies:
        try:
            found.append(_decode(body))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return max(found, key=lambda record: record.number, default=None)
