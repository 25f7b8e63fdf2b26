"""Where a suspended coroutine is: the frames of all that it awaits. `Task.get_stack` returns only the first of them."""

import gc
import traceback
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

from mqworker.jobs.failures import is_ours

MOST = 64  # frames
_FRAME = ("cr_frame", "gi_frame", "ag_frame")
_NEXT = ("cr_await", "gi_yieldfrom", "ag_await")


def frames(awaited: Any) -> list[FrameType]:
    """Return the frames of a coroutine, the outermost first, as far as they can be found."""
    found: list[FrameType] = []
    while awaited is not None and len(found) < MOST:
        frame = _first(awaited, _FRAME)
        if frame is not None:
            found.append(frame)
        following = _first(awaited, _NEXT)
        if following is None and frame is None:  # only the garbage collector can see what is inside
            inside = gc.get_referents(awaited)
            following = next((each for each in inside if isinstance(each, AsyncGeneratorType | CoroutineType)), None)
        awaited = following
    return found


def text(found: list[FrameType]) -> str:
    """Return frames as a traceback shows them, beginning with the first one that is not mqworker's."""
    own = (number for number, frame in enumerate(found) if not is_ours(frame.f_code.co_filename))
    found = found[next(own, 0) :]
    lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in found)
    return "".join(lines.format())


def _first(of: Any, names: tuple[str, ...]) -> Any:
    return next((value for name in names if (value := getattr(of, name, None)) is not None), None)
