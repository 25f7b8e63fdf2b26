"""Selections of dead letters and operations on them, on each broker: exactly those, however many come meanwhile."""

import asyncio
import gc
import json
import os
import signal
import time
from collections import Counter

import msgspec
import pytest

from mqworker.amqp import headers
from mqworker.amqp.headers import redeliveries
from mqworker.amqp.properties import Properties
from mqworker.broker_admin import catalogue, letter_looks
from mqworker.broker_admin.bulk import TOGETHER
from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.broker_admin.dead_letters import letter_id
from mqworker.broker_admin.refused import VerbRefused
from mqworker.broker_admin.verbs import Verbs
from mqworker.brokers.base import BrokerRefused, BrokerUnavailable
from mqworker.brokers.rabbitmq.taker import Taker
from mqworker.config.model import BrokerConfig, Config, InputConfig, StageConfig
from mqworker.control.errors import ControlError
from mqworker.ipc.admin_messages import OVER
from mqworker.service.bulk_operations import DOUBLED, BulkOperations
from tests.brokers.conftest import make
from tests.brokers.harness import Common, contract
from tests.support.children import end_children
from tests.support.waiting import AMPLE, until

rabbitmq = pytest.mark.rabbitmq
BOTH = pytest.mark.parametrize("broker", [pytest.param("rabbitmq-quorum", marks=rabbitmq), "sqlite"], indirect=True)
ANY = pytest.mark.parametrize(
    "broker",
    [*(pytest.param(f"rabbitmq-{kind}", marks=rabbitmq) for kind in ("quorum", "classic")), "sqlite"],
    indirect=True,
)
CLASSIC = pytest.mark.parametrize("broker", [pytest.param("rabbitmq-classic", marks=rabbitmq)], indirect=True)
SQLITE = pytest.mark.parametrize("broker", ["sqlite"], indirect=True)
QUORUM = pytest.mark.parametrize("broker", [pytest.param("rabbitmq-quorum", marks=rabbitmq)], indirect=True)
LARGE = 9_223_372_036_854_775_807
PLACES = {
    "KeyError": "jobs.py:7 in parse",
    "ValueError": "jobs.py:12 in handle",
    "TimeoutError": "fetch.py:99 in get",
}


class Dead:
    """The dead letters of a stage, and the verbs about them, as the broker admin has them."""

    def __init__(self, broker: Common) -> None:
        self.broker = broker
        self.queue, self.input = broker.topology.dead, broker.topology.input
        self.told = []
        stage = StageConfig(input=InputConfig(queue=self.input), jobs=("a:b",))
        self._config = Config(stages={"s": stage}, broker=BrokerConfig(url=broker.url))
        self._verbs = Verbs(self._config, self._tell)
        self.letters = self._verbs.letters
        self.on_progress = lambda _: None

    def _tell(self, progress) -> None:
        self.told.append(progress)
        self.on_progress(progress)

    async def begin(self, *, with_input: bool = True) -> "Dead":
        """Make the queues."""
        link, _ = await self.broker.started()
        await link.close(2)
        if not with_input:
            await self.broker.make_admin().delete(self.input, AMPLE)
        return self

    async def send(self, numbers: range, error: str = "ValueError", **more) -> None:
        """Have these die, a second after each other."""
        sent = []
        for n in numbers:
            properties = Properties(message_id=f"m-{n}", delivery_mode=2, content_type="application/json")
            properties.headers.update(
                {
                    headers.REASON: "error",
                    headers.ERROR_TYPE: error,
                    headers.MESSAGE: f"reading {n * 7919} of device {n:x} is bad",
                    headers.PREFIX + "place": PLACES[error],
                    headers.FAILED_AT: f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}.000Z",
                    headers.ATTEMPT: 3,
                    "tenant": f"t{n % 3}",
                    "odd": n % 2,
                    "large": LARGE,
                    **more,
                }
            )
            sent.append((properties.encode(), json.dumps({"n": n, "large": LARGE}).encode()))
        assert not any(await self.broker.make_admin().send_many(self.queue, sent, AMPLE))

    async def carry_out(self, kind: str, told: dict) -> None:
        """Begin an operation on a selection, and wait for its end."""
        begun = await self.letters.dlq_begin(AMPLE, "s", told["selection"], kind, told["count"], "0b")
        assert begun == "0b"
        await until(lambda: self.told and self.told[-1].state in OVER, AMPLE, "the end of the operation")
        await until(lambda: not self.letters._operations.in_progress, AMPLE, "its last step")

    async def numbers(self, queue: str) -> list[int]:
        """Return what is in a queue, in its order."""
        found = await self.broker.make_admin().peek(queue, 20_000, AMPLE)
        return [json.loads(each.body)["n"] for each in found]

    def client(self) -> BrokerAdminClient:
        """Return a client with a broker admin of its own."""
        return BrokerAdminClient(self._config, print)

    async def close(self) -> None:
        await self._verbs._admin.close()


