"""How a StageSupervisor handles processes; its decisions are tested in test_lifecycle.py."""

import asyncio
from pathlib import Path

from mqworker.config.model import BrokerConfig, Config, InputConfig, StageConfig
from mqworker.control.desired_state import begin
from mqworker.control.faults import Faults
from mqworker.ipc.stage_spec import StageSpec
from mqworker.service.stage_supervisor import StageSupervisor


def test_a_start_that_fails_is_told_and_leaves_nothing_open(tmp_path):
    """Without a descriptor for the lock no Producer starts: a reason, a later retry, and no descriptor left open."""
    config = Config(stages={"s": StageConfig(input=InputConfig(queue="in"), jobs=("m:f",))})
    spec = StageSpec("test", "s", config.stages["s"], BrokerConfig(), str(tmp_path), str(tmp_path), 30.0)

    async def start() -> StageSupervisor:
        supervisor = StageSupervisor(spec, -1, lambda: None, lambda _event: None, Faults())
        supervisor.want(begin(None, config)[0], paused=False)
        return supervisor

    before = len(list(Path("/proc/self/fd").iterdir()))
    view = asyncio.run(start()).view()
    assert view.state == "backoff"
    assert view.problem == "the Producer could not be started: Bad file descriptor"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
