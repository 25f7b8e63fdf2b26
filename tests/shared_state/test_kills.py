"""SIGKILL of a shared object at random moments, under callers in processes of their own."""

import asyncio
import logging
import random
import sys
from pathlib import Path

import pytest

from mqworker.ipc.child import living
from mqworker.shared_state.execution import read_execution
from mqworker.shared_state.folder import EXECUTION
from mqworker.shared_state.instance import SharedClass
from mqworker.shared_state.messages import Charge, TakeSnapshot
from mqworker.shared_state.recovery import recover
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.shared_object import ROOT, Shared, client, in_thread

MESSAGES = 40  # of each caller
CALLERS = 3


@pytest.fixture(autouse=True)
def nothing_left():
    """After each test, what is left is ended."""
    yield
    end_children()
    assert not living


@pytest.mark.long
@on_loop
async def test_every_effect_is_there_once_after_random_kills(tmp_path):
    """Every entry of every finished message is exactly 1, each run was answered alike, and the replay is equal.

    Some deaths are charged to the call that was in execution, as when it was the cause; its message then runs again.
    """
    chance = random.Random(9)
    shared = await Shared(tmp_path, snapshot_bytes=200_000, tick_seconds=0.05).start()
    callers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.shared_caller", str(tmp_path), f"c{number}-", str(MESSAGES)),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        for number in range(CALLERS)
    ]
    kills, charged = 0, 0
    while any(caller.returncode is None for caller in callers):
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        if chance.random() < 0.5:
            shared.child.send(TakeSnapshot())
            await asyncio.sleep(chance.uniform(0.0, 0.02))
        await shared.kill()
        kills += 1
        found = read_execution(shared.folder / EXECUTION) if chance.random() < 0.7 else None
        charges = (Charge(found.stage, found.message, found.call, "it died"),) if found else ()
        charged += found is not None
        shared = await shared.again(charges=charges, snapshot_bytes=200_000)
        assert shared.status.diverged == {}
    done = [int((await caller.communicate())[0]) for caller in callers]
    assert [caller.returncode for caller in callers] == [0] * CALLERS
    assert kills > 5
    expected = {
        entry: 1
        for caller, count in enumerate(done)
        for name in (f"c{caller}-{number}" for number in range(count))
        for entry in (f"link {name}", f"{name} 1", f"{name} 2")
    }
    status = await shared.fresh_status()
    assert status.described == {"entries": len(expected), "wrong": 0}
    await shared.kill()
    kind = SharedClass.load("tests.support.shared_classes:Tally", Path(ROOT))
    replayed = recover(shared.folder, kind, "digest", logging.getLogger("mqworker.test.kills"))
    assert replayed.state.diverged == {}
    assert replayed.state.instance.state.entries == expected
    shared = await shared.again()
    assert await in_thread(client(tmp_path).call, "get", "c0-0 1") == 1
    print(f"{kills} kills, {charged} charged, {sum(done)} messages")
