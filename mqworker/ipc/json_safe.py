"""Values of unknown origin (user code, headers of foreign clients) made fit for MessagePack and JSON.

Pure; runs in every process. Nothing is dropped: what has no form of its own is shown as text.
"""

import math
from typing import Any


def text(value: str) -> str:
    """Return valid UTF-8 text; lone surrogates (bytes that were none) become escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def scalar(value: Any, longest: int) -> bool | int | float | str | None:
    """Return a field of a log event: numbers stay numbers, all else is text of at most so many characters.

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
    """Return a message's property or header, as deep as it is: text is made valid, bytes become text with escapes."""
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
