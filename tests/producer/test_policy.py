"""The failure policy: which messages follow from which outcome."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from mqworker.amqp import headers, wrapper
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Delivery
from mqworker.config.model import CrashConfig, InputConfig, OutputConfig, RetryConfig, StageConfig
from mqworker.ipc.consumer_messages import Failure, Outcome, ResultMessage
from mqworker.producer.entry import Again, Entry, Isolation
from mqworker.producer.failure_messages import TEXT_LIMIT, TRACEBACK_LIMIT, Circumstances
from mqworker.producer.policy import (
    CRASH_RUNG,
    LONGEST_RUNG,
    held_delay,
    isolation,
    plan_crash,
    plan_failure,
    plan_renewal,
    plan_result,
    plan_too_large,
    retry_delay,
    rung_above,
    worn,
)
from tests.support import amqp

ABOUT = Circumstances("energy", "host", 7, "2026-01-01T00:00:00.000Z", 0.9)
ERROR = Failure("error", "ValueError", "no", "Traceback ...")
STAGE = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",))


def stage(**values):
    return StageConfig(input=InputConfig(queue="in"), jobs=("a:b",), **values)


def entry(properties: Properties | None = None, body: bytes = b"body") -> Entry:
    block = (properties or Properties()).encode()
    return Entry(1, Delivery(1, 1, block, body, redelivered=False, exchange="", routing_key="in"), Isolation.NONE, 0.0)


def read(plan) -> Properties:
    return Properties.decode(plan.publications[0].properties)


def again(plan) -> Entry:
    """Return the delivery that a retry becomes."""
    return entry(read(plan), plan.publications[0].body)


# --- delays


@given(base=st.floats(0, 4e6), most=st.floats(0, 4e6), attempt=st.integers(1, 999_999), chance=st.floats(0, 0.9999999))
def test_a_delay_is_a_rung_within_the_longest(base, most, attempt, chance):
    """Every delay is a power of two in seconds, and never above `retry.max` (nor below one second)."""
    delay = retry_delay(RetryConfig(base=base, max=most), attempt, chance)
    assert delay & (delay - 1) == 0
    assert 1 <= delay <= max(1, most)


@given(wish=st.floats(1, 1e6))
@example(wish=1.0)
@example(wish=64.0)
def test_the_mean_delay_is_the_exponential_backoffs(wish):
    """Over all random choices the mean is the requested delay, or up to a quarter more where that is itself a rung."""
    retry = RetryConfig(base=wish, max=4e6)
    mean = sum(retry_delay(retry, 1, (n + 0.5) / 1000) for n in range(1000)) / 1000
    if wish == 2.0 ** math.floor(math.log2(wish)):
        assert mean == wish * 1.25
    else:
        assert mean == pytest.approx(wish, rel=0.002)


def test_the_wish_doubles_with_each_attempt():
    """Backoff is exponential from `retry.base` up to `retry.max`."""
    retry = RetryConfig(base=1, max=60)
    assert [retry_delay(retry, attempt, 0.9) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 32, 32]
    assert [retry_delay(retry, attempt, 0.1) for attempt in range(1, 9)] == [2, 4, 8, 16, 32, 32, 32, 32]
    assert [retry_delay(RetryConfig(base=1, max=64), attempt, 0.1) for attempt in (6, 7)] == [64, 64]


@given(st.floats(-1e9, LONGEST_RUNG))
def test_a_wished_time_is_never_early(seconds):
    """Retry(after=) waits at least that long, and less than twice as long."""
    rung = rung_above(seconds)
    assert rung >= seconds
    assert rung & (rung - 1) == 0
    assert rung == 1 or rung < 2 * seconds


@pytest.mark.parametrize("seconds", [1e9, 1e300, math.inf])
def test_no_wish_is_longer_than_a_queue_can_hold(seconds):
    """A queue's time to live has 32 bits of milliseconds; infinity is cut to that, too."""
    assert rung_above(seconds) == LONGEST_RUNG
    assert LONGEST_RUNG * 1000 < 1 << 32 < LONGEST_RUNG * 2 * 1000


# --- attempts in place

HOLD = ABOUT._replace(hold=True)


