"""Processes: tied to their parent, and examined when dead."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from mqworker.ipc.proc import rss
from mqworker.ipc.spawn import SPAWN, Death, Spawned, command_line, reap
from tests.support.waiting import wait_for

MIB = 1 << 20


class Child(Spawned):
    """Runs one of the functions below."""

    def __init__(self, act, *arguments):
        super().__init__(name="child")
        self._act, self._arguments = act, arguments

    def run(self):
        self._act(*self._arguments)


def leave(code):
    sys.exit(code)


def leave_at_once(code):
    os._exit(code)


def fail():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise ValueError


def die(number):
    os.kill(os.getpid(), number)
    signal.pause()


def grow(size):
    memory = b"x" * size
    os._exit(len(memory) and 0)


def wait():
    signal.pause()


@pytest.fixture
def start():
    """Start children, and end them with the test."""
    children = []

    def begin(act, *arguments):
        child = Child(act, *arguments)
        child.start()
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.join(30)
        child.close()


def death_of(child) -> Death:
    return wait_for(lambda: reap(child), 20, "the child's death")


@pytest.mark.parametrize(
    ("act", "arguments", "code", "words"),
    [
        (leave, (0,), 0, "exited with code 0"),
        (leave, (3,), 3, "exited with code 3"),
        (leave_at_once, (255,), 255, "exited with code 255"),
        (fail, (), 1, "exited with code 1"),
        (die, (signal.SIGKILL,), -9, "killed by SIGKILL"),
        (die, (signal.SIGSEGV,), -11, "killed by SIGSEGV"),
        (die, (signal.SIGRTMIN + 1,), -(signal.SIGRTMIN + 1), "killed by signal 35"),
    ],
)
def test_how_a_child_ended(start, act, arguments, code, words):
    """Exit codes and signals are reported as they were, also as text."""
    death = death_of(start(act, *arguments))
    assert death.code == code
    assert str(death).startswith(words)


def test_peak_memory_is_told(start):
    """A dead child's peak memory is evidence of running out of it; it is never below the parent's own peak."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 100 * MIB
    small, large = death_of(start(leave_at_once, 0)), death_of(start(grow, size))
    assert 5 * MIB < small.peak_rss < size < large.peak_rss < size + 100 * MIB
    assert f"peak memory {large.peak_rss / MIB:.0f} MiB" in str(large)


def test_reaping_never_waits_and_may_be_repeated(start):
    """A live child has no death; a dead one has the same death each time, and multiprocessing agrees."""
    child = start(wait)
    assert reap(child) is None
    assert reap(Child(wait)) is None
    wait_for(lambda: 5 * MIB < rss(child.pid) < 500 * MIB, 10, "the memory of a Python process")
    os.kill(child.pid, signal.SIGKILL)
    assert death_of(child).code == reap(child).code == child.exitcode == -9
    assert not child.is_alive()
    assert rss(child.pid) == 0


def test_a_child_that_somebody_else_reaped_is_dead_too(start):
    """Its exit code is lost, but it does not count as alive for ever."""
    child = start(leave_at_once, 0)
    os.waitpid(child.pid, 0)
    assert reap(child) == Death(255, 0)
    assert not child.is_alive()


def test_children_are_spawned_whatever_the_default_is(start):
    """A forked one would inherit locks and descriptors."""
    child = start(wait)
    wait_for(lambda: b"spawn_main" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), 10, "a fresh interpreter")
    assert SPAWN.get_start_method() == "spawn"


# --- the tie to the parent

FAMILY = """
import os, signal, sys, time
from mqworker.ipc.proc import rss
from mqworker.ipc.spawn import enter_child
parent = os.getpid()
ready, told = os.pipe()
child = os.fork()
if child == 0:
    {before}
    enter_child("mqw-test-name", parent, (signal.SIGTERM, signal.SIGINT))
    os.write(told, b"x")
    while True:
        signal.pause()
{parent}
"""


@contextlib.contextmanager
def family(parent: str, before: str = "pass", **more):
    code = FAMILY.format(parent=textwrap.dedent(parent), before=before)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_child_dies_with_its_parent():
    """The kernel kills it, however its parent ended."""
    with family("os.read(ready, 1); print(child, flush=True); signal.pause()") as parent:
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
        wait_for(lambda: gone(child), 5, "the child's end")


def test_a_child_whose_parent_is_already_gone_ends():
    """When the death signal was set too late, the parent's pid is another's, and the child exits by itself."""
    before = "os.read(0, 1) or [time.sleep(0.001) for _ in iter(lambda: os.getppid() == parent, False)]"
    with family("print(child, flush=True); os._exit(0)", before, stdin=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.wait(60)
        assert not gone(child)
        parent.stdin.close()
        wait_for(lambda: gone(child), 5, "the child's end")
        assert parent.stdout.read() == ""


def test_a_child_is_named_and_deaf_but_its_own_children_are_not():
    """Signals for the service do not end it; programs that user code starts have the default handlers."""
    script = """
        def status():
            return dict(line.split(":\\t") for line in open(f"/proc/{child}/status").read().splitlines())
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGINT)
        print(open(f"/proc/{child}/comm").read().strip(), flush=True)
        while int((fields := status())["ShdPnd"], 16):
            pass
        ignored = int(fields["SigIgn"], 16)
        print([bool(ignored >> number - 1 & 1) for number in (signal.SIGTERM, signal.SIGINT)])
        print(fields["State"][0] in "RS", os.waitpid(child, os.WNOHANG))
    """
    with family(script) as parent:
        assert parent.communicate(timeout=60)[0].splitlines() == ["mqw-test-name", "[False, False]", "True (0, 0)"]


@pytest.mark.parametrize("sent", [b"", b"\x80\x04\x95"])
def test_a_child_whose_parent_dies_before_it_has_begun_is_silent(sent):
    """It has the stderr of the Service still, whose log it would break with a traceback."""
    ours, theirs = os.pipe()
    tracker = resource_tracker.getfd()
    os.write(theirs, sent)
    os.close(theirs)
    with os.fdopen(ours, "rb"):
        done = subprocess.run(
            command_line(tracker_fd=tracker, pipe_handle=ours),
            pass_fds=(ours, tracker),
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
