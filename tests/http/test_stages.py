"""Routes for stages and the service: answers, waits, and what is wrong with a request."""

import asyncio
import threading
import time

import msgspec
import pytest

from mqworker.control.desired_state import (
    Reload,
    SetConsumers,
    SetLimits,
    SetListening,
    SetLogLevel,
    SetParams,
    SetRunning,
)
from mqworker.control.errors import ControlError
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.stage_status import BlockedOrder, ConsumerStatus, InHand, OrderStatus
from tests.http.operator import GOOD_LINK, LittleService, stage_status
from tests.support.waiting import wait_for

ALPHA = "/api/v1/stages/alpha"
LINE = """
[control]
port = 0
[stages.store]
input = "found"
jobs = ["m:f"]
[stages.decode]
input = "frames"
jobs = ["m:f"]
output = "images"
[stages.detect]
input = "images"
jobs = ["m:f"]
output = { exchange = "results", queue = "found", routing_key = "found" }
"""


def test_stages_tell_desired_and_actual(service):
    """A stage shows its desired and its actual state, with every Consumer's generation and message in hand."""
    every = service.ask("GET", "/api/v1/stages").json["stages"]
    assert [stage["name"] for stage in every] == ["alpha", "beta"]
    alpha = service.ask("GET", ALPHA).json
    assert alpha["desired"]["consumers"] == 2
    assert alpha["desired"]["params"] == {"particles": 10}
    consumer = alpha["actual"]["consumers"][0]
    assert (consumer["slot"], consumer["generation"], consumer["message_id"]) == (1, 1, "id-1")
    assert 2 <= consumer["message_seconds"] < 30
    assert (consumer["seats"], consumer["messages"]) == (0, [])
    assert (consumer["held_by"], consumer["held_seconds"]) == (None, None)
    assert service.ask("GET", "/api/v1/status").json["stages"][0]["name"] == "alpha"


def test_why_nothing_is_happening_is_the_same_everywhere(service):
    """The status, the list and the stage tell the same code and sentence, with who has paused it."""
    service.control.paused_by = lambda stage: ("token", 5.0) if stage == "alpha" else ("", None)
    service.control.change(SetListening("alpha", enabled=False))
    told = [
        service.ask("GET", "/api/v1/status").json["stages"][0]["why"],
        service.ask("GET", "/api/v1/stages").json["stages"][0]["why"],
        service.ask("GET", ALPHA).json["why"],
    ]
    assert {(why["code"], why["level"], why["since"], why["sentence"][:21]) for why in told} == {
        ("paused", "warning", 5.0, "Paused with the token")
    }


def test_a_stage_tells_all_messages_in_hand_each_with_its_time(service):
    """Of one that waits for a shared object no time is told, and no id of one that has just begun."""
    began = time.monotonic() - 9
    messages = (InHand(began, "id-9"), InHand(time.monotonic(), ""), InHand(0.0, "id-0"))
    one = ConsumerStatus(0, 4242, "busy", 1, 1, 7, began, "id-9", 5, 3, 64, messages, began, "id-9", seq=17)
    service.tell("alpha", stage_status(consumers=(one,)))
    (consumer,) = service.ask("GET", ALPHA).json["actual"]["consumers"]
    assert (consumer["seats"], consumer["used"], consumer["message_id"], consumer["seq"]) == (64, 3, "id-9", 17)
    assert [each["message_id"] for each in consumer["messages"]] == ["id-9", None, "id-0"]
    first, second, third = [each["seconds"] for each in consumer["messages"]]
    assert consumer["message_seconds"] == first >= 9
    assert (second < 5, third) == (True, None)
    assert (consumer["held_by"], consumer["held_seconds"]) == ("id-9", first)


def test_a_stage_tells_its_order(service):
    """Results that wait for their turn are unfinished, and who blocks them is told with how long it has been here."""
    blocked = BlockedOrder("7", "camera-1", time.monotonic() - 60, 5, "it cannot be placed: no route")
    order = OrderStatus(delayed=0, locked=3, stuck=False, blocked=blocked, hottest="camera-1", hottest_messages=6)
    service.tell("alpha", stage_status(computed=5, order=order))
    alpha = service.ask("GET", ALPHA).json
    assert (alpha["actual"]["computed"], alpha["unfinished"], alpha["held_back_by"]) == (5, 23, "order")
    told = alpha["actual"]["order"]
    assert (told["locked"], told["stuck"], told["hottest"], told["hottest_messages"]) == (3, False, "camera-1", 6)
    assert (told["blocked"]["message_id"], told["blocked"]["behind"]) == ("7", 5)
    assert 60 <= told["blocked"]["seconds"] < 90