@given(base=st.floats(0, 4e6), most=st.floats(0, 4e6), attempt=st.integers(1, 999_999), chance=st.floats(0, 0.9999999))
def test_a_held_delay_is_the_backoff_up_to_a_quarter_off(base, most, attempt, chance):
    """It needs no queue, so it is as exact as was asked for, and never above `retry.max`."""
    wish = min(most, base * 2.0 ** min(attempt - 1, 40))
    delay = held_delay(RetryConfig(base=base, max=most), attempt, chance)
    assert 0.75 * wish <= delay <= min(most, 1.25 * wish)


def test_a_message_that_keeps_its_place_is_tried_again_as_its_retry_would_be():
    """Its properties are those of the retry: attempts, crashes and ids count on in the same way."""
    was = entry(Properties(expiration="5", headers=Headers({"h": 1})))
    again = plan_failure(was, ERROR, STAGE, HOLD)
    assert again == Again(plan_failure(was, ERROR, STAGE, ABOUT).publications[0].properties, again.after)
    assert 0.75 * STAGE.retry.base <= again.after <= 1.25 * STAGE.retry.base
    crashed = plan_crash(was, ERROR, STAGE, HOLD)
    assert crashed == Again(plan_crash(was, ERROR, STAGE, ABOUT).publications[0].properties, 0.0)
    assert isolation(crashed.properties) is Isolation.CHUNK


@pytest.mark.parametrize(
    ("after", "expected"), [(0.05, 0.05), (0.0, 0.0), (-3.0, 0.0), (3600.0, 3600.0), (math.inf, LONGEST_RUNG)]
)
def test_a_message_that_keeps_its_place_waits_as_long_as_it_asked(after, expected):
    """Retry(after=) is exact there."""
    assert plan_failure(entry(), Failure("error", "Retry", "", after=after), STAGE, HOLD).after == expected


def test_a_message_that_keeps_its_place_is_dead_in_the_end():
    """After its last attempt or crash, after a final failure, and if its headers leave no room to count in."""
    failed = entry()
    for _ in range(STAGE.retry.max_attempts - 1):
        failed = entry(Properties.decode(plan_failure(failed, ERROR, STAGE, HOLD).properties))
    full = entry(Properties(headers=Headers({"h": "x" * 119_950})))
    once = stage(crash=CrashConfig(max=1))
    plans = [plan_failure(failed, ERROR, STAGE, HOLD), plan_crash(entry(), ERROR, once, HOLD)]
    plans += [plan_failure(entry(), Failure("reject", "T", ""), STAGE, HOLD), plan_failure(full, ERROR, STAGE, HOLD)]
    assert [plan.outcome for plan in plans] == ["dead"] * 4


# --- results


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (OutputConfig(queue="out"), ("", "out")),
        (OutputConfig(queue="out", exchange="ex", routing_key="key"), ("ex", "key")),
        (OutputConfig(queue="out", exchange="ex"), ("ex", "")),
        (None, None),
    ],
)
@pytest.mark.parametrize("reply_to", ["", "answers"])
def test_a_result_goes_to_the_output_and_to_whoever_waits(output, target, reply_to):
    """The output gates the ack, the reply never does; both carry the Consumer's bytes."""
    results = (ResultMessage(b"\0\0", b"result"),)
    plan = plan_result(entry(), Outcome(1, 0.1, 1, results, reply_to), stage(output=output))
    assert plan.outcome == "result"
    assert [astuple(each)[:5] for each in plan.publications] == (
        [(*target, b"\0\0", b"result", True)] if target else []
    )
    assert [astuple(each)[:5] for each in plan.replies] == (
        [("", "answers", b"\0\0", b"result", False)] if reply_to else []
    )


def test_several_results_are_published_and_answered_each():
    """Each result has its publication and its reply; a routing key of the handler's replaces the output's."""
    results = tuple(ResultMessage(b"%d" % n, b"result %d" % n, key) for n, key in enumerate((None, "", "other"), 1))
    output = OutputConfig(queue="out", exchange="ex", routing_key="key")
    plan = plan_result(entry(), Outcome(1, 0.1, 1, results, "answers"), stage(output=output))
    assert [astuple(each)[:4] for each in plan.publications] == [
        ("ex", "key", b"1", b"result 1"),
        ("ex", "", b"2", b"result 2"),
        ("ex", "other", b"3", b"result 3"),
    ]
    assert [each.routing_key for each in plan.replies] == ["answers"] * 3
    assert [each.body for each in plan.replies] == [b"result 1", b"result 2", b"result 3"]


