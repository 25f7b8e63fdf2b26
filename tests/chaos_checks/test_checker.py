"""The campaign's checker: silent about a round in which all went well, and loud about everything that went wrong."""

import json

import pytest

from tests.chaos.amqp import Label
from tests.chaos.attribution import bound, causes
from tests.chaos.checker import check
from tests.chaos.load import LINE_CANARY, PREFETCH, make
from tests.chaos.records import Answer, Fault, Outcome, Round, Sample, Size, Start
from tests.chaos.wire import Step

DEAD = ("reason", "error-type", "message", "failed-at", "first-failed-at", "stage")
COUNTERS = dict.fromkeys(("received", "settled", "voided", "released", "result", "dropped", "retried", "dead"), 0)


def outcome(message) -> Outcome:
    """Return what should become of a message."""
    if message.good:
        return Outcome(
            message.id, "result", message.correlation, message.headers, json.dumps(message.expected()).encode()
        )
    told = dict.fromkeys((f"x-mqworker-{word}" for word in DEAD), "word") | {"x-mqworker-attempt": 2}
    told["x-mqworker-reason"] = {"reject": "reject", "raise": "error"}.get(message.kind, "crash")
    return Outcome(message.id, "dead", message.correlation, message.headers | told, message.body)


@pytest.fixture
def good() -> Round:
    """Return a round in which all went well: 300 messages, some of them bad, one cut connection."""
    messages = [make("run", number, poison=0.1) for number in range(300)]
    round_ = Round("round", "classic", quiet=True, secrets=("a secret",))
    round_.tried = {message.id: message for message in messages}
    round_.confirmed = set(round_.tried)
    round_.outcomes = [outcome(message) for message in messages]
    round_.starts = [Start(10.0, 7, message.id) for message in messages]
    round_.faults = [Fault("cut", 20.0, 20.5)]
    round_.samples = [Sample(1.0, 7, COUNTERS, 0, PREFETCH, 0.0, 0)]
    round_.sizes = [Size(1.0, {"mqw-producer": 30}, {"mqw-producer": 2}) for _ in range(2)]
    round_.answers = [Answer(1.0, "/livez", 200, 0.002)]
    round_.log = json.dumps({"time": "2026-01-01T00:00:00Z", "level": "info", "event": "x", "msg": "y"}) + "\n"
    return round_


def first(round_: Round) -> str:
    """Return the first good id."""
    return next(name for name, message in round_.tried.items() if message.good)


def again(round_: Round, *times: float) -> None:
    """Return a result that came twice, published at these times."""
    name = first(round_)
    round_.outcomes.append(next(each for each in round_.outcomes if each.id == name))
    round_.steps[name] = [Step(time, "direct", "out", Label(name, 1, 0)) for time in times]


def lose(round_):
    round_.outcomes.pop()


def invent(round_):
    round_.outcomes.append(round_.outcomes[0]._replace(id="nobody"))


def miscalculate(round_):
    name = first(round_)
    at = next(index for index, each in enumerate(round_.outcomes) if each.id == name)
    round_.outcomes[at] = round_.outcomes[at]._replace(body=b'{"sum": 1}')


def drop_headers(round_):
    round_.outcomes[0] = round_.outcomes[0]._replace(headers={})


def ack_early(round_):
    round_.violations.append("acked before a confirm")


def charge(round_):
    line = {"time": "2026-01-01T00:00:00Z", "level": "warning", "event": "retried", "msg": "crash"}
    round_.log += json.dumps(line | {"message_id": first(round_), "reason": "crash"}) + "\n"


def put_aside(round_):
    name = first(round_)
    told = outcome(next(message for message in round_.tried.values() if not message.good))
    at = next(index for index, each in enumerate(round_.outcomes) if each.id == name)
    message = round_.tried[name]
    headers = told.headers | message.headers
    round_.outcomes[at] = Outcome(name, "dead", message.correlation, headers, message.body)


def start_again(round_):
    round_.starts.append(Start(12.0, 7, first(round_)))


def overfill(round_):
    round_.most_unsettled = PREFETCH + 1


