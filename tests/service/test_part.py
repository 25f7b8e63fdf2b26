"""A part of the stages: what it cannot do without those that run elsewhere."""

import asyncio
import logging

import pytest

from mqworker.config.load import load
from mqworker.ipc.generation import SharedUse
from mqworker.service.part import cut_line, used_elsewhere

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


LINE = """\
{broker}
[stages.decode]
input = "a"
jobs = ["jobs:decode"]
output = "b"
[stages.detect]
input = "b"
jobs = ["jobs:detect"]
output = "c"
[stages.mail]
input = "m"
jobs = ["jobs:mail"]
output = "c"
"""


@pytest.mark.parametrize(
    ("broker", "part", "gone"),
    [
        ("", ["decode"], "stage decode feeds stage detect, and detect does not run here"),
        ("", ["detect", "mail"], "stage decode feeds stage detect, and decode does not run here"),
        ("", ["decode", "detect"], ""),
        ("", ["mail"], ""),
        ("", ["decode", "detect", "mail"], ""),
        ('[broker]\nurl = "sqlite:///broker.db"', ["decode"], ""),
        ('[broker]\nurl = "amqp://localhost/"', ["decode"], ""),
    ],
    ids=["its end", "its begin", "a whole line", "another whole line", "all", "one file", "RabbitMQ"],
)
def test_a_line_is_cut_only_where_both_parts_have_the_broker(tmp_path, broker, part, gone):
    """Without broker.url nobody else has the broker: what is computed here would never come there."""
    (tmp_path / "mqworker.toml").write_text(LINE.format(broker=broker))
    told = cut_line(load(tmp_path / "mqworker.toml", {}).part(part))
    assert told.startswith(gone)
    assert bool(told) == bool(gone)
    assert told.endswith(f'such as this one: "sqlite:///{tmp_path}/.mqworker/broker.db"' if gone else "")
