"""What the tests put into every Python process of a service, which has this folder on its PYTHONPATH.

Semaphores get the test's mark into their names, so that a test finds what its own service left behind, whatever else
runs on the machine. With MQWORKER_TEST_CLOCK the wall clock can jump: the file of that name holds the seconds to add.
Monotonic clocks stay as they are, as when an operator or NTP sets the clock of a machine. (libfaketime 0.9.10 makes
every `time.sleep` of Python 3.11 fail where it is to leave the monotonic clock alone.)
"""

import multiprocessing.process
import os
import time
from pathlib import Path

# multiprocessing hands this setting down to every process that it starts.
multiprocessing.process.current_process()._config["semprefix"] = f"/mp-{os.environ['MQWORKER_TEST_MARK']}"


def _jumping(file: Path) -> None:
    real, real_ns = time.time, time.time_ns

    def ahead() -> int:
        return int(file.read_text() or 0)

    time.time = lambda: real() + ahead()
    time.time_ns = lambda: real_ns() + ahead() * 1_000_000_000


if "MQWORKER_TEST_CLOCK" in os.environ:
    _jumping(Path(os.environ["MQWORKER_TEST_CLOCK"]))
