"""The audit: each request with effects is in it, with who, what, from what to what, and the answer; never a secret."""

import json

import pytest

from mqworker.control.audit import PASSING, RECORDS
from mqworker.http.app import ROUTES
from tests.http.operator import LittleService
from tests.http.test_openapi import path_of

TOKEN, READ = "full-canary-token", "read-canary-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
API = "/api/v1"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    little = LittleService(tmp_path_factory.mktemp("audited"), TOKEN, read_token=READ)
    yield little
    little.close()


def records(service, **query) -> list[dict]:
    """Return the records that the API tells."""
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return service.ask_unix("GET", f"{API}/audit?{asked}").json["records"]


def newest(service) -> dict:
    return records(service, limit=1)[0]


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.has_effects and r.audited], ids=lambda r: f"{r.method} {r.path}"
)
def test_every_route_with_effects_is_in_the_audit(audited, route):
    """Whoever is let in and whatever is answered: each request with effects is one record, in the next place."""
    before = newest(audited)["n"] if records(audited) else 0
    status = audited.ask(route.method, path_of(route), Authorization=f"Bearer {READ}").status
    record = newest(audited)
    expected = (before + 1, route.method, path_of(route), status, "read token", "127.0.0.1", route.summary)
    if (route.method, route.path) == ("POST", f"{API}/session"):  # it needs no login, and has failed
        assert status == 401
        assert not records(audited, after=before)
        return
    found = tuple(record[key] for key in ("n", "method", "path", "status", "by", "from", "what"))
    assert found == expected


def test_what_changes_nothing_is_not_in_the_audit(audited):
    """A GET, a HEAD, a message that is sent and a caller without a token leave no record."""
    before = records(audited)
    audited.ask_unix("GET", f"{API}/stages")
    audited.ask_unix("HEAD", "/startlistening")
    audited.ask_unix("OPTIONS", f"{API}/stages/alpha/listening")
    audited.ask_unix("POST", f"{API}/stages/alpha/messages", b"x", Content_Type="text/plain")
    audited.ask("POST", f"{API}/drain")
    assert records(audited) == before


def test_from_what_to_what(audited):
    """A record tells each field that the request has changed, parameters leaf by leaf, and who has asked for it."""
    audited.ask_unix("PUT", f"{API}/stages/alpha/listening", {"enabled": True})
    answer = audited.ask("PUT", f"{API}/stages/alpha/listening", {"enabled": False}, **BEARER, User_Agent="test/1")
    assert answer.status == 202
    record = newest(audited)
    assert record["changes"] == [{"stage": "alpha", "field": "listening", "old": True, "new": False}]
    assert (record["by"], record["stage"], record["agent"], record["status"]) == ("token", "alpha", "test/1", 202)
    assert record["asked"] == '{"enabled": false}'
    assert audited.control.paused_by("alpha") == ("token", pytest.approx(record["time"], abs=1))
    audited.ask_unix("PATCH", f"{API}/stages/alpha/params", {"deep": {"a.b": 1, "c": 2**63}})
    changes = {each["field"]: (each.get("old"), each.get("new")) for each in newest(audited)["changes"]}
    generation = changes.pop("generation")
    assert generation[1] == generation[0] + 1
    assert changes == {'params.deep."a.b"': (None, 1), "params.deep.c": (None, 2**63)}
    assert newest(audited)["by"] == "socket"
    audited.ask_unix("PUT", f"{API}/log-level", {"level": "error"})
    assert newest(audited)["changes"] == [{"stage": "", "field": "log_level", "old": "info", "new": "error"}]
    audited.ask_unix("PUT", f"{API}/log-level", {"level": "error"})
    assert newest(audited)["changes"] == []


def test_the_articles_four_are_in_the_audit(audited):
    """Calls that change several stages name each."""
    audited.ask_unix("GET", "/stopworking")
    audited.ask_unix("GET", "/startworking")
    rows = [(row["stage"], row["field"], row["new"]) for row in newest(audited)["changes"]]
    assert rows == [("alpha", "working", True), ("beta", "working", True)]


def test_refusals_are_in_the_audit(audited):
    """What was refused is in it with the reason: for its form, its role, its origin."""
    path = f"{API}/stages/alpha/consumers"
    for body, headers, status, reason in (
        ({"count": -1}, BEARER, 422, "count: Expected `int` >= 0"),
        ({"count": 1}, {"Authorization": f"Bearer {READ}"}, 403, "this login is read-only"),
        ({"count": 1}, BEARER | {"Origin": "http://evil.example"}, 403, "the Origin header is not ours; "),
    ):
        assert audited.ask("PUT", path, body, **headers).status == status
        record = newest(audited)
        assert (record["status"], record["changes"]) == (status, [])
        assert record["answer"].startswith(reason)


