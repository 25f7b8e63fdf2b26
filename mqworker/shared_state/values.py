"""Values on their way to a shared object and back: each arrives unchanged, or is refused with the place of the fault.

Pure; used by both sides. What is accepted decodes to an equal value of equal types: None, bool, int of 64 bits, float,
str, bytes, list, dict with such keys, and datetime in UTC. Everything else (tuple, set, Decimal, a class derived from
these, a dataclass, ...) would arrive as something else or not at all, and code that compares values would then decide
differently in a test and in production. Raises SharedValueError.
"""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mqworker.errors import SharedValueError
from mqworker.ipc.json_safe import text

MOST: Final = 1 << 20  # bytes of the arguments or the answer of one call
DEPTH: Final = 500  # levels of lists and dicts; the codec allows twice as many, minus the depth of the Python stack
_INT: Final = range(-(1 << 63), 1 << 64)

_SCALARS = frozenset((type(None), bool, float, bytes))
_KEYS = _SCALARS | {str, int}
_FIXES: dict[type, str] = {
    tuple: "make it a list",
    set: "make it a sorted list",
    frozenset: "make it a sorted list",
    bytearray: "make it bytes",
    memoryview: "make it bytes",
}

_encode = msgspec.msgpack.Encoder().encode
_encode_sorted = msgspec.msgpack.Encoder(order="deterministic").encode
decode = msgspec.msgpack.Decoder().decode  # of what `encode` has returned


def encode(value: Any, name: str) -> bytes:
    """Return a value in the form in which it is sent; `name` is what SharedValueError calls it."""
    kind = type(value)
    if kind not in _SCALARS:
        refuse_changing(value, name)
    try:
        data = _encode(value)
    except UnicodeEncodeError:
        raise SharedValueError(f"{name} has text that UTF-8 cannot encode (half a surrogate pair)") from None
    if len(data) > MOST:
        raise SharedValueError(f"{name} has {len(data):,} bytes; {MOST:,} can be passed in a call of a shared object")
    return data


def is_encoded(value: Any, data: bytes) -> bool:
    """Return whether a value would be sent as these bytes: a quick check of one that has perhaps not changed."""
    try:
        return _encode(value) == data
    except Exception:  # noqa: BLE001 - `encode` will report why
        return False


def are_flat(accepted: tuple[Any, ...]) -> bool:
    """Return whether there is no list or dict among these values."""
    return all(type(value) in _KEYS for value in accepted)


def canonical(value: Any, encoded: bytes) -> bytes:
    """Return an encoding of accepted arguments in which the order of a dict with text keys does not matter."""
    try:
        return _encode_sorted(value)
    except TypeError:  # other keys have no order
        return encoded


def refuse_changing(value: Any, name: str) -> None:
    """Raise SharedValueError for the first part of a value that would not arrive as it is."""
    level: list[tuple[tuple[Any, ...], Any]] = [((), value)]  # (steps, value)
    for _ in range(DEPTH):
        below: list[tuple[tuple[Any, ...], Any]] = []
        for steps, item in level:
            kind = type(item)
            if kind is list:
                below += [((*steps, at), part) for at, part in enumerate(item) if not _is_plain(part)]
            elif kind is dict:
                for key in item:
                    if type(key) not in _KEYS or (type(key) is int and key not in _INT):
                        raise SharedValueError(f"{_place(name, steps)} has the key {_short(key)} {_of(key)}")
                below += [((*steps, key), part) for key, part in item.items() if not _is_plain(part)]
            elif why := _refusal(item, kind):
                raise SharedValueError(f"{_place(name, steps)} {why}")
        if not below:
            return
        if len(below) > MOST:  # a list that contains a list twice, which contains another one twice, and so on
            raise SharedValueError(f"{name} is too large to be passed in a call of a shared object")
        level = below
    raise SharedValueError(f"{name} is nested more than {DEPTH} levels deep, or contains itself")


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind is str or kind in _SCALARS or (kind is int and value in _INT)


def _refusal(value: Any, kind: type) -> str:
    """Return why a value that is not a container would not arrive as it is; "" if it would."""
    if kind is str or kind in _SCALARS:
        return ""
    if kind is int:
        return "" if value in _INT else "is an integer of more than 64 bits: make it a text"
    if kind is datetime:
        if value.tzinfo is UTC and not value.fold:
            return ""
        fix = "give it a time zone, UTC" if value.tzinfo is None else "make it value.astimezone(timezone.utc)"
        return f"is a datetime that is not in UTC, which would arrive as something else: {fix}"
    fix = _FIXES.get(kind, "make it a plain form (numbers, text, bytes, lists, dicts)")
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        fix = "pass value.tolist(), for a shared job in the job before it"
    return f"is {_of(value)}, which would not arrive as such: {fix}"


def _place(name: str, steps: tuple[Any, ...]) -> str:
    return name + "".join(f"[{_short(step)}]" for step in steps)


def _of(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"of type {name}"


def _short(key: Any) -> str:
    try:
        return text(repr(key)[:60])
    except Exception:  # noqa: BLE001 - a repr may raise anything
        return "(without a repr)"
