"""What a message costs, by count (see guard)."""

import copy

import pytest

from tests.benchmarks import guard

ACCEPTED = guard.accepted()
pytestmark = pytest.mark.skipif(ACCEPTED is None, reason=f"guard.json has no counts for Python {guard.VERSION}")


def more(mode, process, function, calls):
    """What was accepted, and so many calls a message of one function more."""
    changed = copy.deepcopy(ACCEPTED)
    counts = changed[mode][process]
    counts[function] = counts.get(function, 0.0) + calls
    return changed


@pytest.mark.system
@pytest.mark.untraced
def test_a_message_costs_no_more_calls_than_was_accepted():
    """Neither a further system call for each message nor a sixth more work in Producer or Consumer comes unnoticed."""
    found = guard.risen(guard.counted(), ACCEPTED)
    assert not found, "\n".join([*found, guard.HOW])


@pytest.mark.parametrize("mode", guard.MESSAGES)
@pytest.mark.parametrize("process", guard.PROCESSES)
def test_what_rose_is_named(mode, process):
    """One more system call a message is noticed and named; what was accepted, and a bit more, is not."""
    function = "<built-in method posix.stat>"
    calls = ACCEPTED[mode][process].get(function, 0.0)
    rise = 1.2 if mode == guard.BACKLOG else max(1.0, guard.PART * calls) + 0.2
    [told] = guard.risen(more(mode, process, function, rise), ACCEPTED)
    assert told.startswith(f"{process}, messages {mode}: ")
    assert function in told
    assert guard.risen(ACCEPTED, ACCEPTED) == guard.risen(more(mode, process, function, 0.3), ACCEPTED) == []


@pytest.mark.parametrize("process", guard.PROCESSES)
def test_many_small_rises_are_noticed(process):
    """A fifth more calls all over is too much, even if no single function stands out."""
    changed = copy.deepcopy(ACCEPTED)
    for name in changed[guard.ONE_BY_ONE][process]:
        changed[guard.ONE_BY_ONE][process][name] *= 1.2
    assert len(guard.risen(changed, ACCEPTED)) == 1


def test_more_turns_of_a_busy_machine_are_no_rise():
    """A backlog in more turns of the loop, each of which costs what it costs with one message, is accepted."""
    alone = ACCEPTED[guard.ONE_BY_ONE]["Producer"]
    changed = copy.deepcopy(ACCEPTED)
    counts = changed[guard.BACKLOG]["Producer"]
    for name, calls in alone.items():
        counts[name] = counts.get(name, 0.0) + 0.5 * calls
    assert guard.risen(changed, ACCEPTED) == []


def test_a_function_that_moves_costs_nothing():
    """What is called in another module as often as before is no rise; what is called there more often is one."""
    changed = copy.deepcopy(ACCEPTED)
    counts = changed[guard.BACKLOG]["Producer"]
    name = next(name for name, calls in counts.items() if ":" in name and calls >= 1)
    counts[f"elsewhere.py:{name.rpartition(':')[2]}"] = counts.pop(name)
    assert guard.risen(changed, ACCEPTED) == []
    counts[f"elsewhere.py:{name.rpartition(':')[2]}"] += 3
    assert len(guard.risen(changed, ACCEPTED)) == 1
