"""A fleet and its Consumers, real processes: the slots that user code finds in its environment."""

import os
import signal
import time

import pytest

from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer.register import InHandRegister, open_seats
from mqworker.ipc.generation import Generation
from mqworker.ipc.inspection import AskReplace, ReplaceAnswer
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.fleet import Fleet
from mqworker.producer.replace import replace
from mqworker.producer.stacks import Stacks
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.waiting import until

HANDLER = """
import os
from pathlib import Path
Path(__file__).with_name(str(os.getpid())).write_text(os.environ["MQWORKER_SLOT"])
def handle(body):
    return body
"""
DEADLINE = 30.0


class Stage:
    """Reconciles a fleet after each of its events, as a Producer does; it has no messages."""

    def __init__(self, folder, update, **stage):
        (folder / "jobs.py").write_text(HANDLER)
        config = StageConfig(input=InputConfig(queue="in"), jobs=("jobs:handle",), update=update, **stage)
        spec = StageSpec("svc", "s", config, BrokerConfig(), str(folder), str(folder), 30.0)
        self.folder = folder
        self.register = InHandRegister(folder / "s.slots", config.concurrency)
        self.fleet = Fleet(spec, self.desired(0), self.register, self)
        self.most = 0  # Consumers that had the same slot at one moment

    @staticmethod
    def desired(consumers, code=1, candidate=0, *, auto=False):
        made = [Generation(each, each, ["jobs:handle"], None, b"{}") if each else None for each in (code, candidate)]
        return Desired(1, True, consumers, made[0], made[1], 0.0, 0.0, 20, auto)

    def want(self, consumers, code=1, candidate=0, *, auto=False):
        self.fleet.want(self.desired(consumers, code, candidate, auto=auto), time.monotonic())
        self.turn()

    def turn(self):
        self.fleet.reconcile(time.monotonic())
        slots = [lane.slot for lane in self.fleet.roster.lanes.values()]
        self.most = max([self.most, *map(slots.count, slots)])

    def lane_ready(self, _lane):
        self.turn()

    def lane_died(self, lane, death):
        assert lane.unfit is None, lane.unfit
        self.fleet.died(lane, death, time.monotonic(), attributed=False)
        self.turn()

    def lane_log(self, event):
        pass

    async def settled(self, count, code=1):
        """Wait for so many Consumers with this code and no others; return their slots by pid, as they found them."""

        def so():
            lanes = self.fleet.roster.lanes.values()
            return len(lanes) == count and all(lane.state == "idle" and lane.code == code for lane in lanes)

        await until(so, DEADLINE, f"{count} Consumers")
        told = {lane.pid: lane.slot for lane in self.fleet.roster.lanes.values()}
        assert {pid: int((self.folder / str(pid)).read_text()) for pid in told} == told
        assert sorted(told.values()) == list(range(count))
        assert len({lane.place for lane in self.fleet.roster.lanes.values()}) == count
        return told

    async def end(self):
        """Let all leave."""
        self.fleet.retire_all()
        await until(lambda: not self.fleet.roster.lanes, DEADLINE, "their end")


@pytest.fixture
def make(tmp_path):
    """Make a stage; no process of it may be left afterwards."""
    yield lambda update="switch", **stage: Stage(tmp_path, update, **stage)
    assert not end_children()


@on_loop
async def test_a_successor_has_the_slot_and_n_consumers_have_n(make):
    """After a kill, scaling down and up, and a switch of code, the slots are 0 to N-1, each once."""
    stage = make()
    stage.want(3)
    before = await stage.settled(3)
    victim = next(pid for pid, slot in before.items() if slot == 1)
    os.kill(victim, signal.SIGKILL)
    await until(lambda: victim not in {lane.pid for lane in stage.fleet.roster.lanes.values()}, DEADLINE, "its end")
    after = await stage.settled(3)
    (successor,) = after.keys() - before.keys()
    assert (after[successor], stage.most) == (1, 1)
    stage.want(2)
    fewer = await stage.settled(2)
    assert fewer == {pid: slot for pid, slot in after.items() if slot < 2}
    stage.want(3)
    more = await stage.settled(3)
    assert more.items() > fewer.items()
    stage.want(3, 1, 2)
    await until(lambda: stage.fleet.switch.ready == 3, DEADLINE, "the candidate")
    assert stage.most == 2, "while one set replaces the other, two have each slot"
    stage.want(3, 2)
    stage.fleet.staffing.prospered(0, 2)
    stage.turn()
    assert not (await stage.settled(3, 2)).keys() & more.keys()
    await stage.end()


