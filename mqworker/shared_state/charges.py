"""Which calls are not made again because the process died in them: their messages fail once instead.

Pure; lives in the process of a shared object. Several Consumers may have asked for the same call, all but one of them
in vain, and all of them ask again. So a charge holds until the Producer reports what became of the message, but not
longer than HOLDS after its first use, because that report may be lost.
"""

from collections.abc import Callable, Iterable
from typing import Final

from mqworker.shared_state.messages import Charge

HOLDS: Final = 5.0  # seconds

Key = tuple[str, bytes, bytes]  # stage, message, call


class Charges:
    """See the module head; `on_end` is called with each charge that is over."""

    def __init__(self, charges: Iterable[Charge] = (), on_end: Callable[[Charge], None] = lambda _: None) -> None:
        self._charges = {charge.key: charge for charge in charges}
        self._until: dict[Key, float] = {}
        self._on_end = on_end

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._charges)

    def find(self, stage: str, message: bytes, call: bytes, now: float) -> Charge | None:
        """Return the charge of a call that is about to be made."""
        key = stage, message, call
        charge = self._charges.get(key)
        if charge is None:
            return None
        if now > self._until.setdefault(key, now + HOLDS):
            self._end(key)
            return None
        return charge

    def named(self, stage: str, messages: Iterable[bytes]) -> None:
        """Note that the Producer has reported what became of these messages."""
        reported = set(messages)
        for key in [key for key in self._charges if key[0] == stage and key[1] in reported and key in self._until]:
            self._end(key)

    def _end(self, key: Key) -> None:
        self._until.pop(key, None)
        self._on_end(self._charges.pop(key))
