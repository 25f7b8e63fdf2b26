"""Routes for queues and dead letters: all of them requests to the broker admin. Runs in the server's threads."""

import base64
from typing import Annotated, Any

import msgspec
from flask import request
from msgspec import Meta

from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, body, number

LOOK_DEADLINE = 5.0  # seconds for listing the queues
DEADLINE = 10.0  # seconds for any other request to the broker
SEARCH = 25.0  # seconds for reading through a dead-letter queue
LISTED = 100  # dead letters that are listed by default
MOST = 10_000  # dead letters that one request reads through
NAMED = 200  # dead letters that one request names


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which dead letters: those named, those with one reason, or all; `dry` only counts them."""

    ids: list[str] | None = None
    reason: str = ""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    dry: bool = False


class Receive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which queue, how many messages at most, and which of those before are safe with the caller, by their ids."""

    name: str
    limit: Annotated[int, Meta(ge=0, le=200)] = 100
    taken: Annotated[list[str], Meta(max_length=200)] = []


def queues(api: Api) -> Any:
    """List every queue of the configuration."""
    return {"queues": api.control.ask_admin("queues", {}, LOOK_DEADLINE)}


def purge(api: Api, queue: str) -> Any:
    """Remove the ready messages of a queue."""
    _refuse_position(api, queue)
    return {"purged": api.control.ask_admin("purge", {"name": queue}, DEADLINE)}


def delete(api: Api, queue: str) -> Any:
    """Delete a queue, with its messages."""
    _refuse_position(api, queue)
    return {"deleted": api.control.ask_admin("delete", {"name": queue}, DEADLINE)}


def _refuse_position(api: Api, queue: str) -> None:
    """Raise a Problem for the queue with the position of a source that runs: it would be put there again at once."""
    stages = api.control.loaded.config.stages
    for view in api.snapshot().sources.values():
        if view.status is not None and queue == stages[view.into].position_queue(view.name):
            what = f"it holds the position of source {view.name}, which is {view.state}"
            raise Problem(409, f"{what}: stop it first (`mqworker sources stop {view.name}`)")


def receive(api: Api) -> Any:
    """Remove the messages that have been taken, and return the next ones, which stay until they are named as taken."""
    asked = body(Receive)
    question = {"name": asked.name, "limit": asked.limit, "taken": asked.taken}
    return {"messages": [_in_full(message) for message in api.control.ask_admin("receive", question, SEARCH)]}


def dlq_list(api: Api, stage: str) -> Any:
    """List dead letters, oldest first; with `ids` only those, in full."""
    api.stage(stage)
    limit = int(number("limit", LISTED, 1, MOST))
    if ids := [name for name in request.args.get("ids", "").split(",") if name]:
        found = api.control.ask_admin("dlq_show", {"stage": stage, "ids": ids[:NAMED]}, SEARCH)
        return {"dead_letters": [_in_full(letter) for letter in found]}
    found = api.control.ask_admin("dlq_list", {"stage": stage, "limit": limit}, SEARCH)
    return {"dead_letters": found}


def dlq_show(api: Api, stage: str, letter: str) -> Any:
    """Return one dead letter in full."""
    api.stage(stage)
    found = api.control.ask_admin("dlq_show", {"stage": stage, "ids": [letter]}, SEARCH)
    if not found:
        raise _no_such(stage, letter)
    return _in_full(found[0])


def _in_full(found: dict[str, Any]) -> dict[str, Any]:
    data, block = found.pop("body", b""), found.pop("properties", b"")
    return found | {
        "properties_base64": base64.b64encode(block).decode(),
        "body_base64": base64.b64encode(data).decode(),
        "body_text": data.decode("utf-8", "backslashreplace"),
    }


def dlq_replay(api: Api, stage: str) -> Any:
    """Send dead letters back to the input."""
    api.stage(stage)
    chosen = msgspec.to_builtins(body(Replay))
    return {"replayed": api.control.ask_admin("dlq_replay", {"stage": stage, **chosen}, SEARCH)}


def dlq_drop(api: Api, stage: str, letter: str) -> Any:
    """Remove one dead letter for good."""
    api.stage(stage)
    dropped = api.control.ask_admin("dlq_drop", {"stage": stage, "ids": [letter], "limit": 1}, SEARCH)
    if not dropped:
        raise _no_such(stage, letter)
    return {"dropped": dropped}


def _no_such(stage: str, letter: str) -> Problem:
    return Problem(404, f"stage {stage} has no dead letter {letter!r}")


_DLQ = f"{API}/stages/<stage>/dlq"
ROUTES = [
    Route("GET", f"{API}/queues", queues, "The queues that the configuration names"),
    Route("POST", f"{API}/queues/<path:queue>/purge", purge, "Remove all ready messages of a queue"),
    Route("DELETE", f"{API}/queues/<path:queue>", delete, "Delete a queue, with its messages"),
    Route("POST", f"{API}/queues/receive", receive, "Take messages out of a queue, in two steps", body=Receive),
    Route("GET", _DLQ, dlq_list, "Dead letters, oldest first; looking changes nothing", ("limit", "ids")),
    Route("GET", f"{_DLQ}/<letter>", dlq_show, "One dead letter, with all the evidence"),
    Route("POST", f"{_DLQ}/replay", dlq_replay, "Send dead letters back to the input", body=Replay),
    Route("DELETE", f"{_DLQ}/<letter>", dlq_drop, "Remove one dead letter for good"),
]
