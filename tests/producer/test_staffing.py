"""Staffing: which Consumers are started and which leave, also while code is replaced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.stop_budget import LEAVE
from mqworker.producer.code_switch import PATIENCE, TRIAL, TRIES, Staff
from mqworker.producer.staffing import EXCUSED_MAX, Action, ConsumerFacts, Kill, Retire, Staffing, Start

DEADLINE = 600.0  # for setting up


def one(lane: int, state: str = "idle", code: int = 1, **facts) -> ConsumerFacts:
    """Return a Consumer in the slot of its lane's number."""
    defaults = {"slot": lane, "since": 0.0, "replace": False, "leaving": False}
    return ConsumerFacts(lane=lane, state=state, code=code, **(defaults | facts))


def staffed(consumers: int, code: int = 1, candidate: int = 0, update: str = "switch") -> Staffing:
    """Return a Staffing that wants this."""
    staffing = Staffing(DEADLINE)
    staffing.want(Staff(consumers, code, 0, candidate, candidate, update), 0.0)
    return staffing


def switched(consumers: int = 2, update: str = "switch") -> Staffing:
    """Return a Staffing at time 0, right after the commit of code 2 in the place of code 1."""
    staffing = staffed(consumers, 1, 2, update)
    staffing.want(Staff(consumers, 2, update=update), 0.0)
    return staffing


OLD, NEW = [one(0), one(1)], [one(2, code=2, slot=0), one(3, code=2, slot=1)]


@pytest.mark.parametrize(
    ("wanted", "consumers", "actions"),
    [
        pytest.param(3, [], [Start(0, 1), Start(1, 1), Start(2, 1)], id="from nothing: all at once"),
        pytest.param(2, OLD, [], id="as wanted"),
        pytest.param(2, [one(1)], [Start(0, 1)], id="the lowest free slot"),
        pytest.param(1, [one(0, "busy"), one(1)], [Retire(1)], id="fewer: the idle goes before the busy"),
        pytest.param(0, [one(0, "busy"), one(1, "starting")], [Retire(1), Retire(0)], id="none"),
        pytest.param(2, [one(0), one(1, leaving=True), one(2, slot=1)], [], id="a successor has the slot at once"),
        pytest.param(1, [one(0, "busy"), one(1, "busy")], [Retire(1)], id="fewer: the highest slot goes"),
        pytest.param(1, [one(0, "starting"), one(1)], [], id="fewer: not before the others are ready"),
        pytest.param(1, [one(1)], [Start(0, 1)], id="a slot beyond the number is replaced by one within it"),
        pytest.param(1, [one(1), one(2, slot=0)], [Retire(1)], id="and goes then"),
        pytest.param(1, [one(0, replace=True)], [Start(0, 1)], id="one that is to be replaced"),
        pytest.param(1, [one(0, replace=True), one(1, slot=0)], [Retire(0)], id="it goes when the new one is ready"),
        pytest.param(
            2,
            [one(0, replace=True), one(1, "busy", replace=True), one(2, slot=1)],
            [Start(0, 1), Retire(1)],
            id="the one goes whose slot was taken over",
        ),
        pytest.param(1, [one(0, leaving=True)], [Start(0, 1)], id="one that leaves does not count"),
        pytest.param(1, [one(0), one(1, code=9)], [Retire(1)], id="one whose code nobody wants"),
        pytest.param(
            1,
            [one(0, "starting", since=-DEADLINE - 1)],
            [Kill(0, "its import and `setup` took longer than setup_deadline, 600 s")],
            id="one that is not set up in time",
        ),
        pytest.param(
            0,
            [one(0, "leaving", leaving=True, since=-LEAVE - 1)],
            [Kill(0, "it did not end within 10 s")],
            id="one that does not leave in time",
        ),
    ],
)
def test_what_is_decided(wanted, consumers, actions):
    """The desired and the actual Consumers lead to these actions."""
    assert staffed(wanted).decide(consumers, 0.0) == actions


