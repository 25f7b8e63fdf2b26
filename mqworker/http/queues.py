"""Routes for queues, all of them requests to the broker admin. Runs in the server's threads."""

import base64
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, body

LOOK_DEADLINE = 5.0  # seconds for listing the queues
DEADLINE = 10.0  # seconds for any other request to the broker
SEARCH = 25.0  # seconds for reading through a queue


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
    arguments = {"name": asked.name, "limit": asked.limit, "taken": asked.taken}
    return {"messages": [in_full(message) for message in api.control.ask_admin("receive", arguments, SEARCH)]}


def in_full(found: dict[str, Any]) -> dict[str, Any]:
    """Return a message in full as plain data: its bytes in base64, and its body as text too."""
    data, block = found.pop("body", b""), found.pop("properties", b"")
    return found | {
        "properties_base64": base64.b64encode(block).decode(),
        "body_base64": base64.b64encode(data).decode(),
        "body_text": data.decode("utf-8", "backslashreplace"),
    }


ROUTES = [
    Route("GET", f"{API}/queues", queues, "The queues that the configuration names", slow=True),
    Route("POST", f"{API}/queues/<path:queue>/purge", purge, "Remove all ready messages of a queue", slow=True),
    Route("DELETE", f"{API}/queues/<path:queue>", delete, "Delete a queue, with its messages", slow=True),
    Route(
        "POST", f"{API}/queues/receive", receive, "Take messages out of a queue, in two steps", body=Receive, slow=True
    ),
]
