"""Numbers for stages that share Consumers, from the desired state and the Producers' reports."""

import msgspec

from mqworker.config.model import Config, InputConfig, ServiceConfig, StageConfig
from mqworker.control.balance import NOBODY, UNKNOWN, Demand
from mqworker.control.desired_state import (
    Change,
    Document,
    Reload,
    SetConsumers,
    SetListening,
    SetRunning,
    SetWorking,
    begin,
    change,
)
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.stage_status import ConsumerStatus, LinkState, OrderStatus
from mqworker.service.balancer import Balancer, demand_of
from tests.http.operator import stage_status

NAMES = ("a", "b", "c")
CONFIG = Config(
    stages={name: StageConfig(input=InputConfig(queue=name), jobs=("m:f",), consumers="auto") for name in NAMES},
    service=ServiceConfig(processes=7),
)
BUSY = ConsumerStatus(0, 1, "busy", 1, 1, 0, 0.0, "", 0, 0)
NEVER = dict.fromkeys(NAMES)  # no Producer has reported


def staff(count: int, **changes) -> tuple[ConsumerStatus, ...]:
    """Return so many Consumers."""
    return tuple(msgspec.structs.replace(BUSY, slot=slot, **changes) for slot in range(count))


def numbers(balancer: Balancer, document: Document) -> list[int]:
    applied = balancer.applied(document)
    assert applied.revision == document.revision
    return [applied.stages[name].consumers for name in NAMES]


def test_no_share_is_larger_than_the_register_of_its_stage():
    """A Consumer that works on many messages at once takes much room there."""
    stage = StageConfig(input=InputConfig(queue="a"), jobs=("m:f",), consumers="auto", concurrency=1000)
    config = Config(stages={"a": stage}, service=ServiceConfig(processes=64))
    balancer, (document, _) = Balancer(config), begin(None, config)
    balancer.want(document, {"a": None}, paused=False)
    assert balancer.applied(document).stages["a"].consumers == 16


def test_what_a_stage_cannot_have_goes_to_the_others():
    """It is shared out at the start, and a stage that has all that it can have receives no more."""
    wide = StageConfig(input=InputConfig(queue="a"), jobs=("m:f",), consumers="auto", concurrency=1000)
    config = Config(stages=CONFIG.stages | {"a": wide}, service=ServiceConfig(processes=64))
    balancer, (document, _) = Balancer(config), begin(None, config)
    balancer.want(document, NEVER, paused=False)
    assert numbers(balancer, document) == [16, 24, 24]
    calm = {"backlog": 0, "held": 0, "arrival_rate": 0.0, "service_time": 0.1}
    there = {name: stage_status(name, consumers=staff(24), **calm) for name in ("b", "c")}
    there["a"] = stage_status("a", consumers=staff(16), **(calm | {"backlog": 500_000}))
    balancer.beat(document, there, 1.0)
    assert not balancer.received
    there["c"] = stage_status("c", consumers=staff(24), **(calm | {"backlog": 50_000}))
    balancer.beat(document, there, 2.0)
    assert balancer.received == {"c": 1}


def test_who_takes_part():
    """Stages that run and compute share what stages fixed by hand leave, at least one."""
    balancer = Balancer(CONFIG)
    document, _ = begin(None, CONFIG)
    steps: list[tuple[Change | None, list[int]]] = [
        (None, [3, 2, 2]),
        (SetConsumers("b", 5), [1, 5, 1]),
        (SetConsumers("b", 9), [1, 9, 0]),
        (SetRunning("b", enabled=False), [4, 9, 3]),
        (SetConsumers("b", "auto"), [4, 0, 3]),
        (SetRunning("b", enabled=True), [3, 1, 3]),
        (SetWorking("a", enabled=False), [0, 4, 3]),
        (SetListening("b", enabled=False), [0, 4, 3]),
    ]
    for asked, expected in steps:
        document = change(document, asked, CONFIG) if asked else document
        balancer.want(document, NEVER, paused=False)
        assert numbers(balancer, document) == expected


def test_those_of_a_stopped_stage_count_until_they_have_left():
    """A stage that gets what another had gets it when that one's Consumers have ended."""
    balancer = Balancer(CONFIG)
    document, _ = begin(None, CONFIG)
    balancer.want(document, NEVER, paused=False)
    there = {name: stage_status(name, consumers=staff(count)) for name, count in zip(NAMES, (3, 2, 2), strict=True)}
    document = change(document, SetRunning("a", enabled=False), CONFIG)
    balancer.want(document, there, paused=False)
    assert numbers(balancer, document) == [0, 2, 2]
    assert balancer.beat(document, there | {"a": stage_status("a", consumers=staff(1))}, 1.0)
    assert numbers(balancer, document) == [0, 4, 2]
    assert balancer.beat(document, there | {"a": None, "b": stage_status("b", consumers=staff(4))}, 2.0)
    assert numbers(balancer, document) == [0, 4, 3]