def test_stages_are_shown_as_a_line(tmp_path):
    """Status and stages tell the order, also of stages that run elsewhere, and the bottleneck; a stage its figures."""
    little = LittleService(tmp_path, toml=LINE, part=("store", "decode"))
    try:
        busy = {"arrival_rate": 3.0, "service_time": 0.5, "utilisation": 1.0, "capacity": 4.0}
        little.tell("store", stage_status("store", **busy))
        for path in ("stages", "status"):
            told = little.ask("GET", f"/api/v1/{path}").json
            assert [stage["name"] for stage in told["stages"]] == ["store", "decode"], "the order of the file"
            assert told["bottlenecks"] == ["store"]
            assert told["line"] == [
                {"name": "decode", "level": 0, "feeds": ["detect"], "here": True},
                {"name": "detect", "level": 1, "feeds": ["store"], "here": False},
                {"name": "store", "level": 2, "feeds": [], "here": True},
            ]
        store = little.ask("GET", "/api/v1/stages/store").json
        assert busy.items() <= store["actual"].items()
        shown = {name: store[name] for name in ("unfinished", "seconds_left", "growing", "held_back_by")}
        assert shown == {"unfinished": 18, "seconds_left": 18.0, "growing": False, "held_back_by": "consumers"}
        missing = [little.ask("GET", f"/api/v1/stages/{name}") for name in ("detect", "other")]
        assert [answer.status for answer in missing] == [404, 404]
        there = "name the service that has it, by --url or by its MQWORKER_SERVICE__STATE_DIR"
        assert [answer.json["detail"] for answer in missing] == [
            f'stage "detect" runs elsewhere: {there}; here are: store, decode',
            'there is no stage "other"; known: store, decode',
        ]
    finally:
        little.close()


def test_no_more_consumers_than_their_register_has_room_for(tmp_path):
    """Each takes the more room the more messages it works on at once."""
    little = LittleService(tmp_path, toml='[stages.s]\ninput = "in"\njobs = ["m:f"]\nconcurrency = 1000\n')
    try:
        path = "/api/v1/stages/s/consumers"
        refused = little.ask("PUT", path, {"count": 17})
        problem = "is above 16, the most with a concurrency of 1000"
        assert (refused.status, refused.json["fields"]) == (422, [{"field": "count", "problem": problem}])
        assert little.ask("PUT", path, {"count": 16}).status == 202
    finally:
        little.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "change"),
    [
        ("PUT", f"{ALPHA}/listening", {"enabled": False}, SetListening("alpha", enabled=False)),
        ("PUT", f"{ALPHA}/consumers", {"count": 0}, SetConsumers("alpha", 0)),
        ("PUT", f"{ALPHA}/consumers", {"count": "auto"}, SetConsumers("alpha", "auto")),
        ("PUT", f"{ALPHA}/time-limit", {"soft": 1, "hard": 2.5}, SetLimits("alpha", 1, 2.5)),
        ("POST", f"{ALPHA}/stop", None, SetRunning("alpha", enabled=False)),
        ("POST", f"{ALPHA}/start", None, SetRunning("alpha", enabled=True)),
        ("POST", f"{ALPHA}/restart", None, Reload("alpha", None, {"particles": 10})),
        ("POST", f"{ALPHA}/restart", {"params": {"n": 1}}, Reload("alpha", None, {"particles": 10, "n": 1})),
        ("PATCH", f"{ALPHA}/params", {"particles": 7}, SetParams("alpha", {"particles": 7})),
        ("PUT", "/api/v1/log-level", {"level": "debug"}, SetLogLevel("debug")),
    ],
)
def test_a_change_is_stored(service, method, path, body, change):
    """Each changing route stores its change and answers 202 with the revision, or 200 after waiting."""
    answer = service.ask(method, path, body)
    assert (answer.status, service.changes) == (202, [change])
    assert answer.json["revision"] == service.document.revision
    assert answer.json["applied"] is True
    assert service.ask(method, f"{path}?wait=5", body).status == 200