def test_who_may_only_look_erases_nothing(tmp_path):
    """Any number of requests with the read token, and without any, leaves the records of commands in place."""
    service = LittleService(tmp_path, TOKEN, read_token=READ)
    try:
        service.ask_unix("PUT", f"{API}/stages/alpha/listening", {"enabled": False})
        before = (service.loaded.state_dir / "audit.jsonl").read_bytes()
        connection = service.connect()
        paths, body = (f"{API}/drain", f"{API}/session"), json.dumps({"token": READ})
        headers = {"Authorization": f"Bearer {READ}", "Content-Type": "application/json"}
        for n in range(RECORDS + 20):
            connection.request("POST", paths[n % 2], body, headers)
            assert connection.getresponse().read()
        service.ask("POST", f"{API}/session", {"token": "wrong"})
        connection.close()
        kept = service.control.trail.since(0)
        assert (kept[0].by, kept[0].path, len(kept)) == ("socket", f"{API}/stages/alpha/listening", 1 + PASSING)
        assert {record.by.partition(" ")[0] for record in kept[1:]} == {"read", "session"}
        assert (service.loaded.state_dir / "audit.jsonl").read_bytes() == before
        assert service.control.paused_by("alpha")[0] == "socket"
    finally:
        service.close()


def test_a_page_of_another_site_erases_nothing(tmp_path, caplog):
    """Without a token too: what such a page sends is refused, and leaves the records of commands in place."""
    caplog.set_level("INFO")
    service = LittleService(tmp_path)
    try:
        path = f"{API}/stages/alpha/listening"
        service.ask("PUT", path, {"enabled": False})
        connection, told = service.connect(), len(caplog.records)
        for _ in range(PASSING + 20):
            connection.request("POST", f"{API}/drain", "x", {"Origin": "http://evil.example"})
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (403, True)
        connection.close()
        assert (service.loaded.state_dir / "audit.jsonl").read_bytes().count(b"\n") == 1
        kept = service.control.trail.since(0)
        assert (kept[0].path, len(kept), kept[-1].status) == (path, 1 + PASSING, 403)
        assert len(caplog.records) - told <= 1
    finally:
        service.close()


def test_no_secret_and_no_body_is_in_the_audit(audited, caplog):
    """Tokens, tickets, cookies and the bodies of messages are neither in a record, nor in its file, nor in the log."""
    caplog.set_level("INFO")
    made = audited.ask("POST", f"{API}/session/tickets", {}, **BEARER).json["ticket"]
    cookie = audited.ask("POST", f"{API}/session", {"ticket": made}).headers["set-cookie"].partition(";")[0]
    audited.ask("POST", f"{API}/session", {"token": TOKEN})
    audited.ask("POST", f"{API}/session", {"token": TOKEN + "x"})
    audited.ask("PUT", f"{API}/log-level", {"level": "info"}, Cookie=cookie, X_Mqworker="page")
    session = newest(audited)["by"]
    assert session.startswith("session ")
    told = json.dumps(records(audited)) + (audited.loaded.state_dir / "audit.jsonl").read_text() + caplog.text
    for secret in (TOKEN, READ, made, cookie, cookie.partition("=")[2]):
        assert secret not in told
    assert f"{session} from 127.0.0.1: PUT /api/v1/log-level: 202" in caplog.text


def test_hostile_text_is_one_line(audited, caplog):
    """What a client says of itself, and what it asks for, is cut, and neither ends a line nor the record."""
    caplog.set_level("INFO")
    audited.ask("PUT", f"{API}/stages/%0Ab%1b[31m%ff%F0%9F/listening?x=%0a", {}, **BEARER, User_Agent="\xff" * 500)
    audited.ask_unix("PATCH", f"{API}/stages/alpha/params", b'{"\\ud800\n": "\xff"}', Content_Type="application/json")
    audited.ask("PUT", f"{API}/log-level", {"level": "x" * 5000}, **BEARER, X_Forwarded_For="10.0.0.1, " * 50)
    last = records(audited, limit=3)
    assert len(last) == 3
    assert (len(last[0]["agent"]), len(last[2]["asked"]), len(last[2]["forwarded"])) == (100, 200, 100)
    lines = (audited.loaded.state_dir / "audit.jsonl").read_bytes().splitlines()
    numbers = [json.loads(line)["n"] for line in lines]
    assert numbers == sorted(set(numbers))


def test_the_audit_outlives_a_killed_service(tmp_path):
    """A Service that starts again tells the records of before, goes on counting, and knows who has paused a stage."""
    first = LittleService(tmp_path)
    first.ask("PUT", f"{API}/stages/alpha/listening", {"enabled": False})
    before = records(first)
    first.close()
    second = LittleService(tmp_path)
    try:
        second.document = first.document
        second.publish()
        assert records(second) == before
        assert second.control.paused_by("alpha")[0] == "anybody"
        assert second.control.paused_by("beta") == ("", None)
        second.ask("POST", f"{API}/stages/beta/stop")
        assert newest(second)["n"] == before[-1]["n"] + 1
        assert second.control.paused_by("beta")[0] == "anybody"
        assert [each["n"] for each in records(second, after=before[-1]["n"], stage="beta")] == [before[-1]["n"] + 1]
        assert records(second, stage="alpha") == before
    finally:
        second.close()
