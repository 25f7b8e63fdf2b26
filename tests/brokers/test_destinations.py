"""Where publications go, and when a destination that did not answer is tried again."""

import pytest

from mqworker.brokers.base import Publication
from mqworker.brokers.rabbitmq.destinations import RETRY_SILENT, SilentDestinations, destination

FIRST, LONGEST = RETRY_SILENT
HERE, THERE = ("", "here"), ("direct", "there")


@pytest.mark.parametrize(
    ("publication", "expected"),
    [
        (Publication("", "results", b"", b""), ("", "results")),
        (Publication("direct", "key", b"", b""), ("direct", "key")),
        (Publication("", "in", b"", b"", delay=4), ("", "in.retry.4s")),
    ],
)
def test_a_delayed_publication_goes_to_a_delay_queue(publication, expected):
    """All others go where they say."""
    assert destination("in", publication) == expected


def test_a_silent_destination_is_closed_for_ever_longer_until_it_answers():
    """The wait doubles up to a bound with each silence; others stay open; an answer opens it, and waits start small."""
    silent, now, waits = SilentDestinations(), 100.0, []
    for _ in range(6):
        silent.add(HERE, now)
        wait = next(wait for wait in range(1, 1000) if not silent.closed(HERE, now + wait))
        waits.append(wait)
        assert silent.closed(HERE, now + wait - 0.5)
        assert not silent.closed(THERE, now)
        now += wait
    assert waits == [min(LONGEST, FIRST * 2**n) for n in range(6)]
    silent.remove(HERE)
    assert not silent.closed(HERE, now)
    silent.add(HERE, now)
    assert not silent.closed(HERE, now + FIRST)


def test_one_publication_shows_whether_it_answers_again():
    """When the wait is over a single one passes; until its answer or the next silence all others are refused."""
    silent = SilentDestinations()
    assert not silent.probe(HERE, 0.0)
    silent.add(HERE, 0.0)
    assert silent.probe(HERE, FIRST)
    assert silent.closed(HERE, FIRST + 0.1)
    assert not silent.closed(HERE, 2 * FIRST)
