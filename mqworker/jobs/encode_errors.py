"""Finds the part of a result that could not be encoded, for the sentence in the dead letter.

Runs in Consumers after an encoder has failed; pure. It tries the encoder on each part and descends into the first part
that fails, for a bounded number of steps. Never raises: a result may be any object.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

_MAX_STEPS = 32


def describe_unencodable(value: Any, encode: Callable[[Any], bytes], error: Exception) -> str:
    """Return e.g. "result['a'][0] is a generator"; `error` is what the encoder raised."""
    path = "result"
    with suppress(Exception):
        for _ in range(_MAX_STEPS):
            if isinstance(value, dict):
                key = next((key for key in value if not _encodes({key: None}, encode)), path)
                if key is not path:
                    return f"{path} has the key {_short(key)} of type {_name(type(key))}"
            found = next((part for part in _parts(value) if not _encodes(part[1], encode)), None)
            if found is None:
                break
            step, value = found
            path += step
    detail = ""
    with suppress(Exception):
        detail = f" ({str(error)[:200]})" if str(error) else ""
    return f"{path} is of type {_name(type(value))}{detail}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{_short(key)}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)


def _encodes(value: Any, encode: Callable[[Any], bytes]) -> bool:
    try:
        encode(value)
    except Exception:  # noqa: BLE001 - a result may raise anything
        return False
    return True


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
