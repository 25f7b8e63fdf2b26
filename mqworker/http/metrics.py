"""The metrics for Prometheus: computed from the snapshot and the totals at each request.

Runs in the server's threads; imported at the first request for them. Labels come from the configuration (stages,
Consumer slots) and from fixed lists, never from messages, so that the number of series is bounded.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mqworker import __version__
from mqworker.control.views import SharedView, SourceView, StageView
from mqworker.http.metrics_consumers import consumer_cpu, stage_gauges
from mqworker.http.places import KINDS
from mqworker.http.routing import Api
from mqworker.http.totals import BUCKET, RECONNECTS, SUM, TIMES, Values
from mqworker.ipc.histogram import BUCKETS
from mqworker.ipc.stage_status import StageStatus
from mqworker.shared_state.messages import SharedStatus

__all__ = ["CONTENT_TYPE", "render"]

DURATIONS = {
    "process": "Time in the chain of jobs",
    "wait": "Time from delivery to a Consumer",
    "confirm": "Time from publishing to the broker's confirm",
}
SHARED_COUNTS = {
    "shared_calls": ("Calls of shared objects", "calls"),
    "shared_repeated": ("Calls that were answered from what is remembered", "repeated"),
    "shared_without_id": ("Calls for messages without an id, or for none", "without_id"),
    "shared_failed": ("Calls that raised", "failed"),
    "shared_replayed": ("Calls that were made again at the start, from the journal", "replayed"),
}
ANSWERS = ("done", "refused", "failed")
OUTCOMES = ("result", "dropped", "retried", "dead", "renewed")
BULK_KINDS = ("replay", "drop")
BULK_OUTCOMES = ("done", "gone", "refused", "unsure")
AT_WORK = ("running", "waiting", "held back", "blocked")  # states of a source that runs here
EXITS = "exit_"
EXIT_REASONS = frozenset(
    {"asked", "exit", "killed", "setup", "signal", "timeout"}
)  # every other one counts as "recycled"

Row = tuple[str | dict[str, str], float]


class SnapshotCollector(Collector):
    """Collects all metric families from one snapshot."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        api = self._api
        yield _gauge("build_info", "The program", [({"version": __version__}, 1)])
        commands = CounterMetricFamily("mqworker_control_commands", "Control commands accepted")
        commands.add_metric([], api.control.commands)
        yield commands
        answers = api.control.trail.answers
        yield _counter("audit_records", "Records of the audit", [({"answer": a}, answers[a]) for a in ANSWERS])
        sessions: list[Row] = [({"role": role}, count) for role, count in api.logins.begun.items()]
        yield _counter("sessions", "Logins of the page", sessions)
        yield from _streams(api)
        snapshot = api.control.snapshot()
        if snapshot is None:
            return
        views = list(snapshot.stages.values())
        totals = {view.name: api.totals.of(view.name) for view in views}
        yield from _counters(totals)
        yield consumer_cpu(totals)
        yield from stage_gauges((v.actual for v in views if v.actual is not None), api.control.faults)
        moved: list[Row] = [(view.name, view.received) for view in views]
        yield _counter("consumers_moved", "Consumers that other stages gave up for this one", moved)
        yield from _stage_gauges(views)
        yield from _consumer_gauges(views, {n: c.queue_size for n, c in api.control.loaded.config.stages.items()})
        yield from _shared(list(snapshot.shared.values()))
        yield from _sources(list(snapshot.sources.values()))
        bulk, text = api.control.bulk_counts(), "Dead letters that operations on selections have moved, by outcome"
        yield _counter("bulk_messages", text, [(_of_bulk(*key), bulk.get(key, 0)) for key in _bulk_keys(views)])


def _streams(api: Api) -> Iterator[Metric]:
    running: list[Row] = [({"kind": kind}, api.tcp.running[kind] + api.unix.running[kind]) for kind in KINDS]
    yield _gauge("streams", "Streams of server-sent events that run", running)
    refused = CounterMetricFamily("mqworker_stream_refusals", "Streams that were refused, because enough run")
    refused.add_metric([], api.tcp.refused + api.unix.refused)
    yield refused


def _family(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily], name: str, description: str, rows: list[Row]
) -> Metric:
    labelled = [({"stage": labels} if isinstance(labels, str) else labels, value) for labels, value in rows]
    names = list(labelled[0][0]) if labelled else ["stage"]
    family = kind(f"mqworker_{name}", description, labels=names)
    for labels, value in labelled:
        family.add_metric([labels[name] for name in names], value)
    return family


def _counter(name: str, description: str, rows: list[Row]) -> Metric:
    return _family(CounterMetricFamily, name, description, rows)


def _gauge(name: str, description: str, rows: list[Row]) -> Metric:
    return _family(GaugeMetricFamily, name, description, rows)


