"""Routes for stages: their actual and their desired state.

Runs in the server's threads. Reads snapshots; sends changes through Control to the main thread.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
from flask import Response, request
from msgspec import Meta

from mqworker.config.model import Seconds
from mqworker.control.chain import Add, Alter, Edit, Link, Place, Remove, Replace, enabled
from mqworker.control.control import StageView
from mqworker.control.desired_state import SetConsumers, SetLimits, SetListening, SetRunning, StageDesired, Version
from mqworker.http.problems import Problem
from mqworker.http.routing import API, WAIT_MAX, Api, Route, body, flag, json_response, requested_wait
from mqworker.ipc.messages import ConsumerStatus, StageStatus


class Enabled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On or off."""

    enabled: bool


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many."""

    count: Annotated[int, Meta(ge=0, le=1024)]


class Alteration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change about a job of the chain."""

    enabled: bool | None = None
    at: Place | None = None


class Earlier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation; without a number the one before."""

    generation: Annotated[int, Meta(ge=1)] | None = None


class TimeLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds for one message; 0: no limit."""

    soft: Seconds
    hard: Seconds


Patch = dict[str, Any]  # RFC 7396


def describe(view: StageView, now: float) -> dict[str, Any]:
    """Return the state of one stage as plain data; `now` is CLOCK_MONOTONIC."""
    desired = view.desired
    return {
        "name": view.name,
        "state": view.state,
        "problem": view.problem,
        "restarts": view.restarts,
        "applied": view.applied,
        "desired": {
            "running": desired.running,
            "listening": desired.listening,
            "working": desired.working,
            "consumers": desired.consumers,
            "generation": desired.generation,
            "jobs": enabled(desired.jobs),
            "time_limit": {"soft": desired.soft_limit, "hard": desired.hard_limit},
            "params": desired.params,
            "live": sorted(desired.configured),
        },
        "actual": None if view.actual is None else _actual(view.actual, now),
    }


_UNCHANGED = (
    *("pid", "state", "revision", "generation", "link", "listening", "problem", "crash_loop", "prefetch", "held"),
    *("dispatched", "settling", "held_bytes", "kept", "backlog", "counters", "p95", "rate", "stall", "idle"),
)


def _actual(status: StageStatus, now: float) -> dict[str, Any]:
    document = {name: getattr(status, name) for name in _UNCHANGED}
    document["last_settled_ago"] = round(now - status.last_settled, 3) if status.last_settled else None
    document["consumers"] = [_consumer(consumer, now) for consumer in status.consumers]
    return document


def _consumer(consumer: ConsumerStatus, now: float) -> dict[str, Any]:
    document = msgspec.structs.asdict(consumer)
    since = document.pop("message_since")
    document["message_seconds"] = round(now - since, 3) if since else None
    document["message_id"] = consumer.message_id or None
    return document


def stages(api: Api) -> Any:
    """Return all stages."""
    now = time.monotonic()
    return {"stages": [describe(view, now) for view in api.snapshot().stages.values()]}


def one(api: Api, stage: str) -> Any:
    """Return one stage."""
    return describe(api.stage(stage), time.monotonic())


def listening(api: Api, stage: str) -> Any:
    """Start or stop taking new messages."""
    return api.change(SetListening(stage, body(Enabled).enabled))


def consumers(api: Api, stage: str) -> Any:
    """Set the number of Consumers."""
    return api.change(SetConsumers(stage, body(Count).count))


def time_limit(api: Api, stage: str) -> Any:
    """Limit the time of one message."""
    limits = body(TimeLimits)
    if limits.hard and limits.soft > limits.hard:
        reason = f"is above the hard limit of {limits.hard:g} s"
        raise Problem(422, f"soft {reason}", fields=[("soft", reason)])
    return api.change(SetLimits(stage, limits.soft, limits.hard))


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


def restart(api: Api, stage: str) -> Any:
    """Replace all Consumers, new ones first, with ones that run the code that is in the folder now."""
    answer, status, _ = _change_checked(api, stage, lambda patience: api.control.reload(stage, patience))
    return answer, status


def params(api: Api, stage: str) -> Any:
    """Return the parameters, their history, and the generation that has been applied."""
    view = api.stage(stage)
    return {
        "params": view.desired.params,
        "generation": view.desired.generation,
        "applied_generation": view.actual.generation if view.actual else None,
        "history": [_old_params(version) for version in view.desired.history],
    }


def _old_params(version: Version) -> dict[str, Any]:
    return {"generation": version.generation, "params": version.params} | ({"of": version.of} if version.of else {})


def patch_params(api: Api, stage: str) -> Any:
    """Change parameters."""
    patch = body(Patch)
    return _changed_params(api, stage, lambda patience: api.control.patch_params(stage, patch, patience))


def rollback_params(api: Api, stage: str) -> Any:
    """Go back to the previous parameters."""
    return _changed_params(api, stage, lambda patience: api.control.rollback_params(stage, patience))


def _changed_params(api: Api, stage: str, change: Callable[[float], int]) -> Any:
    answer, status, desired = _change_checked(api, stage, change)
    return answer | {"params": desired.params}, status


