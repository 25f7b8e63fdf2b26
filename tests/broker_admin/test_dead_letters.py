"""Dead letters: put aside, told of, sent back."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties, in_order
from mqworker.broker_admin.dead_letters import describe, letter_id, lineage, replay
from mqworker.brokers.base import Delivery
from mqworker.config.model import InputConfig, StageConfig
from mqworker.ipc.consumer_messages import Failure
from mqworker.producer.entry import Entry, Isolation
from mqworker.producer.failure_messages import Circumstances
from mqworker.producer.policy import plan_crash, plan_failure
from tests.support import amqp

STAGE = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",))
ABOUT = Circumstances("energy", "host", 7, "2026-01-01T00:00:00.000Z", 0.9)
KEPT = {headers.FAILED_AT, headers.FIRST_FAILED_AT, headers.REPLAYED, headers.ORIGINAL + "user-id"}


def entry(block: bytes, body: bytes) -> Entry:
    return Entry(1, Delivery(1, 1, block, body, False, "", "in"), Isolation.NONE, 0.0)


def dead(properties: Properties, body: bytes, *, tries: int = 0, crashes: int = 0):
    """The dead letter of a message that was tried and retried before."""
    block = properties.encode()
    failures = [(plan_failure, Failure("error", "E", "no", "trace"))] * tries
    failures += [(plan_crash, Failure("crash", "C", "died", exit="SIGSEGV"))] * crashes
    for plan, failure in [*failures, (plan_failure, Failure("reject", "R", "why", "trace", "exit"))]:
        made = plan(entry(block, body), failure, STAGE, ABOUT)
        assert made.publications[0].body == body
        block = made.publications[0].properties
        if made.outcome == "dead":
            break
    return block


@given(amqp.properties, st.binary(max_size=50), st.integers(0, 3), st.integers(0, 1))
def test_a_replay_is_the_original_message(properties, body, tries, crashes):
    """Body and properties are the original's, but user_id; retries before its death change nothing of that."""
    was = Properties.decode(properties.encode())
    again = replay(dead(properties, body, tries=tries, crashes=crashes), body, "in")
    got = Properties.decode(again.properties)
    assert (again.exchange, again.routing_key, again.body) == ("", "in", body)
    for name in Properties.__struct_fields__:
        if name not in ("headers", "delivery_mode", "user_id"):
            assert getattr(got, name) == getattr(was, name), name
    assert (got.delivery_mode, got.user_id) == (2, None)
    theirs = {name: field for name, field in was.headers._fields.items() if name not in headers.BROKERS}
    ours = {name for name in got.headers if name.startswith(headers.PREFIX)}
    assert ours <= KEPT
    assert {name: field for name, field in got.headers._fields.items() if name not in ours} == theirs
    assert got.headers[headers.REPLAYED] == 1


@given(amqp.properties, st.binary(max_size=50))
def test_a_wrapped_dead_letter_is_shown_and_replayed_as_the_message_inside(properties, body):
    """Where the header frame had no room for the message's headers, an operator sees no difference."""
    was = Properties.decode(properties.encode())
    properties.headers["long"] = "x" * 5_000
    block = properties.encode()
    failure = Failure("reject", "R", "why", "trace", "exit")
    letter = plan_failure(entry(block, body), failure, STAGE, ABOUT._replace(room=4_076)).publications[0]
    assert len(letter.properties) <= 4_076
    shown = describe(letter.properties, letter.body, whole=True)
    assert (shown["reason"], shown["size"], shown["body"]) == ("reject", len(body), body)
    assert shown["headers"]["long"] == "x" * 5_000
    assert headers.WRAPPED not in shown["headers"]
    again = replay(letter.properties, letter.body, "in")
    got = Properties.decode(again.properties)
    assert again.body == body
    assert got.content_type == was.content_type
    assert got.headers["long"] == "x" * 5_000
    assert {headers.WRAPPED, headers.REASON, headers.MESSAGE} & set(got.headers) == set()


@given(amqp.properties)
def test_a_dead_letter_neither_expires_nor_copies_itself_nor_is_refused(properties):
    """Properties that the broker would act upon are kept in our own headers."""
    got = Properties.decode(dead(properties, b""))
    assert got.expiration is got.user_id is None
    assert not {"CC", "BCC"} & set(got.headers)


