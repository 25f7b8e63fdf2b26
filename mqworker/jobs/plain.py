"""Plain forms of values that data code returns: from numpy, pandas and pydantic, deque, range, Path and the like.

Runs in Consumers; pure. Libraries are used if the user's code has loaded them, never imported. Raises TypeError for a
value without a plain form.
"""

import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime
from enum import Enum
from typing import Any

import msgspec


def plain(value: Any) -> Any:
    """Return a plainer form of a value that an encoder does not know; it may contain such values again."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _numpy(numpy, value)
    pandas = sys.modules.get("pandas")
    if pandas is not None and (known := _pandas(pandas, value)) is not _UNKNOWN:
        return known
    found = _standard(value)
    if found is not _UNKNOWN:
        return found
    for name in ("model_dump", "tolist"):  # pydantic; tensors
        method = getattr(type(value), name, None)
        if callable(method):
            return method(value)
    raise TypeError(f"{type(value).__qualname__} has no plain form")


_UNKNOWN = object()
_NATIVE = frozenset((str, int, float, bool, type(None), datetime, date))


def _standard(value: Any) -> Any:
    """Convert Python's own types that encoders do not know, and classes derived from types that they know."""
    match value:
        case str() | int() | float():
            return next(base(value) for base in (str, int, float) if isinstance(value, base))
        case datetime():  # or a class that a date library derives from it
            return datetime.combine(value.date(), value.timetz())
        case date():
            return date(value.year, value.month, value.day)
        case deque() | range():
            return list(value)
        case os.PathLike():
            return os.fsdecode(os.fspath(value))
    return _UNKNOWN


def _numpy(numpy: Any, value: Any) -> Any:
    """Convert to numbers and lists; times stay times, where numpy would return numbers of nanoseconds."""
    if value.dtype.kind in "mM" and numpy.datetime_data(value.dtype)[0] in ("ns", "ps", "fs", "as"):
        value = value.astype(f"{value.dtype.kind}8[us]")
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    item = value.item()  # a long double returns itself
    return float(item) if isinstance(item, numpy.floating) else item


def _pandas(pandas: Any, value: Any) -> Any:
    """Convert a frame to a list of its rows, a column or an index to a list, and missing values to None."""
    if value is pandas.NaT or value is pandas.NA:
        return None
    if isinstance(value, pandas.DataFrame):
        return value.to_dict(orient="records")
    if isinstance(value, pandas.Series | pandas.Index):
        return value.tolist()
    if isinstance(value, pandas.Timestamp):
        return value.to_pydatetime(warn=False)
    if isinstance(value, pandas.Timedelta):
        return value.to_pytimedelta()
    return str(value) if isinstance(value, pandas.Period | pandas.Interval) else _UNKNOWN


def with_plain_keys(value: Any, form: Callable[[Any], Any] = plain) -> Any:
    """Return the value with keys that JSON and MessagePack can have: other keys become plain, or text.

    `form` converts other values, as the encoder would do.
    """
    if isinstance(value, dict):
        return {_key(key): with_plain_keys(item, form) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [with_plain_keys(item, form) for item in value]
    if type(value) in _NATIVE:
        return value
    try:
        return with_plain_keys(form(value), form)
    except TypeError:
        return value


def _key(key: Any) -> Any:
    if type(key) in (str, int, float) or isinstance(key, Enum):
        return key
    if not isinstance(key, bool):
        with suppress(TypeError):
            key = plain(key)
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]  # as in Python's json
    if not isinstance(key, str | int | float):
        key = msgspec.json.decode(msgspec.json.encode(key))  # a date or a Decimal; TypeError if it has no form
    if not isinstance(key, str | int | float):
        raise TypeError(f"a key is of type {type(key).__qualname__}")
    return key


def nan_at(value: Any, path: str = "result") -> str:
    """Return where the first NaN or infinity is in a value of built-in types; "" if there is none."""
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return where
        stack += [(f"{where}{step}", part) for step, part in _parts(item)][::-1]
    return ""


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r:.60}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
