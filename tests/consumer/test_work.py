"""One delivery in, one outcome out."""

import asyncio
import contextlib
import datetime as dt
import itertools
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker import Reject, Retry, SoftTimeLimit, signing
from mqworker.amqp import headers
from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Headers, Properties
from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer import work
from mqworker.consumer.alarm import Alarm
from mqworker.consumer.message_clock import MessageClock
from mqworker.consumer.register import InHandRegister
from mqworker.consumer.work import Worker
from mqworker.ipc.consumer_messages import Item, Outcome
from mqworker.ipc.logs import ForwardingHandler, report
from mqworker.jobs.chain import Chain
from mqworker.jobs.loading import make_job
from mqworker.jobs.result import Result
from tests.support import amqp

# Its exception may be raised inside coverage, which then never gives back its lock: the test would hang.
rings = pytest.mark.untraced


@pytest.fixture(scope="module", autouse=True)
def alarm():
    """Restore SIGALRM, which both the worker and pytest-timeout use."""
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def worker(*targets, soft_limit=0.0, broker=None, alarm=None, **config) -> Worker:
    chain = Chain([make_job(target, None, f"jobs:{index}") for index, target in enumerate(targets)], {}, "s")
    chain.setup()
    stage = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",), **config)
    made = Worker(chain, "energy", stage, BrokerConfig(**(broker or {})), alarm)
    made.soft_limit = soft_limit
    made.begin_generation(7)
    return made


def item(body=b"1", properties: Properties | bytes = b"", **more) -> Item:
    block = properties if isinstance(properties, bytes) else properties.encode()
    values = {"redelivered": False, "exchange": "ex", "routing_key": "key"} | more
    return Item(5, block, body, **values)


def fails(target, body=b"1", properties=b"", **config):
    """Return the failure of a handler, as the Producer receives it."""
    outcome = worker(target, **config).compute(item(body, properties))
    assert (outcome.seq, outcome.generation, outcome.results) == (5, 7, ())
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(outcome), type=Outcome)
    assert arrived == outcome
    return arrived.failure


def raising(error):
    def handler(body):
        raise error

    return handler


class OddError(Exception):
    """Can neither be reconstructed from its arguments nor shown."""

    def __init__(self, one, two):
        super().__init__()

    def __str__(self):
        raise RuntimeError("no words")


class OwnRetry(Retry):
    def __init__(self):
        pass


# --- failures


@pytest.mark.parametrize(
    ("error", "reason", "name", "message", "final"),
    [
        (ValueError("no"), "error", "ValueError", "no", False),
        (Reject("never"), "reject", "mqworker.errors.Reject", "never", True),
        (Retry(reason="later"), "error", "mqworker.errors.Retry", "later", False),
        (SoftTimeLimit("mine"), "timeout", "mqworker.errors.SoftTimeLimit", "mine", False),
        (MemoryError(), "memory", "MemoryError", "out of memory", False),
        (RecursionError("deep"), "error", "RecursionError", "deep", False),
        (ExceptionGroup("several", [ValueError(1)]), "error", "ExceptionGroup", "several (1 sub-exception)", False),
        (ValueError("\ud800"), "error", "ValueError", "\\ud800", False),
    ],
)
def test_what_a_handler_raises_is_an_outcome(error, reason, name, message, final):
    """Each kind has its reason, with type, message and traceback."""
    failure = fails(raising(error))
    assert (failure.reason, failure.type, failure.message, failure.final) == (reason, name, message, final)
    assert "in handler" in failure.traceback


def test_an_exception_that_can_say_nothing_is_an_outcome():
    """No exception object ever crosses, so none has to be reconstructed."""
    failure = fails(raising(OddError(1, 2)))
    assert failure.reason == "error"
    assert failure.type.endswith("OddError")
    assert "RuntimeError" in failure.message


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (None, None), (0, 0.0), (90, 90.0), (0.5, 0.5), (-1, -1.0), (Decimal("1.5"), 1.5), ("5", 5.0),
        (math.inf, math.inf), (math.nan, None), ("soon", None), (dt.timedelta(minutes=5), None), (object(), None),
        (10**400, None), ([], None),
    ],
)  # fmt: skip
def test_a_retry_says_when_in_seconds(after, told):
    """Anything but a number means the usual backoff, and never prevents the failure from being reported."""
    assert fails(raising(Retry(after))).after == told


