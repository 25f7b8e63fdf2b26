"""The form of the parameters and the conflict of two operators, with real code checks and a real document."""

import asyncio

import pytest

from mqworker.config.load import load
from mqworker.control import desired_state
from mqworker.control.errors import ChangeRefused, ControlError
from mqworker.ipc.check_messages import CodeReport
from mqworker.ipc.generation import CodeCopy
from mqworker.service.checked_changes import CheckedChanges
from mqworker.service.params_schemas import AT_ONCE, KEPT, ParamsSchemas
from tests.service.test_checked_changes import Owner
from tests.support.loop import on_loop
from tests.support.waiting import AMPLE

TOML = """\
[stages.s]
input = "a"
jobs = ["jobs:handle"]
params = { gain = 2 }
"""
CODE = """\
import dataclasses
@dataclasses.dataclass
class Params:
    gain: int
    size: int = 7
def handle(body, params):
    return body
"""


@on_loop
async def test_what_real_code_takes_and_who_was_too_late(tmp_path):
    """The code's schema and defaults are told; whoever has seen other parameters than those in use changes nothing."""
    (tmp_path / "mqworker.toml").write_text(TOML)
    (tmp_path / ".mqworker").mkdir()
    (tmp_path / "jobs.py").write_text(CODE)
    loaded = load(tmp_path / "mqworker.toml", {})
    owner = Owner(loaded.config)
    changes = CheckedChanges(loaded, lambda _event: None, owner, lambda _stage: None)
    form = await changes.params_form("s", AMPLE)
    assert (form.defaults, form.generation) == ({"gain": 2, "size": 7}, 1)
    assert form.schema["properties"]["size"] == {"type": "integer", "default": 7}
    assert (form.schema["required"], form.schema["additionalProperties"]) == (["gain"], False)
    await changes.patch_params("s", {"gain": 3}, ("1",), AMPLE)
    for late in (
        changes.patch_params("s", {"size": 8}, ("1",), AMPLE),
        changes.patch_params("s", {"size": 8}, (), AMPLE),
        changes.rollback_params("s", ("1", "99"), AMPLE),
    ):
        with pytest.raises(ControlError) as conflict:
            await late
        assert conflict.value.kind == "conflict"
    assert owner.document.stages["s"].params == {"gain": 3}
    first, second = await asyncio.gather(
        changes.patch_params("s", {"size": 8}, ("2",), AMPLE),
        changes.patch_params("s", {"size": 9}, ("2",), AMPLE),
        return_exceptions=True,
    )
    assert (isinstance(first, tuple), getattr(second, "kind", "")) == (True, "conflict")
    assert owner.document.stages["s"].params == {"gain": 3, "size": 8}
    reloaded = await changes.reload("s", {}, AMPLE)
    if owner.document.stages["s"].candidate is not None:
        owner.apply(desired_state.Commit("s", reloaded.change))
    assert owner.document.stages["s"].generation > 3
    await changes.patch_params("s", {"size": 9}, ("3",), AMPLE)  # other code since then, and the same parameters


class Asked:
    """What a code check is asked, and its answers, given by hand."""

    def __init__(self) -> None:
        self.questions: list[asyncio.Future[CodeReport]] = []
        self.came = asyncio.Event()

    async def __call__(self, *_: object) -> CodeReport:
        self.questions.append(asyncio.get_running_loop().create_future())
        self.came.set()
        return await self.questions[-1]


def stages(**params: int):
    stage = desired_state.StageDesired(params=params, copy=CodeCopy("d", "/"))
    return lambda _name: stage


@on_loop
async def test_one_check_for_all_who_ask():
    """Several callers share a check; one who does not wait for it finds its answer later, without another."""
    asked = Asked()
    forms = ParamsSchemas(stages(a=1), asked)
    both = [asyncio.create_task(forms.of("s", AMPLE)) for _ in range(2)]
    with pytest.raises(ControlError) as late:
        await forms.of("s", 0.01)
    assert (late.value.kind, len(asked.questions)) == ("deadline", 1)
    asked.questions[0].set_result(CodeReport([], [("a", "is refused")], {}, schema={"type": "object"}))
    assert [(await each).schema for each in both] == [{"type": "object"}] * 2
    assert (await forms.of("s", AMPLE)).defaults == {"a": 1}
    assert len(asked.questions) == 1


@on_loop
async def test_two_checks_at_once():
    """Of many questions two are checked; the next one when one has ended, unless nobody waits for it any more."""
    asked, params = Asked(), {"a": 0}
    forms = ParamsSchemas(lambda _name: stages(**params)(""), asked)
    waiting = []
    for n in range(4):
        params["a"] = n
        waiting.append(asyncio.create_task(forms.of("s", AMPLE)))
        await asyncio.sleep(0)
    gone = [asyncio.create_task(forms.of("s", AMPLE)) for _ in range(2)]
    await asyncio.wait(gone, timeout=0.05)
    assert len(asked.questions) == AT_ONCE == 2
    for each in (waiting[0], waiting[2], gone[0]):  # one that has begun, one that has not, one of three
        each.cancel()
    await asyncio.wait((waiting[0], waiting[2], gone[0]))
    asked.came.clear()
    for n in range(3):
        asked.questions[n].set_result(CodeReport([], [("a", "is refused")], {}, schema={"n": n}))
        if n == 0:
            await asyncio.wait_for(asked.came.wait(), AMPLE)
    told = [(await each).schema for each in (waiting[1], waiting[3], gone[1])]
    assert (told, len(asked.questions)) == ([{"n": 1}, {"n": 2}, {"n": 2}], 3)
    params["a"] = 0
    assert (await forms.of("s", AMPLE)).schema == {"n": 0}, "a check that has begun was not for nothing"


@on_loop
async def test_failures_and_old_answers_are_not_kept():
    """Code that cannot be imported is asked again, with the reason each time; only the last answers are kept."""
    reports, asked = [CodeReport(["no such module"], [], {})] * 2, []
    params: dict[str, int] = {"a": 0}

    async def ask(*question: object) -> CodeReport:
        asked.append(question)
        return reports.pop() if reports else CodeReport([], [], {})

    forms = ParamsSchemas(lambda _name: stages(**params)(""), ask)
    for _ in range(2):
        with pytest.raises(ChangeRefused, match="no such module"):
            await forms.of("s", AMPLE)
    for n in range(KEPT + 1):
        params["a"] = n
        await forms.of("s", AMPLE)
    await forms.of("s", AMPLE)
    assert len(asked) == KEPT + 3
    params["a"] = 0
    await forms.of("s", AMPLE)
    assert len(asked) == KEPT + 4
