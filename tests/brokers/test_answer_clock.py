"""For how long a broker could have answered: tables of events."""

import pytest

from mqworker.brokers.rabbitmq.answer_clock import AnswerClock

TABLES = {
    "nothing is asked": ([], 100, 0),
    "a request waits from when it was made": ([("ask", 3)], 10, 7),
    "the oldest one counts": ([("ask", 3), ("ask", 5)], 10, 7),
    "the next one counts when that is answered": ([("ask", 3), ("ask", 5), ("answered", 3)], 10, 5),
    "none counts when all are": ([("ask", 3), ("answered", 3)], 10, 0),
    "an answer to what is not open is no matter": ([("ask", 3), ("answered", 9)], 10, 7),
    "while it blocks us, no time passes": ([("ask", 3), ("block", 5)], 1000, 0),
    "when it does so no more, time begins anew": ([("ask", 3), ("block", 5), ("unblock", 50)], 60, 10),
    "a request of after that has its own time": ([("block", 5), ("unblock", 50), ("ask", 55)], 60, 5),
    "what was still being taken had no answer yet": ([("ask", 3), ("caught_up", 8)], 10, 2),
}


@pytest.mark.parametrize(("events", "now", "longest"), TABLES.values(), ids=TABLES)
def test_the_time_in_which_it_could_not_answer_does_not_count(events, now, longest):
    """Of the oldest request without an answer; each is named by when it was made."""
    clock = AnswerClock[int]()
    for event, at in events:
        match event:
            case "ask":
                clock.ask(at, at)
            case "answered":
                clock.answered(at)
            case "caught_up":
                clock.caught_up(at)
            case _:
                clock.block(event == "block", at)
                assert clock.blocked == (event == "block")
    assert clock.longest(now) == longest