def test_a_retry_of_the_users_own_kind_counts():
    """A subclass counts, even one that never called its base class."""
    assert fails(raising(OwnRetry())).after is None


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (b"{", b""),
        (b"", b""),
        (b"\xff", b""),
        (b"1", Properties(content_encoding="br")),
        (b"1", Properties(content_type="text/plain; charset=zlib")),
        (b"1", Properties(content_encoding="gzip")),
        (b"[" * 100_000, b""),
        (b"1", b"\xff malformed"),
        (b"1", b"\x20\0\0\0\0\xff"),
    ],
)
def test_what_cannot_be_decoded_never_reaches_the_handler(body, properties):
    """It is dead at once, with one sentence and without a traceback of ours."""
    called = []
    failure = fails(called.append, body, properties)
    assert (failure.reason, failure.final, failure.traceback) == ("undecodable", True, "")
    assert failure.message
    assert called == []


def test_a_body_beyond_max_body_is_not_even_decoded():
    """A body of exactly `max_body` is allowed."""
    assert worker(lambda body: 1, max_body=10).compute(item(b"1" * 10)).failure is None
    failure = fails(lambda body: 1, b"1" * 11, max_body=10)
    assert (failure.reason, failure.final) == ("oversized", True)
    assert "11 bytes" in failure.message
    assert "10" in failure.message


@pytest.mark.parametrize("result", [lambda: None, object(), 1j, sys.stdin, iter([1]), "\ud800", {(1, 2): object()}])
def test_a_result_without_a_form_is_dead_and_not_repeated(result):
    """A result that cannot be encoded would fail again next time."""
    failure = fails(lambda body: result)
    assert (failure.reason, failure.final) == ("unencodable", True)


def test_a_result_the_broker_does_not_take_is_dead():
    """The body is limited by `max_message_size`, the properties by a header frame."""
    big = {"max_message_size": 1000}
    assert worker(lambda body: b"x" * 1000, broker=big).compute(item()).failure is None
    assert fails(lambda body: b"x" * 1001, broker=big).reason == "oversized"
    properties = Properties(headers=Headers({"h": "x" * headers.ROOM}))
    failure = fails(lambda body: 1, b"1", properties)
    assert (failure.reason, failure.final) == ("oversized", True)
    assert "headers" in failure.message


def test_out_of_memory_is_told_to_the_consumer():
    """It reports the failure and is then replaced; other failures do not concern it."""
    made = worker(lambda body: bytearray(1 << 60) if body else {}[0])
    made.compute(item(b"0"))
    assert not made.out_of_memory
    assert made.compute(item(b"1")).failure.reason == "memory"
    assert made.out_of_memory


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_a_process_ends_the_consumer(error):
    """Whoever notices the death charges it as a crash."""
    with pytest.raises(type(error)):
        worker(raising(error)).compute(item())


class PanicException(BaseException):
    """As Rust code raises it through PyO3."""


@pytest.mark.parametrize("error", [PanicException("index out of bounds"), asyncio.CancelledError(), GeneratorExit()])
def test_what_is_no_exception_fails_its_message(error):
    """Whatever else derives from BaseException fails the message under its name, and the Consumer goes on."""
    failure = fails(raising(error))
    assert failure.reason == "error"
    assert failure.type.endswith(type(error).__name__)


# --- the soft time limit


def times_out(body):
    """Do what decorators for time limits do: take SIGALRM, and do not give it back."""

    def ring(*_):
        raise TimeoutError("the user's own limit")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05 if body == "wait" else 0.3)
    if body == "wait":
        time.sleep(30)
    return body


@rings
@pytest.mark.parametrize("soft_limit", [0, 20])
def test_an_alarm_of_user_code_rings_in_its_own_message_alone(soft_limit, caplog):
    """A job may use SIGALRM for itself; what it has left behind harms neither the next message nor the Consumer."""
    made = worker(times_out)
    made.soft_limit = soft_limit
    assert made.compute(item(b'"wait"')).failure.type == "TimeoutError"
    assert made.compute(item(b'"leaves an alarm"')).failure is None
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert made.compute(item(b"1")).failure is None
    told = [record for record in caplog.records if getattr(record, "event", "") == "sigalrm_taken"]
    assert len(told) == (1 if soft_limit else 0)


@rings
def test_the_soft_limit_works_again_after_user_code_has_taken_the_signal():
    """In the next message the soft limit has its effect."""
    made = worker(lambda body: times_out(body) if body else time.sleep(30))
    made.soft_limit = 0.5
    assert made.compute(item(b"1")).failure is None
    assert made.compute(item(b"0")).failure.reason == "timeout"


@rings
def test_a_handler_over_its_soft_limit_gets_an_exception():
    """It may clean up; uncaught, it becomes a timeout with a traceback that shows where the handler was."""
    cleaned = []

    def handler(body):
        try:
            time.sleep(30)
        finally:
            cleaned.append(1)

    began = time.monotonic()
    failure = fails(handler, soft_limit=0.5)
    assert time.monotonic() - began < 10
    assert (failure.reason, failure.final, cleaned) == ("timeout", False, [1])
    assert "0.5 s" in failure.message
    assert "time.sleep(30)" in failure.traceback