@pytest.mark.parametrize("path", [f"{ALPHA}/stop", "/api/v1/drain"])
def test_what_stopping_would_destroy_wants_force(service, path):
    """Stopping a stage whose input is auto-delete is refused with what it would delete, unless it is forced."""
    link = msgspec.structs.replace(GOOD_LINK, auto_delete=True)
    service.statuses["alpha"] = stage_status(link=link, backlog=1234)
    service.publish()
    answer = service.ask("POST", path)
    assert answer.status == 409
    assert "the input of stage alpha is auto-delete" in answer.json["detail"]
    assert "the 1,234 messages in it" in answer.json["detail"]
    assert service.ask("POST", f"{path}?force=false").status == 409
    assert service.ask("POST", f"{path}?force=1").status == 422
    assert (service.changes, service.drained) == ([], False)
    assert service.ask("POST", f"{path}?force=true").status == 202
    assert service.changes or service.drained


def test_wait_until_applied(service):
    """`?wait=` answers once the revision is applied, or with 202 when it is not in time."""
    service.applying = False
    answer = service.ask("PUT", f"{ALPHA}/consumers", {"count": 5})
    assert (answer.status, answer.json["applied"]) == (202, False)
    assert service.ask("PUT", f"{ALPHA}/consumers?wait=0.2", {"count": 6}).status == 202

    def apply() -> None:
        wait_for(lambda: len(service.changes) == 3, 30, "third change")
        service.applied = service.document.revision
        service.publish()

    later = threading.Thread(target=apply)
    later.start()
    began = time.monotonic()
    answer = service.ask("PUT", f"{ALPHA}/consumers?wait=30", {"count": 7})
    later.join()
    assert (answer.status, answer.json["applied"]) == (200, True)
    assert time.monotonic() - began < 20


def test_params(service):
    """Parameters are returned with generation and history; a bad value is reported by field and changes nothing."""
    answer = service.ask("PATCH", f"{ALPHA}/params", {"particles": 3}, Content_Type="application/merge-patch+json")
    assert (answer.json["generation"], answer.json["params"]) == (2, {"particles": 3})
    told = service.ask("GET", f"{ALPHA}/params").json
    assert (told["params"], told["generation"]) == ({"particles": 3}, 2)
    assert told["history"] == [{"generation": 1, "params": {"particles": 10}}]
    bad = service.ask("PATCH", f"{ALPHA}/params", {"particles": 0})
    assert (bad.status, bad.json["fields"]) == (422, [{"field": "particles", "problem": "must be at least 1"}])
    assert service.ask("GET", f"{ALPHA}/params").json == told
    assert service.ask("POST", f"{ALPHA}/params/rollback").json["params"] == {"particles": 10}
    service.ask("PATCH", f"{ALPHA}/params", {"particles": 4})
    brought_back = service.ask("GET", f"{ALPHA}/params").json["history"][-1]
    assert brought_back == {"generation": 3, "params": {"particles": 10}, "of": 1}


def test_the_chain_is_changed_job_by_job_or_as_a_whole(service):
    """Each change answers with the chain and its generation as ETag; what cannot be made is 422 with the field."""
    path = f"{ALPHA}/jobs"
    first = service.ask("GET", path)
    assert (first.json["jobs"], first.json["chain"][0]["name"], first.headers["etag"]) == (["m:f"], "f", '"1"')
    added = service.ask("POST", f"{path}?wait=5", {"job": "c:d", "at": 1})
    assert (added.status, added.json["jobs"], added.json["generation"], added.headers["etag"]) == (
        200, ["c:d", "m:f"], 2, '"2"',
    )  # fmt: skip
    assert service.ask("PATCH", f"{path}/d", {"enabled": False}).json["jobs"] == ["m:f"]
    assert service.ask("PATCH", f"{path}/f", {"at": 1}).json["chain"] == [
        {"name": "f", "job": "m:f", "enabled": True},
        {"name": "d", "job": "c:d", "enabled": False},
    ]
    assert service.ask("DELETE", f"{path}/d").json["chain"] == [{"name": "f", "job": "m:f", "enabled": True}]
    whole = {"jobs": ["e:g", {"job": "e:g", "name": "twice"}]}
    assert service.ask("PUT", path, whole).json["jobs"] == ["e:g", "e:g"]
    for method, where, payload, field in (
        ("POST", path, {"job": "no job"}, "job"),
        ("POST", path, {"job": "a:b", "name": "a b"}, "name"),
        ("POST", path, {"job": "a:b", "at": 9}, "at"),
        ("POST", path, {"job": "a:b", "more": 1}, "more"),
        ("PUT", path, {"jobs": []}, "jobs"),
    ):
        answer = service.ask(method, where, payload)
        assert (answer.status, answer.json["fields"][0]["field"]) == (422, field), answer.json
        assert "regex" not in answer.json["detail"]


