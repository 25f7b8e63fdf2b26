"""Routes for stages: their actual and their desired state.

Runs in the server's threads. Reads snapshots; sends changes through Control to the main thread.
"""

import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mqworker.config.line import lines
from mqworker.config.model import AUTO, Seconds, most_consumers
from mqworker.control.chain import enabled
from mqworker.control.desired_state import SetConsumers, SetLimits, SetListening, SetRunning
from mqworker.control.outlook import Outlook, bottleneck, outlook
from mqworker.control.stage_desired import Undone, digest_of
from mqworker.control.views import Snapshot, StageView
from mqworker.control.why import Why
from mqworker.http.problems import Problem
from mqworker.http.reasons import reason_of
from mqworker.http.routing import API, WAIT_MAX, Api, Route, body, flag, requested_wait
from mqworker.ipc.stage_status import ConsumerStatus, OrderStatus, StageStatus, SwitchState


class Enabled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On or off."""

    enabled: bool


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many; "auto": a share of `service.processes`."""

    count: Annotated[int, Meta(ge=0, le=1024)] | Literal["auto"]


class TimeLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds for one message; 0: no limit."""

    soft: Seconds
    hard: Seconds


def describe(view: StageView, now: float, expected: Outlook, reason: Why) -> dict[str, Any]:
    """Return the state of one stage as plain data; `now` is CLOCK_MONOTONIC."""
    desired = view.desired
    return {
        "name": view.name,
        "state": view.state,
        "why": msgspec.structs.asdict(reason),
        "problem": view.problem,
        "restarts": view.restarts,
        "applied": view.applied,
        "desired": {
            "running": desired.running,
            "listening": desired.listening,
            "working": desired.working,
            "consumers": desired.consumers,
            "auto": desired.auto,
            "generation": desired.generation,
            "jobs": enabled(desired.jobs),
            "time_limit": {"soft": desired.soft_limit, "hard": desired.hard_limit},
            "params": desired.params,
            "live": sorted(desired.configured),
            "folder_differs": "code" in desired.configured and desired.folder != digest_of(desired.copy),
        },
        **msgspec.structs.asdict(expected),
        "change": change_of(view),
        "actual": None if view.actual is None else _actual(view.actual, now),
    }


def change_of(view: StageView) -> dict[str, Any] | None:
    """Return how far the last change of jobs or code is, until it is proved; or why it was undone."""
    desired, candidate = view.desired, view.desired.candidate
    switch = view.actual.switch if view.actual is not None else None
    last = desired.undone[-1] if desired.undone else None
    if candidate is not None:
        number, code, state = candidate.version.generation, candidate.code, "preparing"
    elif switch is not None and switch.code == desired.code and (switch.on_trial or switch.left):
        number, code, state = desired.generation, desired.code, "committed"
    elif last is not None and last.code > desired.code:
        return _undone(last) | {"state": "undone"}
    else:
        return None
    if switch is None or switch.code != code:
        switch = SwitchState(0, code, "")
    return {
        "generation": number,
        "change": code,
        "state": state,
        "reason": switch.failed or None,
        "update": switch.update or None,
        "ready": switch.ready,
        "wanted": switch.wanted,
        "on_trial": switch.on_trial,
        "left": switch.left,
    }


def _undone(entry: Undone) -> dict[str, Any]:
    ago = round(time.time() - entry.time, 3)
    names = {"generation": entry.generation, "change": entry.code}
    return names | {"kind": entry.kind, "reason": entry.reason, "seconds": ago}


_UNCHANGED = (
    *("pid", "state", "revision", "generation", "link", "listening", "problem", "crash_loop", "prefetch", "held"),
    *("dispatched", "computed", "settling", "held_bytes", "kept", "backlog", "output_backlog", "counters", "p95"),
    *("rate", "stall", "idle", "arrival_rate", "service_time", "utilisation", "capacity"),
    *("dead_backlog", "journal", "faults"),
)


def _actual(status: StageStatus, now: float) -> dict[str, Any]:
    document = {name: getattr(status, name) for name in _UNCHANGED}
    document["last_settled_ago"] = round(now - status.last_settled, 3) if status.last_settled else None
    document["consumers"] = [_consumer(consumer, now) for consumer in status.consumers]
    document["order"] = None if status.order is None else _order(status.order, now)
    return document


def _order(order: OrderStatus, now: float) -> dict[str, Any]:
    document = msgspec.structs.asdict(order)
    if order.blocked is not None:
        blocked = document["blocked"] = msgspec.structs.asdict(order.blocked)
        blocked["seconds"] = round(now - blocked.pop("since"), 3)
    return document


def _consumer(consumer: ConsumerStatus, now: float) -> dict[str, Any]:
    document = msgspec.structs.asdict(consumer)
    since = document.pop("message_since")
    document["message_seconds"] = _seconds(since, now)
    document["message_id"] = consumer.message_id or None
    document["held_seconds"] = _seconds(document.pop("held_since"), now)
    document["held_by"] = consumer.held_by or None
    document["exit"] = consumer.exit or None
    document["exit_seconds"] = _seconds(document.pop("exit_at"), now)
    document["messages"] = [
        {"seconds": _seconds(each.since, now), "message_id": each.message_id or None} for each in consumer.messages
    ]
    return document


def _seconds(since: float, now: float) -> float | None:
    """Return for how long a message is in hand; None for none, and for one that waits for a shared object."""
    return round(now - since, 3) if since else None


def overview(api: Api, snapshot: Snapshot) -> dict[str, Any]:
    """Return all stages, how they follow each other, and in each line the one whose Consumers hold the others back."""
    line = api.line
    now, views = time.monotonic(), snapshot.stages
    expected = {name: outlook(view, paused=snapshot.paused) for name, view in views.items()}
    found = (bottleneck([views[name] for name in names if name in views], expected) for names in lines(line))
    return {
        "line": [place._asdict() | {"here": place.name in views} for place in line],
        "bottlenecks": [name for name in found if name is not None],
        "stages": [describe(view, now, expected[name], reason_of(api, snapshot, view)) for name, view in views.items()],
    }


def stages(api: Api) -> Any:
    """Return all stages."""
    return overview(api, api.snapshot())


def one(api: Api, stage: str) -> Any:
    """Return one stage."""
    snapshot, view = api.snapshot(), api.stage(stage)
    more = {"revision": snapshot.document.revision, "undone": [_undone(each) for each in view.desired.undone]}
    expected = outlook(view, paused=snapshot.paused)
    return describe(view, time.monotonic(), expected, reason_of(api, snapshot, view)) | more


def listening(api: Api, stage: str) -> Any:
    """Start or stop taking new messages."""
    return api.change(SetListening(stage, body(Enabled).enabled))


def consumers(api: Api, stage: str) -> Any:
    """Set the number of Consumers."""
    count = body(Count).count
    concurrency = api.control.loaded.config.stages[api.stage(stage).name].concurrency
    if count != AUTO and count > most_consumers(concurrency):
        reason = f"is above {most_consumers(concurrency)}, the most with a concurrency of {concurrency}"
        raise Problem(422, f"count {reason}", fields=[("count", reason)])
    return api.change(SetConsumers(stage, count))


def time_limit(api: Api, stage: str) -> Any:
    """Limit the time of one message."""
    limits = body(TimeLimits)
    if limits.hard and limits.soft > limits.hard:
        reason = f"is above the hard limit of {limits.hard:g} s"
        raise Problem(422, f"soft {reason}", fields=[("soft", reason)])
    wait = requested_wait()
    asked = SetLimits(api.stage(stage).name, limits.soft, limits.hard)
    patience = wait or WAIT_MAX
    end = time.monotonic() + wait
    with api.waiting():  # of a stage that works on several messages at once the code is checked first
        stored = api.control.ask(lambda operator: operator.set_limits(asked, patience), patience)
        return api.stored(stored.revision, asked.stage, max(0.0, end - time.monotonic()))


def start(api: Api, stage: str) -> Any:
    """Start the process tree."""
    return api.change(SetRunning(stage, enabled=True))


def stop(api: Api, stage: str) -> Any:
    """Drain and end the process tree."""
    refuse_to_destroy([api.stage(stage)])
    return api.change(SetRunning(stage, enabled=False))


def refuse_to_destroy(views: Iterable[StageView]) -> None:
    """Raise a 409 Problem, unless forced, if the broker deletes messages when these stages stop."""
    destroyed = [view.stop_destroys for view in views if view.stop_destroys]
    if destroyed and not flag("force"):
        raise Problem(409, f"{'; '.join(destroyed)}. With ?force=true it is stopped all the same", destroyed=destroyed)


_ONE = f"{API}/stages/<stage>"
ROUTES = [
    Route("GET", f"{API}/stages", stages, "The desired and the actual state of all stages"),
    Route("GET", _ONE, one, "The desired and the actual state of one stage"),
    Route("PUT", f"{_ONE}/listening", listening, "Start or stop taking new messages", ("wait",), Enabled),
    Route("PUT", f"{_ONE}/consumers", consumers, "Scale; busy Consumers finish first", ("wait",), Count),
    Route("PUT", f"{_ONE}/time-limit", time_limit, "Limit the time of one message", ("wait",), TimeLimits),
    Route("POST", f"{_ONE}/start", start, "Start the stage's process tree", ("wait",)),
    Route("POST", f"{_ONE}/stop", stop, "Drain and end the stage's process tree", ("wait", "force")),
]