@pytest.mark.parametrize(
    ("update", "wanted", "consumers", "actions"),
    [
        pytest.param("switch", 2, OLD, [Start(0, 2)], id="switch: beside those at work, a few at a time"),
        pytest.param("switch", 8, [one(n) for n in range(8)], [Start(0, 2), Start(1, 2)], id="switch: a quarter"),
        pytest.param("switch", 2, [*OLD, one(2, "starting", 2, slot=0)], [], id="switch: not more at the same time"),
        pytest.param("switch", 2, [*OLD, NEW[0]], [Start(1, 2)], id="switch: the next"),
        pytest.param("switch", 2, OLD + NEW, [], id="switch: all stay until the commit"),
        pytest.param("switch", 1, OLD + NEW, [Retire(1), Retire(3)], id="switch: scaling resizes both"),
        pytest.param("switch", 0, [], [Start(0, 2)], id="switch: without Consumers one is tried"),
        pytest.param("switch", 2, [one(0), one(1, replace=True)], [Start(1, 1), Start(0, 2)], id="switch: recycling"),
        pytest.param("rolling", 2, OLD, [Start(0, 2)], id="rolling: one"),
        pytest.param("rolling", 2, [*OLD, NEW[0]], [], id="rolling: and no more until the commit"),
        pytest.param("old-first", 2, OLD, [Retire(1)], id="old-first: one leaves"),
        pytest.param("old-first", 2, [one(0, "leaving", leaving=True), one(1)], [], id="old-first: until it is gone"),
        pytest.param("old-first", 2, [one(1)], [Start(0, 2)], id="old-first: then one is set up"),
        pytest.param("old-first", 2, [one(1), one(0, "starting", 2)], [], id="old-first: in its place"),
        pytest.param("old-first", 2, [], [Start(0, 1), Start(1, 2)], id="old-first: none is there, as in a crash loop"),
        pytest.param("old-first", 1, [one(0, "busy")], [Retire(0)], id="old-first: the only one, too"),
    ],
)
def test_a_candidate_is_set_up(update, wanted, consumers, actions):
    """Its Consumers come as the update says, and those at work stay."""
    assert staffed(wanted, 1, 2, update).decide(consumers, 0.0) == actions


@pytest.mark.parametrize(
    ("update", "consumers", "actions"),
    [
        pytest.param("switch", OLD + NEW, [], id="switch: the old stay, and get nothing, while the code is on trial"),
        pytest.param("switch", [*OLD, NEW[0]], [Start(1, 2)], id="switch: one that died is started again"),
        pytest.param("rolling", [*OLD, NEW[0]], [Start(1, 2), Retire(0)], id="rolling: an old one goes for a new one"),
        pytest.param("rolling", [one(1), NEW[0], one(3, "starting", 2, slot=1)], [], id="rolling: one at a time"),
        pytest.param("rolling", [one(1), *NEW], [Retire(1)], id="rolling: the last"),
        pytest.param("old-first", [one(0), NEW[1]], [Retire(0)], id="old-first: the next one leaves"),
        pytest.param("old-first", [one(0, "leaving", leaving=True), NEW[1]], [], id="old-first: until it is gone, too"),
        pytest.param("old-first", [NEW[1]], [Start(0, 2)], id="old-first: then the next one starts"),
    ],
)
def test_a_committed_change_is_completed(update, consumers, actions):
    """New Consumers take the place of the old ones, as the update says."""
    assert switched(update=update).decide(consumers, 0.0) == actions


def test_who_gets_messages():
    """With `switch` one code alone, at every moment; with the others also those that are not yet replaced."""
    staffing = staffed(2, 1, 2)
    assert staffing.switch.at_work == {1}
    staffing.want(Staff(2, 2), 0.0)
    assert (staffing.switch.at_work, staffing.switch.on_trial) == ({2}, True)
    assert switched(update="rolling").switch.at_work == {1, 2}
    assert staffed(2, 1, 2, "old-first").switch.at_work == {1}


def test_the_trial_ends_with_the_first_message_or_with_time():
    """Then the old Consumers leave; they do not stay for ever while there is no message either."""
    both = OLD + NEW
    proved = switched()
    proved.prospered(0, 1)
    assert proved.switch.on_trial, "the old code says nothing about the new"
    proved.prospered(2, 2)
    assert (proved.switch.on_trial, proved.decide(both, 0.0)) == (False, [Retire(1), Retire(0)])
    waiting = switched()
    assert waiting.decide(both, TRIAL) == [Retire(1), Retire(0)]
    assert waiting.switch.on_trial, "its first message is still to come"
    waiting.switch.fed(2, 100.0)
    waiting.decide(NEW, 100.0 + TRIAL + 1)
    assert not waiting.switch.on_trial


