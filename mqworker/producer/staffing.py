"""Which Consumers a stage needs: how many, with which code, which start and which leave.

Pure: events, facts and time in, actions out; the fleet carries them out. New Consumers start first, and old ones leave
when a new one is ready, idle ones before busy ones; with `old-first` it is the other way round. What a change of code
asks for is decided in code_switch.py.

Each Consumer has a slot, which its code may use to choose a device or a file. N Consumers come to have the slots 0 to
N-1, and each successor takes the slot over: at once with `old-first`, where no two ever have the same; otherwise both
have it while one replaces the other. A slot whose Consumers keep dying before they have finished a message waits longer
each time, and holds up no other.
"""

from collections.abc import Container, Sequence
from itertools import islice
from typing import NamedTuple

from mqworker.config.stop_budget import LEAVE
from mqworker.consumer.register import COUNT
from mqworker.ipc.restart_budget import Budget
from mqworker.producer.code_switch import CodeSwitch, Staff, Update

EXCUSED_MAX = 10  # deaths in a row by known killers, after which such deaths count against the slots too
OVERDUE = "its import and `setup` took longer than setup_deadline,"


class ConsumerFacts(NamedTuple):
    """The facts about one Consumer that matter here."""

    lane: int
    slot: int
    state: str  # starting | idle | busy | leaving
    since: float  # when the state began (monotonic)
    code: int  # the generation whose code it imported
    replace: bool  # it must be replaced by a new one
    leaving: bool  # it gets no more work


class Start(NamedTuple):
    """Start a Consumer with this code in this slot."""

    slot: int
    code: int


class Retire(NamedTuple):
    """Give this lane no more work; its Consumer leaves when it is idle, or at once while it is starting."""

    lane: int


class Kill(NamedTuple):
    """End this lane's Consumer now."""

    lane: int
    reason: str


Action = Start | Retire | Kill