@rings
def test_a_handler_may_answer_after_its_soft_limit():
    """A handler that catches the exception and returns has a result."""

    def handler(body):
        try:
            time.sleep(30)
        except SoftTimeLimit:
            return "short"

    assert json.loads(worker(handler, soft_limit=0.5).compute(item()).results[0].body) == "short"


@rings
def test_a_limit_that_a_program_has_taken_over_rings_no_more_until_it_is_given_back(tmp_path):
    """The run of a program heeds both limits itself; what is left of the soft one holds for the jobs behind it."""
    slot, alarm = InHandRegister(tmp_path / "s.slots").slot(0), Alarm()
    clock, seen = MessageClock(alarm, slot), []
    clock.hard_limit = 9.0

    def handler(left):
        seen.append(clock.take_over())
        time.sleep(0.4)
        clock.give_back(left)
        time.sleep(0.4)

    made = worker(handler, soft_limit=0.3, alarm=alarm)
    slot.begin(1, bytes(32), time.monotonic() - 2.0)
    assert made.compute(item(b"0.0")).failure is None
    assert made.compute(item(b"0.05")).failure.reason == "timeout"
    made.soft_limit = clock.hard_limit = 0.0
    assert made.compute(item(b"0.05")).failure is None
    (soft, hard), _, none = seen
    assert 0.0 < soft <= 0.3
    assert 0.0 < hard <= 7.0
    assert none == (math.inf, math.inf)


@rings
def test_the_limit_is_the_handlers_alone():
    """It ends with the handler: nothing is raised between messages, and each has the full limit."""
    made = worker(lambda body: time.sleep(body) or 1, soft_limit=1.2)
    for _ in range(5):
        assert made.compute(item(b"0.25")).failure is None
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    made.soft_limit = 0.0
    assert made.compute(item(b"0.01")).failure is None
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_stray_alarm_does_nothing():
    """A signal that arrives late, or from elsewhere, affects no handler."""
    worker(lambda body: 1)
    signal.raise_signal(signal.SIGALRM)


@rings
def test_a_limit_at_the_very_end_is_a_result_or_a_timeout():
    """Wherever the alarm falls around the handler's return, there is one outcome and no alarm is left."""
    made = worker(lambda body: sum(range(body)), soft_limit=0.001)
    kinds = set()
    for number in range(150):
        outcome = made.compute(item(str(number * 600).encode()))
        kinds.add(outcome.failure.reason if outcome.failure else "result")
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    assert kinds <= {"result", "timeout"}
    assert "result" in kinds


@rings
def test_a_limit_that_meets_a_frame_waits_for_its_end():
    """A half-written frame would end the Consumer: the exception is raised right after it, through the log call."""
    alarm, whole = Alarm(), []

    def send(_event):
        with alarm, alarm:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                pass
            whole.append(1)

    log = logging.Logger("mqworker.job", logging.INFO)  # noqa: LOG001 - of its own, so that pytest does not listen
    log.addHandler(ForwardingHandler(send, "p"))

    def talkative(body):
        for _ in range(100):
            report(log, logging.INFO, "x", "x")

    made = worker(talkative, soft_limit=0.2, alarm=alarm)
    for _ in range(2):
        assert made.compute(item()).failure.reason == "timeout"
    assert whole == [1, 1]


@rings
def test_a_limit_that_meets_the_formatting_of_a_log_line_is_not_swallowed():
    """What cannot be formatted is reported as such, but the limit passes through."""
    log = logging.Logger("mqworker.job", logging.INFO)  # noqa: LOG001 - as above
    log.addHandler(ForwardingHandler(lambda event: None, "p"))
    slow = type("Slow", (), {"__str__": lambda self: time.sleep(30)})()
    assert fails(lambda body: log.info("%s", slow), soft_limit=0.03).reason == "timeout"


@rings
def test_other_threads_do_not_put_the_limit_off():
    """The limit is the main thread's; logging in a user's thread does not delay it."""
    alarm, over = Alarm(), threading.Event()

    def hold():
        with alarm:
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        outcome = worker(lambda body: time.sleep(30), soft_limit=0.03, alarm=alarm).compute(item())
        assert outcome.failure.reason == "timeout"
    finally:
        over.set()
        thread.join()


def test_a_copy_that_the_handler_forked_leaves():
    """A forked copy returns from the handler too: it ends there, silently, and touches neither lane nor output."""
    me = os.getpid()
    pids = []

    def handler(body):
        pid = os.fork()
        if pid:
            pids.append(pid)
        elif body == 2:
            raise ValueError("in the copy")
        return "result"

    made = worker(handler)
    for body in (b"1", b"2"):
        outcome = made.compute(item(body))
        if os.getpid() != me:
            os._exit(99)
        assert json.loads(outcome.results[0].body) == "result"
        assert os.waitpid(pids.pop(), 0)[1] == 0


