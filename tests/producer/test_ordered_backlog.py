"""Who may begin in an ordered stage, by tables and against a definition that looks at all deliveries each time."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Delivery
from mqworker.ipc.consumer_messages import LARGE
from mqworker.producer.backlog import CHUNK_BYTES
from mqworker.producer.entry import DELAYED, HELD, OUT, PLACING, Entry, Isolation
from mqworker.producer.ordered_backlog import OrderedBacklog
from mqworker.producer.ordering import Ordering

NONE, CHUNK, STAGE = Isolation


class Held:
    """An ordering with its backlog, and what a ledger does with both, and with attempts that are due later."""

    def __init__(self, ordered_by: str = "correlation_id") -> None:
        self.ordering = Ordering(ordered_by, "in", hold=True)
        self.backlog = OrderedBacklog(self.ordering)
        self.delayed: list[Entry] = []
        self.tag = 0

    def deliver(self, key: str | None = None, isolation: Isolation = NONE, weight: int = 1) -> Entry:
        self.tag += 1
        delivery = Delivery(1, self.tag, Properties(correlation_id=key).encode(), b"", False, "", "in")
        entry = Entry(self.tag, delivery, isolation, 0.0)
        entry.weight = weight
        self.ordering.stand(entry, delivery)
        self.backlog.add(entry)
        return entry

    def deliver_all(self, keys: str) -> list[Entry]:
        return [self.deliver(None if key == "-" else key) for key in keys]

    def take(self, most: int) -> list[Entry]:
        return self.note(self.backlog.take(most))

    def note(self, chunk: list[Entry]) -> list[Entry]:
        for entry in chunk:
            entry.state = OUT
        return chunk

    def finish(self, entry: Entry) -> None:
        entry.state = PLACING
        if entry.unit is not None:
            self.backlog.ended(entry)

    def put_back(self, *entries: Entry) -> None:
        for entry in entries:
            entry.state = HELD
        self.backlog.put_back(entries)

    def delay(self, entry: Entry, due: float) -> None:
        entry.state, entry.due = DELAYED, due
        self.backlog.put_back([entry])
        self.delayed.append(entry)

    def wake(self, now: float) -> None:
        for entry in [entry for entry in self.delayed if entry.due <= now]:
            self.delayed.remove(entry)
            entry.state = HELD
            self.backlog.wake(entry)

    def remove(self, entry: Entry) -> None:
        self.backlog.remove(entry)
        if entry.state is DELAYED:
            self.delayed.remove(entry)

    def lose(self, entries: list[Entry]) -> None:
        """Lose the connection of all these deliveries."""
        for entry in entries:
            entry.void = True
        self.backlog.clear()
        self.delayed.clear()
        self.ordering.void()


def tags(entries: list[Entry]) -> list[int]:
    return [entry.tag for entry in entries]


# --- the whole input


def test_by_input_the_oldest_goes_first_also_when_it_comes_back():
    """Lanes compute in parallel; what two of them give back, in whatever order, takes its places again."""
    held = Held("input")
    held.deliver_all("------")
    first, second = held.take(2), held.take(2)
    assert (tags(first), tags(second), held.backlog.ready) == ([1, 2], [3, 4], 2)
    held.put_back(*first)
    held.put_back(*second)
    assert tags(held.take(9)) == [1, 2, 3, 4, 5, 6]


def test_by_input_nobody_waits_for_a_delayed_one():
    """The others are computed meanwhile; it begins when it is due."""
    held = Held("input")
    held.deliver_all("---")
    (first,) = held.take(1)
    held.delay(first, 5.0)
    assert (len(held.backlog), held.backlog.ready) == (3, 2)
    assert tags(held.take(1)) == [2]
    held.wake(5.0)
    assert tags(held.take(9)) == [1, 3]


# --- by key


def test_a_chunk_takes_the_run_of_the_oldest_key_then_the_next_ones():
    """The most frequent key is not begun message by message; what is free of order goes at its age."""
    held = Held()
    held.deliver_all("ab-aca-")
    assert held.backlog.ready == 7
    assert tags(held.take(5)) == [1, 4, 6, 2, 3]
    assert held.backlog.ready == 2
    assert tags(held.take(9)) == [5, 7]


def test_a_key_is_locked_until_its_whole_run_has_an_outcome():
    """Nothing of it begins elsewhere, however many outcomes have come."""
    held = Held()
    first, second, third = held.deliver_all("aaa")
    assert held.take(2) == [first, second]
    held.finish(first)
    assert (held.take(9), held.backlog.ready, len(held.backlog)) == ([], 0, 1)
    held.finish(second)
    assert (held.backlog.ready, held.take(9)) == (1, [third])


def test_what_comes_back_unlocks_its_key_and_goes_first():
    """The rest of a chunk that has ended takes its places before what came later."""
    held = Held()
    first, second, third, fourth = held.deliver_all("aaaa")
    held.take(3)
    held.finish(first)
    held.put_back(second)
    assert held.backlog.ready == 0  # the third is still out
    held.put_back(third)
    assert held.take(9) == [second, third, fourth]


def test_by_key_all_behind_a_delayed_one_wait():
    """Other keys do not."""
    held = Held()
    first, second, third = held.deliver_all("aab")
    held.take(2)
    held.delay(first, 5.0)
    held.put_back(second)
    assert held.take(9) == [third]
    assert (held.backlog.ready, len(held.backlog)) == (0, 2)
    held.wake(5.0)
    assert held.take(9) == [first, second]


def test_one_before_a_delayed_one_begins_alone():
    """It need not wait, and its run ends there: what is behind must not overtake the delayed one."""
    held = Held()
    first, second, third = held.deliver_all("aaa")
    held.take(2)
    held.delay(second, 5.0)
    held.put_back(first)
    assert held.take(9) == [first]
    held.finish(first)
    assert held.take(9) == []
    held.wake(5.0)
    assert held.take(9) == [second, third]


def test_a_void_run_keeps_its_key_locked():
    """After a lost connection the work goes on; a redelivery that did not adopt it waits for its end."""
    held = Held()
    (first,) = held.deliver_all("a")
    held.take(1)
    held.lose([first])
    (again,) = held.deliver_all("a")
    assert held.take(9) == []
    held.finish(first)
    assert held.take(9) == [again]
    held.finish(again)
    held.ordering.leave(again)
    assert len(held.ordering) == 0


# --- alone


@pytest.mark.parametrize("ordered_by", ["input", "correlation_id"])
def test_an_isolated_one_goes_at_its_turn_and_alone(ordered_by):
    """It neither overtakes others, as in stages without an order, nor has anything beside it."""
    held = Held(ordered_by)
    keys = "a" if ordered_by == "correlation_id" else "-"
    for isolation in (NONE, CHUNK, NONE, NONE):
        held.deliver(keys, isolation)
    chunks = []
    while chunk := held.take(9):
        chunks.append(tags(chunk))
        for entry in chunk:
            held.finish(entry)
    assert chunks == [[1], [2], [3, 4]]


def test_only_a_suspect_that_may_begin_counts():
    """One behind a delayed message of its key would stop everybody, that message included, if it counted."""
    held = Held()
    first = held.deliver("a")
    suspect = held.deliver("a", STAGE)
    suspect.window = 6.0
    assert (held.take(9), held.backlog.shortest_window) == ([first], None)
    held.delay(first, 5.0)
    assert (held.backlog.shortest_window, held.backlog.take_suspect()) == (None, [])
    held.wake(5.0)
    assert held.take(9) == [first]
    held.finish(first)
    assert (held.backlog.shortest_window, held.take(9), held.backlog.ready) == (6.0, [], 1)
    assert held.note(held.backlog.take_suspect()) == [suspect]


def test_a_chunk_is_bounded_in_bytes():
    """As in other stages."""
    held = Held()
    for key in "aaaaab":
        held.deliver(key, weight=CHUNK_BYTES // 4)
    assert tags(held.take(9)) == [1, 2, 3, 4]
    assert tags(held.take(9)) == [6]


@pytest.mark.parametrize("ordered_by", ["input", "correlation_id"])
def test_a_large_one_goes_at_its_turn_and_alone(ordered_by):
    """As in other stages, also within the run of its key."""
    held = Held(ordered_by)
    for weight in (1, LARGE + 1, 1, LARGE):
        held.deliver("a" if ordered_by == "correlation_id" else None, weight=weight)
    chunks = []
    while chunk := held.take(9):
        chunks.append(tags(chunk))
        for entry in chunk:
            held.finish(entry)
    assert chunks == [[1], [2], [3, 4]]


# --- narrow


def test_if_memory_is_short_only_the_first_of_each_unit_begins_and_alone():
    """Each frees memory when it is done; the oldest alone would not do, because it may be delayed for an hour."""
    held = Held()
    first, second, third, free = held.deliver_all("aab-")
    held.take(1)
    held.delay(first, 3600.0)
    held.backlog.narrow(True)
    assert held.backlog.ready == 2
    assert held.take(9) == [third]
    assert held.take(9) == [free]
    assert (held.take(9), held.backlog.ready) == ([], 0)
    held.wake(3600.0)
    assert held.take(9) == [first]
    held.finish(first)
    assert held.take(9) == []  # the second is not the first of its unit before the first is settled
    held.ordering.leave(first)
    assert held.take(9) == [second]


@pytest.mark.parametrize("ordered_by", ["input", "correlation_id"])
def test_to_find_who_may_begin_takes_no_look_at_all_that_wait(ordered_by, monkeypatch):
    """Also when memory is short: a Producer may hold 65,535 messages, and asks several times in each turn."""
    held, looks = Held(ordered_by), 0
    held.deliver_all("a" * 500 + "b" * 500)
    held.backlog.narrow(True)
    is_turn = held.ordering.is_turn

    def counted(entry: Entry) -> bool:
        nonlocal looks
        looks += 1
        return is_turn(entry)

    monkeypatch.setattr(held.ordering, "is_turn", counted)
    for _ in range(100):
        assert held.backlog.ready > 0
        (entry,) = held.take(9)
        held.finish(entry)
        if entry.unit is not None:
            held.ordering.leave(entry)
    assert looks <= 200


# --- against the definition


STEPS = ["deliver", "take", "take", "take_suspect", "finish", "finish", "delay", "give_back", "settle", "time_passes"]
TROUBLE = ["nothing", "nothing", "nothing", "remove", "narrow", "lose"]
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", None]),
        st.sampled_from([NONE, NONE, NONE, CHUNK, STAGE]),
        st.sampled_from([1, 1, CHUNK_BYTES // 4, LARGE + 1]),
    ),
    min_size=1,
    max_size=4,
)


def goes_alone(entry: Entry) -> bool:
    return entry.isolation is not NONE or entry.weight > LARGE


class BacklogMachine(RuleBasedStateMachine):
    """Any sequence of events: who may begin is what the definition says, and nothing is left at the end."""

    @initialize(ordered_by=st.sampled_from(["input", "correlation_id"]))
    def start(self, ordered_by: str) -> None:
        self.held = Held(ordered_by)
        self.serial = ordered_by != "input"
        self.now = 0.0
        self.is_narrow = False
        self.known: list[Entry] = []  # without an outcome
        self.unsettled: list[Entry] = []  # with one

    # --- the definition

    def unit(self, entry: Entry) -> object:
        return entry.unit if entry.unit is not None else entry

    def together(self, entry: Entry) -> list[Entry]:
        """Return those of its key that wait, in order; where a key is no matter, itself."""
        if not self.serial:
            return [entry]
        same = [
            other for other in self.known if self.unit(other) is self.unit(entry) and other.state in (HELD, DELAYED)
        ]
        return sorted(same, key=lambda other: other.tag)

    def first(self, entry: Entry) -> bool:
        before = [*self.known, *self.unsettled]
        return not any(
            not other.void and self.unit(other) is self.unit(entry) and other.tag < entry.tag for other in before
        )

    def may_begin(self, entry: Entry) -> bool:
        if entry.state is not HELD or (self.is_narrow and not self.first(entry)):
            return False
        locked = any(other.state is OUT and self.unit(other) is self.unit(entry) for other in self.known)
        return not self.serial or (not locked and self.together(entry)[0] is entry)

    def heads(self, of: Callable[[Isolation], bool]) -> list[Entry]:
        found = [entry for entry in self.known if of(entry.isolation) and self.may_begin(entry)]
        return sorted(found, key=lambda entry: entry.tag)

    def chunk(self, most: int) -> list[Entry]:
        chunk: list[Entry] = []
        for head in self.heads(lambda isolation: isolation is not STAGE):
            for number, entry in enumerate(self.together(head)):
                too_large = bool(chunk) and sum(each.weight for each in [*chunk, entry]) > CHUNK_BYTES
                if number and (entry.state is not HELD or goes_alone(entry) or too_large):
                    break  # the next key may go along
                if len(chunk) == most or too_large or (chunk and goes_alone(entry)):
                    return chunk
                chunk.append(entry)
                if self.is_narrow or goes_alone(entry):
                    return chunk
        return chunk

    # --- events

    def pick(self, data: st.DataObject, entries: list[Entry]) -> Entry | None:
        return data.draw(st.sampled_from(entries)) if entries else None

    @rule(steps=st.lists(st.sampled_from(STEPS), max_size=12), trouble=st.sampled_from(TROUBLE), data=st.data())
    def go_on(self, steps: list[str], trouble: str, data: st.DataObject) -> None:
        for step in [*steps, trouble]:
            getattr(self, step)(data)
            self.numbers_are_right()

    def deliver(self, data: st.DataObject) -> None:
        for key, isolation, weight in data.draw(MESSAGES):
            entry = self.held.deliver(key, isolation, weight)
            entry.window = data.draw(st.integers(5, 60)) if isolation is STAGE else 0.0
            self.known.append(entry)

    def take(self, data: st.DataObject) -> None:
        most = data.draw(st.integers(1, 5))
        expected = self.chunk(most)
        assert self.held.take(most) == expected

    def take_suspect(self, data: st.DataObject) -> None:
        suspects = self.heads(lambda isolation: isolation is STAGE)
        shortest = min((entry.window for entry in suspects), default=None)
        assert self.held.backlog.shortest_window == shortest
        chunk = self.held.note(self.held.backlog.take_suspect())
        assert [entry.window for entry in chunk] == [shortest] * len(suspects[:1])
        assert set(chunk) <= set(suspects)

    def finish(self, data: st.DataObject) -> None:
        entry = self.pick(data, [entry for entry in self.known if entry.state is OUT])
        if entry is not None:
            self.known.remove(entry)
            if not entry.void:
                self.unsettled.append(entry)
            self.held.finish(entry)

    def delay(self, data: st.DataObject) -> None:
        entry = self.pick(data, [entry for entry in self.known if entry.state is OUT and not entry.void])
        if entry is not None:
            self.held.delay(entry, self.now + data.draw(st.integers(0, 3)))

    def give_back(self, data: st.DataObject) -> None:
        entry = self.pick(data, [entry for entry in self.known if entry.state is OUT and not entry.void])
        if entry is not None:
            self.held.put_back(entry)

    def settle(self, data: st.DataObject) -> None:
        entry = self.pick(data, self.unsettled)
        if entry is not None:
            self.unsettled.remove(entry)
            if entry.unit is not None:
                self.held.ordering.leave(entry)

    def time_passes(self, data: st.DataObject) -> None:
        self.now += data.draw(st.sampled_from([0.0, 1.0, 5.0]))
        self.held.wake(self.now)

    def nothing(self, data: st.DataObject) -> None:
        """Let all go well."""

    def remove(self, data: st.DataObject) -> None:
        entry = self.pick(data, [entry for entry in self.known if entry.state in (HELD, DELAYED)])
        if entry is not None:
            self.held.remove(entry)
            self.known.remove(entry)
            self.unsettled.append(entry)

    def narrow(self, data: st.DataObject) -> None:
        self.is_narrow = not self.is_narrow
        self.held.backlog.narrow(self.is_narrow)

    def lose(self, data: st.DataObject) -> None:
        self.held.lose(self.known)
        self.known = [entry for entry in self.known if entry.state is OUT]
        self.unsettled = []

    # --- what holds after each

    def numbers_are_right(self) -> None:
        backlog = self.held.backlog
        waiting = [entry for entry in self.known if entry.state in (HELD, DELAYED)]
        assert len(backlog) == len(waiting)
        heads = self.heads(lambda isolation: True)
        assert backlog.ready == (len(heads) if self.is_narrow else sum(len(self.together(head)) for head in heads))

    def teardown(self) -> None:
        if not hasattr(self, "held"):
            return
        self.held.backlog.narrow(False)
        for _ in range(len(self.known) + 1):
            self.held.wake(self.now + 10)
            for entry in [entry for entry in self.known if entry.state is OUT]:
                self.known.remove(entry)
                self.unsettled.append(entry)
                self.held.finish(entry)
            self.held.take(9)
            self.held.note(self.held.backlog.take_suspect())
        assert all(unit.out == set() for unit in self.held.ordering.units)
        for entry in self.unsettled:
            if entry.unit is not None:
                self.held.ordering.leave(entry)
        assert (self.known, len(self.held.backlog), self.held.backlog.ready, len(self.held.ordering)) == ([], 0, 0, 0)


@pytest.mark.untraced  # slow under it, and the tables show what is covered
class TestBacklogMachine(BacklogMachine.TestCase):
    """See the machine."""

    settings = settings(max_examples=300, stateful_step_count=15, deadline=None)


# --- several at once in a Consumer


def test_of_a_key_one_begins_in_a_chunk_of_seats():
    """All of such a chunk begin together: the next of a key may begin when the one before it has an outcome."""
    held = Held()
    held.deliver_all("aab-ba")
    assert held.backlog.beside == 3
    chunk = held.note(held.backlog.take_beside(9))
    assert (tags(chunk), held.backlog.beside, held.backlog.ready) == ([1, 3, 4], 0, 0)
    held.finish(chunk[0])
    assert tags(held.note(held.backlog.take_beside(9))) == [2]
    held.put_back(chunk[1])
    assert tags(held.note(held.backlog.take_beside(9))) == [3]


def test_what_must_be_alone_is_passed_over_and_its_key_waits():
    """It is offered by itself, the oldest first; a serial lane still meets it at its turn."""
    held = Held()
    first = held.deliver("a", CHUNK)
    held.deliver_all("ab")
    second = held.deliver("c", CHUNK)
    assert (held.backlog.beside, list(held.backlog.alone)) == (1, [first, second])
    assert tags(held.note(held.backlog.take_beside(9))) == [3]
    assert held.note(held.backlog.take_alone(second)) == [second]
    assert held.take(9) == [first]
    assert list(held.backlog.alone) == []
    held.finish(first)
    assert tags(held.note(held.backlog.take_beside(9))) == [2]


def test_a_large_one_goes_down_by_itself_and_runs_beside_others():
    """A lane carries one at a time; a chunk of several stays small."""
    held = Held("input")
    for weight in (1, LARGE + 1, LARGE, LARGE, LARGE, LARGE, 1):
        held.deliver(weight=weight)
    assert [tags(held.note(held.backlog.take_beside(9))) for _ in range(4)] == [[1], [2], [3, 4, 5, 6], [7]]


def test_while_memory_is_short_the_first_of_each_order_begin():
    """Also where several are computed at once, and those that must be alone."""
    held = Held("input")
    chunk = held.deliver_all("--")
    alone = held.deliver(isolation=CHUNK)
    held.backlog.narrow(True)
    assert (tags(held.note(held.backlog.take_beside(9))), held.backlog.beside, list(held.backlog.alone)) == ([1], 0, [])
    for entry in chunk:
        held.ordering.leave(entry)
    assert list(held.backlog.alone) == [alone]
