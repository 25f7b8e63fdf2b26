"""Which stage gives a Consumer to which: a table of decisions, and simulated stages under load."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.control.balance import EVERY, HOLD, LONGEST, PATIENCE, STARTS, TURN, Balance, Demand

BEAT = 0.5  # seconds between two looks of the service, and a step of the simulation
WINDOW = 10.0  # seconds over which arrivals are measured


def balance(budget, **stages):
    """Return a balance in which stages have these shares."""
    one = Balance()
    one.shares = dict(stages)
    one.fit(stages, budget)
    assert one.shares == stages
    one.settle({})
    return one


IDLE = Demand(0, 0.0, 0.1, ready=9)
STEADY = Demand(2, 39.0, 0.1, ready=9)  # 117 s of work in the next 30 s: 4 Consumers can just do it
LATE = Demand(1_000, 40.0, 0.1, ready=9)  # and 100 s that wait


@pytest.mark.parametrize(
    ("budget", "shares", "facts", "expected"),
    [
        (4, (2, 2), (IDLE, LATE), "ab"),
        (4, (2, 2), (LATE, IDLE), "ba"),
        (8, (4, 4), (IDLE, STEADY), None),
        (4, (1, 3), (IDLE, LATE), None),
        (4, (2, 2), (LATE, LATE), None),
        (8, (4, 4), (STEADY._replace(arrivals=26.0), LATE), "ab"),
        (8, (4, 4), (STEADY._replace(arrivals=28.0), LATE._replace(waiting=50)), None),
        (4, (2, 2), (IDLE, LATE._replace(waiting=0, arrivals=99.0)), None),
        (4, (2, 2), (IDLE, LATE._replace(steady=False)), None),
        (4, (2, 2), (IDLE._replace(steady=False), LATE), None),
        (6, (2, 2, 2), (IDLE, IDLE._replace(arrivals=1.0), LATE), "ac"),
        (6, (2, 2, 2), (IDLE._replace(prompt=False), IDLE._replace(arrivals=1.0), LATE), "bc"),
        (4, (2, 2), (IDLE._replace(prompt=False), LATE), "ab"),
        (1, (1, 0), (IDLE, LATE), "ab"),
        (48, (24, 24), (IDLE, LATE._replace(arrivals=400.0)), "ab"),
    ],
    ids=[
        *("to the late one", "either way", "what is just enough", "the last one stays", "equally late"),
        *("20 % less", "not 20 % less", "nothing waits", "a change there", "a change here", "the idlest gives"),
        *("who finishes soon gives first", "and who does not, if there is no other", "turns", "many"),
    ],
)
def test_one_moves_where_it_is_worth_it(budget, shares, facts, expected):
    """To the stage with the highest pressure above 30 s, if the giver's stays 20 % below it."""
    names = "abc"[: len(shares)]
    one = balance(budget, **dict(zip(names, shares, strict=True)))
    move = one.decide(dict(zip(names, facts, strict=True)), 0.0)
    assert (move and move.giver + move.receiver) == expected
    assert sum(one.shares.values()) == budget
    if move:
        assert move.why.startswith(f"one Consumer moves from {move.giver} (now {one.shares[move.giver]}) to ")


CALM = IDLE._replace(ready=3)


def test_who_has_received_keeps_it_for_a_while():
    """Thirty seconds from when its Consumer is set up, or ten times as long as that took."""
    for start_up, hold in ((1.0, HOLD), (6.0, STARTS * 6.0)):
        one = balance(6, a=3, b=3)
        assert one.decide({"a": IDLE, "b": LATE}, 100.0)
        one.settle({"a": 2, "b": 3})
        turned = {"a": LATE, "b": CALM}
        assert not one.decide(turned, 100.0)
        assert not one.decide(turned, 100.0 + start_up)
        assert not one.decide(turned | {"b": IDLE}, 100.0 + start_up)
        assert not one.decide(turned | {"b": IDLE}, 99.9 + start_up + hold)
        assert one.decide(turned | {"b": IDLE}, 100.0 + start_up + hold)