def test_those_of_any_stage_that_had_a_share_count_until_they_have_left():
    """Also of one with a fixed number in the configuration; it keeps what it has when it begins to share."""
    fixed = msgspec.structs.replace(CONFIG.stages["c"], consumers=2)
    config = msgspec.structs.replace(CONFIG, stages=CONFIG.stages | {"c": fixed}, service=ServiceConfig(processes=6))
    balancer = Balancer(config)
    document, _ = begin(None, config)
    balancer.want(document, NEVER, paused=False)
    assert numbers(balancer, document) == [3, 3, 2]
    there = {name: stage_status(name, consumers=staff(count)) for name, count in zip(NAMES, (3, 3, 2), strict=True)}
    document = change(document, SetConsumers("c", "auto"), config)
    balancer.want(document, there, paused=False)
    assert numbers(balancer, document) == [3, 2, 1]
    there |= {name: stage_status(name, consumers=staff(count)) for name, count in (("b", 2), ("c", 1))}
    for asked in (SetRunning("c", enabled=False), SetWorking("c", enabled=False)):
        gone = change(document, asked, config)
        balancer.want(gone, there, paused=False)
        assert numbers(balancer, gone) == [3, 2, 0], "three, two, and one that leaves"
        assert balancer.beat(gone, there | {"c": None}, 1.0)
        assert numbers(balancer, gone) == [3, 3, 0]
        balancer.want(document, there | {"c": None}, paused=False)
        assert numbers(balancer, document) == [3, 2, 1]


def test_a_move():
    """It is counted at the receiver, and its number rises when the giver's Consumer has left."""
    balancer = Balancer(CONFIG)
    document, _ = begin(None, CONFIG)
    balancer.want(document, NEVER, paused=False)
    calm = {"backlog": 0, "held": 0, "arrival_rate": 0.0, "service_time": 0.1}
    there = {name: stage_status(name, consumers=staff(count), **calm) for name, count in (("a", 3), ("b", 2))}
    there["c"] = stage_status("c", consumers=staff(2), **(calm | {"backlog": 5_000}))
    assert balancer.beat(document, there, 1.0)
    assert numbers(balancer, document) == [2, 2, 2]
    there["a"] = stage_status("a", consumers=staff(2), **calm)
    assert balancer.beat(document, there, 2.0)
    assert numbers(balancer, document) == [2, 2, 3]
    assert balancer.received == {"c": 1}
    assert not balancer.beat(document, there, 3.0)


def test_a_slot_that_is_missing_at_a_move_counts():
    """A Consumer that the giver starts again is no room for the receiver, however long the one that leaves takes."""
    balancer = Balancer(CONFIG)
    document, _ = begin(None, CONFIG)
    balancer.want(document, NEVER, paused=False)
    calm = {"backlog": 0, "held": 0, "arrival_rate": 0.0, "service_time": 0.1}
    there = {name: stage_status(name, consumers=staff(2), **calm) for name in ("a", "b")}
    there["a"] = stage_status("a", consumers=staff(3)[1:], **calm)  # that in slot 0 has just died
    there["c"] = stage_status("c", consumers=staff(2), **(calm | {"backlog": 5_000}))
    assert balancer.beat(document, there, 1.0)
    assert numbers(balancer, document) == [2, 2, 2]
    assert not balancer.beat(document, there, 2.0), "the giver starts one in slot 0, and the one in slot 2 has not left"
    there["a"] = stage_status("a", consumers=staff(2)[1:], **calm)
    assert balancer.beat(document, there, 3.0)
    assert numbers(balancer, document) == [2, 2, 3]


def test_what_a_stage_demands():
    """Only what more Consumers could do: nothing paused, refused by the output, dying, or kept back by an order."""
    document, _ = begin(None, CONFIG)
    stage = document.stages["a"]
    told = {"held": 5, "backlog": 100, "arrival_rate": 3.0, "service_time": 0.5, "consumers": staff(2)}
    here = stage_status("a", **told)
    full = Demand(105, 3.0, 0.5, present=2, ready=2)

    def demand(paused: bool = False, stage=stage, **changes) -> Demand:
        return demand_of(stage, stage_status("a", **(told | changes)), 100.0, paused=paused)

    assert demand_of(stage, here, 100.0, paused=False) == full
    assert demand_of(stage, None, 100.0, paused=False) == NOBODY
    held = full._replace(waiting=5, arrivals=0.0)
    assert demand(paused=True) == held
    assert demand(stage=msgspec.structs.replace(stage, listening=False)) == held
    assert demand(hold_back="unplaced") == held
    assert demand(hold_back="bytes") == full
    assert demand(crash_loop=True) == full._replace(waiting=0, arrivals=0.0, failing=True)
    assert demand(backlog=None).waiting == 5
    assert demand(order=OrderStatus(delayed=1, locked=4, stuck=False)) == full._replace(waiting=101)
    assert demand(order=OrderStatus(delayed=0, locked=5, stuck=True)) == full._replace(waiting=0, arrivals=0.0)
    standby = LinkState(connected=True, consuming=True, waits="another consumer is at work", reason="")
    assert demand(link=standby, held=0) == full._replace(waiting=0, arrivals=0.0)
    long = demand(service_time=None, consumers=staff(2, message_since=40.0))
    assert (long.service_time, long.prompt) == (60.0, False)
    assert demand(service_time=None).service_time == UNKNOWN
    assert demand(capacity=8.0).service_time == 0.25
    assert demand(consumers=staff(2, seats=10)).service_time == 0.05, "ten messages share the time of a Consumer"
    assert not demand(service_time=60.0, consumers=staff(2, seats=1000)).prompt, "but each of them takes its own"
    assert demand(capacity=0.0, consumers=()).service_time == 0.5
    assert demand(service_time=60.0, consumers=(BUSY, msgspec.structs.replace(BUSY, slot=1, state="idle"))).prompt
    spare = staff(2, code=2, state="spare")
    assert demand(consumers=(*staff(2), *spare)) == full
    coming = change(document, Reload("a", CodeCopy("x", "/app"), {}), CONFIG).stages["a"]
    assert not demand(stage=coming).steady
