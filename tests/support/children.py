"""Children of the test process: those that a test has left behind, and one that has just died."""

import os
import signal

from mqworker.ipc.child import living


def end_children() -> set[int]:
    """Kill and reap every child that is not reaped yet, also a stopped one; return their pids: a test fails by them."""
    left = set(living)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        living.discard(pid)
    return left


def await_zombie(pid: int) -> None:
    """Wait until a child is dead, while the loop stands still and cannot reap it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
