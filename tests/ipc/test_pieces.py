"""Large results, taken out of their outcomes and put back."""

import pytest

from mqworker.ipc.consumer_messages import LARGE, Failure, Outcome, Outcomes, ResultMessage
from mqworker.ipc.pieces import put_back, take_out

A, B = b"a" * (LARGE + 1), b"b" * (LARGE + 2)


def outcome(*bodies: bytes | None) -> Outcome:
    return Outcome(1, 0.5, 7, tuple(ResultMessage(b"properties", body, "key") for body in bodies), "caller")


@pytest.mark.parametrize(
    ("bodies", "large"),
    [((), []), ((None,), []), ((b"x" * LARGE, b""), []), ((A,), [A]), ((b"x", A, None, B, b""), [A, B])],
)
def test_what_is_taken_out_can_be_put_back(bodies, large):
    """Only what is large is taken out, and everything is as it was after that."""
    without, taken = take_out(outcome(*bodies))
    assert taken == large
    assert all(len(result.body or b"") <= LARGE for result in without.results)
    assert put_back(Outcomes([without], 7), taken).outcomes == [outcome(*bodies)]


@pytest.mark.parametrize("bodies", [[], [A], [A, B[1:]], [B, A], [A, b""]])
@pytest.mark.parametrize(
    ("problem", "reason"), [(None, "error"), (ValueError("torn"), "error"), (MemoryError(), "memory")]
)
def test_what_is_not_whole_fails_its_message_and_no_other(bodies, problem, reason):
    """Whatever is missing, no result of the message is published, and the reason is told."""
    without, _ = take_out(outcome(A, b"x", B))
    failed, other = Outcome(2, 0.1, 7, failure=Failure("error", "ValueError", "no")), outcome(b"small")
    arrived = put_back(Outcomes([failed, other, without], 7, taken=3, ended=2, rss=5), bodies, problem)
    assert arrived.outcomes[:2] == [failed, other]
    last = arrived.outcomes[2]
    assert (last.seq, last.generation, last.results, last.failure.reason) == (1, 7, (), reason)
    assert "torn" in last.failure.message or not isinstance(problem, ValueError)
    assert (arrived.taken, arrived.ended, arrived.rss) == (3, 2, 5)


def test_a_failure_needs_no_pieces():
    """What has come before a failure is dropped."""
    failed = Outcomes([Outcome(2, 0.1, 7, failure=Failure("error", "ValueError", "no"))], 7)
    assert put_back(failed, [A]) == failed
