"""Items of a source, and the functions that make them."""

import math

import pytest

from mqworker import Item, Result
from mqworker.amqp.headers import SIGNATURE
from mqworker.amqp.properties import Properties
from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.jobs.item import MOST_POSITION, NOWHERE
from mqworker.jobs.loading import JobLoadError, make_source
from mqworker.signing import verify
from mqworker.sources.items import publication
from mqworker.testing import run_source

KEY = "0123456789abcdef0123456789abcdef"


def stage(**more) -> StageConfig:
    return StageConfig(input=InputConfig(queue="in"), jobs=("m:f",), **more)


@pytest.mark.parametrize("position", [None, 0, -3, 1.5, "", "2026-01-01", [1, "x"], {"a": None}, True])
def test_any_json_value_is_a_position(position):
    """None too: having none is something else."""
    assert Item(1, position=position).position == position
    assert Item(1).position is NOWHERE


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"position": (1, 2)}, TypeError, "position must be a value that JSON carries, but is tuple"),
        ({"position": object()}, TypeError, "but is object"),
        ({"position": math.nan}, TypeError, "but is float"),
        ({"position": "x" * MOST_POSITION}, ValueError, "it may have 4,000"),
        ({"message_id": 7}, TypeError, "message_id must be text"),
        ({"message_id": "x" * 256}, ValueError, "more than 255 bytes"),
        ({"headers": {"": 1}}, ValueError, "must not be empty"),
    ],
)
def test_what_is_wrong_is_told_where_the_item_is_made(arguments, error, told):
    """In the line of the user's code."""
    with pytest.raises(error, match=told):
        Item({"n": 1}, **arguments)


def test_an_item_in_an_item_is_refused():
    """So is a Result, which is for handlers."""
    for body in (Item(1), Result(1)):
        with pytest.raises(TypeError, match="must be a value"):
            Item(body)


def test_an_item_becomes_a_message_by_the_codec_of_the_stage():
    """Persistent, with its id, its headers and its content type."""
    made = publication(Item({"n": 1}, headers={"a": 1}, correlation_id="c"), "rows:1", stage(), BrokerConfig())
    properties = Properties.decode(made.properties)
    assert (made.exchange, made.routing_key, made.body) == ("", "in", b'{"n":1}')
    assert (properties.message_id, properties.correlation_id, properties.delivery_mode) == ("rows:1", "c", 2)
    assert (properties.content_type, properties.headers["a"]) == ("application/json", 1)
    packed = publication(Item({"n": 1}), "rows:1", stage(codec="msgpack"), BrokerConfig())
    assert Properties.decode(packed.properties).content_type == "application/msgpack"
    text = publication(Item("ü", content_type="text/plain; charset=latin-1"), "x", stage(), BrokerConfig())
    assert text.body == b"\xfc"


def test_what_the_stage_decodes_by_force_is_what_is_sent():
    """`decode` of the stage comes before its `codec`."""
    made = publication(Item({"n": 1}), "x", stage(decode="msgpack"), BrokerConfig())
    assert Properties.decode(made.properties).content_type == "application/msgpack"


def test_a_pickle_is_signed():
    """So that the stage loads it."""
    made = publication(Item({1, 2}), "x", stage(codec="pickle", pickle_key=KEY), BrokerConfig())
    verify(made.body, Properties.decode(made.properties).headers[SIGNATURE], (KEY,))


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (Item("x" * 101), "the stage takes 100"),
        (Item(1, headers={"x-mqworker-stage": "s"}), "are mqworker's"),
        (Item(1, headers={"a": "x" * 130_000}), "can be published"),
        (Item(object()), "cannot be encoded"),
    ],
)
def test_what_cannot_be_sent_is_told(item, told):
    """Before anything of it is published."""
    with pytest.raises(Exception, match=told):
        publication(item, "x", stage(max_body=100), BrokerConfig())


class Stateful:
    pass


async def asynchronous():
    yield 1


@pytest.mark.parametrize(
    ("target", "scheduled", "told"),
    [
        (Stateful, False, "it is the class Stateful; a source is a function"),
        (asynchronous, False, "it is an async function"),
        (lambda positon: None, False, "did you mean 'position'"),
        (lambda due: None, False, "it may take position, params, log"),
        (lambda body: None, True, "it may take position, params, log, due"),
        (7, False, "it is an int, which cannot be called"),
    ],
)
def test_what_cannot_be_a_source_is_told(target, scheduled, told):
    """With the fix."""
    with pytest.raises(JobLoadError, match=told.replace("(", r"\(")):
        make_source(target, None, "m:f", scheduled=scheduled)


def test_a_source_gets_what_it_asks_for_by_name():
    """In any order, and defaults are left alone."""
    job = make_source(lambda log, position, other=1: None, None, "m:f", scheduled=False)
    assert job.arguments == {"log", "position"}
    assert make_source(lambda due: None, None, "m:f", scheduled=True).arguments == {"due"}


def numbers(position, params):
    n = position or 0
    while True:
        n += 1
        yield Item({"n": n * params["by"]}, position=n)


def test_a_source_is_tested_without_a_service():
    """From a position, so many items."""
    items = run_source(numbers, {"by": 10}, position=4, most=2)
    assert [(item.body, item.position) for item in items] == [({"n": 50}, 5), ({"n": 60}, 6)]


def test_a_test_fails_where_the_source_would():
    """A position that comes twice, a body that cannot be encoded, a function that does not yield."""

    def twice():
        yield Item(1, position=1)
        yield Item(2, position=1)

    with pytest.raises(ValueError, match="twice"):
        run_source(twice)
    with pytest.raises(Exception, match="cannot be encoded"):
        run_source(lambda: iter([object()]))
    with pytest.raises(TypeError, match="must yield"):
        run_source(lambda: {"n": 1})
