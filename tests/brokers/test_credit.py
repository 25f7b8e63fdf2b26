"""Credit: how many messages may be dispatched before the output queue is full, and when the broker is asked."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mqworker.brokers.credit import FRESH, LONGEST, SOON, STEADY, Credit, Sent

MARK = 100
NOTHING = Sent(0, 0, 0)


def asked(credit: Credit, depth: int, now: float, flow: Sent = NOTHING, later: Sent | None = None) -> None:
    """Let the credit ask and take this answer, which comes when the flow is `later`."""
    assert credit.must_ask(flow, now)
    credit.answered(depth, later or flow, now)


@pytest.mark.parametrize(
    ("depths", "rooms"),
    [
        pytest.param([0], [100], id="an empty queue: the whole mark"),
        pytest.param([30], [70], id="what is free"),
        pytest.param([99], [1], id="nearly full at first: up to the mark"),
        pytest.param([100], [0], id="at the mark: nothing"),
        pytest.param([500], [0], id="far above the mark, because of others"),
        pytest.param([100, 80, 79], [0, 0, 21], id="full: nothing until it holds less than 80 %"),
        pytest.param([100, 79, 95], [0, 21, 5], id="below 80 % it goes on, up to the mark"),
        pytest.param([0, 120, 0], [100, 0, 100], id="others have filled it, and it was emptied"),
    ],
)
def test_answers_become_credit(depths, rooms):
    """Each answer leads to the room in the table, while this stage sends nothing."""
    credit = Credit(MARK)
    assert credit.room(NOTHING) == 0  # before the first answer
    found = []
    for number, depth in enumerate(depths):
        asked(credit, depth, number * FRESH)
        found.append(credit.room(NOTHING))
    assert found == rooms


@pytest.mark.parametrize(
    ("flow", "room"),
    [
        pytest.param(Sent(0, 0, 10), 90, id="a message in a lane counts as one result"),
        pytest.param(Sent(10, 10, 0), 90, id="published since"),
        pytest.param(Sent(40, 0, 60), 0, id="used up"),
        pytest.param(Sent(500, 0, 10), 0, id="messages that yielded many"),
    ],
)
def test_what_was_sent_since_the_question_uses_credit(flow, room):
    """What may have arrived after the count takes from the credit."""
    credit = Credit(MARK)
    asked(credit, 0, 0.0)
    assert credit.room(flow) == room


def test_what_was_not_confirmed_at_the_question_uses_credit():
    """It may have come to the queue after the count; what was confirmed before is in the count."""
    credit = Credit(MARK)
    asked(credit, 50, 0.0, Sent(1000, 7, 3), Sent(1005, 0, 3))
    assert credit.room(Sent(1005, 0, 3)) == MARK - 50 - 7 - 5 - 3


def test_when_it_asks():
    """At once; every second while there is credit; soon when it is used up; and again when no answer comes."""
    credit, used = Credit(MARK), Sent(MARK, 0, 0)
    asked(credit, 0, 10.0)
    assert not credit.must_ask(NOTHING, 10 + 0.99 * FRESH)
    assert not credit.must_ask(used, 10 + 0.9 * SOON)
    assert credit.must_ask(used, 10 + 1.1 * SOON)
    assert not credit.must_ask(used, 10 + 1.1 * SOON + 0.9 * FRESH)
    assert credit.must_ask(used, 10.1 + FRESH)
    assert credit.unanswered(10.1 + FRESH) > FRESH


def test_an_answer_to_the_first_of_two_questions_counts_from_the_first():
    """If the link has dropped the second question, what was published between the two is not forgotten."""
    credit = Credit(MARK)
    assert credit.must_ask(NOTHING, 0.0)
    assert credit.must_ask(Sent(20, 0, 0), FRESH)
    credit.answered(0, Sent(20, 0, 0), FRESH)
    assert credit.room(Sent(20, 0, 0)) == MARK - 20
    credit.answered(99, Sent(20, 0, 0), FRESH)  # nobody has asked
    assert credit.depth == 0


def test_used_up_and_more_than_low_is_full():
    """The stage stops once its credit is used up, instead of trickling on below the mark."""
    credit = Credit(MARK)
    asked(credit, 0, 0.0)
    asked(credit, 95, 1.0, Sent(MARK, 0, 0))
    assert credit.full
    assert credit.room(Sent(MARK, 0, 0)) == 0


def test_a_full_queue_is_asked_rarely_and_never_runs_empty():
    """Each pause is as long as all before it, up to a bound; so by the answer at most twice the fifth is gone."""
    for rate in (1.0, 10.0, 100.0, 1000.0):
        credit, now, questions = Credit(MARK), 0.0, 0
        asked(credit, MARK, now)
        while credit.full:
            before, now = now, credit.due(NOTHING)
            assert SOON <= now - before <= LONGEST + 1e-9
            asked(credit, max(0, round(MARK - rate * now)), now)
            questions += 1
        assert questions <= 3 + 0.21 * MARK / rate / LONGEST + 5
        assert credit.depth >= 0.55 * MARK - rate * SOON


@pytest.mark.parametrize("seconds", [1.0, 3.0, 3.119, 5.119])
def test_of_two_that_fill_one_queue_each_goes_on_now_and_then(seconds):
    """Whoever asks first when the queue is below 80 % fills it again; by chance that is sometimes the other one."""
    chances = random.Random(7)
    one, other = Credit(MARK), Credit(MARK)
    now, filled, winners = 0.0, 0.0, []
    for credit in (one, other):
        asked(credit, MARK, now)
    while len(winners) < 40:
        credit = min(one, other, key=lambda each: each.due(NOTHING))
        now = credit.due(NOTHING)
        assert credit.must_ask(NOTHING, now)
        credit.answered(MARK - int(21 * (now - filled) / seconds), NOTHING, now, chances.random())
        if not credit.full:
            winners.append(credit)
            filled = now
            now += SOON
            credit.must_ask(Sent(MARK, 0, 0), now)
            credit.answered(MARK, Sent(MARK, 0, 0), now, chances.random())
    assert 8 <= winners.count(one) <= 32


def test_what_is_told_changes_at_most_every_five_seconds():
    """A queue that is full again and again counts as full; after five seconds without, the stage is not held back."""
    credit, now, told = Credit(MARK), 0.0, []
    for depth in [100, 70, 100, 70, 100, 70]:
        asked(credit, depth, now)
        told.append(credit.held_back(now))
        now += 2.0
    assert told == [True] * 6
    assert credit.held_back(now - 2 + 0.9 * STEADY)
    assert not credit.held_back(now - 2 + 1.1 * STEADY)


@given(st.integers(1, 5))
def test_a_small_mark_lets_messages_pass(mark):
    """Even with a mark of one, an empty queue lets a message pass, and a queue at its mark none."""
    credit = Credit(mark)
    asked(credit, mark, 0.0)
    assert credit.room(NOTHING) == 0
    asked(credit, 0, 1.0)
    assert credit.room(NOTHING) == mark


class Stages(RuleBasedStateMachine):
    """A stage that dispatches all it may, its broker, and the next stage, in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.mark = 20
        self.credit = Credit(self.mark)
        self.now = 0.0
        self.dispatched = self.published = self.queue = 0
        self.sent = 0  # published, not stored yet
        self.unconfirmed = 0  # stored, not confirmed yet
        self.question = False  # on its way to the broker
        self.answers: list[int] = []  # on their way back

    def flow(self) -> Sent:
        return Sent(self.published, self.sent + self.unconfirmed, self.dispatched)

    @rule(most=st.integers(1, 30))
    def dispatch(self, most):
        self.dispatched += min(most, self.credit.room(self.flow()))

    @precondition(lambda self: self.dispatched)
    @rule(results=st.sampled_from([0, 1, 1, 1, 1, 1]))
    def finish(self, results):
        self.dispatched -= 1
        self.published += results
        self.sent += results

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def store(self, data):
        count = data.draw(st.integers(1, self.sent))
        self.sent -= count
        self.unconfirmed += count
        self.queue += count

    @rule()
    def confirm(self):
        self.unconfirmed = 0

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def consume(self, data):
        self.queue -= data.draw(st.integers(1, self.queue))

    @rule(seconds=st.sampled_from([0.01, 0.03, 0.6, 1.1]))
    def ask(self, seconds):
        self.now += seconds
        if self.credit.must_ask(self.flow(), self.now) and not self.answers:
            self.question = True  # as a Link does, which drops a question while another has no answer

    @precondition(lambda self: self.question)
    @rule(lost=st.sampled_from([False, False, False, True]))
    def count(self, lost):
        self.question = False
        if not lost:
            self.answers.append(self.queue)

    @precondition(lambda self: self.answers)
    @rule()
    def answer(self):
        self.credit.answered(self.answers.pop(), self.flow(), self.now)

    @invariant()
    def never_above_the_mark(self):
        """Not even when all that is in hand arrives at once."""
        assert self.queue + self.sent + self.dispatched <= self.mark

    def teardown(self) -> None:
        """However it went, it goes on once the queue is empty and answers come again."""
        self.published += self.dispatched + self.sent
        self.dispatched = self.sent = self.unconfirmed = self.queue = 0
        for _ in range(2):
            self.now += FRESH
            self.credit.must_ask(self.flow(), self.now)
            self.credit.answered(0, self.flow(), self.now)
        assert self.credit.room(self.flow()) == self.mark


