"""Exceptions as text, whatever they are."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.jobs.chain import Chain
from mqworker.jobs.codecs import UnencodableError, encode
from mqworker.jobs.failures import MESSAGE_LIMIT, TRACEBACK_LIMIT, cut, describe
from mqworker.jobs.loading import make_job


def caught(function, *arguments):
    """Return what a call raises, with its traceback."""
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001 - the subject of these tests
        return error
    raise AssertionError("nothing was raised")


def boom(error):
    raise error


class MuteError(Exception):
    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


class LiarError(Exception):
    def __str__(self):
        return 42  # noqa: PLE0307 - the lie


class NotedError(Exception):
    __notes__ = property(lambda self: boom(RuntimeError("no notes")))


class Nameless(type):
    @property
    def __module__(cls):
        raise RuntimeError("no module")


class NamelessError(Exception, metaclass=Nameless):
    pass


def forever(n=0):
    return forever(n + 1)


def ping(n=0):
    return pong(n + 1)


def pong(n=0):
    return ping(n + 1)


def chain_of(length):
    last = None
    for index in range(length):
        error = ValueError(index)
        error.__cause__ = last
        last = error
    raise last


def nested_groups(depth):
    error = ValueError("leaf")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    raise error


def test_an_exception_is_told_with_type_message_and_traceback():
    """An ordinary failure yields its type, message and traceback."""
    told = describe(caught(boom, ValueError("bad n")))
    assert told[:2] == ("ValueError", "bad n")
    assert told.traceback.startswith("Traceback (most recent call last):\n")
    assert told.traceback.endswith("raise error\nValueError: bad n\n")


def test_a_type_outside_builtins_is_told_with_its_module():
    """The name is the one that `retry.final` is compared with."""
    assert describe(LiarError()).type == f"{__name__}.LiarError"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MuteError(), "(its message cannot be shown: str() raised SystemExit)"),
        (LiarError(), "(its message cannot be shown: str() raised TypeError)"),
        (NotedError("x"), "x"),
        (NamelessError("x"), "x"),
        (ValueError("\ud800\x00"), "\\ud800\x00"),
        (KeyboardInterrupt(), ""),
    ],
)
def test_an_exception_that_cannot_say_what_it_is_is_told_nevertheless(error, message):
    """No `__str__`, `__repr__` or note of the user's makes the description fail."""
    told = describe(caught(boom, error))
    assert told.message == message
    assert told.traceback
    assert "".join(told).encode()


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (forever, "RecursionError"),
        (ping, "RecursionError"),
        (lambda: chain_of(2_000), "ValueError"),
        (lambda: nested_groups(3_000), "ExceptionGroup"),
        (lambda: boom(ValueError("x" * 3_000_000)), "ValueError"),
        (lambda: boom(type("N" * 5_000, (Exception,), {})()), None),
    ],
)
def test_huge_failures_are_cut(function, kind):
    """Deep recursion, long chains, deep groups, long messages and names yield bounded text with head and tail."""
    told = describe(caught(function))
    assert kind is None or told.type == kind
    assert len(told.type.encode()) <= 256
    assert len(told.message.encode()) <= MESSAGE_LIMIT
    assert 0 < len(told.traceback.encode()) <= TRACEBACK_LIMIT


def test_our_own_frames_above_the_users_are_left_out():
    """The traceback starts where the user's code does; a fault without user code has no frames."""
    chain = Chain([make_job(boom, None, "tests:boom")], {})
    chain.setup()
    error = below_the_test(chain.run, ValueError("mine"))
    assert _files(error) == [__file__]
    error = below_the_test(encode, 1j, "json")
    assert type(error) is UnencodableError
    assert _files(error) == []


def below_the_test(function, *arguments):
    """Return what a function of mqworker raises, without the frame of the test that calls it."""
    error = caught(function, *arguments)
    return error.with_traceback(error.__traceback__.tb_next)


def _files(error):
    return re.findall('File "(.*?)"', describe(error).traceback)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="aé电\ud800", max_size=300), st.integers(60, 200))
def test_cutting_keeps_the_limit_and_the_ends(text, limit):
    """Any text becomes valid UTF-8 within the limit; a short one stays whole."""
    short = cut(text, limit)
    whole = text.encode("utf-8", "backslashreplace").decode()
    assert len(short.encode()) <= limit
    assert short == whole if len(whole.encode()) <= limit else short[:1] == whole[:1] and short[-1:] == whole[-1:]


def test_describing_leaves_the_exception_as_it_was():
    """The traceback stays available to others."""
    error = caught(encode, 1j, "json")
    before = error.__traceback__
    describe(error)
    assert error.__traceback__ is before
    assert sys.exc_info() == (None, None, None)