def test_parameters_may_change_with_the_chain(service):
    """In one generation: a job that needs one, or one that nobody needs any more. An unknown job is 404."""
    path = f"{ALPHA}/jobs"
    answer = service.ask("POST", path, {"job": "c:d", "params": {"radius": 3}})
    assert (answer.status, answer.json["generation"]) == (202, 2)
    assert service.ask("GET", f"{ALPHA}/params").json["params"] == {"particles": 10, "radius": 3}
    for method, payload in (("DELETE", None), ("PATCH", {"at": 1})):
        assert service.ask(method, f"{path}/nobody", payload).status == 404


def test_of_two_changes_of_the_same_chain_one_is_refused(service):
    """If-Match with the generation that was seen: 412 and what is there now, and nothing is changed."""
    path = f"{ALPHA}/jobs"
    assert service.ask("POST", path, {"job": "c:d"}, If_Match='"1"').status == 202
    late = service.ask("POST", path, {"job": "e:f"}, If_Match='"1"')
    assert (late.status, late.json["kind"]) == (412, "conflict")
    assert service.ask("GET", path).json["jobs"] == ["m:f", "c:d"]
    for seen, status in (
        ('"2"', 202), ("*", 202), ('"1", "4"', 202), ('"1", "2"', 412),
        ('W/"5"', 202), ('W/"5"', 412), ('"*"', 412), ('""', 412),
    ):  # fmt: skip
        place = 1 + service.document.stages["alpha"].generation % 2
        assert service.ask("PATCH", f"{path}/d", {"at": place}, If_Match=seen).status == status, seen


def test_generations_can_be_seen_and_gone_back_to(service):
    """The newest first; back to the one before, or to one that is named; where there is none, 409."""
    folder = "/app"
    for change in (
        Reload("alpha", CodeCopy("a", folder), {"particles": 10}),
        Reload("alpha", CodeCopy("b", folder), {"particles": 10}),
    ):
        service.loop.call_soon_threadsafe(asyncio.ensure_future, service.change(change))
    wait_for(lambda: len(service.changes) == 2, 20, "two generations")
    listed = service.ask("GET", f"{ALPHA}/generations").json["generations"]
    assert [(each["generation"], each["code"], each["of"]) for each in listed] == [
        (3, "b", None),
        (2, "a", None),
        (1, None, None),
    ]
    assert listed[0]["params"] == {"particles": 10}
    answer = service.ask("POST", f"{ALPHA}/rollback?wait=5")
    assert (answer.status, answer.json["generation"], answer.json["of"]) == (200, 4, 2)
    answer = service.ask("POST", f"{ALPHA}/rollback", {"generation": 3})
    assert (answer.status, answer.json["of"]) == (202, 3)
    assert service.ask("POST", f"{ALPHA}/rollback", {"generation": 99}).status == 409
    assert service.ask("POST", f"{ALPHA}/rollback", {"generation": 0}).status == 422