def test_a_death_on_trial_is_the_codes_and_stops_all_until_there_is_an_answer():
    """Nobody gets messages and nothing starts; a later success changes nothing; without an answer it goes on."""
    staffing = switched()
    assert not staffing.switch.killed(1, "the old code", 0.0)
    assert staffing.switch.killed(2, "it died", 1.0)
    assert staffing.switch.killed(2, "another one died", 1.0)
    staffing.prospered(3, 2)
    assert (staffing.switch.failed, staffing.switch.at_work, staffing.decide([*OLD, NEW[0]], 2.0)) == (
        "it died",
        set(),
        [],
    )
    back = switched()
    back.switch.killed(2, "it died", 1.0)
    back.want(Staff(2, 1), 1.0)
    assert (back.switch.at_work, back.switch.failed, back.switch.on_trial) == ({1}, "", False)
    assert back.decide(OLD + NEW, 1.0) == [Retire(2), Retire(3)]
    assert staffing.decide([*OLD, NEW[0]], 1.0 + PATIENCE + 0.1) == [Start(1, 2), Retire(0)]
    assert (staffing.switch.at_work, staffing.switch.failed) == ({2}, "")
    assert not staffing.switch.killed(2, "it died", 9.0), "now the message is charged"
    rolling = switched(update="rolling")
    rolling.switch.killed(2, "it died", 1.0)
    assert rolling.switch.at_work == {1}


@pytest.mark.parametrize("unfit", [True, False])
def test_code_on_trial_that_cannot_be_set_up_again_has_failed(unfit):
    """Without a message in hand, too: the Consumers of before are still there."""
    staffing = switched()
    for _ in range(1 if unfit else TRIES):
        assert not staffing.switch.failed
        staffing.died(2, 2, 1.0, fruitful=False, problem="it died", unfit=unfit)
    assert (staffing.switch.failed, staffing.switch.at_work) == ("it died", set())
    blameless = switched()
    for _ in range(TRIES):
        blameless.died(2, 2, 1.0, fruitful=False, problem="it died", limit=True)
        blameless.died(3, 2, 1.0, fruitful=False, problem="it died", attributed=True)
    assert not blameless.switch.failed


def test_other_parameters_end_the_trial():
    """They were accepted by the new code alone: there is no way back any more."""
    staffing = switched()
    staffing.switch.killed(2, "it died", 1.0)
    staffing.want(Staff(2, 2, 7), 1.0)
    assert (staffing.switch.on_trial, staffing.switch.failed, staffing.switch.at_work) == (False, "", {2})


def test_an_old_first_that_gets_stuck_keeps_the_rest_at_work():
    """The second new Consumer cannot be set up: no third one leaves for it."""
    staffing = switched(4, "old-first")
    consumers = [one(0), one(1), one(2, code=2)]
    for _ in range(5):
        staffing.prospered(2, 2)
        staffing.died(3, 2, 0.0, fruitful=False, problem="it died", unfit=True)
    assert (staffing.decide(consumers, 0.1), staffing.switch.at_work) == ([], {1, 2})


def test_a_crash_loop_that_new_code_has_cured_is_over():
    """However it was replaced."""
    staffing = staffed(1, 1, 2, "rolling")
    for _ in range(9):
        staffing.died(0, 1, 0.0, fruitful=False, problem="it died")
    assert staffing.crash_loop
    staffing.want(Staff(1, 2, update="rolling"), 0.0)
    staffing.decide([one(2, code=2)], 0.0)
    assert (staffing.crash_loop, staffing.switch.at_work, staffing.switch.over) == (False, {2}, True)


def test_a_failed_candidate_keeps_nobody_from_starting():
    """Its end may not be stored for a while: the disk is full."""
    staffing = staffed(2, 1, 2)
    staffing.died(2, 2, 0.0, fruitful=False, problem="it died", unfit=True)
    assert staffing.decide([one(0)], 9.0) == [Start(1, 1)]


def test_a_crash_loop_is_nothing_to_go_back_to():
    """A fix that crashes at its first message is charged as ever: the code before was no better."""
    staffing = staffed(1)
    for _ in range(9):
        staffing.died(0, 1, 0.0, fruitful=False, problem="it died")
    staffing.want(Staff(1, 1, 0, 2, 2), 0.0)
    staffing.want(Staff(1, 2), 0.0)
    assert (staffing.switch.on_trial, staffing.crash_loop, staffing.problem) == (False, False, "")


