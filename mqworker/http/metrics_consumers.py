"""The metrics of what Producers report about their Consumers, their failures and their journals.

Pure; a part of `metrics`. Labels are stages and the slots of Consumers, never anything from messages.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mqworker.control.faults import Faults
from mqworker.ipc.stage_status import StageStatus

CPU = "cpu_ms_"  # with a slot: the counter of a stage with the CPU of the Consumers that the slot had


def consumer_cpu(totals: Mapping[str, Mapping[str, float]]) -> Metric:
    """Return the CPU of each slot's Consumers, across the lives of Producers."""
    family = CounterMetricFamily(
        "mqworker_consumer_cpu_seconds", "CPU that the Consumers of this slot have used", labels=["stage", "consumer"]
    )
    for stage, total in totals.items():
        for name, value in sorted(total.items()):
            if name.startswith(CPU):
                family.add_metric([stage, name.removeprefix(CPU)], value / 1000)
    return family


def stage_gauges(statuses: Iterable[StageStatus], faults: Faults) -> Iterator[Metric]:
    """Yield how many kinds of failures there are, and how many settled messages can be found by their ids."""
    kinds = GaugeMetricFamily("mqworker_faults", "Kinds of failures since the service started", labels=["stage"])
    journal = GaugeMetricFamily(
        "mqworker_journal_messages", "Settled messages that can be found by their ids", labels=["stage"]
    )
    for status in statuses:
        kinds.add_metric([status.stage], len(faults.of(status.stage).faults))
        journal.add_metric([status.stage], status.journal)
    yield kinds
    yield journal
