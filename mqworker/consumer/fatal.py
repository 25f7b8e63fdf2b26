"""Ends the process when a function fails that must not: otherwise a message would be in hand for ever.

For functions that run on the loop or in a thread beside a message, where nothing else sees an exception. The Producer
notices the death, and everything in hand runs again.
"""

import functools
import os
import traceback
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def fatal(function: Callable[P, None]) -> Callable[P, None]:
    """Return a function that ends the process instead of raising anything."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except BaseException:  # noqa: BLE001 - user code has damaged our state
            traceback.print_exc()
            os._exit(1)

    return guarded