def test_the_time_until_the_givers_consumer_has_left_is_no_start_up():
    """It may end a message of an hour first: the receiver keeps its Consumer no longer than if that had been idle."""
    one = balance(6, a=3, b=3)
    assert one.decide({"a": IDLE, "b": LATE}, 0.0)
    one.settle({"a": 3, "b": 3})
    assert not one.decide({"a": CALM, "b": CALM}, 3_600.0)
    one.settle({"a": 2, "b": 3})
    assert not one.decide({"a": CALM, "b": CALM}, 3_601.0)
    assert not one.decide({"a": CALM, "b": CALM._replace(ready=4)}, 3_603.0)
    assert not one.decide({"a": LATE, "b": IDLE}, 3_602.9 + HOLD)
    assert one.decide({"a": LATE, "b": IDLE}, 3_603.0 + HOLD)


def test_a_consumer_that_does_not_come_can_go_to_another_stage():
    """While the giver's still ends its message, the receiver may pass it on, and gets no less than it has."""
    one = balance(6, a=2, b=2, c=2)
    there = {"a": 2, "b": 2, "c": 2}
    assert one.decide({"a": IDLE, "b": LATE, "c": STEADY}, 0.0)
    one.settle(there)
    turned = {"a": IDLE, "b": IDLE._replace(ready=2, prompt=False), "c": LATE}
    assert not one.decide(turned, HOLD - 0.1)
    move = one.decide(turned, HOLD)
    assert move
    assert (move.giver, move.receiver) == ("b", "c")
    one.settle(there)
    assert one.counts == {"a": 1, "b": 2, "c": 2}
    one.settle(there | {"a": 1})
    assert one.counts == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(("failing", "seconds"), [(True, 10.0), (False, LONGEST)], ids=["it dies", "it is never ready"])
def test_one_that_never_starts_goes_back(failing, seconds):
    """A stage whose new Consumer keeps dying, or is never set up, does not keep it for ever."""
    one = balance(4, a=2, b=2)
    assert one.decide({"a": IDLE, "b": LATE}, 0.0)
    one.settle({"a": 1, "b": 2})
    facts = {"a": LATE, "b": IDLE._replace(ready=0)}
    assert not one.decide(facts, 0.0)
    facts["b"] = facts["b"]._replace(failing=failing)
    assert not one.decide(facts, seconds)
    assert not one.decide(facts, seconds + HOLD - 0.1)
    assert one.decide(facts, seconds + HOLD)


def test_messages_wait_for_a_minute_at_most_until_it_is_their_turn():
    """Where there is no Consumer, the next one comes then, even beside a stage that has work for days."""
    one = balance(1, a=1, b=0)
    facts = {"a": LATE._replace(waiting=1_000_000), "b": Demand(3, 0.0, 0.01)}
    assert not one.decide(facts, 0.0)
    assert not one.decide(facts, PATIENCE - 0.1)
    move = one.decide(facts, PATIENCE)
    assert move
    assert (move.giver, move.receiver) == ("a", "b")
    assert move.why.endswith(" to b (now 1): 3 messages have waited there for 60 s without a Consumer")


def test_shares_are_even_at_first_and_are_kept():
    """Seven for three are 3, 2, 2; who leaves gives to the others, who comes gets one, a smaller budget takes most."""
    one = Balance()
    steps = [
        ("abc", 7, {"a": 3, "b": 2, "c": 2}),
        ("abc", 7, {"a": 3, "b": 2, "c": 2}),
        ("bc", 7, {"b": 4, "c": 3}),
        ("abc", 7, {"a": 1, "b": 3, "c": 3}),
        ("abc", 4, {"a": 1, "b": 2, "c": 1}),
        ("abc", 2, {"a": 1, "b": 1, "c": 0}),
        ("", 2, {}),
        ("abcd", 4, {"a": 1, "b": 1, "c": 1, "d": 1}),
    ]
    for stages, budget, expected in steps:
        one.fit(stages, budget)
        assert one.shares == expected


