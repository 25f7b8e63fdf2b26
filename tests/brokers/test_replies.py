"""When all replies to a question are there, and what is said while some are missing."""

import pytest

from mqworker.amqp import headers
from mqworker.amqp.properties import Properties
from mqworker.brokers.replies import Replies


def block(part: int | str | None, parts: int | None) -> bytes:
    told = Properties()
    if part is not None:
        told.headers[headers.PART], told.headers[headers.PARTS] = part, parts
    return told.encode()


@pytest.mark.parametrize(
    ("told", "whole", "came"),
    [
        ([], False, "nobody has replied"),
        ([(None, None)], True, "1 of 0 results came"),
        ([(1, 1)], True, "1 of 1 results came"),
        ([(1, 3), (2, 3)], False, "2 of 3 results came"),
        ([(2, 3), (2, 3)], False, "1 of 3 results came"),
        ([(3, 3), (1, 3), (2, 3)], True, "3 of 3 results came"),
        ([(1, 3), (2, 3), (1, 2)], False, "1 of 2 results came"),
        ([(1, 3), (2, 3), (1, 2), (2, 2)], True, "2 of 2 results came"),
        ([(1, 3), ("one", 3)], True, "1 of 3 results came"),
        ([(4, 3)], True, "1 of 0 results came"),
    ],
)
def test_all_are_there_when_no_result_of_the_newest_attempt_is_missing(told, whole, came):
    """In any order, and perhaps twice; one that names no part is the only one."""
    replies = Replies()
    answers = [replies.add(block(part, parts), b"%d" % number) for number, (part, parts) in enumerate(told)]
    assert answers == [False] * (len(told) - 1) + [whole] * bool(told)
    assert whole or replies.came == came


def test_they_are_in_the_order_of_the_results():
    """Whatever order they came in."""
    replies = Replies()
    for part in (3, 1, 2):
        replies.add(block(part, 3), b"%d" % part)
    assert [body for _, body in replies.all()] == [b"1", b"2", b"3"]
