"""Routes for one message, for faults and for one Consumer."""

import time
from urllib.parse import quote

import pytest
from msgspec import structs

from mqworker.control.errors import ControlError
from mqworker.ipc.inspection import (
    AskMessage,
    AskReplace,
    AskStack,
    FaultCount,
    FaultReport,
    MessageAnswer,
    ReplaceAnswer,
    StackAnswer,
    Trace,
)

STACK = "/api/v1/stages/alpha/consumers/2/stack"
REPLACE = "/api/v1/stages/alpha/consumers/2/replace"


def test_a_message_is_told_with_its_way_and_its_log_lines(service):
    """Each stage's traces, in wall-clock times; a stage that did not answer is named; the id may be anything."""
    name, now = "a/b//\u00e4?", time.monotonic()
    trace = Trace("dead", 2, now - 9, now - 8, now - 7, now - 6, 1.0, 3, error_type="ValueError", reason="error")
    service.found = {
        "alpha": MessageAnswer(1, (trace,), 10_000, now - 60),
        "beta": ControlError("deadline", "the Producer did not answer within 0.8 s"),
    }
    answer = service.ask("GET", f"/api/v1/messages/{quote(name, safe='')}")
    assert answer.status == 200
    told = answer.json
    assert service.requests == [AskMessage(0, name)]
    assert (told["message_id"], told["state"]) == (name, "dead")
    assert told["sentence"].startswith("stage alpha: dead since ")
    assert told["unanswered"] == [{"stage": "beta", "why": "the Producer did not answer within 0.8 s"}]
    (stage,) = told["stages"]
    (told_trace,) = stage["traces"]
    assert (stage["state"], stage["remembers"], told_trace["consumer"], told_trace["attempt"]) == ("dead", 10_000, 3, 2)
    assert (
        told_trace["at"]["received"]
        < told_trace["at"]["begun"]
        < told_trace["at"]["settled"]
        < stage["since"][:4] + "9"
    )
    assert told_trace["at"]["due"] is None
    assert (told["letters"], told["letters_as_of"], told["lines"]) == ([], None, [])


def test_dead_letters_are_told_as_they_were_seen_last_or_after_a_look(service):
    """Also of a stage whose Producer is gone; without an answer of the broker admin the rest is told all the same."""
    service.found = {"alpha": ControlError("refused", "stage alpha is stopped"), "beta": MessageAnswer(1)}
    letter = {"stage": "alpha", "id": "ab12", "message_id": "m-1"}
    told = service.ask("GET", "/api/v1/messages/m-1").json
    assert (told["state"], told["letters"], told["letters_as_of"]) == ("unknown", [], None)
    assert service.ask("GET", "/api/v1/messages/m-1?look=true").status == 503
    service.admin["dlq_find"] = lambda asked: {
        "letters": [letter] if asked["look"] else [],
        "ages": {"alpha": 0.5, "beta": 0.0} if asked["look"] else {"beta": 4.0},
    }
    told = service.ask("GET", "/api/v1/messages/m-1").json
    assert (told["state"], told["letters_as_of"]) == ("unknown", None), "alpha was not looked at"
    told = service.ask("GET", "/api/v1/messages/m-1?look=true").json
    assert (told["state"], told["sentence"]) == ("dead", "stage alpha: it is a dead letter")
    assert (told["letters"], told["letters_as_of"]) == ([letter], 0.5)
    assert service.ask("GET", "/api/v1/messages/m-1?look=1").json["letters"] == [letter]
    assert service.ask("GET", "/api/v1/messages/m-1?look=yes").status == 422


def test_an_id_that_no_message_can_have_is_refused(service):
    """AMQP has 255 bytes for it."""
    assert service.ask("GET", f"/api/v1/messages/{'x' * 256}").status == 422
    assert service.ask("GET", "/api/v1/messages?id=").status == 422
    assert service.requests == []


def test_faults_are_told_with_their_trend(service):
    """The key is that of the same group of dead letters."""
    fault = FaultCount("error", "ValueError", "jobs.py:4 in handle", 2, 1, 1.0, 2.0, "no frame", ("a",))
    service.control.faults.take("alpha", FaultReport(1, (fault,), 4), time.time())
    told = service.ask("GET", "/api/v1/stages/alpha/faults").json
    (group,) = told["faults"]
    assert (told["other"], len(group["key"]), len(group["trend"]), sum(group["trend"])) == (4, 12, 60, 3)
    assert group["first"] == "1970-01-01T00:00:01.000Z"
    assert (group["retried"], group["dead"], group["examples"], group["text"]) == (2, 1, ["a"], "no frame")
    assert service.ask("GET", "/api/v1/stages/beta/faults").json["faults"] == []
    assert service.ask("GET", "/api/v1/stages/gamma/faults").status == 404


def test_a_consumer_tells_where_it_is_and_is_replaced(service):
    """Both are POSTs; the second says whether its message may be charged."""
    service.answers = {
        AskStack: StackAnswer(1, "File jobs.py", 2, 4242, "m-1", 3.25),
        AskReplace: ReplaceAnswer(1, pid=4242, in_hand=2, running=1, message_id="m-1"),
    }
    told = service.ask("POST", STACK)
    assert (told.status, told.json) == (
        200,
        {"slot": 2, "pid": 4242, "message_id": "m-1", "seconds": 3.25, "stack": "File jobs.py"},
    )
    told = service.ask("POST", REPLACE, {"now": True})
    had = {"in_hand": 2, "running": 1, "message_id": "m-1"}
    assert (told.status, told.json) == (202, {"slot": 2, "pid": 4242, "now": True} | had)
    assert service.ask("POST", REPLACE).json == {"slot": 2, "pid": 4242, "now": False}
    service.ask("POST", REPLACE, {"now": True, "pid": 4242, "message_id": "m-1"})
    service.ask("POST", REPLACE, {"now": True, "pid": 4242, "seq": 0})
    later, now = AskReplace(0, 2, now=False), AskReplace(0, 2, now=True)
    named, none = structs.replace(now, pid=4242, message_id="m-1"), structs.replace(now, pid=4242, seq=0)
    service.ask("POST", STACK, {"pid": 4242})
    assert service.requests == [AskStack(0, 2), now, later, named, none, AskStack(0, 2, 4242)]


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("POST", STACK, None, "unknown_slot", 404),
        ("POST", STACK, None, "refused", 409),
        ("POST", STACK, None, "deadline", 504),
        ("GET", STACK, None, "refused", 405),
        ("POST", STACK, {"pid": 0}, "refused", 422),
        ("POST", STACK.replace("/2/", "/-1/"), None, "refused", 404),
        ("POST", STACK.replace("alpha", "gamma"), None, "refused", 404),
        ("POST", REPLACE, {"now": 1}, "refused", 422),
        ("POST", REPLACE, {"later": True}, "refused", 422),
        ("POST", REPLACE, {"pid": 0}, "refused", 422),
        ("POST", REPLACE, {"seq": -1}, "refused", 422),
        ("POST", REPLACE, {"pid": 7, "message_id": "m-1"}, "refused", 409),
    ],
)
def test_what_is_refused(service, method, path, body, kind, status):
    """An unknown slot, a stage without processes, a Consumer that does not answer, another form of the body."""
    service.answers = dict.fromkeys((AskStack, AskReplace), ControlError(kind, "no"))
    assert service.ask(method, path, body).status == status
