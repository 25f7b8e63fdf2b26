"""Where in the code a failure happened: the place by which failures are grouped, "file:line in function".

Pure; used in Consumers on tracebacks, and in the Producer and the broker admin on texts. The place is the innermost
frame of the user's own code; failing that, the innermost outside any library; failing that, the innermost of all; but
never one of mqworker or the import system; "" if there is none. A file of the user's is named relative to the folder of
the code, if that is known. An interruption (a time limit) hits the handler wherever it happens to be, so its place has
no line: otherwise each would be a fault of its own. Never raises.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import NamedTuple

from mqworker.jobs.code_finder import LIBRARIES, name_of
from mqworker.jobs.failures import is_ours

LIMIT = 200  # characters
LONGEST = 16 << 10  # characters of a traceback that are read: its innermost part
_MOST = 10_000  # frames of a traceback that are examined
_FRAME = re.compile(r'^ *File "([^"\n]+)", line (\d+),? in ([^\n]+)$', re.MULTILINE)
_INNERMOST_FIRST = "(most recent call first)"  # faulthandler writes this for each thread
_CRASHED = "Current thread 0x"


class _Frame(NamedTuple):
    file: str
    line: int
    function: str


def place_of(tb: TracebackType | None, *, interrupted: bool = False) -> str:
    """Return the place of an exception, in the process that has imported the user's code."""
    return _place(list(_frames(tb)), (), interrupted)


def place_in(text: str, folders: Sequence[str] = (), *, interrupted: bool = False) -> str:
    """Return the place that is shown in a traceback written by Python or faulthandler.

    `folders`: the folder of the user's code, and that of its copy.
    """
    _, crashed, rest = text.partition(_CRASHED)
    stack = rest.partition("\nThread 0x")[0] if crashed else text
    innermost_first = _INNERMOST_FIRST in stack
    stack = stack[:LONGEST] if innermost_first else stack[-LONGEST:]  # the text may come from anywhere
    found = [_Frame(file, int(line[:9]), function) for file, line, function in _FRAME.findall(stack)]
    if innermost_first:
        found.reverse()
    return _place(found, folders, interrupted)


def _frames(tb: TracebackType | None) -> Iterator[_Frame]:
    for _ in range(_MOST):
        if tb is None:
            return
        code = tb.tb_frame.f_code
        yield _Frame(code.co_filename, tb.tb_lineno, code.co_name)
        tb = tb.tb_next


def _place(outermost_first: Sequence[_Frame], folders: Sequence[str], interrupted: bool) -> str:
    frames = [frame for frame in reversed(outermost_first) if not is_ours(frame.file)]
    named = chain(  # lazily, because only the first one counts
        ((name, frame) for frame in frames if (name := _own(frame.file, folders)) is not None),
        ((frame.file.rpartition("/")[2], frame) for frame in frames if not _in_library(frame.file)),
        ((_in_its_library(frame.file), frame) for frame in frames),
    )
    name, frame = next(named, ("", None))
    if frame is None:
        return ""
    line = "" if interrupted else f":{frame.line}"
    place = f"{name}{line} in {frame.function}".encode("utf-8", "backslashreplace").decode()
    return "".join(each if each.isprintable() else "?" for each in place[-LIMIT:])


def _in_library(file: str) -> bool:
    return file.startswith("<") or any(part in file for part in LIBRARIES)


def _in_its_library(file: str) -> str:
    for part in LIBRARIES:
        _, found, rest = file.rpartition(part)
        if found:
            return rest if part.endswith("/") else rest.partition("/")[2]  # the version follows
    return file


def _own(file: str, folders: Sequence[str]) -> str | None:
    """Return the name of a user's file relative to the folder of the code; None if it is one of a library."""
    name = name_of(file)
    if name is None and not _in_library(file):
        below = (file.removeprefix(f"{folder.rstrip('/')}/") for folder in folders)
        name = next((each for each in below if each != file), None)
    return name