def test_a_consumer_counts_as_gone_when_it_has_left():
    """The receiver gets its Consumer only then, however long that takes; the giver's number falls at once."""
    one = balance(6, a=3, b=3)
    there = {"a": 3, "b": 3}
    assert one.decide({"a": IDLE, "b": LATE}, 0.0)
    assert one.settle(there)
    assert one.counts == {"a": 2, "b": 3}
    assert not one.settle(there)
    assert one.settle(there | {"a": 2})
    assert one.counts == {"a": 2, "b": 4}
    one.fit(["b"], 5)
    one.settle({"a": 2, "b": 4}, others=2)
    assert one.counts == {"b": 4}, "those of a stopped stage count until they have ended"
    assert one.settle({"b": 4})
    assert one.counts == {"b": 5}


class Stage:
    """A queue and Consumers that take `service_time` for a message; fluid, in steps of BEAT."""

    def __init__(self, service_time, arrivals=0.0, feeds=None, start_up=1.0):
        self.service_time, self.arrivals, self.feeds, self.start_up = service_time, arrivals, feeds, start_up
        self.waiting = self.done = 0.0
        self.came = [0.0] * int(WINDOW / BEAT)
        self.fed = 0.0
        self.ready = 0
        self.starting: list[float] = []  # when they will be set up
        self.leaving: list[float] = []  # when they will have left

    @property
    def present(self):
        return self.ready + len(self.starting) + len(self.leaving)

    def step(self, count, now):
        """Let half a second pass with this desired number of Consumers."""
        self.leaving = [until for until in self.leaving if until > now]
        self.ready += sum(until <= now for until in self.starting)
        self.starting = [until for until in self.starting if until > now]
        while self.ready + len(self.starting) < count:
            self.starting.append(now + self.start_up)
        while self.ready + len(self.starting) > count:
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
            self.leaving.append(now + max(BEAT, self.service_time))
        came, self.fed = self.arrivals * BEAT + self.fed, 0.0
        self.came = [*self.came[1:], came]
        done = min(self.waiting + came, self.ready * BEAT / self.service_time)
        self.waiting += came - done
        self.done += done
        if self.feeds:
            self.feeds.fed += done

    def facts(self):
        return Demand(int(self.waiting), sum(self.came) / WINDOW, self.service_time, self.present, self.ready)


class World:
    """Stages under one balance; notes every move, and that the invariants hold."""

    def __init__(self, budget, **stages):
        self.budget, self.stages, self.now = budget, stages, 0.0
        self.balance = Balance()
        self.balance.fit(stages, budget)
        self.moves = []
        self.balance.settle({})

    def run(self, seconds):
        """Return what each stage has finished per second in this time."""
        before = {name: stage.done for name, stage in self.stages.items()}
        for _ in range(int(seconds / BEAT)):
            for name, stage in self.stages.items():
                stage.step(self.balance.counts[name], self.now)
            self.now += BEAT
            if self.balance.decide({name: stage.facts() for name, stage in self.stages.items()}, self.now):
                self.moves.append(self.now)
            self.balance.settle({name: stage.present for name, stage in self.stages.items()})
            self.check()
        return {name: (stage.done - before[name]) / seconds for name, stage in self.stages.items()}

    def check(self):
        shares, counts = self.balance.shares, self.balance.counts
        assert sum(shares.values()) == self.budget
        assert sum(max(counts[name], stage.present) for name, stage in self.stages.items()) <= self.budget
        assert all(0 <= counts[name] <= shares[name] for name in shares)
        if self.budget >= len(shares):
            assert min(shares.values()) >= 1
        assert all(later - earlier >= EVERY for earlier, later in pairwise(self.moves))


