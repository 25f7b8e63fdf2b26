"""Which lanes get messages, by tables: the roster asks a lane for a few plain facts."""

from types import SimpleNamespace

import pytest

from mqworker.producer.code_switch import CodeSwitch, Staff
from mqworker.producer.roster import Roster
from mqworker.producer.stacks import lane_of, why_none

NEW, OLD, CANDIDATE = 3, 2, 4


class Facts(SimpleNamespace):
    """What the roster reads of a lane."""

    def __init__(self, number=1, state="idle", code=NEW, seats=None, taken=True, busy=0.0, slot=0):
        super().__init__(number=number, state=state, code=code, seats=seats, busy=busy, slot=slot, pid=70 + number)
        self.open = state == "busy" and taken

    def busy_seconds(self, now):
        return self.busy + now


def seats(room=1, closed_at=0.0):
    return SimpleNamespace(room=0 if closed_at else room, closed_at=closed_at)


def roster(*lanes, leaving=(), update="switch"):
    """Code NEW is in use, CANDIDATE is set up beside it; OLD was in use before, and stays at work but in a switch."""
    switch = CodeSwitch(update)
    switch.want(Staff(2, OLD, OLD, update=update), 0.0, looping=False)
    switch.want(Staff(2, OLD, OLD, NEW, NEW, update=update), 0.0, looping=False)
    switch.want(Staff(2, NEW, NEW, update=update), 1.0, looping=False)
    switch.want(Staff(2, NEW, NEW, CANDIDATE, CANDIDATE, update=update), 2.0, looping=False)
    made = Roster(switch)
    made.lanes = {lane.number: lane for lane in lanes}
    made.seated = {lane.number: lane for lane in lanes if lane.seats is not None}
    made.leaving = set(leaving)
    return made


@pytest.mark.parametrize(
    ("lane", "leaving", "gets"),
    [
        (Facts(), (), "idle"),
        (Facts(state="busy"), (), "open"),
        (Facts(state="busy", taken=False), (), ""),  # its Consumer has not taken its chunk yet
        (Facts(state="starting"), (), ""),
        (Facts(state="leaving"), (), ""),
        (Facts(state="dead"), (), ""),
        (Facts(), (1,), ""),
        (Facts(state="busy"), (1,), ""),
        (Facts(code=CANDIDATE), (), ""),  # set up, and at work once it is committed
        (Facts(code=OLD), (), ""),
        (Facts(seats=seats()), (), "seats"),
        (Facts(state="busy", seats=seats()), (), "seats"),
        (Facts(state="busy", seats=seats(room=0)), (), "seats"),  # to be looked at; it has no room now
        (Facts(state="starting", seats=seats()), (), ""),
        (Facts(seats=seats(closed_at=5.0)), (), ""),
        (Facts(seats=seats()), (1,), ""),
        (Facts(seats=seats(), code=CANDIDATE), (), ""),
    ],
)
def test_a_lane_gets_messages_in_the_one_way_that_suits_its_consumer(lane, leaving, gets):
    """Neither one that leaves nor one whose code is not at work gets any, whatever its state."""
    one = roster(lane, leaving=leaving)
    found = {"idle": list(one.idle()), "open": list(one.open()), "seats": [each for each, _ in one.with_seats()]}
    assert found == {way: [lane] if way == gets else [] for way in found}
    assert one.vacant == (gets == "idle" or (gets == "seats" and lane.seats.room > 0))


def test_code_of_before_works_on_where_consumers_are_replaced_one_by_one():
    """In a switch it does not, from the moment at which the new code is committed."""
    lanes = [Facts(1, code=NEW), Facts(2, code=OLD), Facts(3, code=CANDIDATE), Facts(4, state="starting")]
    assert [lane.number for lane in roster(*lanes, update="rolling").idle()] == [1, 2]
    assert roster(*lanes, update="rolling").working() == 2
    assert [lane.number for lane in roster(*lanes).idle()] == [1]
    assert roster(*lanes).working() == 1


def test_the_busy_time_of_dead_consumers_stays_counted():
    """The utilisation of a stage must not fall because a Consumer was recycled."""
    first, second = Facts(1, busy=5.0), Facts(2, state="busy", seats=seats(), busy=1.0)
    one = roster(first, second, leaving=(2,))
    assert one.busy() == [second]
    assert one.busy_seconds(10.0) == 26.0
    one.remove(second, 10.0)
    assert one.busy_seconds(20.0) == 11.0 + 25.0
    assert (one.lanes, one.seated, one.leaving) == ({1: first}, {}, set())


@pytest.mark.parametrize(
    ("lanes", "meant"),
    [
        ((), None),
        ((Facts(1, slot=1),), None),
        ((Facts(1, "dead"),), None),
        ((Facts(1), Facts(2, code=CANDIDATE)), 1),  # a change is prepared: the newer one gets no message
        ((Facts(1, "busy"), Facts(2, code=CANDIDATE)), 1),
        ((Facts(1, code=OLD), Facts(2)), 2),
        ((Facts(1, code=OLD), Facts(2, "starting")), 1),
        ((Facts(1), Facts(2)), 2),
        ((Facts(1, "leaving"), Facts(2, "starting")), 2),
        ((Facts(1, "leaving"),), 1),
    ],
)
def test_which_of_two_consumers_in_a_slot_is_meant(lanes, meant):
    """The one that gets messages or has one; of equal ones the newest."""
    found = lane_of(roster(*reversed(lanes)), 0)
    assert (found and found.number) == meant


OTHER = Facts(9, slot=3)


@pytest.mark.parametrize(
    ("lanes", "pid", "named", "why"),
    [
        ((Facts(1), Facts(2, code=CANDIDATE)), 71, 1, ""),
        ((Facts(1), Facts(2, code=CANDIDATE)), 72, 2, ""),  # it is prepared
        ((Facts(1, code=OLD), Facts(2)), 71, 1, ""),  # it is kept while the new code is on trial
        ((Facts(1, "leaving"), Facts(2, "starting")), 71, 1, ""),
        ((Facts(1, "busy"),), 79, None, "pid 79 is Consumer 3, not Consumer 0: nothing is done to it"),
        ((Facts(1, "dead"), Facts(2)), 71, None, "Consumer 0 is another process by now (pid 72, not 71)"),
        ((Facts(1), Facts(2)), 99, None, "Consumer 0 is another process by now (pid 71 and 72, not 99)"),
        ((), 71, None, "there is no Consumer 0; known: 3"),
        ((Facts(1, "dead"),), 71, None, "there is no Consumer 0; known: 3"),
    ],
)
def test_a_pid_says_which_consumer_in_a_slot_is_meant(lanes, pid, named, why):
    """Also a spare one; a pid that has ended, or is another Consumer's, names none, and a sentence says which it is."""
    one = roster(*lanes, OTHER)
    found = lane_of(one, 0, pid)
    assert (found and found.number) == named
    if why:
        sentence, unknown = why_none(one, 0, pid)
        assert sentence.startswith(why)
        assert unknown == why.startswith("there is no")