# --- results


def result(properties=b"", target=lambda body: body, body=b"1", **config) -> tuple[Properties, Outcome]:
    outcome = worker(target, **config).compute(item(body, properties))
    assert outcome.failure is None
    return Properties.decode(outcome.results[0].properties), outcome


@given(amqp.properties, st.booleans())
def test_a_result_inherits_its_inputs_properties(properties, dropped):
    """It inherits all that decision 26 does not except; a foreign client's header passes byte for byte."""
    was = Properties.decode(properties.encode())
    properties.content_type = properties.content_encoding = None
    outcome = worker(lambda body: None if dropped else body).compute(item(b"1", properties))
    assert outcome.failure is None
    if dropped and not outcome.reply_to:  # one that is not UTF-8 does not count
        assert (outcome.results, outcome.reply_to) == ((), "")
        return
    got = Properties.decode(outcome.results[0].properties)
    for name in ("priority", "correlation_id", "type", "app_id", "cluster_id"):
        assert getattr(got, name) == getattr(was, name)
    assert got.reply_to is got.expiration is got.user_id is got.content_encoding is None
    assert got.delivery_mode == 2
    assert got.message_id == was.message_id or not was.message_id
    assert abs(got.timestamp - time.time()) < 60
    gone = headers.BROKERS.keys() | headers.CODECS.keys() | {"CC", "BCC"}
    assert not gone & set(got.headers)
    theirs = {name: field for name, field in was.headers._fields.items() if name not in gone}
    assert {name: got.headers._fields[name] for name in theirs} == theirs


@pytest.mark.parametrize(
    ("codec", "result", "encoding"),
    [("json", [1], None), ("json", b"\xff", "binary"), ("msgpack", [1], "binary"), ("text", "a", None)],
)
def test_a_result_that_is_no_text_says_so(codec, result, encoding):
    """Clients that decode every body as UTF-8 unless it is marked as binary can read all results."""
    told = Properties(content_type="application/json", content_encoding="utf-8")
    outcome = worker(lambda _: result, codec=codec).compute(item(properties=told))
    assert Properties.decode(outcome.results[0].properties).content_encoding == encoding


OLD, NEW = "o" * 32, "n" * 32


def test_a_stage_with_a_key_loads_signed_pickles_and_signs_its_own():
    """The input may be signed by any key of the list, a result is by the first, and inherits no signature."""
    body, about = signing.pickled({(1, 2)}, OLD)
    told = Properties(content_type=about["content_type"], headers=Headers(about["headers"]))
    for codec, jobs in (("pickle", lambda value: value | {3}), ("json", sorted)):
        outcome = worker(jobs, codec=codec, pickle_key=(NEW, OLD)).compute(item(body, told))
        (made,) = outcome.results
        got = Properties.decode(made.properties)
        if codec == "pickle":
            assert signing.unpickled(made.body, got.headers[headers.SIGNATURE], NEW) == {(1, 2), 3}
            assert (got.content_type, got.content_encoding) == (signing.CONTENT_TYPE, "binary")
        else:
            assert (made.body, headers.SIGNATURE in got.headers) == (b"[[1,2]]", False)
    failure = fails(lambda value: value, body, told, pickle_key=NEW)
    assert (failure.reason, failure.final) == ("undecodable", True)
    (made,) = worker(lambda value: value).compute(item(body, told)).results
    assert made.body == body, "without a key it is bytes"


def test_only_what_a_stage_pickled_itself_is_signed():
    """Bytes that a handler names a pickle are published as they are, without a signature; so are its JSON results."""
    whatever = Result(b"from anywhere", content_type=signing.CONTENT_TYPE)
    for answer in (whatever, Result([1], content_type="application/json")):
        outcome = worker(lambda _, answer=answer: answer, codec="pickle", pickle_key=NEW).compute(
            item(b"1", Properties(content_type="application/json"))
        )
        assert headers.SIGNATURE not in Properties.decode(outcome.results[0].properties).headers


def test_a_result_says_where_it_comes_from():
    """It has stage, generation, attempt and duration; old headers of ours and of the broker's deaths are gone."""
    old = {
        "h": 1,
        headers.STAGE: "before",
        headers.QUEUE: "in",
        headers.ATTEMPT: 3,
        headers.ERROR_TYPE: "E",
        headers.ORIGINAL + "CC": ["q"],
        "x-first-death-queue": "in.retry.1s",
        "x-last-death-reason": "expired",
    }
    got, outcome = result(Properties(message_id="m", headers=Headers(old)))
    table = got.headers.to_dict()
    assert table.pop(headers.DURATION) == pytest.approx(outcome.duration * 1000, abs=0.001)
    assert table == {"h": 1, headers.STAGE: "energy", headers.GENERATION: 7, headers.ATTEMPT: 3}
    assert (got.message_id, got.content_type, outcome.results[0].body) == ("m", "application/json", b"1")


