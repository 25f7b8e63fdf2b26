"""Changes that the user's code has to accept, asked of real code checks and stored in a real document."""

import asyncio

import pytest

from mqworker.config.load import load
from mqworker.control import desired_state
from mqworker.control.desired_state import SetLimits, begin
from mqworker.control.errors import ChangeRefused
from mqworker.control.stage_desired import StageDesired
from mqworker.producer.code_switch import TRIAL
from mqworker.service.checked_changes import CheckedChanges
from mqworker.service.switch_follower import SwitchFollower
from tests.support.loop import on_loop
from tests.support.waiting import AMPLE

TOML = """\
[stages.s]
input = "a"
jobs = ["jobs:handle"]
concurrency = 2
"""
WAITS, PLAIN = "async def handle(body):\n    return body\n", "def handle(body):\n    return body\n"


class Owner:
    """Keeps the document."""

    def __init__(self, config) -> None:
        self.document, _ = begin(None, config)
        self._config = config

    def apply(self, asked: desired_state.Change) -> int:
        self.document = desired_state.change(self.document, asked, self._config)
        return self.document.revision

    def changeable(self, stage: str) -> StageDesired:
        return self.document.stages[stage]


@on_loop
async def test_a_soft_limit_is_never_in_force_with_code_that_it_cannot_interrupt(tmp_path):
    """A reload and a limit that are asked for at once are checked one after the other, whichever is first."""
    (tmp_path / "mqworker.toml").write_text(TOML)
    (tmp_path / ".mqworker").mkdir()
    jobs = tmp_path / "jobs.py"
    loaded = load(tmp_path / "mqworker.toml", {})
    for limit_first in (True, False):
        jobs.write_text(WAITS)
        owner = Owner(loaded.config)
        changes = CheckedChanges(loaded, lambda _event: None, owner, lambda _stage: None)
        first = await changes.reload("s", {}, AMPLE)
        owner.apply(desired_state.Commit("s", first.change))
        jobs.write_text(PLAIN)
        limit, reload = changes.set_limits(SetLimits("s", 1.0, 0.0), AMPLE), changes.reload("s", {}, AMPLE)
        asked = (limit, reload) if limit_first else (reload, limit)
        done, refused = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(refused, ChangeRefused)
        assert "time_limit.soft" in str(refused)
        assert not isinstance(done, BaseException)
        stage = owner.document.stages["s"]
        assert (stage.soft_limit, stage.candidate is None) == ((1.0, True) if limit_first else (0.0, False))


@on_loop
async def test_a_soft_limit_suits_also_the_code_that_a_failed_trial_brings_back(tmp_path):
    """While threads may come back it is refused, with that reason; after the trial it is taken."""
    (tmp_path / "mqworker.toml").write_text(TOML)
    (tmp_path / ".mqworker").mkdir()
    jobs = tmp_path / "jobs.py"
    loaded = load(tmp_path / "mqworker.toml", {})
    owner, follower = Owner(loaded.config), SwitchFollower("s")
    changes = CheckedChanges(loaded, lambda _event: None, owner, lambda _stage: follower.fallback)

    async def reload(code: str) -> None:
        jobs.write_text(code)
        done = await changes.reload("s", {}, AMPLE)
        follower.want(owner.document.stages["s"], 0.0)
        owner.apply(desired_state.Commit("s", done.change))
        follower.want(owner.document.stages["s"], 0.0)

    await reload(PLAIN)
    await reload(WAITS)
    with pytest.raises(ChangeRefused) as refused:
        await changes.set_limits(SetLimits("s", 1.0, 0.0), AMPLE)
    assert "time_limit.soft" in str(refused.value)
    assert "which comes back" in str(refused.value)
    assert owner.document.stages["s"].soft_limit == 0
    follower.producer_died("was killed", TRIAL + 1)  # too late for a trial
    await changes.set_limits(SetLimits("s", 1.0, 0.0), AMPLE)
    assert owner.document.stages["s"].soft_limit == 1.0
