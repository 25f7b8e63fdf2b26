"""What holds a stage back, and when it will be done."""

import msgspec
import pytest

from mqworker.control.outlook import bottleneck, outlook
from mqworker.control.stage_desired import StageDesired
from mqworker.control.views import StageView
from mqworker.ipc.stage_status import BlockedOrder, ConsumerStatus, LinkState, OrderStatus
from tests.http.operator import GOOD_LINK, stage_status

IDLE = ConsumerStatus(1, 1, "idle", 1, 1, 0, 0.0, "", 0, 0)
STARTING = msgspec.structs.replace(IDLE, state="starting")
EMPTY = dict.fromkeys(("backlog", "held", "dispatched", "computed", "settling"), 0)
CALM = EMPTY | {
    "arrival_rate": 5.0,
    "service_time": 0.1,
    "utilisation": 0.25,
    "capacity": 20.0,
    "consumers": (IDLE, IDLE),
}
FULL = {"backlog": 270, "held": 20, "dispatched": 7, "settling": 3, "utilisation": 0.99}
BLOCKED = BlockedOrder("1", "", 0.0, 19, "its next attempt begins in 60 s")
IN_ORDER = OrderStatus(delayed=0, locked=0, stuck=False)


def stage(state: str = "running", actual: bool = True, desired: dict | None = None, **changes) -> StageView:
    """Return a stage with 2 Consumers that are used to a quarter, but for these changes."""
    values = {"running": True, "listening": True, "working": True, "consumers": 2} | (desired or {})
    status = stage_status(**(CALM | changes)) if actual else None
    return StageView("s", StageDesired(**values), state, status, "", 0, 1)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (stage(), "nothing"),
        (stage(**FULL), "consumers"),
        (stage(**(FULL | {"utilisation": 0.5})), "nothing"),
        (stage(utilisation=1.0, dispatched=2), "nothing"),
        (stage(desired={"running": False}, actual=False, state="stopped"), "stopped"),
        (stage(desired={"running": False}, state="stopping"), "stopped"),
        (stage(actual=False, state="backoff"), "backoff"),
        (stage(crash_loop=True, problem="x"), "crash loop"),
        (stage(desired={"listening": False}), "paused"),
        (stage(desired={"consumers": 0}), "no consumers"),
        (stage(desired={"working": False}), "no consumers"),
        (stage(link=LinkState(reason="refused"), backlog=None), "broker"),
        (stage(link=msgspec.structs.replace(GOOD_LINK, blocked=True)), "blocked"),
        (stage(consumers=(STARTING,)), "starting"),
        (stage(consumers=()), "starting"),
        (stage(link=msgspec.structs.replace(GOOD_LINK, consuming=False)), "starting"),
        (stage(hold_back="unplaced", problem="x", **FULL), "output"),
        (stage(hold_back="bytes", problem="x"), "max_held_bytes"),
        (stage(hold_back="retries"), "retries"),
        (stage(held_up_by="output", **(FULL | {"utilisation": 0.5})), "max_backlog"),
        (stage(held_up_by="order", **(FULL | {"utilisation": 0.5})), "order"),
        (stage(held_up_by="order", **FULL), "consumers"),
        (stage(held_up_by="order", utilisation=0.5), "nothing"),
        (stage(link=msgspec.structs.replace(GOOD_LINK, consuming=False, waits="x")), "standby"),
        (stage(problem="the input was deleted"), "problem"),
        (stage(order=IN_ORDER, **FULL), "consumers"),
        (stage(order=OrderStatus(1, 20, False, BLOCKED), held=20), "order"),
        (stage(order=OrderStatus(0, 20, True), **FULL), "order"),
        (stage(order=OrderStatus(1, 1, False, BLOCKED), computed=19, held=1, utilisation=0.99), "order"),
        (stage(order=OrderStatus(1, 2, False, BLOCKED), **FULL), "consumers"),
        (stage(order=OrderStatus(1, 1, False), held=1), "retries"),
        (stage(order=OrderStatus(1, 1, False), held=1, dispatched=1), "nothing"),
    ],
)
def test_the_first_reason_is_told(view, reason):
    """What an operator has switched off comes before what is broken, and that before what is merely busy."""
    assert outlook(view, paused=False).held_back_by == reason


def test_a_pause_of_the_whole_service_holds_back():
    """Also where the stage itself listens; what was stopped is still stopped."""
    assert outlook(stage(), paused=True).held_back_by == "paused"
    assert outlook(stage(desired={"running": False}), paused=True).held_back_by == "stopped"


@pytest.mark.parametrize(
    ("changes", "unfinished", "seconds", "growing"),
    [
        ({}, 0, 0.0, False),
        (FULL, 300, 20.0, False),
        (FULL | {"arrival_rate": None}, 300, 15.0, False),
        (FULL | {"arrival_rate": 20.0}, 300, None, False),
        (FULL | {"arrival_rate": 20.0, "backlog": 900}, 930, None, True),
        (FULL | {"arrival_rate": 50.0, "backlog": 900}, 930, None, True),
        (FULL | {"capacity": None}, 300, None, False),
        ({"dispatched": 1, "capacity": 0.0, "arrival_rate": 0.0}, 1, None, False),
        (FULL | {"backlog": None}, None, None, False),
        ({"dispatched": 2, "arrival_rate": 25.0}, 2, 0.1, False),
        ({"dispatched": 1, "service_time": 3600.0, "capacity": 2 / 3600, "arrival_rate": 0.0}, 1, 3600.0, False),
        (FULL | {"hold_back": "unplaced"}, 300, None, False),
        (FULL | {"computed": 40, "order": IN_ORDER}, 340, 20.0, False),
        (FULL | {"computed": 40, "order": OrderStatus(1, 15, False, BLOCKED)}, 340, 19.0, False),
        (FULL | {"computed": 40, "order": OrderStatus(0, 20, True)}, 340, None, False),
        (EMPTY | {"computed": 5, "order": IN_ORDER}, 5, 0.1, False),
        ({"computed": 5, "order": IN_ORDER, "arrival_rate": 25.0}, 5, 0.1, False),
        (FULL | {"held_up_by": "output", "utilisation": 0.5}, 300, None, False),
    ],
    ids=[
        *("empty", "drains", "arrivals unknown", "a burst", "just not", "grows", "service time unknown", "no capacity"),
        *("depth unknown", "nothing waits", "one long message", "held back"),
        *("results wait", "some are blocked", "all are", "only results", "only results, and many come"),
        "between two pauses",
    ],
)
def test_when_it_is_done(changes, unfinished, seconds, growing):
    """Unfinished / (capacity - arrivals); not sooner than one message takes; never, where as many come as can go."""
    expected = outlook(stage(**changes), paused=False)
    assert (expected.unfinished, expected.seconds_left, expected.growing) == (unfinished, seconds, growing)


def test_the_bottleneck_has_the_highest_utilisation_of_those_that_wait_for_their_consumers():
    """A stage that is busier, but where nothing waits, is none; neither is one that is stopped."""
    busy = stage(utilisation=1.0, dispatched=2)
    full = stage(**(FULL | {"utilisation": 0.9}))
    stopped = stage(desired={"running": False}, **FULL)
    views = [
        msgspec.structs.replace(view, name=name)
        for name, view in {"busy": busy, "full": full, "fuller": stage(**FULL), "stopped": stopped}.items()
    ]
    expected = {view.name: outlook(view, paused=False) for view in views}
    assert bottleneck(views, expected) == "fuller"
    assert bottleneck(views[:2], expected) == "full"
    assert bottleneck(views[:1], expected) is None
