"""What /proc tells of a process."""

import os
import subprocess
import sys

import pytest

from mqworker.ipc.proc import DEAD, boot_id, rss, stat
from tests.support.waiting import wait_for

MIB = 1 << 20
NAMED = "import ctypes, sys; ctypes.CDLL(None).prctl(15, sys.argv[1].encode()); print(flush=True); input()"


@pytest.mark.parametrize("name", ["plain", ") Z 1 (", "two\nlines", "\xff"])
def test_whatever_its_name_a_process_is_told_from_a_dead_one(name):
    """A living one has memory; a zombie is dead with the same start time and no memory; one that was reaped is gone."""
    child = subprocess.Popen([sys.executable, "-c", NAMED, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline()
        living = stat(child.pid)
        assert (living.name, living.state in DEAD) == (name, False)
        assert 2 * MIB < rss(child.pid) < 500 * MIB
        child.kill()
        wait_for(lambda: stat(child.pid).state in DEAD, 10, "the end")
        assert (stat(child.pid).started, rss(child.pid)) == (living.started, 0)
    assert stat(child.pid) is None
    assert rss(child.pid) == 0


def test_a_process_started_later_has_a_later_start():
    """In clock ticks of 10 ms, which all count from one boot."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert stat(os.getpid()).started <= stat(child.pid).started
    assert len(boot_id()) == 36
