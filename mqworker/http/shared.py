"""Routes for shared objects: what there is, and a reset.

Runs in the server's threads. Reads snapshots; a reset goes through Control to the main thread.
"""

from typing import Any

import msgspec

from mqworker.control.views import SharedView
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route


def shared(api: Api) -> Any:
    """Return all shared objects."""
    return {"shared": [described(view) for view in api.snapshot().shared.values()]}


def one(api: Api, name: str) -> Any:
    """Return one shared object."""
    return described(_view(api, name))


def reset(api: Api, name: str) -> Any:
    """Replace a shared object by a new one; what is remembered of its calls stays."""
    _view(api, name)
    api.control.ask(lambda operator: operator.reset_shared(name))
    return {"status": "reset"}, 202


def _view(api: Api, name: str) -> SharedView:
    views = api.snapshot().shared
    if name not in views:
        there = f"known: {', '.join(views)}" if views else "no stage uses any"
        raise Problem(404, f"there is no shared object {name!r}; {there}", shared=list(views))
    return views[name]


def described(view: SharedView) -> dict[str, Any]:
    """Return a shared object as plain data."""
    document: dict[str, Any] = msgspec.to_builtins(view)
    document["class"] = document.pop("job")
    if view.status is not None:
        del document["status"]["times"]  # for the metrics
        times = view.status.times
        made = sum(times.counts) if times is not None else 0
        document["status"]["mean_seconds"] = times.total / made if times is not None and made else None
    return document


_ONE = f"{API}/shared/<name>"
ROUTES = [
    Route("GET", f"{API}/shared", shared, "All shared objects"),
    Route("GET", _ONE, one, "One shared object: its calls, its journal, its own description"),
    Route("POST", f"{_ONE}/reset", reset, "Replace a shared object by a new one"),
]
