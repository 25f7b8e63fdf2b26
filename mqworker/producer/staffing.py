"""Which Consumers a stage needs: how many, with which code, which start and which leave.

Pure: events, facts and time in, actions out; the fleet carries them out. New Consumers start first, and old ones leave
when a new one is ready, idle ones before busy ones. A slot whose Consumers keep dying before they have finished a
message waits longer each time.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mqworker.config.stop_budget import LEAVE
from mqworker.consumer.register import COUNT
from mqworker.ipc.restart_budget import Budget

EXCUSED_MAX = 10  # deaths in a row by known killers, after which such deaths count against the slots too
START_DEADLINE = 600.0  # seconds for imports and `setup`, which may load a model


class ConsumerFacts(NamedTuple):
    """The facts about one Consumer that matter here."""

    lane: int
    slot: int
    state: str  # starting | idle | busy | leaving
    since: float  # when the state began (monotonic)
    code_generation: int  # the generation whose code it imported
    replace: bool  # it must be replaced by a new one
    leaving: bool  # it gets no more work


class Start(NamedTuple):
    """Start a Consumer in this slot."""

    slot: int


class Retire(NamedTuple):
    """Give this lane no more work; its Consumer leaves when it is idle, or at once while it is starting."""

    lane: int


class Kill(NamedTuple):
    """End this lane's Consumer now."""

    lane: int
    reason: str


Action = Start | Retire | Kill


class Staffing:
    """The wanted number and code, and the record of each slot."""

    def __init__(self) -> None:
        self.wanted = 0
        self.problem = ""  # why the last Consumer could not be set up or started
        self._code = 0
        self._budgets: dict[int, Budget] = {}
        self._excused = 0  # deaths by known killers since a Consumer last finished a message

    @property
    def crash_loop(self) -> bool:
        """Whether some slot keeps dying without having finished a message."""
        return any(budget.crash_loop for budget in self._budgets.values())

    # --- events

    def want(self, count: int, code: int) -> None:
        """Aim at `count` Consumers with at least this generation's code; newer code clears the records of all slots."""
        if self._code and code > self._code:
            self._budgets.clear()
            self.problem = ""
        self.wanted, self._code = count, code

    def prospered(self, slot: int, code_generation: int) -> None:
        """Note that a Consumer has finished messages: its slot works."""
        self._excused = 0
        self._budget(slot).prospered()
        if code_generation >= self._code:
            self.problem = ""

    def start_failed(self, slot: int, now: float, reason: str) -> None:
        """Note that a Consumer could not be started: try again later."""
        self.problem = f"a Consumer could not be started: {reason}"
        self._budget(slot).died(now, fruitful=False)

    def died(self, slot: int, now: float, *, fruitful: bool, problem: str, attributed: bool = False) -> None:
        """Note an unwanted end of a Consumer; `problem` describes it, if the Consumer had not finished a message.

        `attributed`: it died of a message that had killed before. The message is charged, not the slot, so that good
        messages do not wait for a new Consumer; but a stage in which nothing else happens is in a crash loop.
        """
        self._excused += attributed
        if attributed and self._excused <= EXCUSED_MAX:
            return
        if problem:
            self.problem = problem
        self._budget(slot).died(now, fruitful=fruitful)

    # --- the decision

    def decide(self, consumers: Sequence[ConsumerFacts], now: float) -> list[Action]:
        """Return the actions to take now; may be called at any time."""
        staying = [one for one in consumers if not one.leaving]
        fresh = [one for one in staying if one.code_generation >= self._code and not one.replace]
        stale = [one for one in staying if one not in fresh]
        actions: list[Action] = [Start(slot) for slot in self._slots_to_start(consumers, fresh, stale, now)]
        ready = sum(one.state != "starting" for one in fresh)
        actions += _retire(stale, min(ready + len(stale) - self.wanted, len(stale)))
        actions += _retire(fresh, len(fresh) - self.wanted)
        return actions + _overdue(consumers, now)

    def as_wanted(self, consumers: Sequence[ConsumerFacts]) -> bool:
        """Whether number and code are as wanted, and no Consumer is starting or leaving."""
        return len(consumers) == self.wanted and all(
            not one.leaving and one.state != "starting" and one.code_generation >= self._code for one in consumers
        )

    def _slots_to_start(
        self,
        consumers: Sequence[ConsumerFacts],
        fresh: list[ConsumerFacts],
        stale: list[ConsumerFacts],
        now: float,
    ) -> list[int]:
        missing = self.wanted - len(fresh)
        if stale:  # start a few at a time, beside the old ones
            starting = sum(one.state == "starting" for one in fresh)
            missing = min(missing, max(1, self.wanted // 4) - starting)
        used = {one.slot for one in consumers}
        free = (slot for slot in range(COUNT) if slot not in used)
        slots: list[int] = []
        for _ in range(missing):
            slot = next(free)
            if not self._budget(slot).may_start(now):
                break
            slots.append(slot)
        return slots

    def _budget(self, slot: int) -> Budget:
        return self._budgets.setdefault(slot, Budget())


def _retire(consumers: list[ConsumerFacts], count: int) -> list[Action]:
    ordered = sorted(consumers, key=lambda one: one.state == "busy")
    return [Retire(one.lane) for one in ordered[: max(0, count)]]


def _overdue(consumers: Sequence[ConsumerFacts], now: float) -> list[Action]:
    late: list[Action] = []
    for one in consumers:
        if one.state == "starting" and now - one.since > START_DEADLINE:
            late.append(Kill(one.lane, f"it was not set up within {START_DEADLINE:g} s"))
        elif one.state == "leaving" and now - one.since > LEAVE:
            late.append(Kill(one.lane, f"it did not end within {LEAVE:g} s"))
    return late
