"""Routes for sources: what there is, start, stop, and a run now.

Runs in the server's threads. Reads snapshots; changes go through Control to the main thread.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from mqworker.control.desired_state import SetSource
from mqworker.control.views import Snapshot, SourceView
from mqworker.http.problems import Problem
from mqworker.http.routing import API, WAIT_MAX, Api, Route, requested_wait
from mqworker.ipc.source_messages import SourceStatus

AT_WORK = ("standby", "running", "waiting", "held back", "blocked")


def sources(api: Api) -> Any:
    """Return all sources."""
    now = time.monotonic()
    return {"sources": [described(view, now) for view in api.snapshot().sources.values()]}


def one(api: Api, name: str) -> Any:
    """Return one source."""
    return described(_view(api.snapshot(), api, name), time.monotonic())


def start(api: Api, name: str) -> Any:
    """Start a source with the code in the folder, also one that has finished."""
    before = _view(api.snapshot(), api, name).starts
    wait = requested_wait()
    with api.waiting():  # its code is checked first, which takes long where that imports much
        end = time.monotonic() + wait
        patience = wait or WAIT_MAX
        revision = api.control.ask(lambda operator: operator.start_source(name, patience), patience)
        if not wait:
            return {"revision": revision, "applied": False}, 202

        def at_work(view: SourceView) -> bool:
            return view.state in AT_WORK or (view.state == "finished" and view.starts > before)

        return _applied(api, name, revision, at_work, end - time.monotonic())


def stop(api: Api, name: str) -> Any:
    """Stop a source here; another service that stands by takes over."""
    _view(api.snapshot(), api, name)
    wait = requested_wait()
    if not wait:
        return {"revision": api.control.change(SetSource(name, running=False)), "applied": False}, 202
    with api.waiting():
        revision = api.control.change(SetSource(name, running=False))
        return _applied(api, name, revision, lambda view: view.state == "stopped", wait)


def run(api: Api, name: str) -> Any:
    """Call a scheduled function now, and answer when it has ended."""
    _view(api.snapshot(), api, name)
    with api.waiting():
        patience = requested_wait() or WAIT_MAX
        done = api.control.ask(lambda operator: operator.run_source(name, patience), patience)
    return {"id": done.id, "items": done.items}


def _applied(
    api: Api, name: str, revision: int, wanted: Callable[[SourceView], bool], wait: float
) -> tuple[dict[str, Any], int]:
    def applied(snapshot: Snapshot) -> bool:
        return snapshot.document.revision >= revision and wanted(snapshot.sources[name])

    done = api.wait_for(applied, wait)
    return {"revision": revision, "applied": done, "state": api.snapshot().sources[name].state}, 200 if done else 202


def _view(snapshot: Snapshot, api: Api, name: str) -> SourceView:
    views = snapshot.sources
    if name not in views:
        raise Problem(404, api.control.loaded.no_source(name), sources=list(views))
    return views[name]


def described(view: SourceView, now: float) -> dict[str, Any]:
    """Return a source as plain data; `now` is CLOCK_MONOTONIC."""
    return {
        "name": view.name,
        "into": view.into,
        "kind": view.kind,
        "job": view.desired.code.job,
        "running": view.desired.running,
        "refused": view.desired.refused,
        "state": view.state,
        "problem": view.problem,
        "restarts": view.restarts,
        "items": view.items,
        "missed": view.missed,
        "actual": None if view.status is None else _actual(view.status, now),
    }


def _actual(status: SourceStatus, now: float) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(status)
    for name in ("type", "state", "reason", "items", "missed", "progress", "since"):
        document.pop(name, None)
    document["last_item_seconds"] = round(now - status.last_item, 3) if status.last_item else None
    del document["last_item"]
    document["due"] = _time(status.due)
    if status.last_tick is not None:
        document["last_tick"]["due"] = _time(status.last_tick.due)
    return document


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_ONE = f"{API}/sources/<name>"
ROUTES = [
    Route("GET", f"{API}/sources", sources, "All sources"),
    Route("GET", _ONE, one, "One source: its position, its rate, its ticks"),
    Route("POST", f"{_ONE}/start", start, "Start a source, also one that has finished; new code first", ("wait",)),
    Route("POST", f"{_ONE}/stop", stop, "Stop a source in this service", ("wait",)),
    Route("POST", f"{_ONE}/run", run, "Call a scheduled function now, apart from its ticks", ("wait",)),
]
