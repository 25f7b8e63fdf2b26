"""Messages that were in hand when the whole tree died, and may be why (decisions 15 and 37).

Lives in the Producer; owns one small file of the stage. The rules are pure (`after_death`). A message that was in hand
at one death of the tree runs as usual. One that was at two is a *suspect*: when it comes again it runs isolated
(quarantine.py) for a window that covers the longest time after which the tree died of it, 5 s more, but at first 15 s
at most, so that hour-long messages that met two kills do not hold the stage up for hours; each further death gives it
four times as long. A death while it runs isolated is held against it alone; at the second it is convicted and becomes a
dead letter. An end by order, of whatever kind, counts for nothing, nor does a reboot. A file that cannot be read or
written costs the memory of suspects, never a message.
"""

import contextlib
from pathlib import Path

import msgspec

from mqworker.consumer.register import LastLife

SUSPECTED = 2  # deaths of the tree with a message in hand that make it a suspect
CONVICTED = 2  # deaths of the tree while the message ran isolated that make it a dead letter
MARGIN = 5.0  # seconds that a suspect must outlive the longest time after which the tree died
WINDOW, GROWTH = 15.0, 4.0  # seconds that the window has at most at first, and its factor with each further death
MOST = 1000  # messages remembered


class Suspect(msgspec.Struct, frozen=True):
    """What is held against one message."""

    deaths: int = 0  # of the tree, with this message in hand
    longest: float = 0.0  # seconds after which the tree died, at most
    isolated: int = 0  # deaths while it ran isolated

    @property
    def suspected(self) -> bool:
        """Whether it has to run isolated."""
        return self.deaths >= SUSPECTED

    @property
    def convicted(self) -> bool:
        """Whether it took the tree down too often."""
        return self.isolated >= CONVICTED

    @property
    def window(self) -> float:
        """Seconds for which nothing else may begin once it runs."""
        return min(self.longest + MARGIN, WINDOW * GROWTH ** min(self.deaths - SUSPECTED, 20))

    @property
    def window_is_whole(self) -> bool:
        """Whether who outlives the window has outlived every earlier death."""
        return self.window == self.longest + MARGIN


class Memory(msgspec.Struct, frozen=True):
    """The file's content."""

    counted: int = 0  # the life of the tree whose death was counted last
    known: dict[str, Suspect] = {}  # fingerprint in hex -> what is held against it, the oldest first


def after_death(memory: Memory, last: LastLife) -> Memory:
    """Return what is to be remembered after the tree's last life; repeating it changes nothing."""
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
    """The memory of a stage, and its file."""

    def __init__(self, path: Path, last: LastLife) -> None:
        """Begin with what the tree before this one left behind; what it leads to is stored at once."""
        self._path = path
        memory = after_death(self._load(), last)
        self._counted, self._known = memory.counted, dict(memory.known)
        self._save()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, fingerprint: bytes) -> Suspect | None:
        """Return what is held against a message, if anything is."""
        return self._known.get(fingerprint.hex())

    def outlived(self, fingerprint: bytes) -> None:
        """The message has outlived its window: clear it, unless the window was shorter than an earlier death."""
        suspect = self.find(fingerprint)
        if suspect is not None and suspect.window_is_whole:
            self.clear(fingerprint)

    def clear(self, fingerprint: bytes) -> None:
        """Forget a message: it has an outcome, or is charged in another way."""
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
