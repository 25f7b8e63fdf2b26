"""Metrics: valid text, correct numbers across many Producers, a bounded number of series."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mqworker.brokers.base import LinkState
from mqworker.http.totals import Totals
from mqworker.ipc.histogram import BUCKETS
from mqworker.ipc.inspection import FaultCount, FaultReport
from mqworker.ipc.stage_status import ConsumerStatus
from tests.http.operator import stage_status

NAMES = {
    "mqworker_bulk_messages",
    "mqworker_messages_received",
    "mqworker_messages_settled",
    "mqworker_processed",
    "mqworker_process_duration_seconds",
    "mqworker_wait_duration_seconds",
    "mqworker_confirm_duration_seconds",
    "mqworker_in_flight_messages",
    "mqworker_lane_used",
    "mqworker_lane_capacity",
    "mqworker_consumers",
    "mqworker_consumers_desired",
    "mqworker_consumers_moved",
    "mqworker_consumer_exits",
    "mqworker_consumer_resident_bytes",
    "mqworker_consumer_cpu_seconds",
    "mqworker_faults",
    "mqworker_journal_messages",
    "mqworker_consumer_held_seconds",
    "mqworker_published",
    "mqworker_broker_connected",
    "mqworker_broker_blocked",
    "mqworker_broker_reconnects",
    "mqworker_queue_messages",
    "mqworker_output_queue_messages",
    "mqworker_last_settled_timestamp_seconds",
    "mqworker_loop_stall_seconds",
    "mqworker_control_commands",
    "mqworker_audit_records",
    "mqworker_sessions",
    "mqworker_streams",
    "mqworker_stream_refusals",
    "mqworker_build_info",
}


def scrape(service) -> dict[tuple, float]:
    """Return every sample by name and labels."""
    answer = service.ask("GET", "/metrics")
    assert answer.status == 200
    families = list(text_string_to_metric_families(answer.body.decode()))
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_names(service):
    """All families that can have values are present, each once, as Prometheus' own parser reads them."""
    text = service.ask("GET", "/metrics").body.decode()
    assert {family.name for family in text_string_to_metric_families(text)} == NAMES
    assert service.ask("GET", "/api/v1/metrics").status == 200


def test_numbers(service):
    """The samples match the Producers' reports."""
    seated = ConsumerStatus(0, 4242, "busy", 1, 1, 7, 0.0, "", 5, 12, seats=16, held_since=time.monotonic() - 9)
    service.tell("beta", stage_status("beta", computed=4, consumers=(seated,)))
    samples = scrape(service)
    alpha = ("stage", "alpha")
    assert samples["mqworker_journal_messages", alpha] == 0
    assert samples["mqworker_messages_received_total", alpha] == 9
    assert samples["mqworker_messages_settled_total", ("outcome", "dead"), alpha] == 2
    assert samples["mqworker_consumer_exits_total", ("reason", "signal"), alpha] == 1
    assert samples["mqworker_in_flight_messages", alpha, ("state", "settling")] == 3
    assert samples["mqworker_in_flight_messages", ("stage", "beta"), ("state", "computed")] == 4
    assert samples["mqworker_queue_messages", alpha, ("state", "ready")] == 12
    assert samples["mqworker_output_queue_messages", alpha] == 34
    assert samples["mqworker_consumers_desired", alpha] == 2
    assert samples["mqworker_lane_used", ("consumer", "1"), alpha] == 1
    assert samples["mqworker_lane_capacity", ("consumer", "1"), alpha] == 128
    assert samples["mqworker_lane_used", ("consumer", "0"), ("stage", "beta")] == 12
    assert samples["mqworker_lane_capacity", ("consumer", "0"), ("stage", "beta")] == 16, "its seats"
    assert samples["mqworker_consumer_held_seconds", ("consumer", "0"), ("stage", "beta")] >= 9
    assert samples["mqworker_consumer_held_seconds", ("consumer", "1"), alpha] == 0
    assert samples["mqworker_broker_connected", alpha] == 1
    assert samples["mqworker_process_duration_seconds_count", alpha] == len(BUCKETS) + 1
    assert samples["mqworker_process_duration_seconds_bucket", ("le", "1800.0"), alpha] == len(BUCKETS)
    assert samples["mqworker_process_duration_seconds_sum", alpha] == 3.5


