"""The answer to a call, as bytes: what the method has returned or raised.

Pure; used by both sides. An answer is encoded once, in the process of the shared object, before the next call can
change the value; the same bytes are journaled, remembered and sent.
"""

import math
from typing import Any, Final

import msgspec

from mqworker.errors import Reject, Retry, SharedCallError, SharedUnavailable, SharedValueError
from mqworker.jobs.failures import describe
from mqworker.shared_state import values

VALUE: Final = 0  # first byte: an encoded value follows
SAME: Final = 1  # the argument, unchanged
RAISED: Final = 2  # a Raised follows
RETRY: Final = 3  # a Raised follows; the answer is not remembered: the next attempt asks again
NOT_RUN: Final = 4  # a Raised follows; the method was not called at all
_SAME = bytes((SAME,))
_VALUE = bytes((VALUE,))


class Raised(msgspec.Struct, frozen=True, array_like=True):
    """What a method has raised, or why it was not called."""

    kind: str  # error | reject | retry | value | unavailable
    type: str
    message: str
    traceback: str = ""
    after: float | None = None


_encode = msgspec.msgpack.Encoder().encode
_raised = msgspec.msgpack.Decoder(Raised).decode


def returned(value: Any, argument: bytes | None, name: str = "the answer") -> bytes:
    """Return the answer for a method's result; `argument`: a link's argument, encoded. Raises SharedValueError."""
    if argument is not None and values.is_encoded(value, argument):
        return _SAME
    return _VALUE + values.encode(value, name)


def raised(error: BaseException) -> bytes:
    """Return the answer for what a method has raised; never raises."""
    what = describe(error)
    match error:
        case Retry():
            answer = Raised("retry", what.type, what.message, what.traceback, _seconds(error.after))
            return bytes((RETRY,)) + _encode(answer)
        case Reject():
            kind = "reject"
        case SharedValueError():
            kind = "value"
        case _:
            kind = "error"
    return bytes((RAISED,)) + _encode(Raised(kind, what.type, what.message, what.traceback))


def not_run(kind: str, reason: str, type_name: str = "") -> bytes:
    """Return the answer to a call that was not made."""
    return bytes((NOT_RUN,)) + _encode(Raised(kind, type_name, reason))


def is_remembered(answer: bytes) -> bool:
    """Return whether a later run of the message gets this answer too."""
    return answer[0] < RETRY


def is_error(answer: bytes) -> bool:
    """Return whether the method has failed; a Reject is a decision, not a failure."""
    return answer[0] == RAISED and _raised(answer[1:]).kind != "reject"


def is_equal(one: bytes, other: bytes) -> bool:
    """Return whether two answers say the same, whatever the tracebacks."""
    if one == other:
        return True
    if one[0] != other[0] or one[0] < RAISED:
        return False
    first, second = _raised(one[1:]), _raised(other[1:])
    return (first.kind, first.type, first.message, first.after) == (
        *(second.kind, second.type, second.message, second.after),
    )


def result(answer: bytes, argument: Any = None, call: str = "") -> Any:
    """Return what a method has returned, or raise in the handler what it has raised; `call` is its name in errors."""
    if answer[0] == VALUE:
        return values.decode(answer[1:])
    if answer[0] == SAME:
        return argument
    what = _raised(answer[1:])
    match what.kind:
        case "reject":
            raise Reject(what.message)
        case "retry":
            raise Retry(what.after, what.message)
        case "value":
            raise SharedValueError(what.message)
        case "unavailable":
            raise SharedUnavailable(what.message)
    raise SharedCallError(what.type, what.message, what.traceback, call)


def _seconds(after: Any) -> float | None:
    try:
        seconds = float(after)
    except Exception:  # noqa: BLE001 - whatever the user's code put there
        return None
    return None if math.isnan(seconds) else seconds
