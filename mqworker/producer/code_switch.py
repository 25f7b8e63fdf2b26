"""Whose code runs in a stage, and how a change of it goes: the candidate, and the trial after its commit.

Pure: events and time (CLOCK_MONOTONIC) in; staffing.py asks what follows. A candidate's Consumers are set up beside
those at work and get no message. Once the candidate is committed, its code is on *trial* until it has finished a
message, or has had time to: with `switch` the previous Consumers stay meanwhile, idle. Code that cannot be set up, or
kills a Consumer before it has finished a message, has *failed*: nothing goes on with it until the Service undoes the
change.
"""

from typing import Literal, NamedTuple

TRIES = 3  # Consumers of new code that die, or cannot be started, until it has failed; one that says why is enough
TRIAL = 30.0  # seconds after its first message that code is on trial, and that Consumers with the previous code stay
PATIENCE = 5.0  # seconds that the Service may take to go back from code that has failed; then it goes on, charged

Update = Literal["switch", "rolling", "old-first"]


class Staff(NamedTuple):
    """What a stage should have."""

    consumers: int = 0  # how many
    code: int = 0  # the generation whose code they run
    generation: int = 0  # in use
    candidate: int = 0  # the generation whose code is to be set up beside it; 0: none
    number: int = 0  # of the candidate's generation; another one has other parameters
    update: Update = "switch"


class CodeSwitch:
    """See the module head."""

    def __init__(self, update: Update) -> None:
        self.wanted = Staff(update=update)
        self.at_work: frozenset[int] = frozenset()  # the code whose Consumers may get messages
        self.before: set[int] = set()  # code that was at work before; its Consumers may still be there
        self.on_trial = False  # the code is committed, and has not finished a message since
        self.failed = ""  # why the candidate, or the code on trial, has to be undone
        self._stay_until = 0.0
        self._fed: float | None = None  # when the code on trial got its first message
        self._failed_at = 0.0
        self._tries = 0  # Consumers of the new code that died, or could not be started

    # --- what follows

    @property
    def over(self) -> bool:
        """Whether no change of code is in progress."""
        return not (self.wanted.candidate or self.on_trial or self.before)

    @property
    def halted(self) -> bool:
        """Whether nothing goes on with the code in use until the Service has answered."""
        return self.on_trial and bool(self.failed)

    @property
    def candidates_wanted(self) -> int:
        """How many Consumers of the candidate must be ready before it is committed."""
        if not self.wanted.candidate:
            return 0
        return max(1, self.wanted.consumers) if self.wanted.update == "switch" else 1

    @property
    def candidates(self) -> int:
        """How many Consumers of the candidate there should be."""
        return 0 if self.failed else self.candidates_wanted

    @property
    def target(self) -> int:
        """How many Consumers there should be with the code in use."""
        wanted = self.wanted
        room = wanted.update == "old-first" and wanted.candidate and not self.failed
        return max(0, wanted.consumers - 1) if room else wanted.consumers

    def before_stays(self, now: float) -> bool:
        """Whether Consumers with the previous code stay, idle, because the stage may go back to it."""
        return self.on_trial and self.wanted.update == "switch" and now < self._stay_until

    # --- events

    def want(self, wanted: Staff, now: float, *, looping: bool) -> None:
        """Aim at this from now on; `looping`: those at work are in a crash loop, to which there is no way back."""
        was, self.wanted = self.wanted, wanted
        if was.code and wanted.code != was.code:
            committed = wanted.code == was.candidate
            self.on_trial = committed and not looping
            self.before = (self.before | {was.code} if committed else self.before) - {wanted.code}
            self._stay_until, self._fed, self._tries = now + TRIAL, None, 0
            self.failed = ""
        elif wanted.generation != was.generation and self.on_trial:
            self.on_trial, self.failed = False, ""  # parameters for the new code: there is no way back any more
        if (wanted.candidate, wanted.number) != (was.candidate, was.number):
            self.failed, self._tries = "", 0
            if wanted.candidate:
                self.on_trial = False  # there are Consumers for two generations, not for three
        self._decide_who_works()

    def fed(self, code: int, now: float) -> None:
        """Note that a Consumer gets a message."""
        if self.on_trial and self._fed is None and code == self.wanted.code:
            self._fed = now

    def prospered(self, code: int) -> None:
        """Note that a Consumer has finished messages."""
        if code == self.wanted.code and not self.failed:
            self.on_trial = False

    def killed(self, code: int, reason: str, now: float) -> bool:
        """Note that a Consumer died of a message; returns whether its code, on trial, is to blame."""
        if not self.on_trial or code != self.wanted.code:
            return False
        self._fail(reason, now)
        return True

    def ended(self, code: int, problem: str, now: float, *, final: bool = False) -> None:
        """Note that a Consumer died without a message to blame, or was not started; `final`: it will not go better."""
        if code == self.wanted.candidate or (code == self.wanted.code and self.on_trial):
            self._tries += 1
            if final or self._tries >= TRIES:
                self._fail(problem, now)

    def look(self, codes: set[int], now: float) -> None:
        """Note the time, and the code of the Consumers that there are."""
        since, most = (self._failed_at, PATIENCE) if self.failed else (self._fed, TRIAL)
        if self.on_trial and since is not None and now - since > most:
            self.on_trial, self.failed = False, ""
        self.before &= codes
        self._decide_who_works()

    # --- inside

    def _fail(self, reason: str, now: float) -> None:
        if not self.failed:
            self.failed, self._failed_at = reason, now
            self._decide_who_works()

    def _decide_who_works(self) -> None:
        before = frozenset() if self.wanted.update == "switch" else frozenset(self.before)
        self.at_work = before if self.halted else before | {self.wanted.code}