class Staffing:
    """What is wanted, and the record of each slot."""

    def __init__(self, setup_deadline: float, update: Update = "switch", places: int = COUNT) -> None:
        """`places`: how many Consumers the in-hand register has room for."""
        self.switch = CodeSwitch(update)
        self.problem = ""  # why the last Consumer could not be set up or started
        self._setup_deadline = setup_deadline
        self._places = places
        self._budgets: dict[tuple[int, int], Budget] = {}  # (code, slot)
        self._excused = 0  # deaths by known killers since a Consumer last finished a message

    @property
    def crash_loop(self) -> bool:
        """Whether some slot keeps dying without having finished a message."""
        code, most = self.switch.wanted.code, max(1, self.switch.wanted.consumers)
        return any(budget.crash_loop for (of, slot), budget in self._budgets.items() if of == code and slot < most)

    # --- events

    def want(self, wanted: Staff, now: float) -> None:
        """Aim at this from now on."""
        if wanted.code != self.switch.wanted.code:
            self.problem = ""
        self.switch.want(wanted, now, looping=self.crash_loop)
        codes = {wanted.code, *self.switch.before}
        self._budgets = {place: budget for place, budget in self._budgets.items() if place[0] in codes}

    def prospered(self, slot: int, code: int, *, going: bool = False) -> None:
        """Note that a Consumer has finished messages: its slot works, and so does its code.

        `going`: it leaves, or is to be replaced, so it says nothing of whether a new one works in that slot.
        """
        self._excused = 0
        self.switch.prospered(code)
        if going:
            return
        self._budget(code, slot).prospered()
        if code == self.switch.wanted.code and not self.crash_loop:
            self.problem = ""

    def start_failed(self, slot: int, code: int, now: float, reason: str) -> None:
        """Note that a Consumer could not be started: try again later."""
        what = f"a Consumer could not be started: {reason}"
        if code == self.switch.wanted.candidate:
            self.switch.ended(code, what, now)
            return
        self.problem = what
        self._budget(code, slot).died(now, fruitful=False)

    def died(
        self,
        slot: int,
        code: int,
        now: float,
        *,
        fruitful: bool,
        problem: str,
        attributed: bool = False,
        limit: bool = False,
        unfit: bool = False,
        going: bool = False,
    ) -> None:
        """Note an unwanted end of a Consumer; `problem` describes it, if the Consumer had not finished a message.

        `attributed`: it died of a message that had killed before. The message is charged, not the slot, so that good
        messages do not wait for a new Consumer; but a stage in which nothing else happens is in a crash loop.
        `limit`: we killed it, for what its message did. `unfit`: it reported why it cannot be set up, or was not set up
        in time. `going`: as for `prospered`.
        """
        if not (fruitful or attributed or limit):
            self.switch.ended(code, problem, now, final=unfit)
        if code == self.switch.wanted.candidate or going:
            return
        self._excused += attributed
        if attributed and self._excused <= EXCUSED_MAX:
            return
        if problem:
            self.problem = problem
        self._budget(code, slot).died(now, fruitful=fruitful)

    # --- the decision

    def decide(self, consumers: Sequence[ConsumerFacts], now: float) -> list[Action]:
        """Return the actions to take now; may be called at any time."""
        switch = self.switch
        switch.look({one.code for one in consumers}, now)
        wanted = switch.wanted
        staying = [one for one in consumers if not one.leaving]
        current = [one for one in staying if one.code == wanted.code]
        fresh = _fresh(current, wanted.consumers)
        worn = [one for one in current if one not in fresh]
        before = [one for one in staying if one.code in switch.before]
        candidates = [one for one in staying if one.code == wanted.candidate]
        known = (wanted.code, wanted.candidate, *switch.before)
        actions: list[Action] = []
        if not switch.halted:
            actions += self._starts(consumers, fresh, candidates, now, slowly=bool(worn or before))
        actions += [Retire(one.lane) for one in staying if one.code not in known]
        actions += self._replaced(consumers, fresh, worn if switch.before_stays(now) else worn + before)
        actions += _retire(fresh, len(fresh) - switch.target)
        actions += _retire(candidates, len(candidates) - switch.candidates)
        return actions + self._overdue(consumers, now)

    def as_wanted(self, consumers: Sequence[ConsumerFacts]) -> bool:
        """Whether number and code are as wanted, and no Consumer that gets messages is starting or leaving.

        A candidate's do not count, nor those that finish what they have after a switch.
        """
        wanted = self.switch.wanted
        current = [one for one in consumers if one.code == wanted.code]
        if wanted.update != "switch" and any(one.code in self.switch.before for one in consumers):
            return False
        return sorted(one.slot for one in current) == [*range(self.switch.target)] and all(
            not one.leaving and one.state != "starting" for one in current
        )

    # --- inside

    def _starts(
        self,
        consumers: Sequence[ConsumerFacts],
        fresh: list[ConsumerFacts],
        candidates: list[ConsumerFacts],
        now: float,
        *,
        slowly: bool,
    ) -> list[Start]:
        """Return the starts that are due: at once from nothing, else a few at a time, so that work goes on beside."""
        wanted = self.switch.wanted
        exclusive = wanted.update == "old-first"
        few = max(1, wanted.consumers // 4) if wanted.update == "switch" else 1
        room = self._places - len(consumers)
        if exclusive:
            room = max(1, wanted.consumers) - sum(one.slot < max(1, wanted.consumers) for one in consumers)
        starts: list[Start] = []
        for code, there, most, gradual in (
            (wanted.code, fresh, self.switch.target, slowly),
            (wanted.candidate, candidates, self.switch.candidates, True),
        ):
            missing = most - len(there)
            if gradual:
                missing = min(missing, few - sum(one.state == "starting" for one in there))
            missing = min(missing, room - len(starts))
            taken = {one.slot for one in (consumers if exclusive else there)}
            taken |= {start.slot for start in starts if exclusive}
            free = (slot for slot in range(max(1, wanted.consumers)) if slot not in taken)
            ready = (slot for slot in free if code != wanted.code or self._budget(code, slot).may_start(now))
            starts += [Start(slot, code) for slot in islice(ready, max(0, missing))]
        return starts

    def _replaced(
        self, consumers: Sequence[ConsumerFacts], fresh: list[ConsumerFacts], stale: list[ConsumerFacts]
    ) -> list[Action]:
        """Return which of those that are to be replaced leave now."""
        wanted = self.switch.wanted
        ready = {one.slot for one in fresh if one.state != "starting"}
        more = len(ready) + len(stale) - self.switch.target
        if wanted.update != "old-first":
            more = max(more, sum(one.slot in ready for one in stale))
        elif more == 0:
            more = not any(one.leaving or one.state == "starting" for one in consumers)
        return _retire(stale, more, keep=set(range(wanted.consumers)) - ready)

    def _budget(self, code: int, slot: int) -> Budget:
        return self._budgets.setdefault((code, slot), Budget())

    def _overdue(self, consumers: Sequence[ConsumerFacts], now: float) -> list[Action]:
        late: list[Action] = []
        for one in consumers:
            if one.state == "starting" and now - one.since > self._setup_deadline:
                late.append(Kill(one.lane, f"{OVERDUE} {self._setup_deadline:g} s"))
            elif one.state == "leaving" and now - one.since > LEAVE:
                late.append(Kill(one.lane, f"it did not end within {LEAVE:g} s"))
        return late


def _fresh(consumers: Sequence[ConsumerFacts], count: int) -> list[ConsumerFacts]:
    """Return those that may stay, at most one for each slot; one that is set up rather than one that starts."""
    by_slot: dict[int, ConsumerFacts] = {}
    for one in sorted(consumers, key=lambda one: one.state == "starting"):
        if not one.replace and one.slot < count:
            by_slot.setdefault(one.slot, one)
    return list(by_slot.values())


def _retire(consumers: list[ConsumerFacts], count: int, keep: Container[int] = ()) -> list[Action]:
    """Retire `count`: first those whose slot is not to be kept, then idle ones, then those with the highest slots."""
    ordered = sorted(consumers, key=lambda one: (one.slot in keep, one.state == "busy", -one.slot))
    return [Retire(one.lane) for one in ordered[: max(0, count)]]