@pytest.fixture
def broker(request):
    """A harness for one test."""
    return make(request.param, request)


@ANY
@contract
async def test_exactly_what_was_selected_is_replayed(broker):
    """A filter fits 37 of 1,000; five more that fit come before the confirmation: those 37 are replayed, in order."""
    dead = await Dead(broker).begin()
    await dead.send(range(963))
    await dead.send(range(2000, 2037), "KeyError")
    told = await dead.letters.dlq_select(AMPLE, "s", {"error_type": "KeyError"})
    assert (told["count"], told["oldest"][11:19], told["newest"][11:19]) == (37, "00:33:20", "00:33:56")
    await dead.send(range(3000, 3005), "KeyError")
    with pytest.raises(VerbRefused, match="37 dead letters are selected, not 42"):
        await dead.letters.dlq_begin(AMPLE, "s", told["selection"], "replay", 42, "no")
    await dead.carry_out("replay", told)
    last = dead.told[-1]
    assert (last.state, last.done, last.wanted, last.gone, last.unsure, last.refused) == ("done", 37, 37, 0, 0, 0)
    assert await dead.numbers(dead.input) == list(range(2000, 2037))
    assert await dead.numbers(dead.queue) == [*range(963), *range(3000, 3005)]
    assert await dead.letters.dlq_begin(AMPLE, "s", told["selection"], "replay", 37, "again") == "0b", "only once"
    listed = await dead.letters.dlq_list(AMPLE, "s")
    assert (listed["total"], listed["matched"], len(listed["dead_letters"]), listed["next"]) == (968, 968, 100, 100)
    await dead.close()


@BOTH
@contract
async def test_of_equal_letters_as_many_go_as_were_selected(broker):
    """Three that are equal are selected, a fourth comes: three go. What is gone by then is told, and fails nothing."""
    dead = await Dead(broker).begin()
    for _ in range(3):
        await dead.send(range(1))
    await dead.send(range(1, 3))
    told = await dead.letters.dlq_select(AMPLE, "s", {})
    (first, *_) = (await dead.letters.dlq_list(AMPLE, "s"))["dead_letters"]
    (shown,) = await dead.letters.dlq_show(AMPLE, "s", [first["id"]])
    assert (told["count"], shown["equal"]) == (5, 3)
    await dead.send(range(1))
    gone = await dead.letters.dlq_select(AMPLE, "s", {"text": "m-2"})
    assert await dead.letters.dlq_drop(
        AMPLE, "s", [(await dead.letters.dlq_selected(AMPLE, "s", gone["selection"]))[0]]
    )
    await dead.carry_out("replay", told)
    assert (dead.told[-1].state, dead.told[-1].done, dead.told[-1].gone) == ("done", 4, 1)
    assert Counter(await dead.numbers(dead.input)) == {0: 3, 1: 1}
    assert await dead.numbers(dead.queue) == [0]
    await dead.close()


