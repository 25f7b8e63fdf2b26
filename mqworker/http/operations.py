"""Routes for operations on many dead letters: how far they are, and their end. Runs in the server's threads."""

from typing import Any

from mqworker.control.operator import BULK_DEADLINE
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route


def all_operations(api: Api) -> Any:
    """List the operations in progress and the last ones, the oldest first."""
    return {"operations": list(api.control.operations())}


def one(api: Api, operation: str) -> Any:
    """Return how far one is."""
    for view in api.control.operations():
        if view.operation == operation:
            return view
    raise Problem(404, f"there is no operation {operation!r}", kind="unknown_operation")


def cancel(api: Api, operation: str) -> Any:
    """End one before its next batch; what it has done stays done."""
    return api.control.ask(lambda operator: operator.bulk.cancel(operation), BULK_DEADLINE), 202


ROUTES = [
    Route("GET", f"{API}/operations", all_operations, "Operations on many dead letters: in progress, and latest"),
    Route("GET", f"{API}/operations/<operation>", one, "How far an operation is"),
    Route("DELETE", f"{API}/operations/<operation>", cancel, "End an operation before its next batch"),
]