TestStages = Stages.TestCase
TestStages.__doc__ = "With one result a message the queue never holds more than the mark, and it always goes on."


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 50), st.integers(0, 400)), max_size=60))
def test_messages_that_yield_exceed_the_mark_by_what_was_in_hand(steps):
    """Nothing is dispatched while the queue, with one result for each message in hand, holds the mark."""
    credit, published, queue, now = Credit(MARK), 0, 0, 0.0
    for most, results, taken in steps:
        now += FRESH
        asked(credit, queue, now, Sent(published, 0, 0))
        hand = min(most, credit.room(Sent(published, 0, 0)))
        assert not hand or queue + hand <= MARK
        published, queue = published + hand * results, queue + hand * results
        assert credit.room(Sent(published, 0, 0)) <= max(0, MARK - queue)
        queue = max(0, queue - taken)


class Sharing(RuleBasedStateMachine):
    """Several sources that fill one queue, each with its own answers, which may be old; some are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 3
        self.mark = 60
        self.now = 0.0
        self.queue = 0
        self.sources = [self.source() for _ in range(self.count)]

    def source(self) -> "SharingSource":
        return SharingSource(Credit(self.mark, self.count))

    @rule(which=st.integers(0, 2), most=st.integers(1, 30))
    def pull(self, which, most):
        source = self.sources[which]
        source.pulled += min(most, source.credit.room(source.flow()))

    @rule(which=st.integers(0, 2))
    def publish(self, which):
        source = self.sources[which]
        source.unstored += source.pulled
        source.published += source.pulled
        source.pulled = 0

    @rule(which=st.integers(0, 2), data=st.data())
    def store(self, which, data):
        source = self.sources[which]
        count = data.draw(st.integers(0, source.unstored))
        source.unstored -= count
        source.unconfirmed += count
        self.queue += count

    @rule(which=st.integers(0, 2))
    def confirm(self, which):
        self.sources[which].unconfirmed = 0

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def consume(self, data):
        self.queue -= data.draw(st.integers(1, self.queue))

    @rule(which=st.integers(0, 2), seconds=st.sampled_from([0.01, 0.6, 1.1]))
    def ask(self, which, seconds):
        self.now += seconds
        source = self.sources[which]
        if source.credit.must_ask(source.flow(), self.now) and source.answer is None:
            source.question = True

    @rule(which=st.integers(0, 2))
    def look_at_the_queue(self, which):
        source = self.sources[which]
        if source.question:
            source.question, source.answer = False, self.queue

    @rule(which=st.integers(0, 2))
    def answer(self, which):
        source = self.sources[which]
        if source.answer is not None:
            source.credit.answered(source.answer, source.flow(), self.now)
            source.answer = None

    @rule(which=st.integers(0, 2))
    def kill(self, which):
        """What it had on its way is gone with its connection; its successor knows nothing."""
        self.sources[which] = self.source()

    @invariant()
    def never_above_the_mark(self):
        """Not even when all that is on its way arrives at once."""
        assert self.queue + sum(source.unstored + source.pulled for source in self.sources) <= self.mark


class SharingSource:
    """One source of the model."""

    def __init__(self, credit: Credit) -> None:
        self.credit = credit
        self.pulled = self.published = self.unstored = self.unconfirmed = 0
        self.question = False
        self.answer: int | None = None

    def flow(self) -> Sent:
        return Sent(self.published, self.unstored + self.unconfirmed, self.pulled)


TestSharing = Sharing.TestCase
TestSharing.__doc__ = "Several sources of one stage never exceed its mark together, whatever answers are late."


@pytest.mark.parametrize(("mark", "sources"), [(3, 3), (10, 2), (100, 3), (10_000, 7)])
def test_each_of_several_may_send_and_together_they_use_most_of_the_mark(mark, sources):
    """An empty queue lets each send, and what they leave free is at most a tenth, or one for each of the others."""
    credit = Credit(mark, sources)
    asked(credit, 0, 0.0)
    most = credit.room(NOTHING)
    assert 1 <= most <= max(1, mark // sources)
    used = mark - (sources - 1) * most - 1
    assert used >= min(0.9 * mark - 1, mark - sources)
    other = Credit(mark, sources)
    asked(other, max(0, used), 0.0)
    assert other.room(NOTHING) >= 1


def test_a_share_of_what_is_free_is_not_enough():
    """Why there is a part for each: with (mark - depth) / sources a slow and a fast one together exceed the mark."""
    mark, queue = 100, 0
    slow = (mark - queue) // 2  # granted, and not used yet
    for _ in range(20):
        queue += (mark - queue) // 2  # the fast one asks again and again
    assert queue + slow > mark