@pytest.mark.parametrize("ends", ["unfit", "died", "not started"])
def test_a_candidate_fails(ends):
    """One that says why is enough; others are tried a few times, whether they were ready or not."""
    staffing = staffed(2, 1, 2)
    for _ in range(1 if ends == "unfit" else TRIES):
        assert not staffing.switch.failed
        if ends == "not started":
            staffing.start_failed(2, 2, 0.0, "no memory")
        else:
            staffing.died(2, 2, 0.0, fruitful=False, problem="it died", unfit=ends == "unfit")
    assert staffing.switch.failed == (
        "a Consumer could not be started: no memory" if ends == "not started" else "it died"
    )
    assert staffing.decide(OLD + NEW, 0.0) == [Retire(3), Retire(2)]
    assert (staffing.problem, staffing.crash_loop) == ("", False), "those at work have none"
    staffing.want(Staff(2, 1, 0, 2, 3), 0.0)
    assert (staffing.switch.failed, staffing.decide(OLD, 0.0)) == ("", [Start(0, 2)]), (
        "with other parameters it is tried again"
    )
    staffing.want(Staff(2, 1), 0.0)
    assert staffing.decide(OLD + NEW, 0.0) == [Retire(2), Retire(3)]


def test_a_newer_candidate_ends_the_trial():
    """There are Consumers for two generations, not for three."""
    staffing = switched()
    staffing.want(Staff(2, 2, 0, 3, 3), 0.0)
    assert not staffing.switch.on_trial
    assert staffing.decide(OLD + NEW, 0.0) == [Start(0, 3), Retire(1), Retire(0)]
    assert not staffing.switch.killed(2, "it died", 0.0)


def test_as_wanted_asks_for_those_at_work():
    """With `switch` neither a candidate's Consumers count nor those that finish what they have."""
    assert staffed(2, 1, 2).as_wanted([*OLD, one(2, "starting", 2)])
    assert switched().as_wanted([one(0, "busy"), *NEW])
    assert not switched(update="rolling").as_wanted([one(0, "busy"), *NEW])
    assert not staffed(2).as_wanted([*OLD, one(2, "leaving", leaving=True)])
    assert not staffed(2).as_wanted([one(0), one(1, "starting")])
    assert staffed(2, 1, 2, "old-first").as_wanted([one(0), one(1, "starting", 2)])


def test_without_a_free_slot_nothing_starts():
    """The register has a bounded number of slots."""
    busy = [one(number, "busy") for number in range(2048)]
    assert staffed(2048, 1, 2).decide(busy, 0.0) == []


def test_a_slot_that_keeps_dying_waits_longer_each_time():
    """The first two starts are immediate; a slot that has finished a message restarts at once."""
    staffing = staffed(1)
    now, waits = 0.0, []
    for _ in range(6):
        staffing.died(0, 1, now, fruitful=False, problem="it died")
        started = now
        while not staffing.decide([], now):
            now += 0.25
        waits.append(now - started)
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    assert staffing.crash_loop
    assert staffing.problem == "it died"
    staffing.prospered(0, 1)
    assert not staffing.crash_loop
    assert staffing.problem == ""
    staffing.died(0, 1, now, fruitful=True, problem="")
    assert staffing.decide([], now) == [Start(0, 1)]


def test_a_slot_that_is_not_wanted_any_more_is_no_crash_loop():
    """Scaled down, the stage is well; scaled up again, the slot is where it was, and holds up no other meanwhile."""
    staffing = staffed(3)
    for _ in range(9):
        staffing.died(1, 1, 0.0, fruitful=False, problem="its device is gone")
    assert (staffing.crash_loop, staffing.decide([one(0)], 0.1)) == (True, [Start(2, 1)])
    staffing.want(Staff(1, 1), 0.1)
    assert not staffing.crash_loop
    staffing.want(Staff(3, 1), 0.1)
    assert (staffing.crash_loop, staffing.decide([one(0)], 0.1)) == (True, [Start(2, 1)])


