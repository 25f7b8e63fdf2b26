"""Routes for what a stage computes with: its code, its chain of jobs, its parameters, and its earlier generations.

Runs in the server's threads. Reads snapshots; asks for changes through Control, which answers once the user's code has
accepted them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
from flask import Response, request
from msgspec import Meta

from mqworker.control.chain import Add, Alter, ChainLink, Edit, Place, Remove, Replace, enabled
from mqworker.control.errors import ControlError
from mqworker.control.generations import earlier_params
from mqworker.control.stage_desired import StageDesired, Version
from mqworker.control.switch import committed
from mqworker.http.checked import CheckedChange, change_checked
from mqworker.http.problems import problem_of
from mqworker.http.routing import API, WAIT_MAX, Api, Route, body, json_response

Patch = dict[str, Any]  # RFC 7396


class Restart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A merge patch of the parameters, which takes effect with the code."""

    params: Patch = {}


class NewJob(Add, frozen=True):
    """A job to put into the chain; `params` is a merge patch of the parameters, which takes effect with it."""

    params: Patch = msgspec.field(default_factory=dict)


class NewChain(Replace, frozen=True):
    """Another chain, and parameters that go with it."""

    params: Patch = msgspec.field(default_factory=dict)


class Alteration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change about a job of the chain, and parameters that go with it."""

    enabled: bool | None = None
    at: Place | None = None
    params: Patch = {}


class Earlier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation; without a number the one before."""

    generation: Annotated[int, Meta(ge=1)] | None = None


def restart(api: Api, stage: str) -> Any:
    """Replace all Consumers, new ones first, with ones that run the code that is in the folder now."""
    params = body(Restart).params
    answer, status, _ = change_checked(api, stage, lambda operator, patience: operator.reload(stage, params, patience))
    return answer, status


def params(api: Api, stage: str) -> Any:
    """Return the parameters, their history, the generation that has been applied, and the one that a rollback takes."""
    view = api.stage(stage)
    document = {
        "params": view.desired.params,
        "generation": view.desired.generation,
        "applied_generation": view.actual.generation if view.actual else None,
        "back": back.generation if (back := earlier_params(view.desired)) else None,
        "history": [_old_params(version) for version in view.desired.history],
    }
    return _tagged(json_response(document), view.desired)


def params_schema(api: Api, stage: str) -> Any:
    """Return the schema of the parameters, made from the code."""
    name = api.stage(stage).name
    return api.control.ask(lambda operator: operator.params_form(name, WAIT_MAX), WAIT_MAX)._asdict()


def _old_params(version: Version) -> dict[str, Any]:
    of = version.params_of or version.of
    return {"generation": version.generation, "params": version.params} | ({"of": of} if of else {})


def patch_params(api: Api, stage: str) -> Any:
    """Change parameters."""
    patch, expected = body(Patch), _expected()
    return _changed_params(
        api, stage, lambda operator, patience: operator.patch_params(stage, patch, expected, patience)
    )


def rollback_params(api: Api, stage: str) -> Any:
    """Go back to the previous parameters."""
    expected = _expected()
    return _changed_params(api, stage, lambda operator, patience: operator.rollback_params(stage, expected, patience))


def _changed_params(api: Api, stage: str, change: CheckedChange) -> Any:
    with _telling_current(api, stage, lambda desired: {"params": desired.params, "generation": desired.generation}):
        answer, status, desired = change_checked(api, stage, change)
    return _tagged(json_response(answer | {"params": desired.params}, status), desired)


def _expected() -> tuple[str, ...] | None:
    """Return the generations of which the caller has seen one; None: any will do.

    A proxy that compresses answers has made our tags weak; they name generations all the same.
    """
    seen = request.if_match
    return None if "If-Match" not in request.headers or seen.star_tag else tuple(seen.as_set(include_weak=True))


def _tagged(response: Response, desired: StageDesired) -> Response:
    response.headers["ETag"] = f'"{desired.generation}"'
    return response


@contextlib.contextmanager
def _telling_current(api: Api, stage: str, tell: Callable[[StageDesired], dict[str, Any]]) -> Iterator[None]:
    """Add the present state to a conflict, which means that the caller has seen an earlier one."""
    try:
        yield
    except ControlError as error:
        if error.kind != "conflict":
            raise
        problem = problem_of(error)
        problem.more["current"] = tell(api.stage(stage).desired)
        raise problem from None


def jobs(api: Api, stage: str) -> Any:
    """Return the chain of jobs, and `next`, one that is being prepared; the ETag is what an edit builds on."""
    return _chain(api.stage(stage).desired, {}, 200)


def set_jobs(api: Api, stage: str) -> Any:
    """Put another chain in the place of the present one."""
    asked = body(NewChain)
    return _edit(api, stage, Replace(asked.jobs), asked.params)