def test_a_stage_that_stamps_nothing_adds_no_headers():
    """Old ones of ours are gone, too; what has a meaning for the receiver stays: part, outcome and derived id."""
    old = {headers.STAGE: "before", headers.GENERATION: 3, headers.ATTEMPT: 2, headers.DURATION: 0.5}
    before = item(b"1", Properties(message_id="m", headers=Headers(old | {"h": 1})))
    outcome = worker(lambda body: body, stamp="none").compute(before)
    assert Properties.decode(outcome.results[0].properties).headers.to_dict() == {"h": 1}
    asked = item(b"2", Properties(reply_to="caller"))
    outcome = worker(lambda body: (n for n in range(body)), stamp="none").compute(asked)
    found = [Properties.decode(one.properties).headers.to_dict() for one in outcome.results]
    same = {headers.DERIVED_ID: True, headers.OUTCOME: "result", headers.PARTS: 2}
    assert found == [same | {headers.PART: 1}, same | {headers.PART: 2}]


@pytest.mark.parametrize("message_id", [None, ""])
def test_a_message_without_an_id_gets_one_of_its_content(message_id):
    """The same for each redelivery, marked as unfit for deduplication, here and in the next stage."""
    properties = Properties(message_id=message_id, headers=Headers({"h": 1}))
    got, _ = result(properties)
    assert got.message_id == fingerprint(properties.encode(), b"1").hex()[:32]
    assert got.headers[headers.DERIVED_ID] is True
    properties.headers["x-delivery-count"] = 3
    assert result(properties)[0].message_id == got.message_id
    assert result(properties, body=b"2")[0].message_id != got.message_id
    next_stage, _ = result(got)
    assert (next_stage.message_id, next_stage.headers[headers.DERIVED_ID]) == (got.message_id, True)
    assert headers.DERIVED_ID not in result(Properties(message_id="m"))[0].headers


@pytest.mark.parametrize(
    ("target", "body", "said"), [(lambda body: 2, b"2", "result"), (lambda body: None, None, "dropped")]
)
def test_a_request_is_answered(target, body, said):
    """The reply has the request's correlation id; a dropped request is answered too, without a body."""
    got, outcome = result(Properties(reply_to="answers", correlation_id="c"), target)
    assert (outcome.reply_to, outcome.results[0].body, got.correlation_id, got.reply_to) == ("answers", body, "c", None)
    assert got.headers[headers.OUTCOME] == said
    assert got.content_type == ("application/json" if body else None)


def every(target, *more, body=b"1", properties=b"", **config) -> list[tuple[Properties, bytes]]:
    """Return the properties and bodies of all results."""
    outcome = worker(target, *more, **config).compute(item(body, properties))
    assert outcome.failure is None, outcome.failure
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outcome), type=Outcome) == outcome
    return [(Properties.decode(each.properties), each.body) for each in outcome.results]


def counting(body):
    yield from range(body)


def test_a_handler_that_yields_has_several_results():
    """Each goes through the rest of the chain, has its own id, and says which part of how many it is."""
    results = every(
        counting, lambda body: body or None, lambda body: body * 10, body=b"4", properties=Properties(message_id="m")
    )
    assert [body for _, body in results] == [b"10", b"20", b"30"]
    assert [got.message_id for got, _ in results] == ["m.1", "m.2", "m.3"]
    assert [(got.headers[headers.PART], got.headers[headers.PARTS]) for got, _ in results] == [(1, 3), (2, 3), (3, 3)]
    assert every(counting, counting, body=b"4")[3][0].message_id.endswith(".4")  # 0 + 1 + 2 + 3 values of values
    (alone,) = every(counting, properties=Properties(message_id="m"))
    assert (alone[0].message_id, alone[1]) == ("m.1", b"0")


def test_a_result_of_its_own_has_the_id_of_its_input():
    """Part headers of the stage before are not inherited."""
    before = Properties(message_id="m.2", headers=Headers({headers.PART: 2, headers.PARTS: 3}))
    got, _ = result(before)
    assert got.message_id == "m.2"
    assert not {headers.PART, headers.PARTS} & set(got.headers)


def test_yielding_nothing_drops_the_message():
    """A caller is told, nothing is published."""
    assert every(counting, body=b"0") == []
    ((got, body),) = every(counting, body=b"0", properties=Properties(reply_to="answers"))
    assert (got.headers[headers.OUTCOME], body) == ("dropped", None)


