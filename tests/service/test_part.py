"""A part of the stages: what is found out about those that run elsewhere."""

import asyncio
import logging

from mqworker.config.load import load
from mqworker.ipc.messages import SharedUse
from mqworker.service.part import used_elsewhere

TWO_STAGES = """\
[stages.here]
input = "a"
jobs = ["jobs:Seen"]
[stages.there]
input = "b"
jobs = ["slow:Seen"]
"""


def test_code_that_hangs_elsewhere_holds_nothing_up(tmp_path, caplog):
    """After the deadline, not the setup_deadline of that stage, it is said that its objects are not known."""
    (tmp_path / "mqworker.toml").write_text(TWO_STAGES)
    (tmp_path / "slow.py").write_text("import threading\nthreading.Event().wait()\n")
    loaded = load(tmp_path / "mqworker.toml", {}).part(["here"])
    uses = [SharedUse("jobs.Seen", "jobs:Seen")]

    async def asked() -> dict[str, str]:
        async with asyncio.timeout(30):
            return await used_elsewhere(loaded, uses, lambda _event: None, 1.0)

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(asked()) == {}
    assert "stage there does not run here, and it is not known which shared objects it uses" in caplog.text
    assert "longer than 1 s" in caplog.text