@on_loop
async def test_with_old_first_no_two_have_the_same_slot_at_once(make):
    """Whoever has a device by its slot has it alone, also while Consumers are recycled or run new code."""
    stage = make("old-first")
    stage.want(2)
    before = await stage.settled(2)
    for lane in stage.fleet.roster.lanes.values():
        lane.replace_reason = "max_messages"
    stage.turn()
    await until(
        lambda: not before.keys() & {lane.pid for lane in stage.fleet.roster.lanes.values()}, DEADLINE, "others"
    )
    await stage.settled(2)
    stage.want(2, 1, 2)
    await until(lambda: stage.fleet.switch.ready == 1, DEADLINE, "the candidate")
    stage.want(2, 2)
    await stage.settled(2, 2)
    assert stage.most == 1
    await stage.end()


@on_loop
async def test_one_that_leaves_with_the_load_is_not_waited_for(make):
    """A change is applied while a Consumer that another stage will get ends its message; not so after a `scale`."""
    stage = make()
    stage.want(3)
    await stage.settled(3)
    stage.want(2)
    assert len(stage.fleet.roster.lanes) == 3
    assert not stage.fleet.as_wanted()
    stage.want(2, auto=True)
    assert len(stage.fleet.roster.lanes) == 3
    assert stage.fleet.as_wanted()
    await stage.settled(2)
    stage.want(3, auto=True)
    assert not stage.fleet.as_wanted(), "one that comes is waited for"
    await stage.settled(3)
    assert stage.fleet.as_wanted()
    await stage.end()


@on_loop
async def test_a_death_that_is_dealt_with_is_none_for_the_next_life(make):
    """What was in hand in a dead Consumer must not be suspected again when the tree dies, wherever its successor is."""
    stage = make(concurrency=2)
    stage.register.begin_life(1.0)
    stage.want(1)
    (pid,) = await stage.settled(1)
    (lane,) = stage.fleet.roster.lanes.values()
    open_seats(stage.register.path, lane.place, 2).slots[1].begin(5, b"f" * 32, 1.0)
    assert stage.register.last_life().in_hand == {b"f" * 32: 1.0}
    stage.want(0)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not stage.fleet.roster.lanes, DEADLINE, "its end")
    assert stage.register.last_life().in_hand == {}


@on_loop
async def test_a_spare_consumer_is_replaced_where_its_pid_is_named(make):
    """When it has finished, which it has, or at once: another is prepared, and the one at work in its slot goes on."""
    stage = make()
    stage.want(1)
    ((at_work, slot),) = (await stage.settled(1)).items()
    stage.want(1, 1, 2)
    fleet, answers, before = stage.fleet, [], {at_work}
    stacks = Stacks(fleet.roster, lambda _seq: {}, answers.append)

    def prepared():
        spare = {lane.pid for lane in fleet.roster.lanes.values() if fleet.roster.state_of(lane) == "spare"}
        return spare - before

    for now in (False, True):
        (spare,) = await until(prepared, DEADLINE, "a spare Consumer")
        before.add(spare)
        replace(fleet, stacks, AskReplace(1, slot, now, spare), answers.append)
        await until(lambda: answers, DEADLINE, "an answer")
        assert answers.pop() == ReplaceAnswer(1, pid=spare)
    await until(prepared, DEADLINE, "another spare Consumer")
    lanes = fleet.roster.lanes.values()
    assert [lane.pid for lane in lanes if fleet.roster.state_of(lane) == "idle"] == [at_work]
    stage.want(1)
    assert (await stage.settled(1)).keys() == {at_work}
    await stage.end()
