"""Messages that were in hand when the whole tree died uncleanly, and may be why (decisions 15).

Lives in the Producer. Owns one small file of the stage beside the slot file. A message that was in hand at such a death
is a suspect: when it comes again it runs with nothing beside it. Only if the tree dies again during such a solo run is
the death counted against it; at the second it is convicted. So whoever kills a Producer convicts nobody innocent.
A file that cannot be read or written costs the memory of suspects, never a message.
"""

import contextlib
from pathlib import Path

import msgspec

SOLO_DEATHS = 2  # deaths of the tree, during solo runs, that convict a message
MOST = 1000  # suspects remembered


class Suspect(msgspec.Struct):
    """What is held against one message."""

    deaths: int = 0
    solo: bool = False  # it runs alone now


class Suspects:
    """The suspects of a stage, by fingerprint."""

    def __init__(self, path: Path, in_hand: list[bytes]) -> None:
        """Begin with what the tree before this one left behind: its file, and what its Consumers had in hand."""
        self._path = path
        self._known = self._load()
        for suspect in self._known.values():
            if suspect.solo:
                suspect.deaths += 1
                suspect.solo = False
        for fingerprint in in_hand:
            self._known.setdefault(fingerprint.hex(), Suspect())
        for oldest in list(self._known)[:-MOST]:
            del self._known[oldest]
        self._save()

    def __len__(self) -> int:
        return len(self._known)

    def suspected(self, fingerprint: bytes) -> bool:
        """Whether it has to run alone."""
        return fingerprint.hex() in self._known

    def convicted(self, fingerprint: bytes) -> bool:
        """Whether it took the tree down too often."""
        suspect = self._known.get(fingerprint.hex())
        return suspect is not None and suspect.deaths >= SOLO_DEATHS

    def began(self, fingerprint: bytes) -> None:
        """Note, before it begins, that it runs alone."""
        suspect = self._known.get(fingerprint.hex())
        if suspect is not None:
            suspect.solo = True
            self._save()

    def over(self, fingerprint: bytes) -> None:
        """Forget it: it was finished, or is charged in another way."""
        if self._known.pop(fingerprint.hex(), None) is not None:
            self._save()

    def _load(self) -> dict[str, Suspect]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Suspect])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}

    def _save(self) -> None:
        neighbour = self._path.with_suffix(".suspects-new")
        with contextlib.suppress(OSError):
            neighbour.write_bytes(msgspec.json.encode(self._known))
            neighbour.replace(self._path)
