"""A wall clock that can jump: loaded by every Python process of a service whose PYTHONPATH names this folder.

The file that MQWORKER_TEST_CLOCK names holds the seconds to add. Monotonic clocks stay as they are, as when an operator
or NTP sets the clock of a machine. (libfaketime 0.9.10 makes every `time.sleep` of Python 3.11 fail where it is to
leave the monotonic clock alone.)
"""

import os
import time
from pathlib import Path

_file = Path(os.environ["MQWORKER_TEST_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _ahead() -> int:
    return int(_file.read_text() or 0)


time.time = lambda: _time() + _ahead()
time.time_ns = lambda: _time_ns() + _ahead() * 1_000_000_000
