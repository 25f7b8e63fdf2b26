"""What a Producer reports, from a real stage on the embedded broker, in the test's process."""

import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Publication
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.file import File
from mqworker.config.model import BrokerConfig, InputConfig, OutputConfig, RetryConfig, StageConfig
from mqworker.ipc.generation import Generation
from mqworker.ipc.producer_messages import Desired, Report
from mqworker.ipc.stage_spec import StageSpec
from mqworker.ipc.stage_status import StageStatus
from mqworker.producer import flow, order_status, timers
from mqworker.producer.stage import Stage
from mqworker.producer.status import stage_status
from mqworker.producer.timers import Timers
from tests.support.loop import on_loop
from tests.support.waiting import until


def put(path: Path, count: int, **headers: str) -> None:
    """Store messages."""
    file = File(path)
    with file.transaction() as db:
        store.make_queue(db, "in")
        for number in range(count):
            block = Properties(message_id=str(number), headers=Headers(headers)).encode()
            store.publish(db, Publication("", "in", block, b"%d" % number))
    file.close()


class Reporting:
    """A stage, and its reports as they cross to the Service."""

    def __init__(self, folder: Path, consumers: int, url: str = "", queue: str = "in", **config: Any) -> None:
        """`url`: of RabbitMQ, instead of the embedded broker."""
        settings = StageConfig(input=InputConfig(queue=queue), jobs=("jobs:handle",), **config)
        self.broker = folder / "broker.db"
        where = BrokerConfig(url=url or f"sqlite:///{self.broker}")
        spec = StageSpec("t", "s", settings, where, str(folder), str(folder), 1.0)
        generation = Generation(1, 1, ["jobs:handle"], None, b"{}")
        desired = Desired(1, True, consumers, generation, None, 0.0, 0.0, logging.WARNING)
        self.stage = Stage(spec, desired, lambda _event: None, lambda: None)
        self.timers = Timers(self.stage)
        self.stage.start()

    def told(self) -> StageStatus:
        """Do what is due, and return the next report."""
        self.timers.tick()
        report = msgspec.msgpack.decode(msgspec.msgpack.encode(stage_status(self.stage, self.timers)), type=Report)
        assert isinstance(report, StageStatus)
        return report

    async def close(self) -> None:
        """End its Consumers and its connection."""
        fleet = self.stage.dispatch.fleet
        self.stage.quiet()
        fleet.kill_all("the test is over")
        await until(lambda: not fleet.roster.lanes, 20, "no Consumer")
        await self.stage.link.close(5)


@on_loop
async def test_a_stage_without_consumers_knows_what_waits_and_what_comes(tmp_path, monkeypatch):
    """Backlog and arrival rate are there, and crossing to the Service keeps them; what Consumers do is not known."""
    monkeypatch.setattr(flow, "SAME", 1.0)
    it = Reporting(tmp_path, consumers=0)
    try:
        await until(lambda: it.told().backlog == 0 and it.told().arrival_rate == 0, 20, "an empty queue")
        put(it.broker, 30)
        began = time.monotonic()
        status = await until(lambda: (now := it.told()).backlog == 30 and now.arrival_rate and now, 20, "30 messages")
        assert 30 / (time.monotonic() - began + 30) <= status.arrival_rate <= 30
        assert (status.utilisation, status.service_time, status.capacity, status.hold_back) == (None, None, None, "no")
    finally:
        await it.close()


@on_loop
async def test_a_consumer_is_utilised_while_it_has_messages(tmp_path):
    """One that waits has a utilisation of 0; one with a long message is utilised before that is done."""
    (tmp_path / "jobs.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def handle(body):\n"
        "    began = time.monotonic()\n"
        "    while not Path(__file__).with_name('go').exists():\n        time.sleep(0.01)\n"
        "    time.sleep(0.02)\n"
    )
    it = Reporting(tmp_path, consumers=1)
    try:
        status = await until(lambda: (now := it.told()).utilisation is not None and now, 60, "a Consumer for a while")
        assert (status.utilisation, status.service_time, status.capacity) == (0.0, None, None)
        put(it.broker, 100)
        status = await until(lambda: (now := it.told()).utilisation > 0.5 and now, 60, "half of the time is used")
        assert (status.service_time, status.capacity, status.counters["settled"]) == (None, None, 0)
        (tmp_path / "go").touch()
        status = await until(lambda: (now := it.told()).counters["settled"] == 100 and now, 60, "all messages")
        first = status.times["process"].total - 99 * 0.02
        assert status.service_time == pytest.approx(status.times["process"].total / 100)
        assert status.service_time > 0.02 + first / 200
        status = await until(lambda: (now := it.told()).capacity and now, 20, "a sample with all messages")
        assert status.capacity <= 100 / status.times["process"].total + 0.01
    finally:
        await it.close()


