"""The stacks that a Consumer writes, taken out of its output: bytes in, answer out."""

import pytest

from mqworker.producer.stacks import LOOK, MOST, QUIET, StackWatch, written

STACK = 'Current thread 0x00007f2f (most recent call first):\n  File "jobs.py", line 11 in stuck\n'
TASKS = 'message m-1, 2.5 s:\n  File "jobs.py", line 17, in later\n    await deep()\n\n'


@pytest.mark.parametrize(
    ("before", "after", "stack"),
    [
        ("", STACK, STACK.strip()),
        ("begun\n", f"begun\n{STACK}", STACK.strip()),
        (STACK, f"{STACK}{STACK}", STACK.strip()),
        ("begun\n", f"begun\n{STACK}printed meanwhile\n", STACK.strip()),
        ("begun\n", "begun\nprinted\n", ""),
        (STACK, STACK, ""),
        (f"{'x' * 99}\nend\n", f"end\n{STACK}", STACK.strip()),  # the oldest output was cut off
        ("begun\n", f"begun\n{STACK}{TASKS}", f"{STACK.strip()}\n\n{TASKS.strip()}"),
        ("begun\n", f"begun\n{TASKS}", TASKS.strip()),  # so many tasks that the threads were cut off
    ],
)
def test_what_was_written_is_told_from_what_was_there(before, after, stack):
    """Stacks of threads, then where each task waits; nothing of what was printed, and no earlier stack."""
    assert written(before, after) == stack


def test_a_stack_is_complete_when_nothing_more_comes():
    """It comes in pieces, and others print; after a second what is there is all."""
    watch = StackWatch("begun\n", 0.0)
    assert watch.look("begun\n", 0.1) is None
    half = f"begun\n{STACK[:60]}"
    assert watch.look(half, 0.2) is None
    assert watch.look(f"begun\n{STACK}", 0.2 + LOOK) is None
    assert watch.look(f"begun\n{STACK}", 0.2 + LOOK + QUIET) == STACK.strip()
    watch = StackWatch("begun\n", 0.0)
    assert watch.look("begun\n", MOST + 0.1) == ""
    watch, tail = StackWatch("", 0.0), STACK
    for look in range(int(MOST / LOOK) + 1):
        tail += "."
        assert watch.look(tail, look * LOOK) is None
    assert watch.look(tail, MOST + 0.1) == STACK.strip(), "one that never stops printing"
