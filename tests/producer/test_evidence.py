"""The report about a dead Consumer: its stack, its output, and out of memory only if the kernel may have killed it."""

import signal

import pytest

from mqworker.ipc.spawn import Death
from mqworker.producer.evidence import describe, oom_kills, split_stack

OTHER = 'Thread 0x00007f2f93dfe6c0 (most recent call first):\n  File "/lib/threading.py", line 982 in run\n'
CURRENT = 'Current thread 0x00007f2f9c3d1b80 (most recent call first):\n  File "work.py", line 7 in work\n'
FATAL = f"Fatal Python error: Segmentation fault\n\n{OTHER}\n{CURRENT}"
MODULES = "Extension modules: numpy.linalg._umath_linalg (total: 1)\n"
RAISED = 'Traceback (most recent call last):\n  File "work.py", line 7, in work\nValueError: in Thread 0x1\n'


@pytest.mark.parametrize(
    ("output", "stack", "rest"),
    [
        ("", "", ""),
        ("hello\n", "", "hello\n"),
        (RAISED, "", RAISED),
        (FATAL, FATAL, ""),
        (f"before\n{FATAL}\n{MODULES}", f"{FATAL}\n{MODULES}", "before\n"),
        (f"no newline{FATAL}after\n", FATAL, "no newlineafter\n"),
        (f"{OTHER}\n{CURRENT}", f"{OTHER}\n{CURRENT}", ""),  # asked for by a signal
        (f"{OTHER}\n{CURRENT}{FATAL}", FATAL, f"{OTHER}\n{CURRENT}"),  # the last one counts
        (f"{RAISED}{CURRENT}  <no Python frame>", f"{CURRENT}  <no Python frame>", RAISED),
        ('ine 3 in f\n  File "work.py", line 4 in f\n  ...\n', 'ine 3 in f\n  File "work.py", line 4 in f\n  ...', ""),
    ],
)
def test_the_last_stack_is_told_from_the_output(output, stack, rest):
    """From what faulthandler and the handler wrote, exactly the last stack is extracted, whole."""
    assert split_stack(output) == (stack.strip(), rest)


@pytest.mark.parametrize(
    ("code", "doomed", "oom", "stack", "words"),
    [
        (-signal.SIGSEGV, "", False, True, "its Consumer killed by SIGSEGV"),
        (-signal.SIGKILL, "hard time limit of 1 s", True, True, "its Consumer was ended: hard time limit of 1 s"),
        (-signal.SIGKILL, "", True, False, "probably out of memory"),
        (-signal.SIGKILL, "", False, False, "its Consumer killed by SIGKILL"),
        (-signal.SIGTERM, "", True, False, "its Consumer killed by SIGTERM"),
        (0, "", True, False, "its Consumer exited with code 0"),
    ],
)
def test_evidence_says_no_more_than_can_be_told(code, doomed, oom, stack, words):
    """A stack is reported if there is one; out of memory only if the SIGKILL is not ours and the kernel killed."""
    output = f"begun\n{CURRENT}"
    failure = describe("crash", Death(code, 5 << 20), doomed, output, 1.5, oom=oom)
    assert words in failure.message
    assert failure.traceback == (CURRENT.strip() if stack else "")
    assert ("out of memory" in failure.message) == ("out of memory" in words)
    assert ("out of memory" in failure.exit) == ("out of memory" in words)
    assert "peak memory 5 MiB" in failure.exit
    assert "; after 1.500 s; output:\nbegun\n" in failure.exit
    assert (CURRENT in failure.exit) != stack
    ours = "work.py in work" if doomed else "work.py:7 in work"
    signal_or_code = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    assert failure.place == (ours if stack else signal_or_code), "it is grouped by that"


def test_the_kernels_count_can_be_read():
    """Every Linux system has a count to compare with."""
    assert oom_kills() >= 0