@pytest.mark.parametrize("line", [False, True], ids=["independent", "line"])
def test_the_best_split_is_found_and_kept_and_found_again(line):
    """At 0.92 of what seven Consumers can do, with 1 : 4 : 2: as fast as the best split, and when turned too."""
    store = Stage(0.04, 0 if line else 46.0)
    detect = Stage(0.08, 0 if line else 46.0, store if line else None)
    decode = Stage(0.02, 46.0, detect if line else None)
    world = World(7, decode=decode, detect=detect, store=store)
    world.run(60)
    assert world.balance.shares == {"decode": 1, "detect": 4, "store": 2}
    assert min(world.run(60).values()) >= 0.9 * 46
    found = len(world.moves)
    assert found <= 4
    world.run(1_200)
    assert len(world.moves) == found
    decode.service_time, detect.service_time = 0.08, 0.02
    world.run(60)
    assert world.balance.shares == {"decode": 4, "detect": 1, "store": 2}
    assert min(world.run(60).values()) >= 0.9 * 46
    found = len(world.moves)
    world.run(1_200)
    assert len(world.moves) == found


def test_stages_take_turns_where_there_are_more_than_consumers():
    """Four stages on two Consumers, at 0.8 of what these can do: nearly all is done, and none waits for long."""
    world = World(2, **{name: Stage(0.4, 1.0, start_up=0.5) for name in "abcd"})
    world.run(120)
    rates = world.run(600)
    assert sum(rates.values()) >= 0.95 * 4
    assert min(rates.values()) >= 0.9
    assert max(stage.waiting for stage in world.stages.values()) < 120 * TURN / 10


def test_turns_come_beside_a_stage_that_never_ends():
    """Two Consumers, three stages, one of them with work for days: the others do all that comes to them, and soon."""
    huge = Stage(0.1)
    huge.waiting = 1e7
    world = World(2, huge=huge, b=Stage(0.1, 0.5), c=Stage(0.1, 0.5))
    longest = {"b": 0.0, "c": 0.0}
    since = dict.fromkeys(longest, 0.0)
    for _ in range(1_800):
        world.run(1.0)
        for name, most in longest.items():
            since[name] = since[name] if world.stages[name].waiting else world.now
            longest[name] = max(most, world.now - since[name])
    assert max(longest.values()) < PATIENCE + 3 * TURN
    assert min(world.stages[name].done for name in longest) > 0.5 * 1_800 - 0.5 * (PATIENCE + 3 * TURN)
    assert huge.done > 1_800 / 0.1, "it has more than one of the two, most of the time"


def test_many_consumers_follow_too():
    """On 64 Consumers, where one changes little, they go where the work is."""
    world = World(64, a=Stage(1.0, 45.0), b=Stage(1.0, 8.0), c=Stage(1.0, 2.0))
    world.run(300)
    assert world.balance.shares["a"] >= 45
    assert world.run(60)["a"] >= 0.9 * 45


loads = st.lists(
    st.tuples(st.sampled_from([0.01, 0.1, 1.0, 20.0]), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=5
)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), loads)
def test_whatever_the_load(budget, stages):
    """Never more than the budget, never two moves in five seconds, none at zero where that is possible."""
    made = {
        f"s{number}": Stage(service_time, load * budget / len(stages) / service_time)
        for number, (service_time, load, _) in enumerate(stages)
    }
    world = World(budget, **made)
    world.run(120)
    for stage, (service_time, _, load) in zip(made.values(), stages, strict=True):
        stage.arrivals = load * budget / len(stages) / service_time
    world.run(120)
    assert sum(stage.present for stage in made.values()) <= budget


def test_a_stage_that_shares_again_keeps_the_consumers_that_it_has():
    """As many as its share allows: they go on with their messages."""
    balance = Balance()
    balance.fit(["a", "c"], 4)
    balance.settle({})
    balance.fit(["a", "b", "c"], 7, {"b": 3})
    balance.settle({"a": 2, "b": 3, "c": 2})
    assert balance.counts["b"] == balance.shares["b"] == 2
