"""Describes an exception of user code as bounded, valid UTF-8 text.

Runs in Consumers and code checks; pure. Never raises: an exception may fail to format itself, be gigabytes long, or
hold text that is not Unicode. Frames of mqworker and of the import system above the user's are left out.
"""

import os
import traceback
from types import TracebackType
from typing import Final, NamedTuple

from mqworker.jobs.code_finder import as_in_folder

MESSAGE_LIMIT: Final = 4_096  # bytes of UTF-8
TRACEBACK_LIMIT: Final = 16_384
_NAME_LIMIT: Final = 256
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120 - frames give strings
_MAX_FRAMES = 200


class Described(NamedTuple):
    """An exception in text: "ValueError" or "package.Type", its message, its traceback."""

    type: str
    message: str
    traceback: str


def describe(exc: BaseException) -> Described:
    """Describe an exception; never raises."""
    return Described(_type_name(type(exc)), message_of(exc), _traceback(exc))


def cut(text: str, limit: int) -> str:
    """Return `text` as at most `limit` bytes of UTF-8; a longer text is cut to its beginning and its end."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    mark = f"\n... {len(raw) - limit} bytes left out ...\n"
    room = limit - len(mark)
    tail = room // 2
    return raw[: room - tail].decode("utf-8", "ignore") + mark + raw[len(raw) - tail :].decode("utf-8", "ignore")


def _type_name(kind: type) -> str:
    try:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return cut(name, _NAME_LIMIT)
    except Exception:  # noqa: BLE001 - a metaclass may do anything
        return "an exception without a name"


def message_of(exc: BaseException) -> str:
    """Return the exception's message, cut to MESSAGE_LIMIT; never raises."""
    try:
        return cut(str(exc), MESSAGE_LIMIT)
    except BaseException as second:  # noqa: BLE001 - whatever __str__ raises, even SystemExit, must not end us
        return f"(its message cannot be shown: str() raised {_type_name(type(second))})"


def _traceback(exc: BaseException) -> str:
    try:
        shown = traceback.TracebackException(type(exc), exc, user_frames(exc.__traceback__), limit=-_MAX_FRAMES)
        return cut(as_in_folder("".join(shown.format())), TRACEBACK_LIMIT)
    except BaseException as second:  # noqa: BLE001 - as above
        return f"(its traceback cannot be shown: {_type_name(type(second))})"


def user_frames(tb: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins with the first frame that is neither ours nor importlib's."""
    while tb is not None and is_ours(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


def is_ours(filename: str) -> bool:
    """Whether a frame in this file is mqworker's or the import system's."""
    return filename.startswith((_OURS, "<frozen importlib")) or filename.endswith("/importlib/__init__.py")