def test_a_long_id_stays_within_amqps_limit():
    """It is hashed, the same way each time, and the parts stay distinct."""
    long = Properties(message_id="m" * 255)
    ids = [got.message_id for got, _ in every(counting, body=b"3", properties=long)]
    assert ids == [got.message_id for got, _ in every(counting, body=b"3", properties=long)]
    assert len(set(ids)) == 3
    assert all(len(each) < 40 for each in ids)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"max_results_bytes": 3_000}, "the first 6 results have 3,078 bytes with their headers"),
        ({"broker": {"max_message_size": 6}}, "result 4: the result has 8 bytes"),
    ],
)
def test_too_much_is_dead_and_nothing_of_it_is_published(config, told):
    """The generator is stopped at the limit; it could be endless."""
    ended = []

    def handler(body):
        try:
            for number in itertools.count():
                yield "." * number if "broker" in config else number
        finally:
            ended.append(True)

    def even(body):
        return body * 2 if isinstance(body, str) else body

    chain = [handler, even] if "broker" in config else [handler]
    outcome = worker(*chain, **config).compute(item())
    assert (outcome.failure.reason, outcome.failure.final, outcome.results) == ("oversized", True, ())
    assert told in outcome.failure.message
    assert ended == [True]


def test_a_failure_while_yielding_fails_the_message_as_a_whole():
    """No result is handed up; the generator of the job before is closed."""
    ended = []

    def handler(body):
        try:
            yield 1
            yield 0
        finally:
            ended.append(True)

    outcome = worker(handler, lambda body: 1 / body).compute(item())
    assert (outcome.failure.type, outcome.results, ended) == ("ZeroDivisionError", (), [True])


@rings
@pytest.mark.parametrize("value", [None, [1] * 200_000, {"n": {n: str(n) for n in range(20_000)}}])
def test_the_soft_limit_covers_what_a_handler_yields(value):
    """It rings in the generator; while a result is encoded it waits, so that it is never taken for a bad result."""
    ended = []

    def handler(body):
        try:
            while True:
                yield value
        finally:
            ended.append(True)

    failure = worker(handler, soft_limit=0.2, max_results_bytes=1 << 40).compute(item()).failure
    assert (failure.reason, failure.final, ended) == ("timeout", False, [True])


def test_what_is_stopped_ends_before_the_next_message():
    """The `finally` of a generator runs when its results are too many, also that of a job before."""
    ended = []

    def first(body):
        try:
            while True:
                yield body
        finally:
            ended.append("first")

    def second(body):
        try:
            yield body
        finally:
            ended.append("second")

    failure = worker(first, second, max_results_bytes=2_000).compute(item()).failure
    kept = failure  # noqa: F841 - as somebody who keeps the traceback
    assert (failure.reason, ended[-2:]) == ("oversized", ["second", "first"])


def test_headers_count_for_what_a_message_yields():
    """Each of several results carries the headers of its input."""
    properties = Properties(message_id="m", headers=Headers({"h": "x" * 10_000}))
    outcome = worker(counting, max_results_bytes=100_000).compute(item(b"20", properties))
    assert outcome.failure.reason == "oversized"
    assert "the first 10 results have 10" in outcome.failure.message
    assert len(worker(counting, max_results_bytes=300_000).compute(item(b"20", properties)).results) == 20


@pytest.mark.parametrize("name", ["reply_to", "message_id", "correlation_id", "type"])
def test_what_is_no_text_is_passed_on_and_fails_nothing(name):
    """A property that is not UTF-8 goes back to its sender byte for byte; a caller with such a name gets no reply."""
    properties = Properties(**{name: "\udcff"})
    encoded, _ = worker(lambda body: body).compute_encoded(item(b"1", properties))
    outcome = msgspec.msgpack.decode(encoded, type=Outcome)
    assert outcome.failure is None
    assert outcome.reply_to == ""
    if name != "reply_to":
        assert getattr(Properties.decode(outcome.results[0].properties), name) == "\udcff"


def test_what_cannot_be_sent_up_is_a_failure_of_its_message(monkeypatch):
    """Otherwise the Consumer would end, charged to nobody, again and again."""
    monkeypatch.setattr(work, "LARGEST", 1_000)
    encoded, _ = worker(lambda body: "x" * 2_000).compute_encoded(item())
    failure = msgspec.msgpack.decode(encoded, type=Outcome).failure
    assert (failure.reason, failure.final) == ("oversized", True)
    assert "1,000 can be passed on" in failure.message