def test_replays_are_counted_and_everything_else_begins_anew():
    """Attempts and crashes are counted from the start; the number of replays is kept."""
    block = dead(Properties(message_id="m"), b"body", tries=2)
    for times in (1, 2, 3):
        again = replay(block, b"body", "in")
        got = Properties.decode(again.properties)
        assert got.headers[headers.REPLAYED] == times
        assert headers.attempt(got, "in") == 1
        assert headers.crashes(got, "in") == 0
        block = dead(got, b"body")
        assert describe(block, b"body")["replayed"] == times


def test_a_forged_count_of_replays_is_none():
    """A header that comes from elsewhere is ignored."""
    for value in ("7", True, None, 1.5):
        block = Properties(headers=Headers({headers.REPLAYED: value})).encode()
        assert Properties.decode(replay(block, b"", "in").properties).headers[headers.REPLAYED] == 1


@given(amqp.properties, st.binary(max_size=20), st.booleans())
def test_what_is_told_can_be_told(properties, body, whole):
    """Whatever bytes a foreign client put into its properties, the answer can be packed and be JSON."""
    for block in (properties.encode(), dead(properties, body), b"\xff malformed"):
        told = describe(block, body, whole=whole)
        answer = msgspec.msgpack.decode(msgspec.msgpack.encode(told))
        readable = {key: value for key, value in answer.items() if key not in {"properties", "body"}}
        assert json.loads(msgspec.json.encode(readable)).keys() == readable.keys()
        assert not any(isinstance(value, bytes) for value in answer.get("headers", {}).values())
        assert told["size"] == len(body)
        assert told["id"] == letter_id(block, body)


def test_what_an_operator_is_told():
    """The short form fits on one line; the full form has everything."""
    block = dead(Properties(message_id="m", headers=Headers({"h": 1})), b"body", tries=1)
    assert describe(block, b"body") == {
        "id": letter_id(block, b"body"),
        "message_id": "m",
        "content_type": None,
        "size": 4,
        "reason": "reject",
        "error_type": "R",
        "message": "why",
        "failed_at": ABOUT.time,
        "first_failed_at": ABOUT.time,
        "attempt": 2,
        "generation": 7,
        "host": "host",
    }
    whole = describe(block, b"body", whole=True)
    assert (whole["traceback"], whole["exit"], whole["headers"]["h"]) == ("trace", "exit", 1)
    assert (whole["properties"], whole["body"]) == (block, b"body")


@given(amqp.properties, st.integers(1, 30))
def test_the_name_of_a_letter_outlives_looking_at_it(properties, count):
    """A quorum queue counts deliveries in a header, and sorts all headers; the id stays the same."""
    properties.headers.pop(headers.REDELIVERIES, None)
    block = dead(properties, b"body")
    again = Properties.decode(block)
    again.headers[headers.REDELIVERIES] = count
    again.headers = Headers.decode(in_order(again.headers.encode()))
    assert letter_id(again.encode(), b"body") == letter_id(block, b"body")


@pytest.mark.parametrize(
    ("name", "value", "replayed"),
    [
        (headers.REPLAYED, 2**63 - 1, 2**63 - 1),
        (headers.REPLAYED, -(2**63), 0),
        (headers.ORIGINAL + "expiration", "9" * 256, 1),
    ],
)
def test_what_does_not_fit_into_a_message_stops_no_replay(name, value, replayed):
    """Whoever writes to the queue may have written any number and any text."""
    block = Properties(headers=Headers({headers.REASON: "error", name: value})).encode()
    got = Properties.decode(replay(block, b"", "in").properties)
    assert (got.headers[headers.REPLAYED], got.expiration) == (replayed, None)
    assert lineage(replay(block, b"", "in").properties, b"") == lineage(block, b"", later=1)


def test_an_encoding_that_is_no_text_is_shown():
    """The letter can be opened as JSON."""
    told = describe(Properties(content_encoding="\udcff").encode(), b"x", whole=True, preview=True)
    assert (told["content_encoding"], told["preview"]["encoding"]) == ("\\udcff", "\\udcff")
    assert msgspec.json.encode({name: told[name] for name in ("content_encoding", "preview")})
