"""Retries that RabbitMQ keeps beyond their time, as a Producer can know of them."""

import logging
import uuid

import pytest

from mqworker.amqp.headers import ATTEMPT, QUEUE
from mqworker.amqp.properties import Headers, Properties
from mqworker.config.model import RetryConfig
from mqworker.ipc.stage_status import StageStatus
from mqworker.producer import retries_away
from mqworker.producer.retries_away import AWAITED, EVERY, GIVEN_UP, LATE, RetriesAway
from tests.producer.test_status import Reporting
from tests.support.foreign import Client
from tests.support.loop import on_loop
from tests.support.waiting import until

MOVER = (  # the process that moves messages out of a quorum queue
    "[Mover] = [Pid || {{_, Pid, _, _}} <- supervisor:which_children(rabbit_fifo_dlx_sup),"
    ' element(2, sys:get_state(Pid)) =:= rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)], sys:{order}(Mover)'
)


def block(message_id: str, attempt: int) -> bytes:
    """The properties of a retry."""
    return Properties(message_id=message_id, headers=Headers({QUEUE: "in", ATTEMPT: attempt})).encode()


@pytest.mark.parametrize(
    ("others", "backlog", "after", "overdue"),
    [
        (0, 0, LATE - 1, 0),
        (0, 0, LATE + 1, 2),
        (0, 1, LATE + 1, 0),  # they may wait behind that one
        (0, None, LATE + 1, 0),
        (None, 0, LATE + 1, 0),
        (1, 0, LATE + 1, 0),  # the other one may have them
        (0, 0, GIVEN_UP + 1, 0),
    ],
)
def test_a_retry_is_overdue_where_it_can_be_nowhere_but_in_its_delay_queue(others, backlog, after, overdue):
    """Not in time, not while anything waits in the input, and not where anybody else consumes."""
    away = RetriesAway("in")
    for name in ("a", "b", "c"):
        away.sent(block(name, 2), b"", 100.0)
    away.came(block("c", 2), b"")
    away.look(others, backlog, 100.0 + after)
    assert (away.overdue, bool(away.problem)) == (overdue, overdue > 0)


def test_what_comes_is_overdue_no_more_and_another_consumer_ends_all_knowledge(caplog):
    """Each change from some to none, and back, is one line of the log; unknown counts leave all as it was."""
    caplog.set_level(logging.INFO)
    away, now = RetriesAway("in"), LATE + 1
    for attempt in (2, 3):
        away.sent(block("a", attempt), b"", 0.0)
    away.look(0, 0, now)
    away.came(block("a", 3), b"")
    away.came(block("a", 4), b"")  # not one of those
    away.look(None, None, now + EVERY)
    assert away.overdue == 1
    away.came(block("a", 2), b"")
    assert away.overdue == 0
    away.sent(block("b", 2), b"", 0.0)
    away.look(0, 0, now + 2 * EVERY)
    away.look(1, 0, now + 3 * EVERY)
    away.look(0, 0, now + 4 * EVERY)
    assert away.overdue == 0
    assert [record.event for record in caplog.records] == ["retries_overdue", "retries_back"] * 2


def test_what_was_purged_is_expected_for_minutes_only():
    """So a run that ends when all is done does not wait for an hour for what somebody has thrown away."""
    away = RetriesAway("in")
    assert not away.expected(0.0)
    away.sent(block("a", 2), b"", 10.0)
    away.sent(block("b", 2), b"", 5.0)
    assert away.expected(9 + AWAITED)
    assert not away.expected(11 + AWAITED)
    away.came(block("a", 2), b"")
    away.came(block("b", 2), b"")
    assert not away.expected(9.0)


@pytest.mark.rabbitmq
@on_loop
async def test_a_retry_that_rabbitmq_keeps_is_told_until_it_comes(rabbit, tmp_path, monkeypatch):
    """While the process stands still that moves it, the stage has a problem and is never idle; then it ends."""
    monkeypatch.setattr(retries_away, "LATE", 3.0)
    queue = f"late.{uuid.uuid4().hex[:8]}"
    job = "def handle(body, message):\n    if message.attempt == 1:\n        raise ValueError\n"
    (tmp_path / "jobs.py").write_text(job)
    it = Reporting(tmp_path, 1, rabbit.url(), queue, retry=RetryConfig(max_attempts=2, base=4.0, max=4.0))
    try:
        await until(lambda: it.told().link.consuming, 60, "a consumer")
        with Client(rabbit.url()) as client:
            client.publish(queue, b"1", message_id="one", content_type="application/json")
        await until(lambda: it.told().counters["retried"] == 1, 60, "a failure")
        rabbit.eval(MOVER.format(queue=f"{queue}.retry.4s", order="suspend"))
        idle = []  # also before it is a problem

        def look() -> StageStatus:
            idle.append((told := it.told()).idle)
            return told

        told = await until(lambda: (now := look()).problem and now, 60, "the problem")
        assert not any(idle)
        assert told.problem.startswith("overdue retries: 1;")
        assert (told.idle, told.hold_back, told.counters["settled"]) == (False, "retries", 1)
        rabbit.eval(MOVER.format(queue=f"{queue}.retry.4s", order="resume"))
        told = await until(lambda: (now := it.told()).counters["settled"] == 2 and now, 60, "the retry")
        assert told.problem == ""
    finally:
        await it.close()
        with Client(rabbit.url()) as client:
            for name in (queue, f"{queue}.dlq", f"{queue}.retry.4s"):
                client.channel.queue_delete(name)
