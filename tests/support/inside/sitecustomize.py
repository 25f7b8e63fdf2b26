"""What the tests put into every Python process of a service, which has this folder on its PYTHONPATH.

Semaphores get the test's mark into their names, so that a test finds what its own service left behind, whatever else
runs on the machine. With MQWORKER_TEST_CLOCK the wall clock can jump: the file of that name holds the seconds to add.
Monotonic clocks stay as they are, as when an operator or NTP sets the clock of a machine. (libfaketime 0.9.10 makes
every `time.sleep` of Python 3.11 fail where it is to leave the monotonic clock alone.)

With MQWORKER_TEST_TIME="service.lifecycle:SILENT=8" a time that no setting has is shorter or longer, for a test of
what comes after it.

With MQWORKER_TEST_BROKEN shared objects forget what they should remember, sources store positions too soon, or
Producers leak a descriptor with each Consumer.

With MQWORKER_TEST_COUNT each process that another one started counts how often it calls every function, in all threads,
and writes that into a file named by its pid in the folder of that name, when it gets SIGRTMIN + 5.
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


def _count(folder: Path) -> None:
    """Let every thread have a profiler of its own: the one of Python 3.11 belongs to a thread."""
    import cProfile  # noqa: PLC0415 - only where it counts
    import json  # noqa: PLC0415 - as above
    import signal  # noqa: PLC0415 - as above
    import sys  # noqa: PLC0415 - as above
    import threading  # noqa: PLC0415 - as above

    if "--multiprocessing-fork" not in sys.orig_argv:
        return
    profiles = []

    def begin(*_) -> None:
        sys.setprofile(None)
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    def name(code) -> str:
        if isinstance(code, str):
            return code.partition(" at 0x")[0]
        return f"{'/'.join(code.co_filename.rsplit('/', 2)[-2:])}:{code.co_name}"

    def write(*_) -> None:
        profiles[0].disable()  # that of the main thread, in which this runs: it does not count itself
        counts: dict[str, int] = {}
        for profile in tuple(profiles):
            for entry in profile.getstats():
                counts[name(entry.code)] = counts.get(name(entry.code), 0) + entry.callcount
        new = folder / f"{os.getpid()}.new"
        new.write_text(json.dumps(counts))
        new.replace(folder / f"{os.getpid()}")
        profiles[0].enable()

    threading.setprofile(begin)
    begin()
    signal.signal(signal.SIGRTMIN + 5, write)


if "MQWORKER_TEST_BROKEN" in os.environ:
    _break(os.environ["MQWORKER_TEST_BROKEN"])
if "MQWORKER_TEST_TIME" in os.environ:
    for one in os.environ["MQWORKER_TEST_TIME"].split():
        _hurry(one)
if "MQWORKER_TEST_CLOCK" in os.environ:
    _jumping(Path(os.environ["MQWORKER_TEST_CLOCK"]))
if "MQWORKER_TEST_COUNT" in os.environ:
    _count(Path(os.environ["MQWORKER_TEST_COUNT"]))
