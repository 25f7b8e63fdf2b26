"""The ids of a source's messages: the same item has the same id in each life, so that a repeat can be recognised.

Pure. An item with a position has the id `NAME:POSITION`, and those without one that follow it `NAME:POSITION+1`, `+2`.
A tick's item has `NAME:DUE`, or `NAME:DUE.1`, `.2` if the function yields. Before the first position it is
`NAME:RUN.1`, `.2`, where RUN is random, because a generator without positions starts over in each life. An id that
would be too long is hashed.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mqworker.jobs.item import NOWHERE, SourceItem
from mqworker.jobs.result import MOST_BYTES

HASHED: Final = 32  # characters


class Ids:
    """See the module head; one for each life of a source. `position`: the stored one."""

    def __init__(self, name: str, run: str, position: Any = NOWHERE) -> None:
        self._name = name
        self._position = None if position is NOWHERE else _text(position)
        self._base = run if self._position is None else self._position
        self._separator = "." if self._position is None else "+"
        self._count = 0
        self._single = False

    def begin(self, base: str, *, yields: bool) -> None:
        """Begin a tick or a run: ids of items without a position are made from `base`."""
        self._base, self._separator, self._count, self._single = base, ".", 0, not yields

    def of(self, item: SourceItem) -> str:
        """Return the id of the next item; raises ValueError if it has the same position as the item before."""
        if item.position is not NOWHERE:
            position = _text(item.position)
            if position == self._position:
                raise ValueError(
                    f"position {position[:100]!r} was yielded twice: the position of an item says that all up to it"
                    " were yielded, so each has its own"
                )
            self._position = self._base = position
            self._separator, self._count, self._single = "+", 0, False
            return item.message_id or self._full(position)
        self._count += 1
        if item.message_id:
            return item.message_id
        return self._full(self._base if self._single else f"{self._base}{self._separator}{self._count}")

    def _full(self, rest: str) -> str:
        whole = f"{self._name}:{rest}"
        if len(whole.encode()) <= MOST_BYTES:
            return whole
        return f"{self._name}:{hashlib.sha256(rest.encode()).hexdigest()[:HASHED]}"


def _text(position: Any) -> str:
    return position if isinstance(position, str) else msgspec.json.encode(position).decode()


def tick_text(due: int) -> str:
    """Return a tick as it is written in ids: 2026-03-29T01:00:00Z."""
    whole = due % 1000 == 0
    text = datetime.fromtimestamp(due / 1000, UTC).isoformat(timespec="seconds" if whole else "milliseconds")
    return text.replace("+00:00", "Z")
