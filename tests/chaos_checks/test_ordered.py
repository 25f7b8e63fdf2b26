"""The checker of runs in an order: silent about a good one, loud about what went wrong in another; and its report."""

import json

import pytest

from tests.chaos import ordered_report
from tests.chaos.ordered_checker import Run, check, late
from tests.chaos.ordered_faults import WIRE, kinds
from tests.chaos.ordered_load import MAX_ATTEMPTS, make
from tests.chaos.records import Fault, Outcome, Round, Start

COUNT = 1500


def outcome(message, attempt=MAX_ATTEMPTS):
    """Return what should become of a message."""
    if message.good:
        return Outcome(
            message.id, "result", message.correlation, message.headers, json.dumps(message.expected()).encode()
        )
    told = {"x-mqworker-reason": "error", "x-mqworker-attempt": attempt}
    return Outcome(message.id, "dead", message.correlation, message.headers | told, message.body)


def line(event, message_id, **more):
    """Return a line of the log."""
    head = {"time": "2026-01-01T00:00:00Z", "level": "warning", "event": event, "msg": "y", "message_id": message_id}
    return json.dumps(head | more) + "\n"


def good(by="key", on_failure="hold"):
    """Return a run in which all went well, one message after the other; with `pass`, those that failed are last."""
    messages = [make("run", number) for number in range(COUNT)]
    round_ = Round("round", "classic", quiet=True, tried={message.id: message for message in messages})
    round_.confirmed = set(round_.tried)
    failed = [message for message in messages if message.fails and on_failure == "pass"]
    round_.outcomes = [outcome(message) for message in messages if message not in failed]
    round_.outcomes += [outcome(message) for message in failed]
    round_.starts = [Start(float(at), 7, message.id) for at, message in enumerate(messages)]
    round_.log = "".join(line("retried", message.id, reason="error") for message in messages if message.fails)
    return Run(round_, by, on_failure, [start._replace(time=start.time + 0.5) for start in round_.starts])


def same_key(run, which=0):
    """Return the positions, in the outcomes, of two results of one key that follow each other."""
    keys = [run.round.tried[each.id].key for each in run.round.outcomes]
    good_ones = [at for at, each in enumerate(run.round.outcomes) if each.queue == "result" and keys[at] == keys[which]]
    return good_ones[1:3]


def swap(run):
    one, other = same_key(run)
    results = run.round.outcomes
    results[one], results[other] = results[other], results[one]


def begin_early(run):
    one, other = (run.round.outcomes[at].id for at in same_key(run))
    began = next(start.time for start in run.round.starts if start.id == one)
    run.round.starts = [start._replace(time=began + 0.1) if start.id == other else start for start in run.round.starts]


def lose(run):
    run.round.outcomes.pop()


def give_up_early(run):
    at, dead = next((at, each) for at, each in enumerate(run.round.outcomes) if each.queue == "dead")
    run.round.outcomes[at] = outcome(run.round.tried[dead.id], attempt=1)


def crash(run):
    run.round.log += line("retried", run.round.outcomes[0].id, reason="crash")


def end_badly(run):
    run.round.exits.append(1)


BROKEN = {swap: "20", begin_early: "20", lose: "1", give_up_early: "8", crash: "9", end_badly: "17"}


@pytest.mark.parametrize("on_failure", ["hold", "pass"])
@pytest.mark.parametrize("by", ["key", "input"])
def test_silent_about_a_good_run(by, on_failure):
    """Also when what failed is late, where it may be; a crash of ours explains a charge."""
    run = good(by, on_failure)
    run.round.faults = [Fault("consumer-kill", -1.0, 1e12)]
    crash(run)
    assert check(run) == []
    assert bool(late(run)) == (on_failure == "pass")


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda each: each.__name__)
def test_loud_about_what_is_wrong(break_it):
    """Each broken promise is told, and nothing else."""
    run = good()
    break_it(run)
    assert {problem.split()[0] for problem in check(run)} == {BROKEN[break_it]}


def test_a_run_in_which_nobody_lets_others_pass_is_no_pass():
    """With `pass` some that failed have to be late; with `hold` none may be."""
    held, passed = good(on_failure="hold"), good(on_failure="pass")
    held.on_failure, passed.on_failure = "pass", "hold"
    for run in (held, passed):
        assert {problem.split()[0] for problem in check(run)} == {"20"}


def test_a_large_run_must_have_had_every_fault(monkeypatch):
    """A kind that never came is told, and too few refusals; the tables have each run, each kind and each problem."""
    run = good()
    assert not ordered_report.missing(run), "it is small"
    monkeypatch.setattr(ordered_report, "LARGE", COUNT)
    run.round.faults = [Fault(kind, 1.0, 2.0) for kind in kinds("classic") if kind != "scale"]
    run.refused = COUNT // 100
    assert ordered_report.missing(run) == ["0 no fault of the kind scale came"]
    run.refused = 3
    problems = ordered_report.missing(run)
    assert len(problems) == 2
    rows = [
        ordered_report.Row("classic", "key", "hold", problems, run),
        ordered_report.Row("sqlite", "key", "pass", []),
    ]
    told = ordered_report.tables(rows).splitlines()
    assert told[2].startswith("| classic | 20 keys | hold | 1,500 | ")
    assert told[2].endswith(" | 2 |")
    assert told[3].startswith("| sqlite | 20 keys | pass | it broke off |")
    assert len({row.count("|") for row in told[:4]}) == len({row.count("|") for row in told[5:9]}) == 1
    assert all(kind in told[5] for kind in WIRE)
    assert told[10:] == [f"- classic 20 keys hold: {problem}" for problem in problems]
    assert "faults: consumer-kill 1, " in ordered_report.words(run)
