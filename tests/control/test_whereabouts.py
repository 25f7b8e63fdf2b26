"""Where a message is, in one sentence: from what the stages answered."""

import pytest

from mqworker.control.whereabouts import Where, where, where_now
from mqworker.ipc.inspection import MessageAnswer, Trace

NOW, WALL = 1_000.0, 1_700_000_000.0  # 22:13:20 UTC
FAILED = {"reason": "error", "error_type": "ValueError", "error": "no frame", "place": "jobs.py:4 in handle"}
WHY = "error: ValueError: no frame (jobs.py:4 in handle)"
AWAY = "it waits in the queue, or another service has it"


@pytest.mark.parametrize(
    ("trace", "state", "sentence"),
    [
        (Trace("held", received=998.0), "in_hand", "waits for a Consumer, for 2 s"),
        (Trace("out", attempt=2, begun=990.0, slot=1), "in_hand", "in hand for 10 s in Consumer 1, attempt 2"),
        (
            Trace("out", received=990.0, slot=1),
            "in_hand",
            "waits in Consumer 1 behind other messages, or for a shared object, for 10 s",
        ),
        (Trace("computed", slot=1), "in_hand", "computed in Consumer 1, and waits for its turn to be published"),
        (Trace("placing", slot=1), "in_hand", "computed in Consumer 1, and on its way to the broker"),
        (Trace("placing", error="full"), "in_hand", "computed, and on its way to the broker: full"),
        (
            Trace("kept"),
            "in_hand",
            "its outcome is kept: the connection was lost, and the broker has to deliver it again",
        ),
        (Trace("delayed", attempt=3, due=1_004.0), "retry", "waits in its place for attempt 3, which is due in 4 s"),
        (
            Trace("retried", finished=990.0, due=1_004.0, **FAILED),
            "retry",
            f"attempt 1: {WHY}, at 22:13:10 UTC; the next attempt is due in 4 s",
        ),
        (
            Trace("retried", finished=990.0, due=997.0),
            "retry",
            f"attempt 1: failed, at 22:13:10 UTC; the next attempt was due 3 s ago: {AWAY}",
        ),
        (Trace("renewed", settled=990.0), "retry", "put back into the queue as a new message at 22:13:10 UTC"),
        (
            Trace("dead", settled=990.0, attempt=3, **FAILED),
            "dead",
            f"dead since 22:13:10 UTC: attempt 3: {WHY}",
        ),
        (
            Trace("result", settled=990.0, finished=989.9, duration=0.25, slot=0),
            "settled",
            "settled at 22:13:10 UTC with a result, after 250 ms in Consumer 0",
        ),
        (Trace("dropped", settled=990.0 - 86_400), "settled", "settled at 2023-11-13 22:13:10 UTC without a result"),
    ],
    ids=lambda value: value.state if isinstance(value, Trace) else "",
)
def test_each_state_has_its_sentence(trace, state, sentence):
    """It says what an operator wants to know next: for how long, where, why, when again."""
    assert where(MessageAnswer(1, (Trace("held"), trace)), NOW, WALL)[:2] == (state, sentence)


@pytest.mark.parametrize(
    ("looked", "letters", "gone"), [(9.0, [], True), (11.0, [], False), (None, [], False), (9.0, ["a"], False)]
)
def test_a_letter_that_has_left_its_queue_is_no_longer_there(looked, letters, gone):
    """Only a look after a message's death that has not found its letter tells that it is no longer in the queue."""
    place = where(MessageAnswer(1, (Trace("dead", settled=990.0, **FAILED),)), NOW, WALL)
    told = where_now({"a": place}, looked, letters)
    assert told.state == "dead"
    assert told.sentence.endswith("; no longer in the dead-letter queue") is gone


def test_an_unknown_message_may_be_forgotten_and_that_is_said():
    """How far back each stage remembers, and whether the dead letters were looked through."""
    places = {"a": where(MessageAnswer(1, (), 10_000, 940.0), NOW, WALL)}
    told = where_now(places, None, [])
    assert told.state == "unknown"
    assert "it is still in a queue, was never here, or is forgotten: settled before that" in told.sentence
    assert "stage a: not in hand, nor among the 10,000 messages settled since 22:12:20 UTC" in told.sentence
    assert "dead letters were not all looked through" in told.sentence
    assert "no dead letter as of 4 s ago" in where_now(places, 4.0, []).sentence
    many = where_now(dict.fromkeys("abcd", places["a"]), None, [])
    assert "none of 4 stages has it in hand, or remembers it" in many.sentence
    silent = where_now({}, None, [], ["b"])
    assert (silent.state, "stage b: no answer; dead letters" in silent.sentence) == ("unknown", True)


@pytest.mark.parametrize(
    ("states", "letters", "expected"),
    [
        (("settled", "in_hand"), (), "in_hand"),
        (("settled", "retry"), (), "retry"),
        (("settled", "dead"), (), "dead"),
        (("settled", "settled"), (), "settled"),
        (("unknown", "settled"), (), "settled"),
        (("unknown", "unknown"), ("a",), "dead"),
        (("in_hand", "unknown"), ("a",), "in_hand"),
    ],
)
def test_of_several_stages_the_one_counts_that_has_it(states, letters, expected):
    """A message goes down the line with its id: what is not over counts, of two alike the later stage."""
    places = {name: Where(state, f"{state} here") for name, state in zip("ab", states, strict=True)}
    told = where_now(places, 0.0, letters)
    assert told.state == expected
    if expected == states[1]:
        assert told.sentence == f"stage b: {expected} here"
