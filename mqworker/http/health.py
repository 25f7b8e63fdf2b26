"""Routes for the service as a whole: alive, ready, status, log level, drain. Runs in the server's threads.

Health reads only the snapshot and never waits: it answers while the main thread, the broker or the user's code hangs.
"""

import time
from typing import Any, Literal

import msgspec

from mqworker import __version__
from mqworker.control.desired_state import SetLogLevel
from mqworker.control.views import Snapshot, SourceView, StageView
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, body
from mqworker.http.sources import described
from mqworker.http.stages import overview, refuse_to_destroy

OLD = 10.0  # seconds after which an old snapshot means that the main thread hangs


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least severe level that is logged."""

    level: Literal["debug", "info", "warning", "error"]


def staleness(snapshot: Snapshot | None, now: float) -> str:
    """Return why the main thread is considered to hang, or ""."""
    if snapshot is None:
        return "the service is still starting"
    age = now - snapshot.time
    return f"the main thread has not responded for {age:.0f} s" if age >= OLD else ""


def unreadiness(snapshot: Snapshot | None, now: float) -> list[str]:
    """Return why the service is not ready; empty when it is."""
    stale = staleness(snapshot, now)
    if snapshot is None or stale:
        return [stale]
    reasons = [f"the service is {snapshot.state}"] if snapshot.state != "running" else []
    running = [view for view in snapshot.stages.values() if view.desired.running]
    faults = ((view.name, view.desired.degraded or _unready(view, paused=snapshot.paused)) for view in running)
    reasons += [f"stage {name}: {fault}" for name, fault in faults if fault]
    return reasons + [f"source {view.name}: {fault}" for view in snapshot.sources.values() if (fault := _faulty(view))]


def _unready(view: StageView, *, paused: bool) -> str:
    status, desired = view.actual, view.desired
    if status is None:
        return f"no Producer runs ({view.state}){': ' + view.problem if view.problem else ''}"
    if status.crash_loop:
        return f"crash loop: {status.problem or view.problem}"
    if not status.link.connected:
        return f"not connected: {status.link.reason}"
    if status.link.problem:
        return status.link.problem
    should_consume = desired.listening and desired.working and desired.consumers > 0 and not paused
    if should_consume and not (status.link.consuming or status.link.waits):  # a stage that stands by is ready
        return f"not consuming: {status.problem or status.link.reason or 'not yet'}"
    return ""


def _faulty(view: SourceView) -> str:
    """Return why messages do not come from a source as they should; one that waits or stands by is ready."""
    if view.state == "crash loop":
        return f"crash loop: {view.problem}"
    return f"its code was refused: {view.desired.refused}" if view.desired.refused else ""


def alive(api: Api) -> Any:
    """Answer whether the main thread responds."""
    if why := staleness(api.control.snapshot(), time.monotonic()):
        raise Problem(503, why)
    return {"status": "alive"}


def ready(api: Api) -> Any:
    """Answer whether every running stage does what it should."""
    if reasons := unreadiness(api.control.snapshot(), time.monotonic()):
        raise Problem(503, "; ".join(reasons), reasons=reasons)
    return {"status": "ready"}


def status_document(api: Api, snapshot: Snapshot) -> dict[str, Any]:
    """Return the state of the whole service as plain data."""
    return {
        "service": snapshot.service,
        "version": __version__,
        "pid": snapshot.pid,
        "state": snapshot.state,
        "paused": snapshot.paused,
        "started": snapshot.started,
        "revision": snapshot.document.revision,
        "applied": snapshot.applied,
        "log_level": snapshot.document.log_level,
        "age": round(time.monotonic() - snapshot.time, 3),
        **overview(api, snapshot),
        "sources": [described(view, time.monotonic()) for view in snapshot.sources.values()],
    }


def status(api: Api) -> Any:
    """Return the state of the whole service."""
    return status_document(api, api.snapshot())


def log_level(api: Api) -> Any:
    """Set the log level."""
    return api.change(SetLogLevel(body(Level).level))


def drain(api: Api) -> Any:
    """Start draining."""
    refuse_to_destroy(api.snapshot().stages.values())
    api.control.ask(lambda operator: operator.drain())
    return {"status": "draining"}, 202


def links(_api: Api) -> Any:
    """Return the paths to start from."""
    return {"status": f"{API}/status", "stages": f"{API}/stages", "api": f"{API}/openapi.json", "metrics": "/metrics"}


ROUTES = [
    *(Route("GET", f"{at}/livez", alive, "Whether the service is alive; never waits") for at in ("", API)),
    *(Route("GET", f"{at}/readyz", ready, "Whether the service is ready; if not, the reasons") for at in ("", API)),
    Route("GET", f"{API}/status", status, "The whole service"),
    Route("PUT", f"{API}/log-level", log_level, "Set the log level of all processes", ("wait",), Level),
    Route("POST", f"{API}/drain", drain, "Finish what is in hand and stop, as SIGTERM does", ("force",)),
]