def test_a_dropped_message_is_answered_and_published_nowhere():
    """None settles the input; a caller gets an empty reply."""
    nothing = (ResultMessage(b"\0\0", None),)
    plan = plan_result(entry(), Outcome(1, 0.1, 1, nothing, "answers"), stage(output=OutputConfig(queue="out")))
    assert (plan.outcome, plan.publications) == ("dropped", ())
    assert [astuple(each)[1:5] for each in plan.replies] == [("answers", b"\0\0", b"", False)]


# --- failures


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (Failure("error", "ValueError", ""), "retried"),
        (Failure("timeout", "SoftTimeLimit", ""), "retried"),
        (Failure("memory", "MemoryError", ""), "retried"),
        (Failure("error", "ValueError", "", final=True), "dead"),
        (Failure("reject", "Reject", "", final=True), "dead"),
        (Failure("reject", "Reject", ""), "dead"),
        (Failure("undecodable", "U", ""), "dead"),
        (Failure("unencodable", "U", ""), "dead"),
        (Failure("oversized", "U", ""), "dead"),
        (Failure("error", "KeyError", ""), "dead"),
        (Failure("error", "package.deep.Type", ""), "dead"),
        (Failure("error", "elsewhere.KeyError", ""), "dead"),
        (Failure("error", "other.Type", ""), "retried"),
    ],
)
def test_what_is_retried(failure, outcome):
    """Errors, soft limits and memory are retried, unless `retry.final` names the type; everything else is dead."""
    plan = plan_failure(entry(), failure, stage(retry=RetryConfig(final=("KeyError", "package.deep.Type"))), ABOUT)
    assert plan.outcome == outcome
    assert plan.publications[0].routing_key == ("in" if outcome == "retried" else "in.dlq")
    assert plan.publications[0].mandatory
    assert bool(plan.publications[0].delay) == (outcome == "retried")


@pytest.mark.parametrize("most", [1, 2, 5])
def test_attempts_are_counted_to_the_last(most):
    """`retry.max_attempts` includes the first attempt, and the dead letter states their number."""
    config, delivery, seen = stage(retry=RetryConfig(max_attempts=most)), entry(), []
    while True:
        seen.append(headers.attempt(Properties.decode(delivery.properties), "in"))
        plan = plan_failure(delivery, ERROR, config, ABOUT)
        delivery = again(plan)
        if plan.outcome == "dead":
            break
    assert seen == list(range(1, most + 1))
    assert read(plan).headers[headers.ATTEMPT] == most


def test_the_handler_says_when():
    """Retry(after=) replaces the backoff, and counts as an attempt."""
    plan = plan_failure(entry(), Failure("error", "Retry", "", after=100.0), STAGE, ABOUT)
    assert plan.publications[0].delay == 128
    assert read(plan).headers[headers.ATTEMPT] == 2


@pytest.mark.parametrize("most", [1, 3])
def test_crashes_are_counted_apart_from_attempts(most):
    """The `crash.max`-th death is the last; until then the message runs again after a second, alone in its chunk."""
    config, delivery = stage(crash=CrashConfig(max=most)), entry(Properties(headers=Headers({"h": 1})))
    assert isolation(delivery.properties) is Isolation.NONE
    for crash in range(1, most + 1):
        plan = plan_crash(delivery, Failure("crash", "ConsumerDied", "killed"), config, ABOUT)
        assert plan.outcome == ("dead" if crash == most else "retried")
        table = read(plan).headers
        assert (table[headers.CRASHES], table[headers.ATTEMPT], table["h"]) == (crash, 1, 1)
        if plan.outcome == "retried":
            assert plan.publications[0].delay == CRASH_RUNG
            assert isolation(plan.publications[0].properties) is Isolation.CHUNK
        delivery = again(plan)