@pytest.mark.parametrize("body", [Result(1), (n for n in ())])
def test_a_result_of_a_result_is_an_error(body):
    """Also of a generator: yield each instead."""
    failure = fails(lambda _: Result(body))
    assert "the body of a Result must be a value" in failure.message


def test_a_reply_is_what_its_caller_waits_for():
    """A wish for another correlation id, or an expiration, concerns the result alone."""
    asked = Properties(reply_to="answers", correlation_id="c", message_id="m")
    wishing = worker(lambda body: Result(body, correlation_id="mine", expiration=0, priority=3))
    (message,) = wishing.compute(item(b"1", asked)).results
    result, reply = Properties.decode(message.properties), Properties.decode(message.reply)
    assert (result.correlation_id, result.expiration, result.priority) == ("mine", "0", 3)
    assert (reply.correlation_id, reply.expiration, reply.priority, reply.message_id) == ("c", None, 3, "m")
    (plain,) = worker(lambda body: Result(body, priority=3)).compute(item(b"1", asked)).results
    assert plain.reply == b""


def test_a_result_is_published_as_the_handler_wishes():
    """Routing key, headers and properties are the handler's; the rest is inherited as ever."""
    before = Properties(message_id="m", priority=1, correlation_id="c", headers=Headers({"a": 1, "b": 2}))
    wished = Result(
        b"<a/>",
        routing_key="eu.high",
        headers={"a": None, "c": [1, {"d": 2.5}]},
        content_type="application/xml",
        priority=9,
        expiration=1.5,
        type="alarm",
    )
    outcome = worker(lambda body: wished).compute(item(b"1", before))
    (message,) = outcome.results
    got = Properties.decode(message.properties)
    assert (message.routing_key, message.body, got.content_type) == ("eu.high", b"<a/>", "application/xml")
    assert (got.message_id, got.correlation_id, got.priority, got.expiration, got.type) == (
        "m",
        "c",
        9,
        "1500",
        "alarm",
    )
    table = got.headers.to_dict()
    assert (table["b"], table["c"]) == (2, [1, {"d": 2.5}])
    assert "a" not in table
    assert table[headers.STAGE] == "energy"


def test_wishes_survive_the_rest_of_the_chain():
    """A later job gets the body; its own settings come first."""

    def first(body):
        return Result(body, routing_key="first", priority=3, headers={"a": 1, "b": 1})

    def second(body):
        yield Result(body + 1, routing_key="second", headers={"b": 2})
        yield body + 2
        yield Result(None)

    outcome = worker(first, second).compute(item(b"1"))
    found = [(Properties.decode(each.properties), each) for each in outcome.results]
    assert [(each.routing_key, each.body) for _, each in found] == [("second", b"2"), ("first", b"3")]
    assert [got.priority for got, _ in found] == [3, 3]
    assert [(got.headers["a"], got.headers["b"]) for got, _ in found] == [(1, 2), (1, 1)]
    assert worker(lambda body: Result(None)).compute(item()).results == ()


@pytest.mark.parametrize(
    ("wished", "told"),
    [
        (lambda: Result(object()), "cannot be encoded as json"),
        (lambda: Result({"a": 1}, content_type="text/csv"), "must be bytes or text, but it is dict"),
        (lambda: Result("\u20ac", content_type="text/csv; charset=latin-1"), "latin-1 cannot encode"),
        (lambda: Result("a", content_type="text/csv; charset=zlib"), "the charset is not known"),
        (lambda: Result(1, headers={"h": object()}), "the header 'h' cannot be encoded"),
        (lambda: Result(1, headers={"h": {1: 2}}), "the header 'h' cannot be encoded"),
        (lambda: Result(1, headers={"x-mqworker-attempt": 7}), "names with 'x-mqworker-' are mqworker's"),
        (lambda: Result(1, headers={"h": "x" * 130_000}), "can be published"),
    ],
)
def test_a_result_that_cannot_be_published_is_dead(wished, told):
    """It would fail in the same way each time."""
    failure = fails(lambda body: wished())
    assert (failure.reason, failure.final) in {("unencodable", True), ("oversized", True)}
    assert told in failure.message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"routing_key": 1}, "routing_key must be text, but is int"),
        ({"routing_key": "k" * 256}, "routing_key has more than 255 bytes"),
        ({"headers": {1: 1}}, "the name of a header must be text"),
        ({"headers": {"": 1}}, "the name of a header must not be empty"),
        ({"priority": 256}, "priority must be 0 to 255, but is 256"),
        ({"priority": 1.5}, "cannot be interpreted as an integer"),
        ({"expiration": -1}, "expiration must be 0 to 4,000,000 seconds"),
        ({"content_type": b"x"}, "content_type must be text"),
    ],
)
def test_a_wrong_wish_is_an_error_where_it_is_made(arguments, told):
    """The traceback of the failure shows the handler's line."""
    failure = fails(lambda body: Result(body, **arguments))
    assert failure.reason == "error"
    assert told in failure.message
    assert "Result(body, **arguments)" in failure.traceback


