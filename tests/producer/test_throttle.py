"""The throttle on a real broker: a stage's ledger and link, and the next stage's link, in this process."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import pytest

from mqworker.brokers import credit
from mqworker.brokers.base import Delivery, Placement, Publication, Topology
from mqworker.brokers.sqlite.link import SqliteLink
from mqworker.producer.entry import Plan
from mqworker.producer.ledger import Ledger
from mqworker.producer.publications import Publish
from mqworker.producer.throttle import SILENT, Throttle
from tests.brokers.embedded import SqliteHarness
from tests.brokers.harness import Recorder, contract
from tests.support.waiting import AMPLE, until

MARK, LANES = 50, 4
MID = Topology("mid", None, "mid.dlq")


class LittleStage(Recorder):
    """All of a stage that the throttle works with; what is dispatched is finished in the next turn, by a result."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.link = SqliteLink(path, Topology("in", Placement("mid"), "in.dlq"), self, name="first")
        self.throttle = Throttle("mid", MARK, self.ledger, self.link, self.turn, lambda: None)
        self.plan = Plan("result", (Publication("", "mid", b"", b"result"),))

    def delivered(self, delivery: Delivery) -> None:
        self.ledger.delivered(delivery, time.monotonic())

    def confirmed(self, publish_ids) -> None:
        for ack in self.ledger.confirmed(publish_ids, time.monotonic()):
            self.link.ack(ack.epoch, ack.tag, multiple=ack.multiple)

    def output_depth(self, messages: int) -> None:
        super().output_depth(messages)
        self.throttle.output_depth(messages)

    def turn(self) -> None:
        now = time.monotonic()
        for lane in range(LANES):
            for entry in self.ledger.assignments.on(lane):
                for publishing in self.ledger.finished(entry.seq, self.plan, now):
                    if isinstance(publishing, Publish):
                        self.link.publish(publishing.publish_id, publishing.publication)
                    else:
                        self.link.publish_together(publishing.publish_ids, publishing.publications)
            self.ledger.assignments.chunk_ended(lane, 1)
            self.ledger.assignments.take(lane, 1, min(8, self.throttle.room()))
        self.throttle.look(now)


@pytest.fixture
def broker(tmp_path):
    """An embedded broker."""
    return SqliteHarness(tmp_path)


@contextlib.asynccontextmanager
async def at_work(folder: Path):
    """Yield a stage with a full input, whose turns come as often as timers make them, and the next stage's link."""
    stage, following = LittleStage(folder / "broker.db"), Recorder()
    after = SqliteLink(folder / "broker.db", MID, following, name="next")

    async def ticks() -> None:
        while True:
            stage.turn()
            await asyncio.sleep(0.01)

    stage.link.start()
    after.start()
    ticking = asyncio.create_task(ticks())
    try:
        await until(lambda: stage.link.state.connected and after.state.connected, AMPLE, "both links")
        yield stage, after, following
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        await stage.link.close(2)
        await after.close(2)


@contract
async def test_the_queue_never_exceeds_the_mark_and_nothing_is_lost(broker, tmp_path, caplog, monkeypatch):
    """However the next stage takes, the queue between holds at most the mark; all arrive; it is told once."""
    caplog.set_level(logging.INFO)
    messages, depths = 400, []
    async with at_work(tmp_path) as (stage, after, following):
        admin = broker.make_admin()
        for number in range(messages):
            await admin.send("in", b"", b"%d" % number, AMPLE)
        stage.link.consume(100)
        await until(lambda: stage.throttle.held_back, AMPLE, "a full queue")
        assert (
            stage.throttle.problem(time.monotonic()) == f"held back: output queue mid holds {MARK} (max_backlog {MARK})"
        )
        assert len(stage.ledger) == 100  # what was delivered waits
        after.consume(3)
        acked = 0
        while acked < messages:
            await following.has(acked + 1)
            acked = len(following.deliveries)
            after.ack(1, acked, multiple=True)
            depths.append((await admin.queue("mid", AMPLE)).messages)
        assert max(depths) <= MARK
        assert len(depths) > messages / 10
        full = [record for record in caplog.records if record.event == "held_back"]
        assert len(full) == 1
        monkeypatch.setattr(credit, "STEADY", 0.5)  # only now: a machine that is busy pauses for as long
        await until(lambda: not stage.throttle.held_back, AMPLE, "the end of holding back")
        assert stage.throttle.problem(time.monotonic()) == ""


@contract
async def test_results_of_messages_that_yield_stop_at_the_mark(broker, tmp_path):
    """Above the mark there is only what was in hand when it was reached; an emptied queue lets the stage go on."""
    async with at_work(tmp_path) as (stage, _, _):
        stage.plan = Plan("result", stage.plan.publications * 5)
        admin = broker.make_admin()
        for number in range(60):
            await admin.send("in", b"", b"%d" % number, AMPLE)
        stage.link.consume(100)
        await until(lambda: stage.throttle.held_back and not len(stage.ledger.assignments), AMPLE, "a full queue")
        await until(lambda: not len(stage.ledger.publications), AMPLE, "all to be stored")
        held = (await admin.queue("mid", AMPLE)).messages
        assert MARK <= held <= MARK + 5 * 8 * LANES
        settled = stage.ledger.counters.settled
        assert held == 5 * settled < 5 * 60
        await admin.purge("mid", AMPLE)
        await until(lambda: stage.ledger.counters.settled > settled, AMPLE, "the next results")


@contract
async def test_without_answers_the_last_credit_is_all(broker, tmp_path):
    """While nobody answers, no more is dispatched than the last answer allowed, and the status tells why."""
    async with at_work(tmp_path) as (stage, _, _):
        await until(lambda: stage.throttle.room() == MARK, AMPLE, "the first answer")
        stage.link.ask_output_depth = lambda: None  # a queue that is silent from now on
        admin = broker.make_admin()
        for number in range(2 * MARK):
            await admin.send("in", b"", b"%d" % number, AMPLE)
        stage.link.consume(2 * MARK)
        await until(lambda: stage.ledger.counters.settled >= MARK, AMPLE, "the credit to be used up")
        await until(lambda: len(stage.ledger) == MARK, AMPLE, "the other messages to wait")
        assert stage.ledger.counters.settled == MARK
        assert "has not answered" in stage.throttle.problem(time.monotonic() + SILENT)