def add_job(api: Api, stage: str) -> Any:
    """Put a job into the chain."""
    asked = body(NewJob)
    return _edit(api, stage, Add(asked.job, asked.name, asked.at), asked.params)


def alter_job(api: Api, stage: str, name: str) -> Any:
    """Enable, disable or move a job."""
    asked = body(Alteration)
    return _edit(api, stage, Alter(name, asked.enabled, asked.at), asked.params)


def remove_job(api: Api, stage: str, name: str) -> Any:
    """Take a job out of the chain."""
    return _edit(api, stage, Remove(name), {})


def _edit(api: Api, stage: str, edit: Edit, params: Patch) -> Response:
    expected = _expected()
    with _telling_current(api, stage, lambda desired: _jobs(committed(desired))):
        answer, status, desired = change_checked(
            api, stage, lambda operator, patience: operator.edit_jobs(stage, edit, params, expected, patience)
        )
    return _chain(desired, answer, status)


def _chain(desired: StageDesired, more: dict[str, Any], status: int) -> Response:
    document = _jobs(desired)
    ahead = committed(desired)
    if desired.candidate is not None:
        document["next"] = _jobs(ahead)
    return _tagged(json_response(document | more, status), ahead)


def _jobs(desired: StageDesired) -> dict[str, Any]:
    chain = [_link(link) for link in desired.jobs]
    return {"jobs": enabled(desired.jobs), "chain": chain, "generation": desired.generation}


def _link(link: ChainLink) -> dict[str, Any]:
    return {"name": link.name, "job": link.job, "enabled": link.enabled}


def rollback(api: Api, stage: str) -> Any:
    """Go back to an earlier generation: its jobs, parameters and code; or take back one that is being prepared."""
    wanted, before = body(Earlier).generation, api.stage(stage).desired
    answer, status, desired = change_checked(
        api, stage, lambda operator, patience: operator.go_back(stage, wanted, patience)
    )
    candidate = before.candidate
    taken_back = candidate is not None and any(each.code == candidate.code for each in desired.undone)
    changed = "change" in answer or desired.generation != before.generation
    return answer | {"of": committed(desired).of or None, "changed": changed, "taken_back": taken_back}, status


def generations(api: Api, stage: str) -> Any:
    """Return the present generation and earlier ones, the newest first."""
    desired = api.stage(stage).desired
    failed = {each.generation: each.reason for each in desired.undone if each.kind == "failed"}
    versions = (desired.version, *reversed(desired.history))
    return {"generations": [_generation(version) | {"undone": failed.get(version.generation)} for version in versions]}


def _generation(version: Version) -> dict[str, Any]:
    return {
        "generation": version.generation,
        "of": version.of or None,
        "jobs": enabled(version.jobs) or None,
        "chain": [_link(link) for link in version.jobs] or None,
        "params": version.params,
        "code": version.copy.digest if version.copy is not None else None,
    }


_ONE = f"{API}/stages/<stage>"
_JOB = f"{_ONE}/jobs/<name>"
_WAIT = ("wait",)
_IF_MATCH = ("If-Match",)  # the generation that the caller has seen: 412 if it is another by now
ROUTES = [
    Route("POST", f"{_ONE}/restart", restart, "Let new Consumers run the code that is in the folder", _WAIT, Restart),
    Route("GET", f"{_ONE}/params", params, "The parameters and their history"),
    Route(
        *("GET", f"{_ONE}/params/schema", params_schema, "What the code takes as parameters, as JSON Schema"),
        slow=True,
    ),
    Route(
        *("PATCH", f"{_ONE}/params", patch_params, "Change parameters", _WAIT, Patch),
        headers=_IF_MATCH,
    ),
    Route(
        *("POST", f"{_ONE}/params/rollback", rollback_params, "Go back to the previous parameters", _WAIT),
        headers=_IF_MATCH,
    ),
    Route("GET", f"{_ONE}/jobs", jobs, "The chain of jobs"),
    Route("PUT", f"{_ONE}/jobs", set_jobs, "Replace the chain", _WAIT, NewChain, headers=_IF_MATCH),
    Route("POST", f"{_ONE}/jobs", add_job, "Add a job to the chain", _WAIT, NewJob, headers=_IF_MATCH),
    Route("PATCH", _JOB, alter_job, "Enable, disable or move a job", _WAIT, Alteration, headers=_IF_MATCH),
    Route("DELETE", _JOB, remove_job, "Remove a job from the chain", _WAIT, headers=_IF_MATCH),
    Route("GET", f"{_ONE}/generations", generations, "Jobs, parameters and code, now and earlier; the newest first"),
    Route("POST", f"{_ONE}/rollback", rollback, "Go back to an earlier generation", _WAIT, Earlier),
]