def test_a_known_killer_costs_its_slot_nothing_unless_nothing_else_happens():
    """The good messages behind a few killers do not wait for a Consumer; a stage of killers alone is a crash loop."""
    staffing = staffed(2)
    for _ in range(5):
        for slot in [0, 1] * (EXCUSED_MAX // 2):
            staffing.died(slot, 1, 0.0, fruitful=False, problem="it died", attributed=True)
        assert staffing.decide([], 0.0) == [Start(0, 1), Start(1, 1)]
        staffing.prospered(0, 1)  # a good message between them
    deaths = 0
    while not staffing.crash_loop:
        staffing.died(0, 1, 0.0, fruitful=False, problem="it died", attributed=True)
        deaths += 1
    assert deaths == EXCUSED_MAX + 5
    assert staffing.decide([], 0.0) == [Start(1, 1)], "a slot holds up no other"
    assert staffing.problem == "it died"


def test_new_code_deserves_a_new_chance():
    """Other code does not wait for the deaths of the code before."""
    staffing = staffed(1)
    for _ in range(9):
        staffing.start_failed(0, 1, 0.0, "no memory")
    assert staffing.decide([], 0.1) == []
    staffing.want(Staff(1, 2), 0.1)
    assert staffing.decide([], 0.1) == [Start(0, 2)]
    assert not staffing.crash_loop
    assert staffing.problem == ""


def apply(consumers: list[ConsumerFacts], actions: list[Action], lanes: int) -> list[ConsumerFacts]:
    """Carry out the actions: started Consumers are ready, retired ones are gone."""
    gone = {action.lane for action in actions if not isinstance(action, Start)}
    new = [
        one(lanes + at, "idle", action.code, slot=action.slot)
        for at, action in enumerate(actions)
        if isinstance(action, Start)
    ]
    return [consumer for consumer in consumers if consumer.lane not in gone] + new


updates = st.sampled_from(["switch", "rolling", "old-first"])
orders = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["scale", "wear", "commit", "undo"])), min_size=1, max_size=6
)


@given(updates, orders, st.booleans())
def test_it_arrives_at_what_is_wanted_and_keeps_working_on_the_way(update, orders, proves):
    """From any state, number and code are soon the desired ones, and the slots those from 0 to one below the number.

    Meanwhile two Consumers have the same slot only while one replaces the other, with `old-first` never. While some
    Consumers are desired and some were at work, at least one is, all the time; with `old-first` that holds for two and
    more, and there are never more than are desired.
    """
    staffing, consumers, code, lanes = Staffing(DEADLINE, update), [], 1, 0
    for wanted, order in orders:
        steps = [Staff(wanted, code, update=update)]
        if order == "wear":
            consumers = [each._replace(replace=True) for each in consumers]
        if order in ("commit", "undo"):
            steps += [Staff(wanted, code, 0, code + 1, code + 1, update)]
            code += order == "commit"
            steps += [Staff(wanted, code, update=update)]
        for step in steps:
            had = len([each for each in consumers if each.code in staffing.switch.at_work])
            staffing.want(step, 0.0)
            if proves:
                staffing.prospered(0, step.code)
            for _ in range(60):
                actions = staffing.decide(consumers, 0.0)
                if not actions:
                    break
                consumers = apply(consumers, actions, lanes)
                lanes += 40
                kinds = [() if update == "old-first" else (each.code, each.replace) for each in consumers]
                assert len({(each.slot, kind) for each, kind in zip(consumers, kinds, strict=True)}) == len(consumers)
                working = [each for each in consumers if each.code in staffing.switch.at_work]
                if update == "old-first":
                    assert len(consumers) <= max(1, wanted, had)
                    assert working or min(had, wanted) < 2
                else:
                    assert working or not min(had, wanted)
            assert not staffing.decide(consumers, 0.0)
            candidates = sum(each.code == step.candidate for each in consumers)
            assert candidates == staffing.switch.candidates_wanted
        assert staffing.as_wanted(consumers)
        assert {each.slot for each in consumers if each.code == step.code} == set(range(wanted))


def test_one_that_is_to_be_replaced_says_nothing_of_its_successors():
    """While it goes on with its work, successors in its slot that cannot be set up are a crash loop, with pauses."""
    staffing, now, starts = staffed(1), 0.0, 0
    worn = one(0, replace=True)
    while now < 4.0:
        now += 0.02
        staffing.prospered(0, 1, going=True)
        for action in staffing.decide([worn], now):
            assert isinstance(action, Start)
            starts += 1
            staffing.died(0, 1, now, fruitful=False, problem="no", unfit=True)
    assert starts < 10
    assert (staffing.crash_loop, staffing.problem) == (True, "no")


def test_two_in_one_slot_are_one_too_many():
    """Whatever led to it: the slots come to be 0 and 1 again, and until then the number is not as wanted."""
    staffing = staffed(2)
    twice = [one(0), one(1, slot=0)]
    assert not staffing.as_wanted(twice)
    assert staffing.decide(twice, 0.0) == [Start(1, 1), Retire(1)]
