"""What each topic of the Feed reports in a second.

Runs in the server's threads; reads the snapshot, the history and what other parts report through Control.
"""

import time
from collections.abc import Iterable
from typing import Any

from mqworker.config.line import lines
from mqworker.control.history import FINE, LATE, SERIES
from mqworker.control.outlook import bottleneck, outlook
from mqworker.control.views import Snapshot, StageView
from mqworker.http import shared, sources
from mqworker.http.faults import described
from mqworker.http.feed_events import (
    FeedAudit,
    FeedHistory,
    FeedOperations,
    FeedOverview,
    FeedPeers,
    FeedPoints,
    FeedService,
    FeedStage,
)
from mqworker.http.health import staleness
from mqworker.http.reasons import reason_of
from mqworker.http.routing import Api
from mqworker.http.stages import change_of, one

NEWEST = LATE + 1  # seconds that are sent again and again: as many as may become known at once
OPERATIONS, RECORDS, FAULTS, PEERS = 50, 200, 201, 32  # how many of each are sent, at most
ALWAYS = -1  # the second since which a new client wants what there is


def overview(api: Api, n: int) -> FeedOverview:
    """Return the service with all its stages."""
    snapshot = api.snapshot()
    now, views = time.monotonic(), snapshot.stages
    expected = {name: outlook(view, paused=snapshot.paused) for name, view in views.items()}
    found = (bottleneck([views[name] for name in names if name in views], expected) for names in lines(api.line))
    return FeedOverview(
        n=n,
        service=FeedService(
            name=snapshot.service,
            state=snapshot.state,
            paused=snapshot.paused,
            revision=snapshot.document.revision,
            applied=snapshot.applied,
            started=snapshot.started,
            uptime=round(time.time() - snapshot.started, 1),
            log_level=snapshot.document.log_level,
            stale=round(now - snapshot.time, 1) if staleness(snapshot, now) else None,
        ),
        stages=[_stage(api, snapshot, view) for view in views.values()],
        line=[place._asdict() | {"here": place.name in views} for place in api.line],
        bottlenecks=[name for name in found if name is not None],
        sources=[sources.described(view, now) for view in snapshot.sources.values()],
        shared=[shared.described(view) for view in snapshot.shared.values()],
    )


def _stage(api: Api, snapshot: Snapshot, view: StageView) -> FeedStage:
    desired, status = view.desired, view.actual
    expected = outlook(view, paused=snapshot.paused)
    wanted = desired.consumers if desired.running and desired.working else 0
    ready = sum(each.state in ("idle", "busy") for each in status.consumers) if status is not None else 0
    _first, newest = api.control.history.read(view.name, ("in",), api.control.history.end(view.name) - 1)
    return FeedStage(
        name=view.name,
        state=view.state,
        why=reason_of(api, snapshot, view),
        consumers=(ready, wanted),
        auto=desired.auto,
        rate=None if status is None else status.rate,
        arrival=None if status is None else status.arrival_rate,
        arrived=newest["in"][-1] if newest["in"] else None,
        unfinished=expected.unfinished,
        seconds_left=expected.seconds_left,
        growing=expected.growing,
        held_back_by=expected.held_back_by,
        backlog=None if status is None else status.backlog,
        dead_backlog=None if status is None else status.dead_backlog,
        dead=int(api.totals.of(view.name).get("dead", 0)),
        running=desired.running,
        listening=desired.listening,
        generation=desired.generation,
        applied=view.applied,
        change=change_of(view),
    )


def stage(api: Api, name: str, n: int, since: int) -> dict[str, Any]:
    """Return everything about a stage, with its newest seconds, and its groups of failures that have changed."""
    history = api.control.history
    first, series = history.read(name, SERIES, history.end(name) - NEWEST)
    now = time.time()
    faults = _named([described(fault, now) for fault in api.control.faults.of(name).faults], "key")
    return {
        "n": n,
        **one(api, name),
        "points": FeedPoints(first, series),
        "faults": api.feed.changed(f"stage:{name}", n, since, faults, FAULTS),
    }


def history(api: Api, name: str, names: Iterable[str], first: int, every: int = FINE) -> FeedHistory:
    """Return what a stage did from this step on."""
    start, series = api.control.history.read(name, names, first, every)
    return FeedHistory(name, every, start, series)


def operations(api: Api, n: int, since: int) -> FeedOperations | None:
    """Return the bulk operations that have changed; None: none has."""
    things = api.feed.changed("operations", n, since, _named(api.control.operations(), "operation"), OPERATIONS)
    return FeedOperations(things) if things or since == ALWAYS else None


def audit(api: Api, n: int, since: int) -> FeedAudit | None:
    """Return the new records of the audit; None: there is none."""
    records = api.feed.changed("audit", n, since, _named(api.control.audit(api.feed.newest("audit")), "n"), RECORDS)
    return FeedAudit(records) if records or since == ALWAYS else None


def peers(api: Api, n: int, since: int) -> FeedPeers | None:
    """Return the other services, if anything about them has changed."""
    there = list(api.control.peers())
    changed = api.feed.changed("peers", n, since, [("all", there)], 1)
    return FeedPeers(there) if changed or since == ALWAYS else None


def _named(things: Iterable[Any], name: str) -> list[tuple[Any, Any]]:
    return [(thing[name] if isinstance(thing, dict) else getattr(thing, name), thing) for thing in things]
