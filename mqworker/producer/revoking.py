"""When the messages that a Consumer has not begun may be taken back from it.

Pure; used by dispatch. A Consumer that is told to stop (a word in the in-hand register) notes each message before it
looks at that word, and the Producer writes the word before it looks at the note. A processor may hold a store back for
longer than the load after it takes, so for a moment both may miss each other: in 13 of 300,000 tries the Consumer
began a message that had been taken back. Therefore only what is behind a message that has been in hand for SETTLED
since the Consumer was told is taken back. The end of its chunk gives back whatever it had not begun, so nothing is lost
if no message is in hand for so long.
"""

SETTLED = 0.005  # seconds; a store becomes visible within microseconds


class Revoking:
    """The lanes that were told to stop, with the message in hand and since when it is known to be."""

    def __init__(self) -> None:
        self._stopping: dict[int, tuple[int, float]] = {}

    def __contains__(self, lane: int) -> bool:
        return lane in self._stopping

    def stopping(self, lane: int, in_hand: int, now: float) -> None:
        """Note that a lane was told to stop while it had this message in hand (0: none)."""
        self._stopping.setdefault(lane, (in_hand, now))

    def certain(self, lane: int, in_hand: int, now: float) -> bool:
        """Whether what is behind this message in hand can be taken back now; then the lane is forgotten."""
        known, since = self._stopping[lane]
        if known != in_hand:
            self._stopping[lane] = (in_hand, now)
        elif in_hand and now - since >= SETTLED:
            del self._stopping[lane]
            return True
        return False

    def forget(self, lane: int) -> None:
        """Note that a lane has ended its chunks, or is gone."""
        self._stopping.pop(lane, None)
