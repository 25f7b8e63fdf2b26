"""Looks at dead-letter queues, and the results that are remembered.

Runs in the broker admin, on its loop (with the embedded broker, letters are shown in its thread). Owns the catalogues
and the locks of the dead-letter queues: one look or one operation at a time. A look ends after LOOK_AT letters, SEEN
bytes, most of its time, or, if each letter has to be fetched separately, FETCHED letters; then the catalogue is marked
as not complete. If a caller gets a queue too late for a look, BrokerUnavailable is raised. Otherwise raises what
`Admin.peek` raises.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from mqworker.broker_admin import dead_letters
from mqworker.broker_admin.catalogue import YOUNG, Catalogue, Catalogues
from mqworker.broker_admin.letter_rows import Seen, seen
from mqworker.broker_admin.queue_locks import LEAST, QueueLocks
from mqworker.brokers.base import STOP, Admin, BrokerUnavailable, Fetched
from mqworker.ipc.admin_messages import LOOK_AT

PAGE = 8 << 20  # bytes of bodies after which an answer with whole letters ends
SEEN = 1 << 30  # bytes that one look goes through
FETCHED = 500  # letters, if they are fetched one by one: if the queue has a consumer, or allows only one
TIME = 0.6  # share of a look's deadline; the rest is for putting letters back
ENOUGH = 2.0  # seconds, or half of a shorter deadline: with less, a look would see only a few letters


class LetterLooks:
    """See the module head."""

    def __init__(self, admin: Admin, locks: QueueLocks) -> None:
        self.catalogues = Catalogues()
        self._admin = admin
        self._locks = locks
        self._busy: Counter[str] = Counter()  # looks and operations, by queue
        self._taking: dict[str, Callable[[], Counter[str]]] = {}  # operations, by queue: return which letters are gone

    def looking(self, queue: str) -> bool:
        """Return whether a look or an operation is going through a queue now."""
        return self._busy[queue] > 0

    def taken_from(self, queue: str) -> bool:
        """Return whether an operation is taking letters: until its end, reports are of an earlier look."""
        return queue in self._taking

    @asynccontextmanager
    async def alone(self, queue: str, deadline: float) -> AsyncIterator[float]:
        """Lock a queue against other operations; yields the seconds that are left."""
        async with self._locks.alone(queue, deadline) as left:
            self._busy[queue] += 1
            try:
                yield left
            finally:
                self._busy[queue] -= 1

    @asynccontextmanager
    async def taking(self, queue: str, deadline: float, gone: Callable[[], Counter[str]]) -> AsyncIterator[float]:
        """Lock a queue like `alone`, to take letters away; `gone` returns the ids of those taken since its last call.

        Requests about the queue are answered in the meantime with what was seen before, without those letters.
        """
        async with self.alone(queue, deadline) as left:
            self._taking[queue] = gone
            try:
                yield left
            finally:
                self._forget_gone(queue)
                del self._taking[queue]

    async def catalogue(self, queue: str, deadline: float, fresh: float | None = None) -> Catalogue:
        """Return the dead letters of a queue; looks at it if what is known is not `Catalogue.current`."""
        asked = time.monotonic()
        if (known := await self._known(queue, deadline, fresh)) is not None:
            return known
        async with self.alone(queue, max(LEAST, asked + deadline - time.monotonic())) as left:
            after = self.catalogues.get(queue)
            if after is not None and after.at >= asked:  # the caller before us has looked
                return after
            if left < min(ENOUGH, deadline / 2):
                raise BrokerUnavailable(f"another operation on {queue!r} took so long that only {left:.1f} s are left")
            return await self._look(queue, left)

    async def contents(self, queue: str, deadline: float, ids: Collection[str]) -> dict[str, tuple[bytes, bytes, int]]:
        """Return whole letters: properties, body, and how many are equal; fewer of them if they are large.

        Letters that were seen recently need no new look; for large ones, each call goes through the queue.
        """
        until = time.monotonic() + deadline
        catalogue = await self.catalogue(queue, deadline, YOUNG)
        counts = Counter(each.row.id for each in catalogue.letters)
        if any(not counts[letter] for letter in ids):  # it may have come in the meantime
            catalogue = await self.catalogue(queue, max(LEAST, until - time.monotonic()))
            counts = Counter(each.row.id for each in catalogue.letters)
        asked = dict.fromkeys(letter for letter in ids if counts[letter] or not catalogue.complete)
        found = self.catalogues.whole(queue, asked)
        missing = frozenset(asked) - found.keys()
        size = sum(len(body) for _, body in found.values())
        if missing and size < PAGE:
            try:
                found |= await self._fetch(queue, max(LEAST, until - time.monotonic()), missing, PAGE - size)
            except BrokerUnavailable:
                if not found:
                    raise
        kept: dict[str, tuple[bytes, bytes, int]] = {}
        size = 0
        for letter in asked:
            if letter in found and (not kept or size + len(found[letter][1]) <= PAGE):
                size += len(found[letter][1])
                kept[letter] = (*found[letter], max(1, counts[letter]))
        return kept

    async def _known(self, queue: str, deadline: float, fresh: float | None) -> Catalogue | None:
        """Return what was seen in a queue, if it is current enough; during a look, the queue's count means nothing."""
        catalogue = self.catalogues.get(queue)
        if catalogue is not None and queue in self._taking:  # a look would wait for minutes
            self._forget_gone(queue)
            return catalogue
        if catalogue is None or (fresh is None and self.looking(queue)):
            return None
        ready = None
        if fresh is None:
            info = await self._admin.queue(queue, deadline)
            ready = None if info is None else info.messages
        return catalogue if catalogue.current(time.monotonic(), ready, fresh) else None

    def _forget_gone(self, queue: str) -> None:
        catalogue, gone = self.catalogues.get(queue), self._taking[queue]()
        if catalogue is not None:
            catalogue.without(gone)

    async def _look(self, queue: str, deadline: float) -> Catalogue:
        letters: list[Seen] = []
        size, more = 0, False

        def show(properties: bytes, body: bytes) -> bool | str:
            nonlocal size, more
            if len(letters) >= LOOK_AT or size >= SEEN or time.monotonic() >= began + TIME * deadline:
                more = True
                return STOP
            size += len(properties) + len(body)
            each = seen(properties, body)
            letters.append(each)
            self.catalogues.keep(queue, each.row.id, properties, body)
            return False  # `peek` need not keep them: bodies may be large

        began, wall, fetched = time.monotonic(), time.time(), Fetched(FETCHED)
        await self._admin.peek(queue, LOOK_AT + 1, deadline, show, fetched=fetched)
        info = await self._admin.queue(queue, max(LEAST, began + deadline - time.monotonic()))
        limited = info is not None and info.limited
        catalogue = Catalogue(letters, began, wall, complete=not (more or fetched.more), limited=limited)
        known = self.catalogues.get(queue)
        if catalogue.complete or known is None or began - known.at > YOUNG or len(known.letters) <= len(letters):
            self.catalogues.put(queue, catalogue)  # otherwise it was cut short, and the previous one shows more
        return catalogue

    async def _fetch(
        self, queue: str, deadline: float, ids: frozenset[str], most: int
    ) -> dict[str, tuple[bytes, bytes]]:
        """Return letters that are not kept whole, with a separate look: the first of each id."""
        found: dict[str, tuple[bytes, bytes]] = {}
        fetched, size, shown, cut = Fetched(FETCHED), 0, 0, False

        def show(properties: bytes, body: bytes) -> bool | str:
            nonlocal size, shown, cut
            if len(found) == len(ids) or size >= most:
                return STOP
            if cut := time.monotonic() >= end:
                return STOP
            shown += 1
            letter = dead_letters.letter_id(properties, body)
            if letter in ids and letter not in found:
                found[letter] = (properties, body)
                size += len(body)
            return False

        async with self.alone(queue, deadline) as left:
            end = time.monotonic() + TIME * left
            await self._admin.peek(queue, LOOK_AT, left, show, fetched=fetched)
        if not found and (cut or fetched.more):  # it is unknown whether it is there
            raise BrokerUnavailable(
                f"not found among the first {shown} letters of {queue!r}, which are as many as a look goes through"
            )
        return found
