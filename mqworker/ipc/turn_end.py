"""What is done once for all that came in one turn of an asyncio loop: at the end of that turn, and of nothing later.

Runs in every process that has a loop, on its thread; one object for each loop. Whoever handles what has arrived does it
between `begin` and `end`, and asks by `soon` for what is to be done once for everything that came. When nothing else is
left to handle in this turn, `end` does that at once. Otherwise, and for whoever asks from a timer or a task, it is done
in the next turn, as with `call_soon`: so a busy loop handles much at once, and on an idle one nothing waits for another
turn, which would only ask the kernel whether more has come.

What is done may ask for more: confirms lead to acks and a turn of the stage, and both to a write. Nothing keeps such a
chain from being longer, or endless, so after STEPS of it the loop gets its turn, and hears others.

What raises is reported as asyncio does it, and costs nobody else anything.
"""

import asyncio
import weakref
from collections.abc import Callable, Sized

STEPS = 8  # of a chain in one turn of the loop; the longest one that is known has three

_ends: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, TurnEnd]" = weakref.WeakKeyDictionary()


class TurnEnd:
    """See the module head; `of` returns that of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        # What the loop has still to call in this turn, and in the next one; asyncio does not tell. Where it is not
        # known, as on another loop, it never counts as nothing.
        self._left: Sized = getattr(loop, "_ready", (None,))
        self._due: list[Callable[[], None]] = []
        self._inside = 0  # how many handle something now
        self._asked = False  # the loop will call `_do`

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "TurnEnd":
        """Return the one of this loop."""
        if (found := _ends.get(loop)) is None:
            found = _ends[loop] = cls(loop)
        return found

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it at the end of this turn; what is asked for first is called first."""
        self._due.append(callback)
        if not self._inside:
            self._ask()

    def begin(self) -> None:
        """Begin to handle what has arrived."""
        self._inside += 1

    def end(self) -> None:
        """End that; called in any case."""
        self._inside -= 1
        if self._due and not self._inside:
            if self._left:
                self._ask()
            else:
                self._do()

    def _ask(self) -> None:
        loop = self._loop()
        if not self._asked and loop is not None:
            self._asked = True
            loop.call_soon(self._called)

    def _called(self) -> None:
        self._asked = False
        self._do()

    def _do(self) -> None:
        """Do all that is due, and what that asks for: in this turn if nothing else is left of it, up to a bound."""
        self._inside += 1
        steps = 0
        try:
            while self._due and steps < STEPS:
                steps += 1
                due, self._due = self._due, []
                for callback in due:
                    self._call(callback)
                if self._left:
                    break
        finally:
            self._inside -= 1
            if self._due:
                self._ask()

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - as asyncio does with what it calls
            loop = self._loop()
            if loop is not None:
                loop.call_exception_handler({"message": f"error in {callback!r}", "exception": error})
