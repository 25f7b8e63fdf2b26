"""What the tests put into every Python process of a service, which has this folder on its PYTHONPATH.

Semaphores get the test's mark into their names, so that a test finds what its own service left behind, whatever else
runs on the machine. With MQWORKER_TEST_CLOCK the wall clock can jump: the file of that name holds the seconds to add.
Monotonic clocks stay as they are, as when an operator or NTP sets the clock of a machine. (libfaketime 0.9.10 makes
every `time.sleep` of Python 3.11 fail where it is to leave the monotonic clock alone.)

With MQWORKER_TEST_TIME="service.lifecycle:SILENT=8" a time that no setting has is shorter or longer, for a test of
what comes after it.

With MQWORKER_TEST_BROKEN shared objects forget what they should remember, sources store positions too soon, or
Producers leak a descriptor with each Consumer.
"""

import importlib
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


def _store_too_soon() -> None:
    """Let each position of a source be stored with an item of long before."""
    from mqworker.sources.handover import Handover  # noqa: PLC0415 - only where it is broken

    hand_over, held = Handover.put, []

    def late(self, publication, record) -> None:
        held.append(publication)
        if len(held) > 200:
            hand_over(self, held.pop(0), record)

    Handover.put = late


def _leak() -> None:
    """Let each lane of a Producer leave a descriptor open."""
    from mqworker.producer.lane import Lane  # noqa: PLC0415 - only where it is broken

    begin = Lane.__init__

    def leaking(self, *arguments, **named) -> None:
        os.dup(0)
        begin(self, *arguments, **named)

    Lane.__init__ = leaking


def _hurry(told: str) -> None:
    """Set the constant of a module; fails if there is none of this name any more."""
    name, _, value = told.partition("=")
    module, _, constant = name.partition(":")
    found = importlib.import_module(f"mqworker.{module}")
    assert hasattr(found, constant), told
    number = float(value)
    counts = type(getattr(found, constant)) is int and number.is_integer()
    setattr(found, constant, int(number) if counts else number)


def _break(what: str) -> None:
    """Turn off what keeps a promise: a negative control (tests/chaos/once.py and sources.py, tests/rounds)."""
    if what in {"positions", "lanes"}:
        (_store_too_soon if what == "positions" else _leak)()
        return
    from mqworker.shared_state.memory import CallMemory  # noqa: PLC0415 - only where it is broken

    if what == "remembering":
        CallMemory.find = lambda *_: None
    else:
        _, *others = CallMemory.__init__.__defaults__
        CallMemory.__init__.__defaults__ = (0, *others)


if "MQWORKER_TEST_BROKEN" in os.environ:
    _break(os.environ["MQWORKER_TEST_BROKEN"])
if "MQWORKER_TEST_TIME" in os.environ:
    for one in os.environ["MQWORKER_TEST_TIME"].split():
        _hurry(one)
if "MQWORKER_TEST_CLOCK" in os.environ:
    _jumping(Path(os.environ["MQWORKER_TEST_CLOCK"]))
