"""The chain: how one process runs a message through its jobs."""

import logging
import math
from dataclasses import make_dataclass
from types import MappingProxyType

import pytest

import mqworker
from mqworker.amqp.properties import Headers, Properties
from mqworker.jobs.chain import Chain
from mqworker.jobs.codecs import UndecodableError
from mqworker.jobs.loading import make_job
from mqworker.jobs.message import Message
from mqworker.jobs.params import ParamsError


def chain_of(*targets, params=None):
    chain = Chain([make_job(target, None, f"jobs:{index}") for index, target in enumerate(targets)], params or {}, "s")
    chain.setup()
    return chain


class Recorder:
    """A job that records what happens to it."""

    heard: list[object]

    def setup(self, params, log):
        self.heard.append(("setup", dict(params), log.name))

    def handle(self, body):
        self.heard.append(("handle", body))
        return body

    def teardown(self):
        self.heard.append("teardown")


@pytest.fixture
def recorder():
    return type("Fresh", (Recorder,), {"heard": []})


def test_each_job_gets_the_result_of_the_one_before():
    """Jobs run in order, each on the result of the one before."""
    assert chain_of(lambda body: body + 1, lambda body: body * 10).run(4) == 50


def test_none_ends_the_chain(recorder):
    """A dropped message reaches no later job; falsy results are results."""
    chain = chain_of(lambda body: body or None, recorder)
    assert chain.run(0) is None
    assert ("handle", 0) not in recorder.heard
    assert chain_of(lambda body: [], lambda body: 0).run(1) == 0


def test_a_null_body_is_a_body():
    """JSON's null is passed to the first job."""
    assert chain_of(lambda body: body is None).run(None) is True


@pytest.mark.parametrize(
    "asked", ["", "params", "message", "log", "params, log", "log, message", "params, message, log"]
)
def test_arguments_are_given_by_name(asked):
    """A job may take every combination of arguments, as a function and as a class."""
    source = f"lambda body, *, {asked}: (body, {asked},)" if asked else "lambda body: (body,)"
    names = [name for name in asked.split(", ") if name]
    message = Message(b"1")
    known = {"params": {"a": 1}, "message": message, "log": logging.getLogger("mqworker.job.s")}
    function = eval(source)
    holder = type("Holder", (), {"handle": staticmethod(function)})
    for target in (function, holder):
        chain = chain_of(target, params={"a": 1})
        assert chain.takes_message == ("message" in names)
        assert chain.run(7, message) == (7, *[known[name] for name in names])


@pytest.mark.parametrize(
    ("job", "without", "within"),
    [
        (lambda body, deadline: deadline or body, 0, 5.5),
        (lambda body, deadline=math.inf: deadline, math.inf, 5.5),
        (lambda body, message, deadline=math.inf: deadline, math.inf, 5.5),
        (lambda body, deadline=30: deadline, 30, 30),
    ],
)
def test_without_a_limit_the_handlers_own_deadline_holds(job, without, within):
    """A default holds where there is no limit; a number is the handler's own argument, also where there is one."""
    chain = chain_of(job)
    assert (chain.run(0), chain.run(0, None, 5.5)) == (without, within)


def test_life_of_a_job_class(recorder):
    """A job class is set up once, called for each message, and torn down once."""
    chain = chain_of(recorder, params={"a": 1})
    chain.run(1)
    chain.run(2)
    chain.teardown()
    chain.teardown()
    assert recorder.heard == [("setup", {"a": 1}, "mqworker.job.s"), ("handle", 1), ("handle", 2), "teardown"]


def test_parameters_are_exchanged_between_messages():
    """New parameters reach the next call; refused ones change nothing."""
    module = type("module", (), {"Params": make_dataclass("Params", [("factor", int)])})
    job = make_job(lambda body, params: params.factor * body, module, "jobs:f")
    chain = Chain([job], {"factor": 2})
    chain.setup()
    assert chain.run(3) == 6
    chain.apply_params({"factor": 5})
    assert chain.run(3) == 15
    with pytest.raises(ParamsError, match="factor: Expected `int`, got `str`"):
        chain.apply_params({"factor": "x"})
    assert chain.run(3) == 15


def test_a_chain_with_bad_parameters_is_never_made():
    """Parameters are checked before any user code is set up."""
    module = type("module", (), {"Params": make_dataclass("Params", [("factor", int)])})
    with pytest.raises(ParamsError, match="factor: is required"):
        Chain([make_job(lambda body: body, module, "jobs:f")], {})


def test_a_failed_setup_tears_down_what_was_set_up(recorder):
    """Nothing that a job opened stays open when a later job cannot start."""

    class Broken:
        def setup(self):
            raise OSError("no database")

        def handle(self, body):
            return body

    with pytest.raises(OSError, match="no database"):
        chain_of(recorder, Broken)
    assert recorder.heard[-1] == "teardown"


def test_all_jobs_are_torn_down_whatever_one_raises(recorder):
    """A failing teardown does not prevent the others, and is not hidden."""

    class Broken:
        def handle(self, body):
            return body

        def teardown(self):
            raise OSError("stuck")

    chain = chain_of(recorder, Broken)
    with pytest.raises(OSError, match="stuck"):
        chain.teardown()
    assert recorder.heard[-1] == "teardown"


def test_what_a_job_raises_passes_through():
    """The chain passes on whatever a job raises."""

    def refuse(body):
        raise mqworker.Reject("not mine")

    with pytest.raises(mqworker.Reject, match="not mine") as caught:
        chain_of(refuse).run(1)
    assert caught.value.reason == "not mine"


def test_a_message_shows_its_properties_read_only():
    """Handlers can read the delivery, but not change what results inherit."""
    block = Properties(
        message_id="m1", correlation_id="c1", content_type="text/x", timestamp=7, headers=Headers({"a": 1})
    ).encode()
    message = mqworker.Message(b"body", block, redelivered=True, exchange="e", routing_key="r", attempt=2)
    assert (message.body, message.redelivered, message.exchange, message.routing_key) == (b"body", True, "e", "r")
    assert (message.message_id, message.correlation_id, message.content_type) == ("m1", "c1", "text/x")
    assert (message.timestamp, message.attempt, message.reply_to, message.priority) == (7, 2, None, None)
    assert (message.content_encoding, message.type, message.app_id) == (None, None, None)
    assert dict(message.headers) == {"a": 1}
    assert isinstance(message.headers, MappingProxyType)
    assert repr(message) == "Message('m1', 4 bytes)"


def test_malformed_properties_are_undecodable():
    """A malformed property block is the message's fault, and raises on first access."""
    message = Message(b"", b"\x80")
    with pytest.raises(UndecodableError, match="the message's properties are malformed"):
        _ = message.headers


def test_exceptions_for_handlers():
    """`Retry` and `Reject` carry their arguments."""
    assert (mqworker.Retry().after, mqworker.Retry(2.5, "busy").reason) == (None, "busy")
    assert (str(mqworker.Reject("why")), str(mqworker.Retry(reason="busy"))) == ("why", "busy")
    with pytest.raises(AttributeError, match="has no attribute 'Massage'"):
        _ = mqworker.Massage
