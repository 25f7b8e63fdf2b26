"""The matrix's worker processes, with real processes and real signals: what each holds ends with the command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.matrix.workers import Failure, run_all
from tests.support.cli import environment
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from tests.matrix import test_workers as t, workers; workers.run_all(t.hold, [sys.argv[1:]], 1)"


def hold(notes: str, phase: str) -> None:
    """Do as a bench does: start a process that would outlive this one, and end it at the end; wait in one phase."""
    held = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        wait_in("working", phase, notes, held.pid)
    finally:
        wait_in("closing", phase, notes, held.pid)
        held.kill()
        held.wait()


def wait_in(this: str, phase: str, notes: str, pid: int) -> None:
    """Note the pid, and wait for a signal, if this is the phase."""
    if this == phase:
        Path(notes, "new").write_text(str(pid))
        Path(notes, "new").rename(Path(notes, phase))
        signal.pause()


@pytest.mark.parametrize(
    ("phase", "numbers"),
    [
        ("working", [signal.SIGINT]),
        ("working", [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]),
        ("closing", [signal.SIGTERM]),
    ],
)
def test_nothing_is_left_whenever_a_signal_comes(tmp_path, phase, numbers):
    """Also in the middle of the clean-up, and when another signal follows; the exit code names the signal."""
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, tmp_path, phase], cwd=ROOT, env=environment() | {"TMPDIR": str(tmp_path)}
    )
    try:
        wait_for((tmp_path / phase).exists, 30, f"the worker to be {phase}")
        for number in numbers:
            command.send_signal(number)
        assert command.wait(60) in {128 + number for number in numbers}
    finally:
        command.kill()
        command.wait()
    held = Path("/proc", (tmp_path / phase).read_text(), "cmdline")
    assert not held.exists() or not held.read_bytes(), "neither gone nor dead"
    assert [path.name for path in tmp_path.iterdir()] == [phase]


def test_each_call_is_answered():
    """With what it returns, or with why it did not return; neither keeps the others from being answered."""
    handler = signal.getsignal(signal.SIGINT)
    assert sorted(run_all(divmod, [(7, 2), (1, 0), (9, 2)], 2), key=str) == [
        (3, 1),
        (4, 1),
        Failure("ZeroDivisionError('integer division or modulo by zero')"),
    ]
    assert run_all(os._exit, [(3,)], 1) == [Failure("its process ended with 3")]
    assert signal.getsignal(signal.SIGINT) is handler