@on_loop
async def test_results_that_wait_for_their_turn_are_unfinished(tmp_path, monkeypatch):
    """Every message that is not settled counts in one state, and the one in hand for which the others wait is named."""
    monkeypatch.setattr(order_status, "LONG", 0.3)
    (tmp_path / "jobs.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def handle(body):\n"
        "    while body == 0 and not Path(__file__).with_name('go').exists():\n        time.sleep(0.01)\n"
        "    return body\n"
    )
    it = Reporting(tmp_path, consumers=2, ordered_by="input", output=OutputConfig(queue="out"))
    try:
        put(it.broker, 20)
        told = await until(lambda: (now := it.told()).computed == 19 and now, 60, "19 results behind the first message")
        assert (told.held, told.dispatched, told.settling, told.counters["settled"]) == (0, 1, 0, 0)
        blocked = await until(lambda: (now := it.told().order) and now.blocked, 20, "a message that blocks")
        assert (blocked.message_id, blocked.behind) == ("0", 19)
        assert blocked.reason.startswith("it has been in hand for")
        (tmp_path / "go").touch()
        told = await until(lambda: (now := it.told()).counters["settled"] == 20 and now, 20, "all results")
        assert (told.computed, told.order.blocked) == (0, None)
    finally:
        await it.close()


@on_loop
async def test_the_summary_counts_failures_of_messages_that_keep_their_places(tmp_path, monkeypatch, caplog):
    """An attempt that failed is one, though it made no retry, and how many messages wait for their next one is told."""
    monkeypatch.setattr(timers, "SUMMARY", 0.5)
    job = "def handle(body):\n    if body == 1:\n        raise ValueError\n    return body\n"
    (tmp_path / "jobs.py").write_text(job)
    settings = {"ordered_by": "input", "output": OutputConfig(queue="out"), "retry": RetryConfig(base=600.0)}
    it = Reporting(tmp_path, consumers=1, **settings)
    caplog.set_level(logging.INFO)  # the stage has set its own

    def summaries() -> list[dict[str, Any]]:
        it.told()
        return [record.fields for record in caplog.records if getattr(record, "event", "") == "summary"]

    try:
        put(it.broker, 3)
        await until(lambda: it.told().order.delayed == 1, 60, "a failed message")
        count = len(summaries())
        await until(lambda: len(summaries()) > count + 1, 20, "two more summaries")
        assert sum(each["failures"] for each in summaries()) == 1
        assert summaries()[-1]["delayed"] == 1
        assert any("1 of them delayed" in record.message for record in caplog.records)
    finally:
        await it.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, ""),
        ({"ordered_by": "header:camera"}, "order"),
        ({"output": OutputConfig(queue="out", max_backlog=4)}, "output"),
    ],
    ids=["nothing", "one hot key", "a full output queue"],
)
@on_loop
async def test_what_keeps_consumers_idle_is_told(tmp_path, settings, reason):
    """Messages wait here and a Consumer has none: because of the order, or of what the output queue may hold."""
    (tmp_path / "jobs.py").write_text("import time\ndef handle(body):\n    time.sleep(0.02)\n    return body\n")
    it = Reporting(tmp_path, consumers=2, **settings)
    try:
        await until(lambda: len([one for one in it.told().consumers if one.state == "idle"]) == 2, 60, "two Consumers")
        put(it.broker, 100, camera="north")
        if reason:
            await until(lambda: it.told().held_up_by == reason, 60, "the reason")
        else:
            status = await until(lambda: (now := it.told()).counters["settled"] == 100 and now, 60, "all messages")
            assert status.held_up_by == reason
    finally:
        await it.close()
