"""How a change ends, decided from what the Producer reports: a table of events."""

import msgspec

from mqworker.control.desired_state import Commit, Revert, Undo
from mqworker.control.stage_desired import Candidate, StageDesired, Version
from mqworker.control.switch import Previous, committed
from mqworker.ipc.stage_status import StageStatus, SwitchState
from mqworker.producer.code_switch import TRIAL
from mqworker.service.switch_follower import SwitchFollower
from tests.http.operator import stage_status

ONE = StageDesired()
TWO = msgspec.structs.replace(ONE, candidate=Candidate(Version(2, {}), 2, "", "", {}))
THREE = msgspec.structs.replace(ONE, candidate=Candidate(Version(3, {}), 3, "", "", {}))
DONE = committed(TWO)
BEFORE = Previous(ONE.version, 1)
TOLD = 10  # the revision that the Producer was sent last


def follower(*stages: StageDesired, now: float = 0.0) -> SwitchFollower:
    made = SwitchFollower("s")
    for each in stages:
        made.want(each, now)
    return made


def report(code: int = 0, revision: int = TOLD, **more) -> StageStatus:
    """Return a report on a change to this code; 0: there is none."""
    switch = SwitchState(revision=revision, code=code, update="switch", **more) if code else None
    return stage_status("s", revision=revision, switch=switch)


def test_a_candidate_is_committed_once_all_its_consumers_are_ready():
    """By a report about what the Producer was told last, and about this candidate."""
    made = follower(ONE, TWO)
    assert made.due(None, TOLD) is None
    assert made.due(report(2, ready=1, wanted=2), TOLD) is None
    assert made.due(report(2, revision=9, ready=2, wanted=2), TOLD) is None, "it was scaled since"
    assert made.due(report(3, ready=2, wanted=2), TOLD) is None
    assert made.due(report(2, ready=2, wanted=2), 0) is None, "it is told to stop"
    assert made.due(report(2, ready=2, wanted=2), TOLD) == Commit("s", 2)


def test_a_candidate_that_failed_is_undone():
    """With the reason; a report of before its parameters were changed does not count."""
    made = follower(ONE, TWO)
    assert made.due(report(2, revision=9, ready=0, wanted=2, failed="no model"), TOLD) is None
    assert made.due(report(2, ready=2, wanted=2, failed="no model"), TOLD) == Undo("s", 2, "no model")


def test_a_producer_that_dies_takes_its_candidate_with_it():
    """Whatever its successor reports; a newer change is not to blame for it."""
    made = follower(ONE, TWO)
    made.producer_died("it was killed", 1.0)
    lost = Undo("s", 2, "it was killed", "lost")
    assert made.due(None, 0) == lost
    assert made.due(report(2, ready=2, wanted=2), TOLD) == lost, "it could not be stored"
    made.want(THREE, 2.0)
    assert made.due(None, 0) is None


def test_what_fails_on_trial_is_reverted():
    """To the generation that its commit replaced."""
    made = follower(ONE, TWO, DONE)
    assert made.due(report(2, on_trial=True), TOLD) is None
    assert made.due(report(2, on_trial=True, failed="it crashed"), TOLD) == Revert("s", 2, BEFORE, "it crashed")


def test_what_has_finished_a_message_is_not_reverted_any_more():
    """Nor after a newer change, nor without a commit."""
    made = follower(ONE, TWO, DONE)
    made.due(report(2, revision=9, on_trial=True), TOLD)
    made.due(report(2, left=1), TOLD)
    assert made.due(report(2, on_trial=True, failed="it crashed"), TOLD) is None
    newer = follower(ONE, TWO, DONE, msgspec.structs.replace(DONE, candidate=THREE.candidate))
    assert newer.due(report(2, failed="it crashed"), TOLD) is None
    tuned = follower(ONE, TWO, DONE, msgspec.structs.replace(DONE, generation=3, params={"n": 1}))
    assert tuned.due(report(2, failed="it crashed"), TOLD) is None, "it has parameters of its own by now"
    assert follower(ONE, DONE).due(report(2, failed="it crashed"), TOLD) is None, "the stage was stopped"


def test_a_producer_that_dies_soon_after_a_commit_takes_it_back():
    """The new code may have killed it; later that is less likely than anything else."""
    soon = follower(ONE, TWO, DONE)
    soon.producer_died("it was killed", TRIAL - 1)
    assert soon.due(None, 0) == Revert("s", 2, BEFORE, "it was killed before the new code had finished a message")
    stopped = follower(ONE, TWO, DONE, msgspec.structs.replace(DONE, running=False))
    stopped.producer_died("it was killed", 1.0)
    assert stopped.due(None, 0) is None
    late = follower(ONE, TWO, DONE)
    late.producer_died("it was killed", TRIAL + 1)
    assert late.due(None, 0) is None
    assert late.due(report(2, failed="it crashed"), TOLD) is None
