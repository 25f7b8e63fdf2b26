"""How a StageSupervisor handles processes; its decisions are tested in test_lifecycle.py."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from mqworker.config.model import BrokerConfig, Config, InputConfig, StageConfig
from mqworker.control.desired_state import begin
from mqworker.control.faults import Faults
from mqworker.ipc.stage_spec import StageSpec
from mqworker.service.stage_supervisor import StageSupervisor
from tests.support.children import await_zombie
from tests.support.loop import on_loop
from tests.support.waiting import until

DEADLINE = 20.0


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


@pytest.mark.parametrize("end", ["it is dead", "it is not needed"])
def test_a_prepared_producer_that_ends_as_it_is_wanted_is_replaced_uncharged(tmp_path, end):
    """Whether it is dead, which the loop has not noticed yet, or was just killed because it was not needed."""
    config = Config(stages={"s": StageConfig(input=InputConfig(queue="in"), jobs=("m:f",))})
    spec = StageSpec("test", "s", config.stages["s"], BrokerConfig(), str(tmp_path), str(tmp_path), 30.0)
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    document = begin(None, config)[0]
    stopped = replace(document, stages={"s": replace(document.stages["s"], running=False)})

    @on_loop
    async def run() -> None:
        supervisor = StageSupervisor(spec, lock, lambda: None, lambda _event: None, Faults())
        supervisor.prepare()
        prepared = supervisor._prepared
        if end == "it is dead":
            os.kill(prepared.pid, signal.SIGKILL)
            await_zombie(prepared.pid)
        else:
            supervisor.want(stopped, paused=False)
        supervisor.want(document, paused=False)
        started = supervisor._child
        await until(lambda: prepared.death, DEADLINE, "the death to be noticed")
        assert (supervisor._child, started.alive) == (started, True)
        assert started is not prepared
        assert (supervisor.life.restarts, supervisor.life.budget.fruitless) == (0, 0)
        supervisor.end(time.monotonic())
        await started.stop("the test is over", DEADLINE)
        assert supervisor.view().state == "stopped"

    run()
    os.close(lock)


@on_loop
async def test_nobody_hears_of_a_prepared_producer_that_dies_or_is_not_needed(tmp_path):
    """It was never started for anybody: no restart counts, and a stage that shall not run has no process."""
    config = Config(stages={"s": StageConfig(input=InputConfig(queue="in"), jobs=("m:f",))})
    spec = StageSpec("test", "s", config.stages["s"], BrokerConfig(), str(tmp_path), str(tmp_path), 30.0)
    logged = []
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    supervisor = StageSupervisor(spec, lock, lambda: None, logged.append, Faults())
    supervisor.prepare()
    os.kill(supervisor._prepared.pid, signal.SIGKILL)
    await until(lambda: supervisor._prepared is None, DEADLINE, "the death to be noticed")
    supervisor.prepare()
    prepared = supervisor._prepared
    document = begin(None, config)[0]
    stopped = replace(document, stages={"s": replace(document.stages["s"], running=False)})
    supervisor.want(stopped, paused=False)
    await until(lambda: supervisor._prepared is None, DEADLINE, "it to end")
    assert not prepared.alive
    view = supervisor.view()
    assert (view.state, view.restarts, view.problem, logged) == ("stopped", 0, "", [])
    os.close(lock)