def test_counters_go_on_over_producers(service):
    """When a Producer is replaced, its counters are kept and the new one's are added."""
    service.tell("alpha", stage_status(pid=99, counters={"received": 91, "dead": 3}, link=LinkState(reconnects=2)))
    service.tell("alpha", stage_status(pid=101, counters={"received": 1, "exit_killed": 1}))
    service.tell("alpha", stage_status(pid=101, counters={"received": 3, "exit_killed": 1}))
    samples = scrape(service)
    alpha = ("stage", "alpha")
    assert samples["mqworker_messages_received_total", alpha] == 103
    assert samples["mqworker_messages_settled_total", ("outcome", "dead"), alpha] == 5
    assert samples["mqworker_broker_reconnects_total", alpha] == 2
    assert samples["mqworker_process_duration_seconds_count", alpha] == 3 * (len(BUCKETS) + 1)


@pytest.mark.parametrize(
    ("reports", "total"),
    [
        ([], {}),
        ([(1, {"a": 5})], {"a": 5}),
        ([(1, {"a": 5}), (1, {"a": 5}), (1, {"a": 7})], {"a": 7}),
        ([(1, {"a": 5}), (2, {"a": 1})], {"a": 6}),
        ([(1, {"a": 5}), (2, {"a": 6})], {"a": 11}),
        ([(1, {"a": 5, "b": 1}), (2, {"c": 1}), (3, {"a": 2})], {"a": 7, "b": 1, "c": 1}),
        ([(1, {"a": 5}), (1, {"a": 1})], {"a": 6}),
        ([(1, {"a": 5}), (1, {})], {"a": 5}),
    ],
)
def test_totals(reports, total):
    """A total never decreases: another pid, or a counter that decreased, means another Producer."""
    totals = Totals()
    for pid, values in reports:
        totals.count("s", pid, values)
    assert totals.of("s") == total


def test_bounded_series(service):
    """Whatever the messages contain, the number of series stays the same; unknown values share one label."""
    before = set(scrape(service))
    for number in range(200):
        link = LinkState(connected=True, consuming=True, reason=f"reason {number}", warnings=(f"w{number}",))
        slot = ConsumerStatus(1, 5000 + number, "busy", number, 1, 7, 1.0, f"message-{number}", 5, 1)
        counters = {"received": number, f"exit_odd{number}": 1, f"outcome{number}": 1}
        service.tell(
            "alpha",
            stage_status(pid=number, problem=f"p{number}", link=link, consumers=(slot,), counters=counters),
        )
    after = scrape(service)
    assert set(after) == before
    assert after["mqworker_consumer_exits_total", ("reason", "recycled"), ("stage", "alpha")] == 200


def test_what_consumers_use_and_what_fails(service):
    """The CPU of a slot adds up over Producers; dead letters and kinds of failures are those of now."""
    counters = stage_status().counters
    for pid, used in ((100, 2_500), (101, 1_000)):
        service.tell("alpha", stage_status(pid=pid, counters=counters | {"cpu_ms_3": used}, dead_backlog=7, journal=5))
    fault = FaultCount("error", "ValueError", "jobs.py:4 in handle", 2, 1, 1.0, 2.0, "no frame", ("a",))
    service.control.faults.take("alpha", FaultReport(101, (fault,), 0), time.time())
    samples, alpha = scrape(service), ("stage", "alpha")
    assert samples["mqworker_consumer_cpu_seconds_total", ("consumer", "3"), alpha] == 3.5
    assert samples["mqworker_queue_messages", alpha, ("state", "dead")] == 7
    assert ("mqworker_queue_messages", ("stage", "beta"), ("state", "dead")) not in samples, "unknown is not zero"
    assert samples["mqworker_journal_messages", alpha] == 5
    assert samples["mqworker_faults", alpha] == 1
