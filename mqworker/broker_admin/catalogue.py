"""What the broker admin has seen in the dead-letter queues, so that not every request needs its own look.

Runs in the broker admin, on its loop. A look takes all letters out of the queue while it lasts, a second or two for
10,000, and counts as a delivery of each; so a list, its pages, its groups and the letters in it are answered from one
look. Owns the rows of at most KEPT queues, and the bodies of letters of up to SMALL bytes, BODIES bytes in all; the
least recently used bodies are dropped. Otherwise pure: the looks themselves are in `letter_looks`.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from mqworker.broker_admin.letter_rows import Seen

KEPT = 4  # queues
SMALL = 16 << 10  # bytes of a letter that is kept whole
BODIES = 32 << 20
YOUNG = 30.0  # seconds for which a catalogue counts as current, if the queue has as many letters
APART = 5.0  # seconds between two looks that are requested although nothing seems to have changed
LIMITED = 60.0  # the same for a queue that limits the deliveries of a letter


class Catalogue:
    """The dead letters of one queue at one moment."""

    def __init__(self, letters: list[Seen], at: float, wall: float, *, complete: bool, limited: bool = False) -> None:
        """`at` is CLOCK_MONOTONIC, `wall` the same moment for display; `complete`: the queue had no more letters.

        `limited`: the queue limits deliveries.
        """
        # Sorted, because replays may have mixed them up in the queue; those without a time of failure come first.
        self.letters = sorted(letters, key=lambda seen: seen.row.failed_at or "")
        self.at = at
        self.wall = wall
        self.complete = complete
        self._apart = LIMITED if limited else APART

    def current(self, now: float, ready: int | None, fresh: float | None) -> bool:
        """Return whether this is current enough.

        `fresh`: how old it may be, in seconds. Without that, `ready` is how many messages the queue has now.
        """
        age = now - self.at
        if fresh is not None:
            return age <= max(fresh, self._apart)
        counted = ready == len(self.letters) or (not self.complete and (ready or 0) >= len(self.letters))
        return counted and age <= YOUNG

    def without(self, gone: Mapping[str, int]) -> None:
        """Forget letters that were moved or dropped; `gone` has how many of each id."""
        left = Counter(gone)
        kept = []
        for seen in self.letters:
            if left[seen.row.id] > 0:
                left[seen.row.id] -= 1
            else:
                kept.append(seen)
        self.letters = kept


class Catalogues:
    """See the module head."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Catalogue] = OrderedDict()
        self._bodies: OrderedDict[tuple[str, str], tuple[bytes, bytes]] = OrderedDict()
        self._size = 0  # bytes of all bodies
        self._lock = threading.Lock()  # of the bodies: the embedded broker shows letters in its thread

    def get(self, queue: str) -> Catalogue | None:
        """Return what was last seen in a queue."""
        if queue in self._kept:
            self._kept.move_to_end(queue)
        return self._kept.get(queue)

    def put(self, queue: str, catalogue: Catalogue) -> None:
        """Keep what was seen."""
        self._kept[queue] = catalogue
        self._kept.move_to_end(queue)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def forget(self, queue: str) -> None:
        """Forget what was seen in a queue, because it has changed in an unknown way."""
        self._kept.pop(queue, None)

    def keep(self, queue: str, letter: str, properties: bytes, body: bytes) -> None:
        """Keep a letter whole, if it is small."""
        size = len(properties) + len(body)
        if size > SMALL:
            return
        with self._lock:
            before = self._bodies.pop((queue, letter), None)
            self._size += size - (len(before[0]) + len(before[1]) if before is not None else 0)
            self._bodies[queue, letter] = (properties, body)
            while self._size > BODIES:
                _, (old, content) = self._bodies.popitem(last=False)
                self._size -= len(old) + len(content)

    def whole(self, queue: str, letters: Iterable[str]) -> dict[str, tuple[bytes, bytes]]:
        """Return those of these letters that are kept whole."""
        found = {}
        with self._lock:
            for letter in letters:
                if (content := self._bodies.get((queue, letter))) is not None:
                    self._bodies.move_to_end((queue, letter))
                    found[letter] = content
        return found
