"""Messages that were in hand when the whole tree died, and may be the cause (decisions 15 and 37).

Lives in the Producer; owns one small file of the stage. The rules are pure (`after_death`). A message that was in hand
at one death of the tree runs as usual. After two such deaths it is a *suspect*: when it is delivered again it runs
isolated (quarantine.py) for a window. The window is the longest time after which the tree died with this message in
hand, plus 5 s. At first it is 15 s at most, so that hour-long messages that were in hand at two kills do not delay the
stage for hours; each further death multiplies this maximum by four. A death while a message runs isolated counts
against this message alone; after the second one they are attributed to it and it becomes a dead letter. An ordered end
of any kind does not count, and neither does a reboot. If the file cannot be read or written, the suspects are
forgotten, but no message is lost.
"""

import contextlib
from pathlib import Path

import msgspec

from mqworker.consumer.register import LastLife

SUSPECTED = 2  # deaths of the tree with a message in hand, after which the message is a suspect
CONVICTED = 2  # deaths of the tree while the message ran isolated, after which it is a dead letter
MARGIN = 5.0  # seconds that a suspect must run beyond the longest time after which the tree died
WINDOW, GROWTH = 15.0, 4.0  # the window's maximum at first, in seconds, and the factor for each further death
MOST = 1000  # messages remembered


class Suspect(msgspec.Struct, frozen=True):
    """The evidence against one message."""

    deaths: int = 0  # of the tree, with this message in hand
    longest: float = 0.0  # the longest time, in seconds, that it had run when the tree died
    isolated: int = 0  # deaths while it ran isolated

    @property
    def suspected(self) -> bool:
        """Whether it has to run isolated."""
        return self.deaths >= SUSPECTED

    @property
    def convicted(self) -> bool:
        """Whether the tree died too often while it ran isolated."""
        return self.isolated >= CONVICTED

    @property
    def window(self) -> float:
        """Seconds for which nothing else may begin once it runs."""
        return min(self.longest + MARGIN, WINDOW * GROWTH ** min(self.deaths - SUSPECTED, 20))

    @property
    def window_is_whole(self) -> bool:
        """Whether a message that outlives the window has run longer than at every earlier death."""
        return self.window == self.longest + MARGIN


class Memory(msgspec.Struct, frozen=True):
    """The file's content."""

    counted: int = 0  # the life of the tree that was counted last
    known: dict[str, Suspect] = {}  # fingerprint in hex -> the evidence against the message, the oldest first


def after_death(memory: Memory, last: LastLife) -> Memory:
    """Return the memory after the tree's last life; repeating this changes nothing."""
    if not last.life or last.life == memory.counted:
        return memory
    known = dict(memory.known)
    if last.this_boot and not last.ending:
        for fingerprint, began in last.in_hand.items():
            before = known.get(fingerprint.hex(), Suspect())
            known[fingerprint.hex()] = Suspect(
                before.deaths + 1,
                max(before.longest, last.pulse - began, 0.0),
                before.isolated + (fingerprint == last.isolated),
            )
        spare = sorted(known, key=lambda name: known[name].deaths)[: max(0, len(known) - MOST)]
        for name in spare:
            del known[name]
    return Memory(last.life, known)


class Suspects:
    """The suspects of a stage, and their file."""

    def __init__(self, path: Path, last: LastLife) -> None:
        """Add what the previous tree left behind to the stored memory, and store the result at once."""
        self._path = path
        memory = after_death(self._load(), last)
        self._counted, self._known = memory.counted, dict(memory.known)
        self._save()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, fingerprint: bytes) -> Suspect | None:
        """Return the evidence against a message, if there is any."""
        return self._known.get(fingerprint.hex())

    def outlived(self, fingerprint: bytes) -> None:
        """Clear a message that has outlived its window, unless it had run longer at an earlier death."""
        suspect = self.find(fingerprint)
        if suspect is not None and suspect.window_is_whole:
            self.clear(fingerprint)

    def clear(self, fingerprint: bytes) -> None:
        """Forget a message: it has an outcome, is charged with a death, or is blamed for those of the tree."""
        if self._known.pop(fingerprint.hex(), None) is not None:
            self._save()

    def _load(self) -> Memory:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Memory)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return Memory()

    def _save(self) -> None:
        neighbour = self._path.with_suffix(".suspects-new")
        with contextlib.suppress(OSError):
            neighbour.write_bytes(msgspec.json.encode(Memory(self._counted, self._known)))
            neighbour.replace(self._path)
