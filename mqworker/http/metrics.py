"""/metrics for Prometheus: made of the snapshot and the totals each time it is asked for.

Runs in the server's threads. Labels come from the configuration (stages, Consumer slots) and from fixed words, never
from messages, so that the number of series is bounded.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import accumulate

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mqworker import __version__
from mqworker.control.control import StageView
from mqworker.http.routing import API, Api, Route
from mqworker.http.totals import BUCKET, RECONNECTS, SUM, TIMES, Values
from mqworker.ipc.messages import BUCKETS, StageStatus

DURATIONS = {
    "process": "Time in the chain of jobs",
    "wait": "Time from delivery to a Consumer",
    "confirm": "Time from publishing to the broker's confirm",
}
OUTCOMES = ("result", "dropped", "retried", "dead", "renewed")
EXITS = "exit_"
EXIT_REASONS = frozenset({"asked", "exit", "killed", "setup", "signal", "timeout"})  # a wish to leave is "recycled"

Row = tuple[str | dict[str, str], float]


class Snapshots(Collector):
    """Makes all families of one snapshot."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def collect(self) -> Iterable[Metric]:
        """Tell every family."""
        api = self._api
        yield _gauge("build_info", "The program", [({"version": __version__}, 1)])
        commands = CounterMetricFamily("mqworker_control_commands", "Control commands taken")
        commands.add_metric([], api.control.commands)
        yield commands
        snapshot = api.control.snapshot()
        if snapshot is None:
            return
        views = list(snapshot.stages.values())
        yield from _counters({view.name: api.totals.of(view.name) for view in views})
        yield from _stage_gauges(views)
        yield from _consumer_gauges(views, {n: c.queue_size for n, c in api.control.loaded.config.stages.items()})


def _family(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily], name: str, words: str, rows: list[Row]
) -> Metric:
    labelled = [({"stage": labels} if isinstance(labels, str) else labels, value) for labels, value in rows]
    names = list(labelled[0][0]) if labelled else ["stage"]
    family = kind(f"mqworker_{name}", words, labels=names)
    for labels, value in labelled:
        family.add_metric([labels[name] for name in names], value)
    return family


def _counter(name: str, words: str, rows: list[Row]) -> Metric:
    return _family(CounterMetricFamily, name, words, rows)


def _gauge(name: str, words: str, rows: list[Row]) -> Metric:
    return _family(GaugeMetricFamily, name, words, rows)


def _counters(totals: dict[str, Values]) -> Iterator[Metric]:
    def by(label: str, words: Iterable[str]) -> list[Row]:
        return [({"stage": s, label: word}, total.get(word, 0)) for s, total in totals.items() for word in words]

    received: list[Row] = [(s, total.get("received", 0)) for s, total in totals.items()]
    yield _counter("messages_received", "Deliveries taken from the broker", received)
    yield _counter("messages_settled", "Deliveries settled, by what became of them", by("outcome", OUTCOMES))
    processed: list[Row] = [
        ({"stage": stage, "outcome": word}, total.get(f"processed_{word}", 0))
        for stage, total in totals.items()
        for word in ("result", "dropped", "failed")
    ]
    yield _counter("processed", "Messages computed, by how that ended", processed)
    yield _counter(
        "published",
        "Publications, by the broker's answer; ambiguous: there was none",
        by("outcome", ("confirmed", "refused", "ambiguous")),
    )
    yield _counter("consumer_exits", "Consumers that ended, by reason", list(_exits(totals)))
    reconnects: list[Row] = [(s, total.get(RECONNECTS, 0)) for s, total in totals.items()]
    yield _counter("broker_reconnects", "Connections to the broker made again", reconnects)
    for name, words in DURATIONS.items():
        yield _durations(name, words, totals)


def _durations(name: str, words: str, totals: dict[str, Values]) -> Metric:
    family = HistogramMetricFamily(f"mqworker_{name}_duration_seconds", words, labels=["stage"])
    prefix = TIMES[name]
    bounds = [*map(str, map(float, BUCKETS)), "+Inf"]
    for stage, total in totals.items():
        counts = accumulate(total.get(f"{prefix}{BUCKET}{number}", 0) for number in range(len(bounds)))
        family.add_metric([stage], list(zip(bounds, counts, strict=True)), total.get(prefix + SUM, 0.0))
    return family


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
    yield _gauge("consumers_desired", "Consumers there should be", desired)
    yield _gauge(
        "consumers", "Consumers there are", [(v.name, len(v.actual.consumers) if v.actual else 0) for v in views]
    )
    linked = [(v.name, v.actual.link if v.actual else None) for v in views]
    yield _gauge("broker_connected", "1: connected", [(name, bool(link and link.connected)) for name, link in linked])
    yield _gauge(
        "broker_blocked", "1: publishes refused", [(name, bool(link and link.blocked)) for name, link in linked]
    )
    yield from _status_gauges([view.actual for view in views if view.actual is not None])


def _status_gauges(statuses: list[StageStatus]) -> Iterator[Metric]:
    flight: list[Row] = [
        ({"stage": s.stage, "state": state}, getattr(s, state))
        for s in statuses
        for state in ("held", "dispatched", "settling")
    ]
    yield _gauge("in_flight_messages", "Deliveries taken and not settled", flight)
    ready: list[Row] = [({"stage": s.stage, "state": "ready"}, s.backlog) for s in statuses if s.backlog is not None]
    yield _gauge("queue_messages", "Messages in the input queue", ready)
    offset = time.time() - time.monotonic()
    settled: list[Row] = [(s.stage, s.last_settled + offset) for s in statuses if s.last_settled]
    yield _gauge("last_settled_timestamp_seconds", "When a delivery was settled last", settled)
    stalls: list[Row] = [(s.stage, s.stall) for s in statuses]
    yield _gauge("loop_stall_seconds", "The longest time the Producer's loop did not turn", stalls)


def _consumer_gauges(views: list[StageView], capacity: dict[str, int]) -> Iterator[Metric]:
    used: dict[tuple[str, int], list[int]] = {}  # while one replaces another, two share a slot
    for view in views:
        for consumer in view.actual.consumers if view.actual else ():
            sums = used.setdefault((view.name, consumer.slot), [0, 0, 0])
            sums[0] += consumer.used
            sums[1] += capacity[view.name]
            sums[2] += consumer.rss
    names = {
        "lane_used": "Messages in the lane",
        "lane_capacity": "Bound of the lane, in messages",
        "consumer_resident_bytes": "Resident memory of the Consumer",
    }
    for number, (name, words) in enumerate(names.items()):
        rows: list[Row] = [
            ({"stage": stage, "consumer": str(slot)}, sums[number]) for (stage, slot), sums in used.items()
        ]
        yield _family(GaugeMetricFamily, name, words, rows)


def metrics(api: Api) -> Response:
    """Tell all families in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshots(api))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


ROUTES = [Route("GET", f"{at}/metrics", metrics, "Metrics for Prometheus") for at in ("", API)]