def test_another_stages_counters_do_not_count():
    """Attempts and crashes counted for another input queue start from zero here, also after the first failure."""
    foreign = {headers.QUEUE: "other", headers.ATTEMPT: 4, headers.CRASHES: 2}
    plan = plan_failure(entry(Properties(headers=Headers(foreign))), ERROR, STAGE, ABOUT)
    assert plan.outcome == "retried"
    assert read(plan).headers[headers.ATTEMPT] == 2
    assert headers.crashes(read(plan), "in") == 0
    plan = plan_crash(again(plan), ERROR, STAGE, ABOUT)
    assert (plan.outcome, read(plan).headers[headers.CRASHES]) == ("retried", 1)


@pytest.mark.parametrize("value", ["5", 1.5, True, -1, 1 << 40, None, b"x", [1], {"a": 1}])
def test_a_forged_counter_is_no_counter(value):
    """Counters come from outside: anything but a small natural number is ignored."""
    properties = Properties(headers=Headers({headers.QUEUE: "in", headers.ATTEMPT: value, headers.CRASHES: value}))
    assert headers.attempt(properties, "in") == 1
    assert headers.crashes(properties, "in") == 0
    assert plan_failure(entry(properties), ERROR, STAGE, ABOUT).outcome == "retried"


@pytest.mark.parametrize(("count", "told"), [(None, False), (17, False), (18, True), (400, True), ("18", False)])
def test_a_message_the_broker_may_drop_soon_is_known(count, told):
    """By default a quorum queue of RabbitMQ 4 drops a message after 20 deliveries; 18 are reported as dangerous."""
    table = {} if count is None else {"x-delivery-count": count}
    assert worn(Properties(headers=Headers(table)).encode()) is told


@given(amqp.properties, st.binary(max_size=20))
def test_a_renewed_message_is_the_same_message_uncharged(properties, body):
    """The message returns to its own queue at once, uncharged, with everything except the broker's count."""
    was = entry(properties, body)
    plan = plan_renewal(was, STAGE, headers.ROOM)
    (publication,) = plan.publications
    assert (plan.outcome, plan.replies, publication.delay) == ("renewed", (), 0)
    assert (publication.exchange, publication.routing_key, publication.body) == ("", "in", was.body)
    assert publication.mandatory
    kept, had = Properties.decode(publication.properties), Properties.decode(was.properties)
    gone = headers.BROKERS.keys() | {"CC", "BCC"}
    assert not gone & set(kept.headers)
    assert headers.attempt(kept, "in") == headers.attempt(had, "in")
    assert headers.crashes(kept, "in") == headers.crashes(had, "in")
    assert set(had.headers) - gone <= set(kept.headers)


@given(amqp.properties, st.binary(max_size=20))
def test_a_retry_is_the_same_message(properties, body):
    """Body and properties return unchanged, except for what would expire, copy or refuse them."""
    plan = plan_failure(entry(properties, body), ERROR, STAGE, ABOUT)
    got, was = read(plan), Properties.decode(properties.encode())
    assert plan.outcome == "retried"
    assert plan.publications[0].body == body
    assert got.expiration is got.user_id is None
    assert got.delivery_mode == 2
    gone = headers.BROKERS.keys() | {"CC", "BCC"}
    assert not gone & set(got.headers)
    for name in ("content_type", "correlation_id", "reply_to", "message_id", "timestamp", "type", "priority"):
        assert getattr(got, name) == getattr(was, name)
    theirs = {name: field for name, field in was.headers._fields.items() if name not in gone}
    assert {name: got.headers._fields[name] for name in theirs} == theirs


# --- dead letters

big = st.text("aé\n\U0001f600", max_size=300).map(lambda text: text * 100)