def _counters(totals: dict[str, Values]) -> Iterator[Metric]:
    def by(label: str, values: Iterable[str]) -> list[Row]:
        return [({"stage": s, label: value}, total.get(value, 0)) for s, total in totals.items() for value in values]

    received: list[Row] = [(s, total.get("received", 0)) for s, total in totals.items()]
    yield _counter("messages_received", "Deliveries received from the broker", received)
    yield _counter("messages_settled", "Deliveries settled, by outcome", by("outcome", OUTCOMES))
    processed: list[Row] = [
        ({"stage": stage, "outcome": outcome}, total.get(f"processed_{outcome}", 0))
        for stage, total in totals.items()
        for outcome in ("result", "dropped", "failed")
    ]
    yield _counter("processed", "Messages computed, by outcome", processed)
    yield _counter(
        "published",
        "Publications, by the broker's answer; ambiguous: it sent none",
        by("outcome", ("confirmed", "refused", "ambiguous")),
    )
    yield _counter("consumer_exits", "Consumers that ended, by reason", list(_exits(totals)))
    reconnects: list[Row] = [(s, total.get(RECONNECTS, 0)) for s, total in totals.items()]
    yield _counter("broker_reconnects", "Reconnections to the broker", reconnects)
    for name, description in DURATIONS.items():
        yield _durations(name, description, totals)


def _durations(name: str, description: str, totals: dict[str, Values]) -> Metric:
    family = HistogramMetricFamily(f"mqworker_{name}_duration_seconds", description, labels=["stage"])
    prefix = TIMES[name]
    for stage, total in totals.items():
        counts = [total.get(f"{prefix}{BUCKET}{number}", 0) for number in range(len(BUCKETS) + 1)]
        family.add_metric([stage], _buckets(counts), total.get(prefix + SUM, 0.0))
    return family


def _buckets(counts: Iterable[float]) -> list[tuple[str, float]]:
    """Return upper bounds with the counts up to there."""
    bounds = [*map(str, map(float, BUCKETS)), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True))


def _exits(totals: dict[str, Values]) -> Iterator[Row]:
    for stage, total in totals.items():
        counts = dict.fromkeys(sorted(EXIT_REASONS | {"recycled"}), 0.0)
        for name, count in total.items():
            if name.startswith(EXITS):
                reason = name.removeprefix(EXITS)
                counts[reason if reason in EXIT_REASONS else "recycled"] += count
        yield from (({"stage": stage, "reason": reason}, count) for reason, count in counts.items())


def _stage_gauges(views: list[StageView]) -> Iterator[Metric]:
    desired: list[Row] = [
        (v.name, v.desired.consumers if v.desired.running and v.desired.working else 0) for v in views
    ]
    yield _gauge("consumers_desired", "Desired number of Consumers", desired)
    yield _gauge(
        "consumers", "Actual number of Consumers", [(v.name, len(v.actual.consumers) if v.actual else 0) for v in views]
    )
    linked = [(v.name, v.actual.link if v.actual else None) for v in views]
    yield _gauge("broker_connected", "1: connected", [(name, bool(link and link.connected)) for name, link in linked])
    yield _gauge(
        "broker_blocked",
        "1: the broker refuses publishes",
        [(name, bool(link and link.blocked)) for name, link in linked],
    )
    yield from _status_gauges([view.actual for view in views if view.actual is not None])


def _status_gauges(statuses: list[StageStatus]) -> Iterator[Metric]:
    flight: list[Row] = [
        ({"stage": s.stage, "state": state}, getattr(s, state))
        for s in statuses
        for state in ("held", "dispatched", "computed", "settling")
    ]
    yield _gauge("in_flight_messages", "Deliveries received and not yet settled", flight)
    queues = [(s, ("ready", s.backlog), ("dead", s.dead_backlog)) for s in statuses]
    ready: list[Row] = [
        ({"stage": s.stage, "state": state}, depth) for s, *each in queues for state, depth in each if depth is not None
    ]
    yield _gauge("queue_messages", "Messages in the input queue, and dead letters", ready)
    output: list[Row] = [(s.stage, s.output_backlog) for s in statuses if s.output_backlog is not None]
    yield _gauge("output_queue_messages", "Messages in an output queue with max_backlog", output)
    offset = time.time() - time.monotonic()
    settled: list[Row] = [(s.stage, s.last_settled + offset) for s in statuses if s.last_settled]
    yield _gauge("last_settled_timestamp_seconds", "When a delivery was last settled", settled)
    stalls: list[Row] = [(s.stage, s.stall) for s in statuses]
    yield _gauge("loop_stall_seconds", "Longest time that the Producer's loop was blocked", stalls)