def leak(round_):
    round_.sizes[-1] = Size(9.0, {"mqw-producer": 60}, {"mqw-producer": 2})


def stale_ack(round_):
    round_.broker_log = "PRECONDITION_FAILED - unknown delivery tag 5"


def stay_silent(round_):
    round_.answers.append(Answer(50.0, "/livez", 0, 6.0))


def miscount(round_):
    round_.samples.append(round_.samples[0]._replace(counters=COUNTERS | {"received": 3}))


def die_unasked(round_):
    round_.samples.append(round_.samples[0]._replace(pid=8))


def never_rest(round_):
    round_.quiet, round_.unquiet = False, "run.in: 7"


def tell_a_secret(round_):
    round_.log += json.dumps({"time": "", "level": "", "event": "", "msg": "a secret"}) + "\n"


def break_a_line(round_):
    round_.log += f"\n{LINE_CANARY}\n"


def repeat_without_a_fault(round_):
    again(round_, 11.0, 12.0)


def repeat_on_sqlite(round_):
    round_.broker = "sqlite"
    again(round_, 19.0, 21.0)


BROKEN = {
    lose: "1",
    invent: "2",
    miscalculate: "2",
    drop_headers: "2",
    ack_early: "3",
    repeat_without_a_fault: "5",
    repeat_on_sqlite: "5",
    start_again: "8",
    charge: "9",
    put_aside: "9",
    overfill: "10",
    leak: "13",
    stale_ack: "14",
    never_rest: "15",
    die_unasked: "15",
    stay_silent: "16",
    miscount: "18",
    tell_a_secret: "19",
    break_a_line: "19",
}


def test_a_good_round_has_no_problem(good):
    """The checker invents nothing."""
    assert check(good) == []


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_each_broken_promise_is_told(good, damage):
    """Exactly what is broken is reported, under its number."""
    damage(good)
    assert [problem.replace(",", " ").split()[0] for problem in check(good)][:1] == [BROKEN[damage]]


def test_a_duplicate_is_attributed_to_the_fault_between_its_publications(good):
    """Published before and after the cut: the cut explains it, and only once."""
    again(good, 19.9, 21.0)
    assert check(good) == []
    assert causes(good) == ({0: 1}, [])
    again(good, 19.9, 21.0)
    assert "5 duplicates that no fault explains" in check(good)[0]


def test_a_retry_that_was_sent_twice_explains_two_outcomes(good):
    """Also when its copies wait in different delay queues, and long after the fault between them."""
    name = first(good)
    again(good, 40.0, 40.0)
    delayed = [Step(time, "", f"in.retry.{wait}s", Label(name, 2, 0)) for time, wait in ((19.9, 2), (21.0, 1))]
    good.steps[name] = delayed + good.steps[name]
    assert check(good) == []
    good.steps[name][1] = delayed[1]._replace(label=Label(name, 3, 0))  # another attempt is no repeat
    assert "5 duplicates that no fault explains" in check(good)[0]


def test_a_killed_classic_broker_may_forget_the_acks_since_a_message_was_stored(good):
    """However long ago that was; a quorum queue forgets none."""
    good.faults = [Fault("broker-kill", 20.0, 20.5)]
    good.acked = dict.fromkeys(range(100, 200), 10)  # 100 a second, from 10 s to 20 s
    good.stored = [11.0, 19.8, 30.0]
    assert bound(good, good.faults[0]) == 2 * PREFETCH + 70
    good.stored = [11.0, 30.0]
    assert bound(good, good.faults[0]) == 2 * PREFETCH + 950
    good.broker = "quorum"
    assert bound(good, good.faults[0]) == 2 * PREFETCH


def test_what_the_publisher_does_not_know_may_or_may_not_have_an_outcome(good):
    """An unconfirmed input is neither lost without an outcome, nor invented with one."""
    name = good.outcomes.pop().id
    good.confirmed -= {name, good.outcomes[0].id}
    assert check(good) == []


def test_messages_are_made_of_the_seed_alone():
    """The same run and number yield the same message; another number yields another."""
    assert make("run", 5) == make("run", 5)
    assert make("run", 5).body != make("run", 6).body
