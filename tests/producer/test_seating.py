"""Seating: who gets messages among Consumers that work on several at once, and what begins beside one that may kill."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.producer.seating import KEPT, WINDOW, WORTH, Alone, Give, KeptSuccessor, Seating, roomiest, seat, window

NOW = 1000.0
MANY = 10**6


def lane(number, room, began=(), *, is_open=True, alone=False, kept=False):
    return Seating(number, room, is_open, began, alone, kept)


@pytest.mark.parametrize(
    ("lanes", "ready", "alone", "most", "gives"),
    [
        pytest.param([], 5, [15.0], MANY, [], id="nobody is there"),
        pytest.param([lane(1, 4)], 2, [], MANY, [Give(1, 2)], id="one gets all that is ready"),
        pytest.param([lane(1, 4)], 9, [], MANY, [Give(1, 4)], id="one gets no more than it has free seats"),
        pytest.param(
            [lane(1, 2), lane(2, 7)], 1, [], MANY, [Give(2, 1)], id="the one with most free seats comes first"
        ),
        pytest.param([lane(1, 8), lane(2, 8)], 5, [], MANY, [Give(1, 3), Give(2, 2)], id="they share what is ready"),
        pytest.param(
            [lane(1, 8), lane(2, 1)], 8, [], MANY, [Give(1, 4), Give(2, 1)], id="a share is no more than fits"
        ),
        pytest.param([lane(1, 4, is_open=False)], 5, [], MANY, [], id="a chunk is not taken yet"),
        pytest.param(
            [lane(1, 4, is_open=False), lane(2, 4), lane(3, 2)],
            9,
            [15.0],
            MANY,
            [Give(2, 1, 0), Give(3, 2)],
            id="one that is alone does not wait for a lane that may be frozen",
        ),
        pytest.param([lane(1, 4)], 5, [], 3, [Give(1, 3)], id="the output queue has room for three"),
        pytest.param([lane(1, 4)], 5, [15.0], 0, [], id="the output queue is full"),
        pytest.param([lane(1, 3, alone=True), lane(2, 2)], 9, [], MANY, [Give(2, 2)], id="beside one that is alone"),
        pytest.param([lane(1, 4, kept=True), lane(2, 2)], 9, [], MANY, [Give(2, 2)], id="one is kept empty"),
        pytest.param([lane(1, 4)], 9, [15.0], MANY, [Give(1, 1, 0)], id="an empty one takes one that is alone"),
        pytest.param(
            [lane(1, 3, [NOW - 14.9]), lane(2, 2, [NOW - 1, NOW - 9])],
            9,
            [15.0],
            MANY,
            [Give(2, 2)],
            id="the one that is ready first is reserved",
        ),
        pytest.param(
            [lane(1, 3, [NOW - 15]), lane(2, 2, [NOW - 14])],
            9,
            [15.0],
            MANY,
            [Give(1, 1, 0), Give(2, 2)],
            id="its messages have run for a window",
        ),
        pytest.param(
            [lane(1, 3, [0.0]), lane(2, 3, [NOW - 1])],
            9,
            [15.0],
            MANY,
            [Give(1, 3)],
            id="one that has not begun is young",
        ),
        pytest.param(
            [lane(1, 3, [NOW - 3]), lane(2, 0, [NOW - 99])],
            9,
            [15.0],
            MANY,
            [],
            id="a full one is not reserved, however old its messages are",
        ),
        pytest.param(
            [lane(1, 3, [NOW - 5]), lane(2, 4, kept=True)],
            9,
            [5.0],
            MANY,
            [Give(2, 1, 0), Give(1, 3)],
            id="one that is kept is taken before one that is ready too",
        ),
        pytest.param(
            [lane(1, 3, [NOW - 6]), lane(2, 3, [NOW - 4]), lane(3, 1), lane(4, 1)],
            9,
            [60.0, 5.0],
            MANY,
            [Give(3, 1, 0), Give(4, 1, 1), Give(1, 3), Give(2, 3)],
            id="two are alone in two of four",
        ),
        pytest.param(
            [lane(1, 3), lane(2, 3, alone=True), lane(3, 3)],
            9,
            [15.0],
            MANY,
            [Give(1, 3), Give(3, 3)],
            id="one of three serves one, and no more do",
        ),
    ],
)
def test_who_gets_what(lanes, ready, alone, most, gives):
    """Most free seats first, each its share; one that must be alone goes where it can begin first."""
    assert seat(lanes, ready, [Alone(each) for each in alone], NOW, most) == gives


seatings = st.builds(
    Seating,
    lane=st.integers(1, 10**6),
    room=st.integers(0, 5),
    open=st.booleans(),
    began=st.lists(st.sampled_from([0.0, NOW - 30, NOW - 15, NOW - 2, NOW]), max_size=4),
    alone=st.booleans(),
    kept=st.booleans(),
)


@given(
    st.lists(seatings, max_size=6, unique_by=lambda each: each.lane),
    st.integers(0, 30),
    st.lists(st.builds(Alone, st.sampled_from([1.0, WINDOW, 60.0]), st.booleans()), max_size=4),
    st.integers(0, 30),
)
def test_whatever_there_is(lanes, ready, apart, most):
    """Nobody gets more than it has room for, and nothing begins beside one that is alone."""
    gives = seat(lanes, ready, apart, NOW, most)
    by_number = {each.lane: each for each in lanes}
    assert len({give.lane for give in gives}) == len(gives)
    assert sum(give.most for give in gives) <= most
    assert sum(give.most for give in gives if give.alone is None) <= ready
    alone = [give.alone for give in gives if give.alone is not None]
    assert alone == sorted(set(alone))
    for give in gives:
        taker = by_number[give.lane]
        assert taker.open
        assert not taker.alone
        assert 1 <= give.most <= taker.room
        if give.alone is not None:
            assert give.most == 1
            assert apart[give.alone].killer or not taker.kept
            assert all(began and NOW - began >= apart[give.alone].window for began in taker.began)
        else:
            assert not taker.kept
    serving = sum(each.alone for each in lanes) + len(alone)
    assert not alone or serving <= max(1, len(lanes) // 2)
    if not apart and most >= ready and not any(each.alone or each.kept for each in lanes):
        room = sum(each.room for each in lanes if each.open)
        assert sum(give.most for give in gives) == min(ready, room), "a seat is free and a message waits"


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.floats(0.1, 90.0), min_size=1, max_size=40),
    st.sampled_from([1.0, WINDOW, 40.0]),
)
def test_one_that_must_be_alone_begins_within_a_window(seats, durations, seconds):
    """However long the others run, and although free seats are filled at once, it waits for one window at most.

    It counts from when a seat is free for it: where messages of an hour hold all of them, nothing can begin.
    """
    step, now, last = 0.5, NOW, 0
    running = {number: [] for number in range(1, len(seats) + 1)}  # by lane: when each began, and when it ends
    free_since = None
    lengths = iter(durations * 1000)

    def refill(begin):
        nonlocal last
        facts = [
            lane(number, seats[number - 1] - len(there), [began for began, _ in there])
            for number, there in running.items()
        ]
        for give in seat(facts, MANY, [Alone(seconds)] if begin else [], now, MANY):
            if give.alone is not None:
                return give.lane
            running[give.lane] += [(now, now + next(lengths)) for _ in range(give.most)]
        return None

    refill(begin=False)
    while True:
        for number, there in running.items():
            running[number] = [each for each in there if each[1] > now]
        if free_since is None and any(len(there) < seats[number - 1] for number, there in running.items()):
            free_since = now
        chosen = refill(begin=True)
        if chosen is not None:
            break
        now += step
        assert free_since is None or now <= free_since + seconds + step
    assert all(now - began >= seconds for began, _ in running[chosen])


def test_one_that_is_only_doubted_does_not_take_what_is_kept_for_a_killer():
    """The killer is about to come back; the doubted one goes elsewhere, or waits for as long."""
    kept = lane(1, 4, kept=True)
    assert seat([kept], 9, [Alone(2.0, killer=False)], NOW, MANY) == []
    assert seat([kept], 9, [Alone(2.0, killer=False), Alone(WINDOW)], NOW, MANY) == [Give(1, 1, 1)]
    others = [lane(2, 4, [NOW - 3]), lane(3, 4), lane(4, 4)]
    assert seat([kept, *others], 2, [Alone(2.0, killer=False)], NOW, MANY) == [Give(3, 1, 0), Give(2, 1), Give(4, 1)]


def test_a_suspect_of_the_stage_goes_where_most_seats_are_free():
    """It needs a seat and an open lane; who else is in hand there has been looked at before."""
    assert roomiest([lane(1, 2), lane(2, 3), lane(3, 9, is_open=False)]) == 2
    assert roomiest([lane(1, 0)]) is None


def test_the_window_of_a_doubted_message_follows_its_age():
    """A second more than at the deaths, 15 s at most at first, four times as much with each further one."""
    assert [window(0.0, 2), window(3.0, 2), window(3600.0, 2), window(3600.0, 3)] == [1.0, 4.0, 15.0, 60.0]
    assert window(3600.0, 9) == 3601.0


def test_a_successor_is_kept_for_a_message_that_has_killed():
    """The first that is ready after a charged death, until one that is alone begins there, or 3 s have passed."""
    successor = KeptSuccessor()
    successor.ready(1, 100.0)
    assert successor.kept(100.0) == 0, "nobody has killed"
    successor.killed(101.0)
    successor.ready(2, 101.3)
    successor.ready(3, 101.4)
    assert successor.kept(102.0) == 2, "one only"
    successor.ended(3, 102.1)
    successor.ended(2, 102.2)
    assert successor.kept(102.2) == 0, "it has come"
    successor.killed(102.3)
    successor.ready(4, 102.6)
    assert successor.kept(103.5) == 4, "three crashes end within some seconds"
    assert successor.kept(105.2) == 0, "it has gone to another instance"
    successor.killed(105.3)
    successor.ready(5, 105.4)
    assert successor.kept(105.4) == 0, "not in a row for ever"
    successor.ready(6, 109.0)
    assert successor.kept(109.0) == 0, "that death is forgotten"
    successor.killed(110.0)
    successor.ready(7, 110.0 + KEPT)
    assert successor.kept(110.0 + KEPT) == 0, "the message waits already"


@given(st.lists(st.tuples(st.sampled_from(["killed", "ready", "ended", "look"]), st.floats(0.0, 4.0)), max_size=60))
def test_whatever_kills_consumers_are_kept_for_half_of_the_time_at_most(events):
    """A stream of messages that kill cannot keep Consumers empty all the time."""
    successor, now, number, kept, began = KeptSuccessor(), NOW, 0, 0.0, NOW
    for what, seconds in events:
        for start, end in pairwise([now, *(now + seconds * part / 20 for part in range(1, 21))]):
            kept += (end - start) * bool(successor.kept(start))
        now += seconds
        if what == "killed":
            successor.killed(now)
        elif what == "ready":
            number += 1
            successor.ready(number, now)
        elif what == "ended":
            successor.ended(successor.lane, now)
        assert kept <= (now - began) / 2 + KEPT + 1e-6
        assert successor.kept(now) in (0, number) or number > 1
    assert 0 < WORTH < KEPT
