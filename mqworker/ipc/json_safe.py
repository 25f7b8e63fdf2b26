"""Converts values of unknown origin (user code, headers of foreign clients) for MessagePack and JSON.

Pure; runs in every process. Drops nothing: what neither format can represent becomes text.
"""

import math
from typing import Any


def text(value: str) -> str:
    """Return valid UTF-8 text; lone surrogates (from undecodable bytes) become escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def scalar(value: Any, longest: int) -> bool | int | float | str | None:
    """Return a field of a log event: numbers stay numbers, anything else becomes text of at most `longest` characters.

    Raises whatever the value's `__repr__` raises.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    return text(value if isinstance(value, str) else repr(value))[:longest]


def tree(value: Any) -> Any:
    """Return a message's property or header with valid text at every depth; bytes become text with escapes."""
    match value:
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case str():
            return text(value)
        case dict():
            return {text(name): tree(item) for name, item in value.items()}
        case list():
            return [tree(item) for item in value]
    return value