def _consumer_gauges(views: list[StageView], capacity: dict[str, int]) -> Iterator[Metric]:
    used: dict[tuple[str, int], list[float]] = {}  # while one replaces another, two share a slot
    for view in views:
        for consumer in view.actual.consumers if view.actual else ():
            sums = used.setdefault((view.name, consumer.slot), [0, 0, 0, 0.0])
            sums[0] += consumer.used
            sums[1] += consumer.seats or capacity[view.name]
            sums[2] += consumer.rss
            if consumer.held_since:
                sums[3] = max(sums[3], time.monotonic() - consumer.held_since)
    names = {
        "lane_used": "Messages in the lane",
        "lane_capacity": "Capacity of the lane, in messages: where a Consumer works on several at once, how many",
        "consumer_resident_bytes": "Resident memory of the Consumer",
        "consumer_held_seconds": "For how long one message holds a Consumer, so that its others stand still",
    }
    for number, (name, description) in enumerate(names.items()):
        rows: list[Row] = [
            ({"stage": stage, "consumer": str(slot)}, sums[number]) for (stage, slot), sums in used.items()
        ]
        yield _family(GaugeMetricFamily, name, description, rows)


def _shared(views: list[SharedView]) -> Iterator[Metric]:
    """Yield what the processes of shared objects report; their counters begin again with each process."""
    statuses = [view.status for view in views if view.status is not None]

    def rows(value: Callable[[SharedStatus], float]) -> list[Row]:
        return [({"shared": status.name}, value(status)) for status in statuses]

    if not views:
        return
    serving: list[Row] = [({"shared": view.name}, view.state == "serving") for view in views]
    yield _gauge("shared_serving", "1: the shared object answers calls", serving)
    yield _counter("shared_restarts", "Deaths of its process", [({"shared": v.name}, v.restarts) for v in views])
    for name, (description, count) in SHARED_COUNTS.items():
        yield _counter(name, description, [({"shared": s.name}, s.counts[count]) for s in statuses])
    yield _counter("shared_evicted", "Messages whose calls were forgotten before their time", rows(lambda s: s.evicted))
    yield _counter(
        "shared_diverged",
        "Calls that gave another answer in a replay: the class is not deterministic",
        rows(lambda s: sum(s.diverged.values())),
    )
    calls = HistogramMetricFamily(
        "mqworker_shared_call_duration_seconds", "Time that calls of shared objects take there", labels=["shared"]
    )
    for status in statuses:
        if status.times is not None:
            calls.add_metric([status.name], _buckets(status.times.counts), status.times.total)
    yield calls
    yield _gauge("shared_remembered", "Messages whose calls are remembered", rows(lambda s: s.remembered))
    yield _gauge("shared_journal_bytes", "Journal since the last snapshot", rows(lambda s: s.journal_bytes))
    ages: list[Row] = [({"shared": s.name}, s.snapshot_age) for s in statuses if s.snapshot_age is not None]
    yield _gauge("shared_snapshot_age_seconds", "Age of the last snapshot", ages)


def _sources(views: list[SourceView]) -> Iterator[Metric]:
    """Yield the state of the sources."""

    def rows(value: Callable[[SourceView], float]) -> list[Row]:
        return [({"source": view.name}, value(view)) for view in views]

    if not views:
        return
    yield _counter("source_items", "Messages of sources that are confirmed", rows(lambda view: view.items))
    yield _counter("source_restarts", "Deaths of its process", rows(lambda view: view.restarts))
    yield _counter("source_missed_ticks", "Ticks that were missed", rows(lambda view: view.missed))
    yield _gauge("source_running", "1: it runs in this service", rows(lambda view: view.state in AT_WORK))
    yield _gauge("source_held_back", "1: its stage's queue is full", rows(lambda view: view.state == "held back"))
    statuses = {view.name: view.status for view in views if view.status is not None}
    offset = time.time() - time.monotonic()
    last: list[Row] = [({"source": n}, s.last_item + offset) for n, s in statuses.items() if s.last_item]
    yield _gauge("source_last_item_timestamp_seconds", "When a message was last confirmed", last)
    due: list[Row] = [({"source": n}, s.due / 1000) for n, s in statuses.items() if s.due is not None]
    yield _gauge("source_next_due_timestamp_seconds", "The next tick", due)


def _bulk_keys(views: list[StageView]) -> Iterator[tuple[str, str, str]]:
    return ((view.name, kind, outcome) for view in views for kind in BULK_KINDS for outcome in BULK_OUTCOMES)


def _of_bulk(stage: str, kind: str, outcome: str) -> dict[str, str]:
    return {"stage": stage, "kind": kind, "outcome": outcome}


def render(api: Api) -> bytes:
    """Return all families in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(api))
    return generate_latest(registry)