def _change_checked(api: Api, stage: str, change: Callable[[float], int]) -> tuple[dict[str, Any], int, StageDesired]:
    """Answer within `?wait=` once the change is checked and applied; without it, once it is checked and stored."""
    wait = requested_wait()
    api.stage(stage)
    end = time.monotonic() + wait
    with api.waiting() if wait else contextlib.nullcontext():
        revision = change(wait or WAIT_MAX)
        answer, status = api.stored(revision, stage, max(0.0, end - time.monotonic()))
    desired = api.stage(stage).desired
    return answer | {"generation": desired.generation}, status, desired


def jobs(api: Api, stage: str) -> Any:
    """Return the chain of jobs; the ETag is its generation."""
    return _chain(api.stage(stage).desired, {}, 200)


def set_jobs(api: Api, stage: str) -> Any:
    """Put another chain in the place of the present one."""
    return _edit(api, stage, body(Replace))


def add_job(api: Api, stage: str) -> Any:
    """Put a job into the chain."""
    return _edit(api, stage, body(Add))


def alter_job(api: Api, stage: str, name: str) -> Any:
    """Enable, disable or move a job."""
    asked = body(Alteration)
    return _edit(api, stage, Alter(name, asked.enabled, asked.at))


def remove_job(api: Api, stage: str, name: str) -> Any:
    """Take a job out of the chain."""
    return _edit(api, stage, Remove(name))


def _edit(api: Api, stage: str, edit: Edit) -> Response:
    expected = request.headers.get("If-Match", "").strip().removeprefix("W/").strip('"')
    expected = "" if expected == "*" else expected
    answer, status, desired = _change_checked(
        api, stage, lambda patience: api.control.edit_jobs(stage, edit, expected, patience)
    )
    return _chain(desired, answer, status)


def _chain(desired: StageDesired, more: dict[str, Any], status: int) -> Response:
    document = {"jobs": enabled(desired.jobs), "chain": [_link(link) for link in desired.jobs]}
    response = json_response(document | {"generation": desired.generation} | more, status)
    response.headers["ETag"] = f'"{desired.generation}"'
    return response


def _link(link: Link) -> dict[str, Any]:
    return {"name": link.name, "job": link.job, "enabled": link.enabled}


def rollback(api: Api, stage: str) -> Any:
    """Go back to an earlier generation: its jobs, parameters and code."""
    wanted = body(Earlier).generation
    answer, status, desired = _change_checked(api, stage, lambda patience: api.control.go_back(stage, wanted, patience))
    return answer | {"of": desired.of}, status


def generations(api: Api, stage: str) -> Any:
    """Return the present generation and earlier ones, the newest first."""
    desired = api.stage(stage).desired
    return {"generations": [_generation(version) for version in (desired.version, *reversed(desired.history))]}


def _generation(version: Version) -> dict[str, Any]:
    return {
        "generation": version.generation,
        "of": version.of or None,
        "jobs": enabled(version.jobs) or None,
        "params": version.params,
        "code": version.copy.digest if version.copy is not None else None,
    }


_ONE = f"{API}/stages/<stage>"
_JOB = f"{_ONE}/jobs/<name>"
_IF_MATCH = ("If-Match",)  # the generation that the caller has seen: 412 if it is another by now
ROUTES = [
    Route("GET", f"{API}/stages", stages, "The desired and the actual state of all stages"),
    Route("GET", _ONE, one, "The desired and the actual state of one stage"),
    Route("PUT", f"{_ONE}/listening", listening, "Start or stop taking new messages", ("wait",), Enabled),
    Route("PUT", f"{_ONE}/consumers", consumers, "Scale; busy Consumers finish first", ("wait",), Count),
    Route("PUT", f"{_ONE}/time-limit", time_limit, "Limit the time of one message", ("wait",), TimeLimits),
    Route("POST", f"{_ONE}/start", start, "Start the stage's process tree", ("wait",)),
    Route("POST", f"{_ONE}/stop", stop, "Drain and end the stage's process tree", ("wait", "force")),
    Route("POST", f"{_ONE}/restart", restart, "Let new Consumers run the code that is in the folder", ("wait",)),
    Route("GET", f"{_ONE}/params", params, "The parameters and their history"),
    Route("PATCH", f"{_ONE}/params", patch_params, "Change parameters with a merge patch (RFC 7396)", ("wait",), Patch),
    Route("POST", f"{_ONE}/params/rollback", rollback_params, "Go back to the previous parameters", ("wait",)),
    Route("GET", f"{_ONE}/jobs", jobs, "The chain of jobs"),
    Route("PUT", f"{_ONE}/jobs", set_jobs, "Replace the chain", ("wait",), Replace, headers=_IF_MATCH),
    Route("POST", f"{_ONE}/jobs", add_job, "Add a job to the chain", ("wait",), Add, headers=_IF_MATCH),
    Route("PATCH", _JOB, alter_job, "Enable, disable or move a job", ("wait",), Alteration, headers=_IF_MATCH),
    Route("DELETE", _JOB, remove_job, "Remove a job from the chain", ("wait",), headers=_IF_MATCH),
    Route("GET", f"{_ONE}/generations", generations, "Jobs, parameters and code, now and earlier; the newest first"),
    Route("POST", f"{_ONE}/rollback", rollback, "Go back to an earlier generation", ("wait",), Earlier),
]
