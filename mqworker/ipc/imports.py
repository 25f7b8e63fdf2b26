"""The garbage collector while a process imports what it needs.

Runs in every process, on the main thread. What modules make stays until the process ends, so to look for garbage in it
is for nothing: it takes about a tenth of the time of a start, and, where the interpreter ends in order, once more as
much. So the collector rests during the imports, and leaves alone what they have made (`settle`).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

REST = "import gc; gc.disable()"  # the first statement of a process of ours; `settle` ends it


def settle() -> None:
    """End the rest: collect from now on, but never in what is there already."""
    gc.freeze()
    gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Let the collector rest while inside; for a process that has other things than modules in memory already."""
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()