def test_rollback_without_history(service):
    """A rollback without earlier parameters gets 409."""
    assert service.ask("POST", f"{ALPHA}/params/rollback").status == 409


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (f"{ALPHA}/consumers", b"{", 400, None),
        (f"{ALPHA}/consumers", b"\xff\xfe", 400, None),
        (f"{ALPHA}/consumers", b'{"count": 1, "x": ' + b"[" * 50_000, 422, "x"),
        (f"{ALPHA}/consumers", b'{"count": ' + b"9" * 5000 + b"}", 422, "count"),
        (f"{ALPHA}/consumers", b'"text"', 422, ""),
        (f"{ALPHA}/consumers", b"", 422, "count"),
        (f"{ALPHA}/consumers", b'{"count": "2"}', 422, "count"),
        (f"{ALPHA}/consumers", b'{"count": true}', 422, "count"),
        (f"{ALPHA}/consumers", b'{"count": -1}', 422, "count"),
        (f"{ALPHA}/consumers", b'{"count": 1025}', 422, "count"),
        (f"{ALPHA}/consumers", b'{"count": 1, "jobs": "os:system"}', 422, "jobs"),
        (f"{ALPHA}/listening", b'{"enabled": 1}', 422, "enabled"),
        (f"{ALPHA}/time-limit", b'{"soft": 5, "hard": 1}', 422, "soft"),
        (f"{ALPHA}/time-limit", b'{"soft": 5}', 422, "hard"),
        (f"{ALPHA}/consumers?wait=31", b'{"count": 1}', 422, "wait"),
        (f"{ALPHA}/consumers?wait=nan", b'{"count": 1}', 422, "wait"),
        (f"{ALPHA}/consumers?wait=x", b'{"count": 1}', 422, "wait"),
        (f"{ALPHA}/consumers?weit=1", b'{"count": 1}', 422, "weit"),
        ("/api/v1/log-level", b'{"level": "trace"}', 422, "level"),
        ("/api/v1/stages/zeta/consumers", b'{"count": 1}', 404, None),
        ("/api/v1/stages/..%2falpha/consumers", b'{"count": 1}', 404, None),
    ],
)
def test_bad_requests(service, path, body, status, field):
    """What is wrong is reported as a problem document, and nothing changes."""
    answer = service.ask("PUT", path, body, Content_Type="application/json")
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    told = answer.json
    assert told["status"] == status
    assert {"type", "title", "detail"} <= told.keys()
    assert "Traceback" not in answer.body.decode()
    if field is not None:
        assert told["fields"][0]["field"] == field
    assert service.changes == []


@pytest.mark.parametrize(("depth", "status"), [(30, 202), (32, 422), (500, 422), (30_000, 400)])
def test_deep_parameters(service, depth, status):
    """JSON nested too deeply for its later readers is refused."""
    body = b'{"x": ' + b"[" * depth + b"]" * depth + b"}"
    assert service.ask("PATCH", f"{ALPHA}/params", body, Content_Type="application/json").status == status


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("unknown_stage", 404),
        ("busy", 503),
        ("storage", 507),
        ("deadline", 504),
        ("unavailable", 503),
        ("refused", 409),
        ("draining", 503),
        ("internal", 500),
    ],
)
def test_kinds_of_refusal(service, kind, status):
    """Each kind of ControlError has its status; internals of mqworker are not shown."""
    service.admin["queues"] = ControlError(kind, "canary words")
    answer = service.ask("GET", "/api/v1/queues")
    assert answer.status == status
    assert ("canary words" in answer.json["detail"]) is (status != 500)
    assert ("retry-after" in answer.headers) is (status == 503)


def test_a_fault_inside(service):
    """An unexpected exception gets 500 without its text."""
    service.admin["queues"] = ZeroDivisionError("canary")
    answer = service.ask("GET", "/api/v1/queues")
    assert (answer.status, b"canary" in answer.body) == (500, False)
    assert b"ZeroDivision" not in answer.body


def test_drain(service):
    """POST /drain starts draining."""
    assert (service.ask("POST", "/api/v1/drain").status, service.drained) == (202, True)


def test_sixteen_callers(service):
    """Many simultaneous callers each get their own true answer, and the desired state is the last one stored."""
    revisions, failures = [], []

    def caller(number: int) -> None:
        for turn in range(12):
            answer = service.ask("PUT", f"{ALPHA}/consumers", {"count": number * 20 + turn})
            if answer.status == 202:
                revisions.append(answer.json["revision"])
            else:
                failures.append(answer.status)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, len(set(revisions))) == ([], 16 * 12)
    assert service.document.stages["alpha"].consumers == service.changes[-1].count


@pytest.mark.parametrize("job", ['exec:["cat"]', {"exec": ["cat"]}, ["cat", "-u"], "./solver"])
def test_who_names_a_program_is_told_where_programs_are_named(service, job):
    """In whichever form it is written."""
    asked = service.ask("POST", f"{ALPHA}/jobs", {"job": job})
    assert (asked.status, asked.json["detail"]) == (
        422,
        "job: must be `module:name`; a program (exec) is named in the configuration only",
    )
    beside = service.ask("POST", f"{ALPHA}/jobs", {"exec": ["cat"]})
    assert "a program (exec) is named in the configuration only" in beside.json["detail"]
