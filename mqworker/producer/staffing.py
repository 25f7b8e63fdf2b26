"""Which Consumers a stage needs: how many, with which code, which start and which leave.

Pure: events, facts and time in, actions out; the fleet carries them out. New Consumers start first, and old ones leave
when a new one is ready, idle ones before busy ones; with `old-first` it is the other way round. A slot whose Consumers
keep dying before they have finished a message waits longer each time.

A candidate's Consumers are set up beside those at work and get no message. Once the candidate is committed, its code is
on *trial* until it has finished a message, or has had time to: with `switch` the Consumers of before stay meanwhile,
idle. If one with code on trial dies of a message, the code has failed, and the Service goes back to the code of before.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mqworker.config.stop_budget import LEAVE
from mqworker.consumer.register import COUNT
from mqworker.ipc.restart_budget import Budget

EXCUSED_MAX = 10  # deaths in a row by known killers, after which such deaths count against the slots too
TRIES = 3  # Consumers of a candidate that die, or cannot be started, until it has failed; one that says why is enough
TRIAL = 30.0  # seconds after its first message that code is on trial, and that Consumers of the code of before stay
PATIENCE = 5.0  # seconds that the Service may take to go back from code that has failed; then it goes on, charged
OVERDUE = "it was not set up within"

Update = Literal["switch", "rolling", "old-first"]


class Staff(NamedTuple):
    """What a stage should have."""

    consumers: int = 0  # how many
    code: int = 0  # the generation whose code they run
    generation: int = 0  # in use
    candidate: int = 0  # the generation whose code is to be set up beside it; 0: none
    number: int = 0  # of the candidate's generation; another one has other parameters
    update: Update = "switch"


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
    """What is wanted, the record of each slot, and how the last change of code goes."""

    def __init__(self, setup_deadline: float, update: Update = "switch") -> None:
        self.wanted = Staff(update=update)
        self.at_work: frozenset[int] = frozenset()  # the code whose Consumers may get messages
        self.problem = ""  # why the last Consumer could not be set up or started
        self.on_trial = False  # the code is committed, and has not finished a message since
        self.failed = ""  # why the candidate, or the code on trial, has to be undone
        self._setup_deadline = setup_deadline
        self._before: set[int] = set()  # code that was at work before; its Consumers may still be
        self._stay_until = 0.0
        self._fed: float | None = None  # when the code on trial got its first message
        self._failed_at = 0.0
        self._tries = 0  # Consumers of the candidate that died, or could not be started
        self._budgets: dict[tuple[int, int], Budget] = {}  # (code, slot)
        self._excused = 0  # deaths by known killers since a Consumer last finished a message

    @property
    def crash_loop(self) -> bool:
        """Whether some slot keeps dying without having finished a message."""
        return any(budget.crash_loop for (code, _), budget in self._budgets.items() if code == self.wanted.code)

    @property
    def replacing(self) -> bool:
        """Whether a change of code is not over."""
        return bool(self.wanted.candidate or self.on_trial or self._before)

    @property
    def candidates_wanted(self) -> int:
        """How many Consumers of the candidate must be ready before it is committed."""
        if not self.wanted.candidate:
            return 0
        return max(1, self.wanted.consumers) if self.wanted.update == "switch" else 1

    # --- events

    def want(self, wanted: Staff, now: float) -> None:
        """Aim at this from now on."""
        looping = self.crash_loop
        was, self.wanted = self.wanted, wanted
        if was.code and wanted.code != was.code:
            committed = wanted.code == was.candidate
            self.on_trial = committed and not looping  # there is nothing to go back to in a crash loop
            self._before = (self._before | {was.code} if committed else self._before) - {wanted.code}
            self._stay_until, self._fed, self._tries = now + TRIAL, None, 0
            self.failed = self.problem = ""
        elif wanted.generation != was.generation and self.on_trial:
            self.on_trial, self.failed = False, ""  # parameters for the new code: there is no way back any more
        if (wanted.candidate, wanted.number) != (was.candidate, was.number):
            self.failed, self._tries = "", 0
            if wanted.candidate:
                self.on_trial = False  # there are Consumers for two generations, not for three
        self._decide_who_works()
        codes = {wanted.code, *self._before}
        self._budgets = {place: budget for place, budget in self._budgets.items() if place[0] in codes}

    def fed(self, code: int, now: float) -> None:
        """Note that a Consumer gets a message."""
        if self.on_trial and self._fed is None and code == self.wanted.code:
            self._fed = now

    def prospered(self, slot: int, code: int) -> None:
        """Note that a Consumer has finished messages: its slot works, and so does its code."""
        self._excused = 0
        self._budget(code, slot).prospered()
        if code == self.wanted.code:
            self.problem = ""
            self.on_trial = self.on_trial and bool(self.failed)

    def start_failed(self, slot: int, code: int, now: float, reason: str) -> None:
        """Note that a Consumer could not be started: try again later."""
        what = f"a Consumer could not be started: {reason}"
        if code == self.wanted.candidate:
            self._new_code_died(what, now)
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
        blameless = fruitful or attributed or limit
        if code == self.wanted.candidate or (code == self.wanted.code and self.on_trial and not blameless):
            self._new_code_died(problem, now, final=unfit)
        if code == self.wanted.candidate:
            return
        self._excused += attributed
        if attributed and self._excused <= EXCUSED_MAX:
            return
        if problem:
            self.problem = problem
        self._budget(code, slot).died(now, fruitful=fruitful)

    def fails(self, code: int, reason: str, now: float) -> bool:
        """Note that a Consumer died of a message; returns whether its code, on trial, is to blame."""
        if not self.on_trial or code != self.wanted.code:
            return False
        self._fail(reason, now)
        return True

    def _new_code_died(self, problem: str, now: float, *, final: bool = False) -> None:
        self._tries += 1
        if final or self._tries >= TRIES:
            self._fail(problem, now)

    def _fail(self, reason: str, now: float) -> None:
        if not self.failed:
            self.failed, self._failed_at = reason, now
            self._decide_who_works()

    # --- the decision

    def decide(self, consumers: Sequence[ConsumerFacts], now: float) -> list[Action]:
        """Return the actions to take now; may be called at any time."""
        self._end_trial(now)
        if gone := self._before - {one.code for one in consumers}:
            self._before -= gone
            self._decide_who_works()
        wanted, target = self.wanted, self._target
        staying = [one for one in consumers if not one.leaving]
        fresh = [one for one in staying if one.code == wanted.code and not one.replace]
        worn = [one for one in staying if one.code == wanted.code and one.replace]
        before = [one for one in staying if one.code in self._before]
        candidates = [one for one in staying if one.code == wanted.candidate]
        known = (wanted.code, wanted.candidate, *self._before)
        actions: list[Action] = []
        if not (self.on_trial and self.failed):
            actions += self._starts(consumers, len(fresh), bool(worn or before), now)
        actions += [Retire(one.lane) for one in staying if one.code not in known]
        stays = self.on_trial and wanted.update == "switch" and now < self._stay_until
        actions += self._replaced(consumers, fresh, worn if stays else worn + before)
        actions += _retire(fresh, len(fresh) - target)
        actions += _retire(candidates, len(candidates) - self._candidates)
        return actions + self._overdue(consumers, now)

    def as_wanted(self, consumers: Sequence[ConsumerFacts]) -> bool:
        """Whether number and code are as wanted, and no Consumer that gets messages is starting or leaving.

        A candidate's do not count, nor those that finish what they have after a switch.
        """
        current = [one for one in consumers if one.code == self.wanted.code]
        if self.wanted.update != "switch" and any(one.code in self._before for one in consumers):
            return False
        return len(current) == self._target and all(not one.leaving and one.state != "starting" for one in current)

    # --- inside

    def _decide_who_works(self) -> None:
        before = frozenset() if self.wanted.update == "switch" else frozenset(self._before)
        failed = self.on_trial and self.failed  # until the Service goes back, or does not answer
        self.at_work = before if failed else before | {self.wanted.code}

    @property
    def _target(self) -> int:
        """How many Consumers there should be with the code in use."""
        wanted = self.wanted
        room = wanted.update == "old-first" and wanted.candidate and not self.failed
        return max(0, wanted.consumers - 1) if room else wanted.consumers

    @property
    def _candidates(self) -> int:
        """How many Consumers of the candidate there should be."""
        return 0 if self.failed else self.candidates_wanted

    def _end_trial(self, now: float) -> None:
        if not self.on_trial:
            return
        since, most = (self._failed_at, PATIENCE) if self.failed else (self._fed, TRIAL)
        if since is not None and now - since > most:
            self.on_trial, self.failed = False, ""
            self._decide_who_works()

    def _starts(self, consumers: Sequence[ConsumerFacts], fresh: int, others: bool, now: float) -> list[Action]:
        """Return the starts that are due: at once from nothing, else a few at a time, so that work goes on beside."""
        wanted = self.wanted
        few = max(1, wanted.consumers // 4) if wanted.update == "switch" else 1
        room = max(1, wanted.consumers) - len(consumers) if wanted.update == "old-first" else COUNT
        free = iter(sorted(set(range(COUNT)) - {one.slot for one in consumers}))
        starts: list[Action] = []
        for code, there, most, slowly in (
            (wanted.code, fresh, self._target, others),
            (wanted.candidate, self._count(consumers, wanted.candidate), self._candidates, True),
        ):
            missing = most - there
            if slowly:
                missing = min(missing, few - self._count(consumers, code, "starting"))
            for _ in range(min(missing, room - len(starts))):
                slot = next(free, None)
                if slot is None or (code == wanted.code and not self._budget(code, slot).may_start(now)):
                    break
                starts.append(Start(slot, code))
        return starts

    def _count(self, consumers: Sequence[ConsumerFacts], code: int, state: str = "") -> int:
        return sum(
            one.code == code and not one.leaving and not one.replace and state in ("", one.state) for one in consumers
        )

    def _replaced(
        self, consumers: Sequence[ConsumerFacts], fresh: list[ConsumerFacts], stale: list[ConsumerFacts]
    ) -> list[Action]:
        """Return which of those that are to be replaced leave now."""
        target = self._target
        if self.wanted.update == "old-first":
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


def _retire(consumers: list[ConsumerFacts], count: int) -> list[Action]:
    ordered = sorted(consumers, key=lambda one: one.state == "busy")
    return [Retire(one.lane) for one in ordered[: max(0, count)]]