@QUORUM
@contract
async def test_a_list_and_fifty_letters_cost_one_look(broker):
    """Number and order stay, and each letter counts one delivery; integers of 64 bits are shown exactly."""
    dead, many = await Dead(broker).begin(), 10_000
    await dead.send(range(many))
    listed = await dead.letters.dlq_list(AMPLE, "s", 10_000)
    assert [row["message_id"] for row in listed["dead_letters"]] == [f"m-{n}" for n in range(many)]
    assert (listed["total"], listed["complete"]) == (many, True)
    for row in listed["dead_letters"][:: many // 50]:
        (shown,) = await dead.letters.dlq_show(AMPLE, "s", [row["id"]], preview=True)
        assert (shown["preview"]["kind"], shown["preview"]["complete"]) == ("json", True)
        assert f'"large": {LARGE}' in shown["preview"]["text"]
        assert ("large", "int64", str(LARGE)) in shown["header_rows"]
    assert (await dead.letters.dlq_groups(AMPLE, "s"))["groups"][0]["count"] == many
    found = await broker.make_admin().peek(dead.queue, 20_000, AMPLE)
    assert [json.loads(each.body)["n"] for each in found] == list(range(many))
    assert {redeliveries(Properties.decode(each.properties)) for each in found} == {1}
    await dead.close()


@BOTH
@contract
async def test_failures_with_changing_texts_are_one_group_for_each_fault(broker):
    """Three faults, their ids and numbers all different: three groups, exact counts; one goes back alone."""
    dead, many = await Dead(broker).begin(), 1_000
    for at, error in enumerate(PLACES):
        await dead.send(range(at * many, at * many + many - at), error)
    told = (await dead.letters.dlq_groups(AMPLE, "s"))["groups"]
    assert [(group["error_type"], group["place"], group["count"]) for group in told] == [
        (error, place, many - at) for at, (error, place) in enumerate(PLACES.items())
    ]
    chosen = await dead.letters.dlq_select(AMPLE, "s", {"fault": told[1]["key"]})
    await dead.carry_out("replay", chosen)
    assert await dead.numbers(dead.input) == list(range(many, 2 * many - 1))
    left = (await dead.letters.dlq_groups(AMPLE, "s"))["groups"]
    assert [group["key"] for group in left] == [told[0]["key"], told[2]["key"]]
    await dead.close()


@BOTH
@pytest.mark.parametrize("kind", ["replay", "drop"])
@contract
async def test_an_operation_is_cancelled_between_two_batches(broker, kind, monkeypatch):
    """What it has done stays done, and the rest is where it was, in order."""
    monkeypatch.setattr("mqworker.brokers.sqlite.admin.MOVED", 2 * TOGETHER)
    dead = await Dead(broker).begin()
    await dead.send(range(300))
    told = await dead.letters.dlq_select(AMPLE, "s", {})
    cancelled = []

    def cancel(progress) -> None:
        if progress.done >= TOGETHER and not cancelled:
            cancelled.append(True)
            assert dead.letters._operations.in_progress["0b"].cancel()

    dead.on_progress = cancel
    await dead.carry_out(kind, told)
    last = dead.told[-1]
    assert (last.state, cancelled) == ("cancelled", [True])
    assert TOGETHER <= last.done <= 2 * TOGETHER
    assert await dead.numbers(dead.queue) == list(range(last.done, 300))
    assert await dead.numbers(dead.input) == (list(range(last.done)) if kind == "replay" else [])
    assert not await dead.letters.dlq_cancel(AMPLE, "0b")
    await dead.close()


@BOTH
@contract
async def test_an_operation_that_the_broker_refuses_has_failed_and_lost_nothing(broker):
    """Without an input queue: it says why, and all letters are where they were."""
    dead = await Dead(broker).begin(with_input=False)
    await dead.send(range(120))
    await dead.carry_out("replay", await dead.letters.dlq_select(AMPLE, "s", {}))
    last = dead.told[-1]
    assert (last.state, last.done, last.unsure, bool(last.refused), bool(last.reason)) == ("failed", 0, 0, True, True)
    assert await dead.numbers(dead.queue) == list(range(120))
    await dead.close()


@BOTH
@contract
async def test_an_edited_letter_goes_back_alone_with_its_other_headers_as_they_were(broker):
    """Body, type and the named headers are new; a header of 64 bits is not touched; equal ones stay."""
    dead = await Dead(broker).begin()
    await dead.send(range(3))
    await dead.send(range(1))
    first = (await dead.letters.dlq_list(AMPLE, "s"))["dead_letters"][0]["id"]
    changes = {"content_type": "text/plain", "headers": {"tenant": "other", "new": True, "gone": None}}
    assert await dead.letters.dlq_edit(AMPLE, "s", first, b'{"n": 70}', changes) == 1
    (found,) = await broker.make_admin().peek(dead.input, 10, AMPLE)
    properties = Properties.decode(found.properties)
    assert (found.body, properties.content_type, properties.message_id) == (b'{"n": 70}', "text/plain", "m-0")
    wanted = {"tenant": "other", "large": LARGE, "new": True, headers.REPLAYED: 1}
    assert {name: properties.headers[name] for name in wanted} == wanted
    assert not {headers.REASON, headers.PREFIX + "place"} & set(properties.headers)
    assert sorted(await dead.numbers(dead.queue)) == [0, 1, 2]
    assert await dead.letters.dlq_edit(AMPLE, "s", "0" * 16, b"", {}) == 0
    await dead.close()


@BOTH
@contract
async def test_what_changes_in_the_queue_is_seen(broker):
    """A letter that comes is in the next list; one that may be older is served as it was, and counts no delivery."""
    dead = await Dead(broker).begin()
    await dead.send(range(3))
    assert (await dead.letters.dlq_list(AMPLE, "s"))["total"] == 3
    await dead.send(range(3, 5))
    assert (await dead.letters.dlq_list(AMPLE, "s", fresh=catalogue.YOUNG))["total"] == 3
    (new, *_) = [each for each in await broker.make_admin().peek(dead.queue, 9, AMPLE) if b'"n": 4' in each.body]
    assert await dead.letters.dlq_show(AMPLE, "s", [letter_id(new.properties, new.body)]), "one that came since"
    listed = await dead.letters.dlq_list(
        AMPLE, "s", 2, 1, None, {"header": "tenant=t0", "since": "2026-01-01T00:00:00Z"}
    )
    assert (listed["total"], listed["matched"], [row["message_id"] for row in listed["dead_letters"]]) == (
        5,
        2,
        ["m-3"],
    )
    with pytest.raises(VerbRefused, match="since must be a time"):
        await dead.letters.dlq_list(AMPLE, "s", chosen={"since": "yesterday"})
    assert (await dead.letters.dlq_find(AMPLE, "m-4"))["letters"][0]["stage"] == "s"
    await broker.make_admin().delete(dead.queue, AMPLE)
    with pytest.raises(BrokerRefused, match="no queue"):
        await dead.letters.dlq_list(AMPLE, "s")
    await dead.close()


@BOTH
@contract
async def test_a_kill_in_the_middle_loses_none_and_doubles_no_more_than_100(broker):
    """SIGKILL of the broker admin after 300 of 1,000: all are there, and what the service tells of them is true."""
    dead = await Dead(broker).begin()
    await dead.send(range(1_000))
    client = dead.client()
    bulk = BulkOperations(client)
    told = await client.ask("dlq_select", {"stage": "s", "chosen": {}}, AMPLE)
    passed_on = client.on_progress

    def kill(progress) -> None:
        passed_on(progress)
        if progress.done >= 300:
            os.kill(client._life.child.pid, signal.SIGKILL)

    client.on_progress = kill
    begun = await bulk.begin("s", told["selection"], "replay", 1_000, "")
    await until(lambda: bulk.all[-1].over, AMPLE, "the end of the operation")
    (view,) = bulk.all
    assert (view.operation, view.state, view.unsure <= DOUBLED) == (begun.operation, "failed", True)
    assert "killed by SIGKILL" in view.reason
    replayed, left = await dead.numbers(dead.input), await dead.numbers(dead.queue)
    assert len(set(replayed)) == len(replayed)
    assert len(set(left)) == len(left)
    assert set(replayed) | set(left) == set(range(1_000))
    assert len(set(replayed) & set(left)) <= view.unsure
    assert 300 <= view.done <= len(replayed) <= view.done + TOGETHER + (450 if "sqlite" in broker.url else 0)
    assert bulk.counts["s", "replay", "done"] == view.done
    with pytest.raises(ControlError, match="no selection"):
        await bulk.begin("s", told["selection"], "replay", 1_000, "")
    assert len(bulk.all) == 1
    await client.stop("the test ends")
    await dead.close()
    gc.collect()
    assert not end_children()


@CLASSIC
@contract
async def test_a_kill_doubles_no_more_where_letters_in_between_stay(broker):
    """Every second of 10,000 is selected, so each is acknowledged singly: no batch begins before those are taken."""
    dead = await Dead(broker).begin()
    await dead.send(range(10_000))
    client = dead.client()
    bulk = BulkOperations(client)
    told = await client.ask("dlq_select", {"stage": "s", "chosen": {"header": "odd=0"}}, AMPLE)
    passed_on = client.on_progress

    def kill(progress) -> None:
        passed_on(progress)
        if progress.done >= 4_500:
            os.kill(client._life.child.pid, signal.SIGKILL)

    client.on_progress = kill
    await bulk.begin("s", told["selection"], "replay", told["count"], "")
    await until(lambda: bulk.all[-1].over, AMPLE, "the end of the operation")
    (view,) = bulk.all
    replayed, left = await dead.numbers(dead.input), await dead.numbers(dead.queue)
    assert set(replayed) | set(left) == set(range(10_000))
    assert len(set(replayed) & set(left)) <= TOGETHER <= view.unsure
    await client.stop("the test ends")
    await dead.close()
    gc.collect()
    assert not end_children()


@BOTH
@contract
async def test_an_ordinary_end_of_the_service_doubles_none(broker):
    """It comes after 200 of 2,000: the batch under way is finished, each letter is in one queue, and that is told."""
    dead = await Dead(broker).begin()
    await dead.send(range(2_000))
    client = dead.client()
    bulk = BulkOperations(client)
    told = await client.ask("dlq_select", {"stage": "s", "chosen": {}}, AMPLE)
    passed_on, ends = client.on_progress, asyncio.Event()

    def end(progress) -> None:
        passed_on(progress)
        if progress.done >= 200:
            ends.set()

    client.on_progress = end
    await bulk.begin("s", told["selection"], "replay", told["count"], "")
    await ends.wait()
    bulk.end()
    await bulk.ended(AMPLE)
    await client.stop("the test ends")
    (view,) = bulk.all
    replayed, left = await dead.numbers(dead.input), await dead.numbers(dead.queue)
    assert (view.state, view.done, view.unsure) == ("cancelled", len(replayed), 0)
    assert sorted(replayed + left) == list(range(2_000))
    assert 200 <= view.done < 2_000
    await dead.close()
    gc.collect()
    assert not end_children()


@QUORUM
@pytest.mark.parametrize("lost", ["connection", "channel"])
@contract
async def test_a_loss_in_the_middle_loses_none_and_is_told(broker, monkeypatch, lost):
    """The operation has failed, and says how many may be in both queues: at most 100, and no fewer than there are."""
    dead = await Dead(broker).begin()
    await dead.send(range(600))

    def cut(progress) -> None:
        if progress.done >= 200 and progress.unsure:
            for connection in dead._verbs._admin._shared.requests:
                connection.abort("the test cuts it off")

    usual = Taker.remove

    async def remove(taker, removals) -> None:
        if taker.removed >= 200:
            taker.channel.raw.basic_ack(LARGE)  # a fault for which the broker closes the channel
        await usual(taker, removals)

    if lost == "connection":
        dead.on_progress = cut
    else:
        monkeypatch.setattr(Taker, "remove", remove)
    await dead.carry_out("replay", await dead.letters.dlq_select(AMPLE, "s", {}))
    last = dead.told[-1]
    assert (last.state, last.refused) == ("failed", 0)
    assert ("the test cuts it off" if lost == "connection" else "unknown delivery tag") in last.reason
    replayed, left = await dead.numbers(dead.input), await dead.numbers(dead.queue)
    assert set(replayed) | set(left) == set(range(600))
    assert len(set(replayed) & set(left)) <= last.unsure <= DOUBLED
    await dead.close()


@QUORUM
@contract
async def test_two_operations_on_one_queue_follow_each_other(broker):
    """Neither hides letters from the other: each moves what it was given; a list waits for neither."""
    dead = await Dead(broker).begin()
    await dead.send(range(200))
    halves = [
        await dead.letters.dlq_select(AMPLE, "s", {bound: "2026-01-01T00:01:40Z"}) for bound in ("until", "since")
    ]
    for kind, told in zip(("replay", "drop"), halves, strict=True):
        await dead.letters.dlq_begin(AMPLE, "s", told["selection"], kind, 100, kind)
    await asyncio.sleep(0)  # the first one begins
    listed = await dead.letters.dlq_list(AMPLE, "s")
    assert (listed["looking"], 0 < listed["total"] <= 200) == (True, True), "what was seen before, without what is gone"
    await until(lambda: not dead.letters._operations.in_progress, AMPLE, "the end of both")
    listed = await dead.letters.dlq_list(AMPLE, "s")
    assert (listed["looking"], listed["total"]) == (False, 0)
    ended = {each.operation: (each.state, each.done) for each in dead.told if each.state in OVER}
    assert ended == {"replay": ("done", 100), "drop": ("done", 100)}
    assert await dead.numbers(dead.input) == list(range(100))
    await dead.close()


@BOTH
@contract
async def test_what_is_too_far_behind_is_not_told_as_gone(broker, monkeypatch):
    """An operation goes through so many letters; one behind them is where it was, and the operation has failed."""
    monkeypatch.setattr("mqworker.broker_admin.bulk.BEYOND", 50)
    dead = await Dead(broker).begin()
    await dead.send(range(100))
    told = await dead.letters.dlq_select(AMPLE, "s", {"header": "odd=1"})
    await dead.carry_out("replay", told)
    last = dead.told[-1]
    assert (last.state, last.done, last.gone, last.unsure, last.looked) == ("failed", 25, 0, 0, 50)
    assert last.reason == "25 of those selected are not among the first 50 dead letters of the queue"
    assert await dead.numbers(dead.input) == list(range(1, 50, 2))
    assert sorted(await dead.numbers(dead.queue)) == sorted({*range(100)} - {*range(1, 50, 2)})
    monkeypatch.setattr("mqworker.broker_admin.bulk.BEYOND", 75)
    dead.told.clear()
    await dead.carry_out("drop", await dead.letters.dlq_select(AMPLE, "s", {}))
    assert (dead.told[-1].state, dead.told[-1].done) == ("done", 75), "it goes through all that there are"
    await dead.close()


@BOTH
@contract
async def test_an_operation_that_looks_or_waits_is_cancelled_at_once(broker):
    """It goes through no more letters, and waits for no look of somebody else."""
    dead = await Dead(broker).begin()
    await dead.send(range(500))
    told = await dead.letters.dlq_select(AMPLE, "s", {"text": "m-499"})

    def cancel(progress) -> None:
        if progress.state == "looking":
            assert dead.letters._operations.in_progress["0b"].cancel()

    dead.on_progress = cancel
    await dead.carry_out("drop", told)
    last = dead.told[-1]
    assert (last.state, last.done, last.looked < 500) == ("cancelled", 0, True)
    dead.on_progress = lambda _: None
    dead.told.clear()
    again = await dead.letters.dlq_select(AMPLE, "s", {})
    async with dead.letters._looks.alone(dead.queue, AMPLE):
        await dead.letters.dlq_begin(AMPLE, "s", again["selection"], "drop", 500, "0c")
        await asyncio.sleep(0)
        assert await dead.letters.dlq_cancel(AMPLE, "0c")
        assert [(each.state, each.looked) for each in dead.told] == [("cancelled", 0)]
    await until(lambda: not dead.letters._operations.in_progress, AMPLE, "its last step")
    assert len(dead.told) == 1
    assert await dead.numbers(dead.queue) == list(range(500))
    await dead.close()


@SQLITE
@contract
async def test_an_operation_that_does_not_get_the_queue_in_time_has_failed(broker, monkeypatch, caplog):
    """It says why; that is no fault of ours, and not logged as one."""
    monkeypatch.setattr("mqworker.broker_admin.letter_operations.OPERATION", 0.05)
    dead = await Dead(broker).begin()
    await dead.send(range(5))
    told = await dead.letters.dlq_select(AMPLE, "s", {})
    async with dead.letters._looks.alone(dead.queue, AMPLE):
        await dead.carry_out("drop", told)
    assert (dead.told[-1].state, dead.told[-1].done) == ("failed", 0)
    assert "somebody else has been looking" in dead.told[-1].reason
    assert not caplog.records
    await dead.close()


@BOTH
@contract
async def test_what_is_purged_is_not_listed_any_more(broker):
    """Also by who takes a list that may be old."""
    dead = await Dead(broker).begin()
    await dead.send(range(5))
    assert (await dead.letters.dlq_list(AMPLE, "s"))["total"] == 5
    assert await dead._verbs.purge(AMPLE, dead.queue) == 5
    assert (await dead.letters.dlq_list(AMPLE, "s", fresh=catalogue.YOUNG))["total"] == 0
    await dead.close()


@QUORUM
@contract
async def test_a_list_is_had_where_each_letter_has_to_be_fetched(broker, monkeypatch):
    """Beside a consumer of somebody else a look takes a few, no delivery of the others, and says if that is all."""
    monkeypatch.setattr("mqworker.broker_admin.letter_looks.FETCHED", 40)
    dead = await Dead(broker).begin()
    await dead.send(range(60))
    channel = await broker.channel()
    await channel.ask("basic_qos", prefetch_count=1)
    await channel.ask("basic_consume", queue=dead.queue, on_message_callback=lambda *_: None)
    listed = await dead.letters.dlq_list(AMPLE, "s")
    assert (listed["total"], listed["complete"], listed["dead_letters"][0]["message_id"]) == (40, False, "m-1")
    assert (await dead.letters.dlq_select(AMPLE, "s", {}))["count"] == 40, "from the same look"
    with pytest.raises(BrokerUnavailable, match="among the first 40"):
        await dead.letters.dlq_show(AMPLE, "s", ["0" * 16])
    found = await broker.make_admin().peek(dead.queue, 100, AMPLE)
    assert sum(redeliveries(Properties.decode(each.properties)) > 0 for each in found) <= 41, "one more than it shows"
    usual = dead._verbs._admin.queue

    async def lagging(*arguments):
        return msgspec.structs.replace(await usual(*arguments), messages=19)

    with monkeypatch.context() as patch:
        patch.setattr(dead._verbs._admin, "queue", lagging)  # as a quorum queue counts for a while after a look
        assert not (await dead.letters.dlq_list(AMPLE, "s"))["complete"]
    monkeypatch.setattr("mqworker.broker_admin.letter_looks.FETCHED", 59)
    dead.letters.forget(dead.queue)
    listed = await dead.letters.dlq_list(AMPLE, "s")
    assert (listed["total"], listed["complete"]) == (59, True)
    assert await dead.letters.dlq_show(AMPLE, "s", ["0" * 16]) == [], "it is known that there is none"
    await channel.closed()
    await dead.close()


@BOTH
@contract
async def test_a_look_that_runs_out_of_time_keeps_what_it_has(broker, monkeypatch):
    """It ends before its deadline, so that it can answer; it says that it is not complete."""
    dead = await Dead(broker).begin()
    await dead.send(range(100))
    known = letter_looks.seen

    def slow(properties: bytes, body: bytes):
        time.sleep(0.02)
        return known(properties, body)

    monkeypatch.setattr(letter_looks, "seen", slow)
    listed = await dead.letters.dlq_list(1.0, "s")
    assert 0 < listed["total"] <= 30
    assert not listed["complete"]
    monkeypatch.undo()
    assert (await dead.letters.dlq_list(AMPLE, "s", fresh=0))["total"] == listed["total"], "as young as that"
    await dead.close()


@SQLITE
@contract
async def test_a_letter_that_is_too_large_to_be_told_is_told_without_its_body(broker, monkeypatch):
    """So it stops no export; its size, its headers and the beginning of its body are there."""
    monkeypatch.setattr("mqworker.broker_admin.letter_verbs.WHOLE", 38)
    dead = await Dead(broker).begin()
    await dead.send(range(1))
    large = Properties(message_id="large", delivery_mode=2, content_type="text/plain").encode()
    assert not any(await broker.make_admin().send_many(dead.queue, [(large, 40 * b"x")], AMPLE))
    rows = (await dead.letters.dlq_list(AMPLE, "s"))["dead_letters"]
    shown = await dead.letters.dlq_show(AMPLE, "s", [row["id"] for row in rows], preview=True)
    told = {letter["message_id"]: (letter["size"], len(letter["body"]), letter.get("too_large")) for letter in shown}
    assert told == {"large": (40, 0, True), "m-0": (shown[1]["size"], shown[1]["size"], None)}
    assert shown[0]["preview"]["text"] == 40 * "x"
    await dead.close()
