"""Which Consumers a stage needs: how many, with which code, which start and which leave.

Pure: events, facts and time in, actions out; the fleet carries them out. New Consumers start first, and old ones leave
when a new one is ready, idle ones before busy ones; with `old-first` it is the other way round. A slot whose Consumers
keep dying before they have finished a message waits longer each time. What a change of code asks for is decided in
code_switch.py.
"""

from collections.abc import Sequence
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

    def __init__(self, setup_deadline: float, update: Update = "switch") -> None:
        self.switch = CodeSwitch(update)
        self.problem = ""  # why the last Consumer could not be set up or started
        self._setup_deadline = setup_deadline
        self._budgets: dict[tuple[int, int], Budget] = {}  # (code, slot)
        self._excused = 0  # deaths by known killers since a Consumer last finished a message

    @property
    def crash_loop(self) -> bool:
        """Whether some slot keeps dying without having finished a message."""
        code = self.switch.wanted.code
        return any(budget.crash_loop for (of, _), budget in self._budgets.items() if of == code)

    # --- events

    def want(self, wanted: Staff, now: float) -> None:
        """Aim at this from now on."""
        if wanted.code != self.switch.wanted.code:
            self.problem = ""
        self.switch.want(wanted, now, looping=self.crash_loop)
        codes = {wanted.code, *self.switch.before}
        self._budgets = {place: budget for place, budget in self._budgets.items() if place[0] in codes}

    def prospered(self, slot: int, code: int) -> None:
        """Note that a Consumer has finished messages: its slot works, and so does its code."""
        self._excused = 0
        self._budget(code, slot).prospered()
        if code == self.switch.wanted.code and not self.crash_loop:
            self.problem = ""
        self.switch.prospered(code)

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
    ) -> None:
        """Note an unwanted end of a Consumer; `problem` describes it, if the Consumer had not finished a message.

        `attributed`: it died of a message that had killed before. The message is charged, not the slot, so that good
        messages do not wait for a new Consumer; but a stage in which nothing else happens is in a crash loop.
        `limit`: we killed it, for what its message did. `unfit`: it reported why it cannot be set up, or was not set up
        in time.
        """
        if not (fruitful or attributed or limit):
            self.switch.ended(code, problem, now, final=unfit)
        if code == self.switch.wanted.candidate:
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
        fresh = [one for one in staying if one.code == wanted.code and not one.replace]
        worn = [one for one in staying if one.code == wanted.code and one.replace]
        before = [one for one in staying if one.code in switch.before]
        candidates = [one for one in staying if one.code == wanted.candidate]
        known = (wanted.code, wanted.candidate, *switch.before)
        actions: list[Action] = []
        if not switch.halted:
            actions += self._starts(consumers, len(fresh), bool(worn or before), now)
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
        return len(current) == self.switch.target and all(
            not one.leaving and one.state != "starting" for one in current
        )

    # --- inside

    def _starts(self, consumers: Sequence[ConsumerFacts], fresh: int, others: bool, now: float) -> list[Action]:
        """Return the starts that are due: at once from nothing, else a few at a time, so that work goes on beside."""
        wanted = self.switch.wanted
        few = max(1, wanted.consumers // 4) if wanted.update == "switch" else 1
        room = max(1, wanted.consumers) - len(consumers) if wanted.update == "old-first" else COUNT
        free = iter(sorted(set(range(COUNT)) - {one.slot for one in consumers}))
        starts: list[Action] = []
        for code, there, most, slowly in (
            (wanted.code, fresh, self.switch.target, others),
            (wanted.candidate, _count(consumers, wanted.candidate), self.switch.candidates, True),
        ):
            missing = most - there
            if slowly:
                missing = min(missing, few - _count(consumers, code, "starting"))
            for _ in range(min(missing, room - len(starts))):
                slot = next(free, None)
                if slot is None or (code == wanted.code and not self._budget(code, slot).may_start(now)):
                    break
                starts.append(Start(slot, code))
        return starts

    def _replaced(
        self, consumers: Sequence[ConsumerFacts], fresh: list[ConsumerFacts], stale: list[ConsumerFacts]
    ) -> list[Action]:
        """Return which of those that are to be replaced leave now."""
        target = self.switch.target
        if self.switch.wanted.update == "old-first":
            turning = any(one.leaving or one.state == "starting" for one in consumers)
            more = len(fresh) + len(stale) - target
            return _retire(stale, 0 if turning or more < 0 else max(more, 1))
        ready = sum(one.state != "starting" for one in fresh)
        return _retire(stale, ready + len(stale) - target)

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


def _count(consumers: Sequence[ConsumerFacts], code: int, state: str = "") -> int:
    return sum(
        one.code == code and not one.leaving and not one.replace and state in ("", one.state) for one in consumers
    )


def _retire(consumers: list[ConsumerFacts], count: int) -> list[Action]:
    ordered = sorted(consumers, key=lambda one: one.state == "busy")
    return [Retire(one.lane) for one in ordered[: max(0, count)]]