@pytest.mark.parametrize(
    ("wished", "body"),
    [
        (Result({"a": 1}, content_type="application/vnd.x+json"), b'{"a":1}'),
        (Result('{"a":1}', content_type="application/json"), b'{"a":1}'),
        (Result([1], content_type="application/json; charset=utf-16le"), "[1]".encode("utf-16le")),
        (Result("\u20ac", content_type="text/csv; charset=utf-16le"), b"\xac\x20"),
        (Result(bytearray(b"x")), b"x"),
        (Result({"a": 1}, content_type="application/msgpack"), b"\x81\xa1a\x01"),
    ],
)
def test_a_result_is_encoded_by_its_content_type(wished, body):
    """Bytes and text go as they are; other values have a form as JSON and as MessagePack."""
    got, outcome = result(target=lambda _: wished)
    assert outcome.results[0].body == body
    assert got.content_type == (wished.content_type or "application/octet-stream")


def test_the_handler_sees_its_message():
    """Bytes, place, attempt, headers: all jobs of the chain see the same."""
    seen = []

    def handler(body, message):
        seen.append(
            (
                message.body,
                message.exchange,
                message.routing_key,
                message.redelivered,
                message.attempt,
                message.headers["h"],
            )
        )
        return body

    properties = Properties(headers=Headers({"h": 1, headers.QUEUE: "in", headers.ATTEMPT: 2}))
    outcome = worker(handler, handler).compute(item(b" 7 ", properties, redelivered=True))
    assert outcome.failure is None
    assert seen == [(b" 7 ", "ex", "key", True, 2, 1)] * 2


@given(st.binary(max_size=100), st.binary(max_size=60))
def test_no_bytes_raise(body, block):
    """Whatever arrives, an outcome is returned, and can be sent up."""
    encoded, _ = worker(lambda value: value).compute_encoded(item(body, block))
    outcome = msgspec.msgpack.decode(encoded, type=Outcome)
    with contextlib.suppress(AttributeError):
        assert outcome.failure.reason in {"undecodable", "error", "oversized"}


class Asked:
    """Notes what is asked ahead of the messages' turns."""

    def __init__(self):
        self.ahead = []
        self.begun = []

    def ask_ahead(self, name, link, messages):
        self.ahead.append((name, link, [(item.seq, body) for item, _, body in messages]))

    def begin(self, item, properties):
        self.begun.append(item.seq)

    def end(self):
        pass

    def link(self, name, link, value):
        return {"linked": value}

    def use_params(self, params):
        pass


class Quiet(Alarm):
    """One that owns no signal."""

    def __init__(self):
        pass

    def set(self, seconds):
        pass

    def clear(self):
        pass


def plain(body):
    return body


class SharedLink:
    shared = True

    def handle(self, body):
        raise AssertionError("it runs elsewhere")


@pytest.mark.parametrize("jobs", [(SharedLink, plain), (plain, SharedLink)], ids=["first", "later"])
def test_a_chunk_is_asked_ahead_where_the_chain_begins_with_a_shared_link(jobs):
    """What cannot be decoded is left out, and fails at its turn; the others keep what was decoded."""
    asked = Asked()
    chain = Chain([make_job(job, None, f"jobs:{job.__name__}") for job in jobs], {}, "s", shared=asked)
    chain.setup()
    stage = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",), pickle_key=NEW)
    made = Worker(chain, "energy", stage, BrokerConfig(), Quiet(), asked)
    items = [Item(seq, b"", body, False, "", "") for seq, body in enumerate((b'{"n": 1}', b"{", b'{"n": 3}'), 1)]
    pickled, about = signing.pickled({"n": 4}, NEW)
    told = Properties(content_type=about["content_type"], headers=Headers(about["headers"])).encode()
    items.append(Item(4, told, pickled, False, "", ""))  # it runs code, so it waits for its turn
    assert made.asks_ahead == (jobs[0] is SharedLink)
    made.ask_ahead(items)
    outcomes = [made.compute(item) for item in items]
    made.ask_ahead(items[:1])
    if made.asks_ahead:
        assert asked.ahead[0] == ("jobs.SharedLink", "jobs:SharedLink", [(1, {"n": 1}), (3, {"n": 3})])
        assert asked.ahead[1][2] == [], "one alone asks at its turn"
    else:
        assert not asked.ahead
    assert [outcome.failure and outcome.failure.reason for outcome in outcomes] == [None, "undecodable", None, None]
    assert asked.begun == [1, 3, 4]
