"""Whether the code of a stage accepts a change, asked of real code checks."""

import asyncio

import pytest

from mqworker.config.load import load
from mqworker.control.desired_state import begin
from mqworker.control.errors import ChangeRefused
from mqworker.ipc.check_messages import CodeReport
from mqworker.service.change_check import AFTER_AN_EDIT, ChangeCheck
from tests.support.loop import on_loop

TOML = """\
[stages.s]
input = "a"
jobs = ["jobs:handle"]
"""
JOBS = """\
import dataclasses
@dataclasses.dataclass
class Params:
    size: int = 3
def handle(body, params):
    return body
"""


@on_loop
async def test_what_the_code_says_is_a_report_or_a_refusal(tmp_path):
    """The folder is copied; what is refused says whether the code, a parameter or a named job is at fault."""
    (tmp_path / "mqworker.toml").write_text(TOML)
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "broken.py").write_text("raise ValueError('at import')\n")
    (tmp_path / ".mqworker").mkdir()
    loaded = load(tmp_path / "mqworker.toml", {})
    document, _ = begin(None, loaded.config)
    check = ChangeCheck(loaded, lambda _event: None, lambda: document)
    good, params, code, named = await asyncio.gather(
        check.folder("s", {"size": 4}, ["jobs:handle"]),
        check.folder("s", {"size": "x"}, ["jobs:handle"]),
        check.folder("s", {}, ["broken:handle"]),
        check.copy("s", {}, None, ["jobs:handle", "jobs:other"], ("jobs:other",)),
        return_exceptions=True,
    )
    assert isinstance(good, CodeReport)
    assert good.defaults == {"size": 4}
    assert good.copy is not None
    for refused, at_fault in ((params, False), (code, True), (named, False)):
        assert isinstance(refused, ChangeRefused)
        assert refused.code == at_fault
    assert [field for field, _ in params.fields] == ["size"]
    assert not params.problems
    assert "at import" in code.problems[0]
    assert AFTER_AN_EDIT not in code.problems
    assert "other" in named.problems[0]
    assert named.problems[-1] == AFTER_AN_EDIT
    copied = await check.copy("s", {}, good.copy, ["jobs:handle"])
    assert copied.defaults == {"size": 3}
    (good.copy.path(tmp_path / ".mqworker") / "jobs.py").unlink()
    with pytest.raises(ChangeRefused):
        await check.copy("s", {}, good.copy, ["jobs:handle"])