@pytest.mark.untraced
@settings(max_examples=60)
@given(
    failure=st.builds(Failure, st.just("reject"), big, big, big, big),
    size=st.integers(0, 131_000) | st.integers(115_000, 131_000),
    name=st.sampled_from(["h", headers.CRASHES, headers.FIRST_FAILED_AT, headers.ORIGINAL + "CC", headers.TRACEBACK]),
    many=st.booleans(),
    room=st.sampled_from([4_076, 8_172, 16_364, headers.ROOM]),
)
def test_every_block_fits_a_header_frame(failure, size, name, many, room):
    """Retries and dead letters can be published, whatever the header frame, the headers and the failure's text are."""
    about = ABOUT._replace(room=room)
    table = {f"{name}{n}": n for n in range(size // 20)} if many else {name: "x" * size}
    delivery = entry(Properties(headers=Headers(table), **dict.fromkeys(("app_id", "type", "reply_to"), "y" * 255)))
    for plan in (
        plan_failure(delivery, failure, STAGE, about),
        plan_failure(delivery, ERROR, STAGE, about),
        plan_crash(delivery, failure, STAGE, about),
    ):
        assert len(plan.publications[0].properties) <= room
        got = read(plan)
        assert got.app_id == "y" * 255
        if plan.outcome == "dead":
            assert got.headers[headers.REASON] in ("reject", "error")
            assert got.headers[headers.QUEUE] == "in"
        if got.headers.get(headers.WRAPPED):
            assert wrapper.unwrap(plan.publications[0].body) == (delivery.properties, delivery.body)
            assert size > room // 4
        else:
            assert plan.publications[0].body == delivery.body
            assert not many or table.items() <= got.headers.to_dict().items()


def test_our_words_are_cut_and_go_before_foreign_headers():
    """The traceback goes first, then the exit, then the message; foreign headers stay while there is room."""
    failure = Failure("reject", "T", "m" * 9_000, "t" * 90_000, "killed by SIGSEGV" + "e" * 90_000)
    table = read(plan_failure(entry(), failure, STAGE, ABOUT)).headers
    assert len(table[headers.MESSAGE]) == TEXT_LIMIT
    assert len(table[headers.TRACEBACK]) == len(table[headers.EXIT]) == TRACEBACK_LIMIT
    assert table[headers.EXIT].startswith("killed by SIGSEGV")
    for size, kept in ((100_000, 3), (110_000, 3), (119_400, 1), (119_700, 0)):
        plan = plan_failure(entry(Properties(headers=Headers({"h": "x" * size}))), failure, STAGE, ABOUT)
        table = read(plan).headers
        assert len({headers.TRACEBACK, headers.EXIT, headers.MESSAGE} & set(table)) == kept
        assert len(table["h"]) == size
        assert len(plan.publications[0].properties) > headers.ROOM - 500  # nothing is cut without need


def test_a_message_whose_headers_fill_the_frame_is_in_the_body_of_its_dead_letter():
    """Such a letter says why it is dead, and holds the message as it was received."""
    was = entry(Properties(message_id="m", content_type="a/b", headers=Headers({"h": "x" * 125_000})), b"body")
    plan = plan_failure(was, Failure("reject", "T", "why"), STAGE, ABOUT)
    got = read(plan)
    assert (got.message_id, got.content_type) == ("m", wrapper.CONTENT_TYPE)
    assert (got.headers[headers.REASON], got.headers[headers.MESSAGE]) == ("reject", "why")
    assert "h" not in got.headers
    assert wrapper.unwrap(plan.publications[0].body) == (was.properties, b"body")


@pytest.mark.parametrize("size", [10, 3_000, 7_000])
@pytest.mark.parametrize("failure", [ERROR, Failure("reject", "T", "m" * 900, "t" * 9_000)])
def test_what_was_made_for_a_larger_frame_is_made_smaller(size, failure):
    """After another header frame was negotiated, retries and dead letters fit into it; a retry may have to be dead."""
    was = entry(Properties(headers=Headers({"h": "x" * size})))
    was.plan = plan_failure(was, failure, STAGE, ABOUT)
    failure, smaller = plan_too_large(was, "too large", STAGE, ABOUT._replace(room=4_076))
    assert len(smaller.publications[0].properties) <= 4_076
    fits = size < 4_000
    assert smaller.outcome == (was.plan.outcome if fits else "dead")
    assert (read(smaller).headers.get("h") == "x" * size) is fits
    assert (failure is not None) is (was.plan.outcome == "retried" and not fits)
    assert fits or wrapper.unwrap(smaller.publications[0].body) == (was.properties, was.body)


def test_of_several_results_the_one_that_is_too_large_is_named():
    """Its dead letter says which it is, counted as the handler yields them, and which generation computed it."""
    was = entry(Properties(message_id="m"))
    was.work = 1.0, 0.1, 6, 0, ""
    parts = [Properties(headers=Headers({headers.PART: n})).encode() for n in (1, 2, 3)]
    results = tuple(ResultMessage(part, b"x" * size) for part, size in zip(parts, (10, 2_000, 30), strict=True))
    was.plan = plan_result(was, Outcome(1, 0.1, 7, results), stage(output=OutputConfig(queue="out")))
    failure, plan = plan_too_large(was, "the broker takes 1,000", STAGE, ABOUT)
    assert (plan.outcome, failure.message) == ("dead", "result 2 of 3 has 2,000 bytes; the broker takes 1,000")
    assert read(plan).headers[headers.GENERATION] == 6


def test_a_wrapped_letter_stays_wrapped_when_the_frame_becomes_smaller():
    """Its body is the message as it was received; only our texts are cut further."""
    was = entry(Properties(headers=Headers({"h": "x" * 20_000})))
    was.plan = plan_failure(was, Failure("reject", "T", "m" * 2_000, "t" * 9_000), STAGE, ABOUT._replace(room=16_364))
    failure, smaller = plan_too_large(was, "too large", STAGE, ABOUT._replace(room=4_076))
    assert failure is None
    assert len(smaller.publications[0].properties) <= 4_076
    assert wrapper.unwrap(smaller.publications[0].body) == (was.properties, was.body)
    assert read(smaller).headers[headers.WRAPPED] is True


def test_a_dead_letter_speaks_of_its_last_failure_alone():
    """The texts of an earlier failure are removed; only the time of the first failure is kept."""
    failure = Failure("error", "A", "old words", "old", place="jobs.py:4 in handle")
    first = read(plan_failure(entry(), failure, STAGE, ABOUT))
    assert first.headers[headers.PLACE] == "jobs.py:4 in handle", "of a retry too"
    assert headers.PLACE not in read(plan_failure(entry(first), ERROR, STAGE, ABOUT)).headers
    first.headers[headers.TRACEBACK] = first.headers[headers.EXIT] = "old"
    later = ABOUT._replace(time="later")
    table = read(plan_failure(entry(first), Failure("reject", "B", ""), STAGE, later)).headers
    assert table[headers.ERROR_TYPE] == "B"
    assert not {headers.MESSAGE, headers.TRACEBACK, headers.EXIT, headers.PLACE} & set(table)
    assert (table[headers.FIRST_FAILED_AT], table[headers.FAILED_AT]) == (ABOUT.time, "later")


def test_a_dead_letter_says_all():
    """A dead letter has reason, error, place, time, attempt and generation."""
    table = read(
        plan_failure(entry(), Failure("reject", "T", "m", "t", "e", place="p"), STAGE, ABOUT)
    ).headers.to_dict()
    assert table == {
        headers.REASON: "reject",
        headers.ERROR_TYPE: "T",
        headers.MESSAGE: "m",
        headers.TRACEBACK: "t",
        headers.PLACE: "p",
        headers.EXIT: "e",
        headers.FAILED_AT: ABOUT.time,
        headers.FIRST_FAILED_AT: ABOUT.time,
        headers.HOST: "host",
        headers.STAGE: "energy",
        headers.QUEUE: "in",
        headers.ATTEMPT: 1,
        headers.GENERATION: 7,
    }


def test_whoever_waits_is_told_of_a_death_and_not_of_a_retry():
    """A dead message is answered with its correlation id; a retried one is not, because it may still succeed."""
    asked = entry(Properties(reply_to="answers", correlation_id="c", message_id="m"))
    assert plan_failure(asked, ERROR, STAGE, ABOUT).replies == ()
    (reply,) = plan_failure(asked, Failure("reject", "T", "why"), STAGE, ABOUT).replies
    got = Properties.decode(reply.properties)
    assert (reply.routing_key, reply.mandatory, reply.body) == ("answers", False, b"null")
    assert (got.correlation_id, got.message_id) == ("c", "m")
    assert got.headers[headers.OUTCOME] == "dead"
    assert got.headers[headers.MESSAGE] == "why"


@pytest.mark.parametrize("block", [b"\xff", b"\x20\x00\0\0\0\x09", b"\0\3"])
def test_unreadable_properties_count_as_empty(block):
    """A message with a malformed block can still be dead-lettered."""
    delivery = Entry(1, Delivery(1, 1, block, b"b", False, "", "in"), Isolation.NONE, 0.0)
    plan = plan_failure(delivery, Failure("undecodable", "M", "malformed"), STAGE, ABOUT)
    assert plan.outcome == "dead"
    assert read(plan).headers[headers.REASON] == "undecodable"
