"""Who may do what: tickets, cookies, the two tokens, and what a page of another site tries with our cookie."""

import http.client
import re
import stat
import time
from hmac import compare_digest

import pytest

from mqworker.http import logins, streams
from mqworker.http.app import ROUTES
from mqworker.http.logins import session_key
from mqworker.http.sessions import LASTS, Sessions
from tests.http.operator import LittleService
from tests.http.test_openapi import path_of
from tests.support.waiting import AMPLE, wait_for

TOKEN, READ = "full-canary-token", "read-canary-token"
PAGE = {"X_Mqworker": "page"}
MUTATION = ("PUT", "/api/v1/stages/alpha/listening", {"enabled": False})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    little = LittleService(tmp_path_factory.mktemp("guarded"), TOKEN, read_token=READ, hosts=("mq.example.org",))
    yield little
    little.close()


def ticket(service, role="control") -> str:
    """Return a ticket, as `mqworker ui` asks for it."""
    return service.ask_unix("POST", "/api/v1/session/tickets", {"role": role}).json["ticket"]


def log_in(service, role="control", **headers) -> str:
    """Return the cookie of a new session, as a browser sends it."""
    answer = service.ask("POST", "/api/v1/session", {"ticket": ticket(service, role), "path": "/"}, **headers)
    assert answer.status == 200, answer.body
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_ticket_becomes_a_cookie_once(guarded):
    """A ticket logs the page in once; its cookie is for our page alone, and lasts twelve hours."""
    made = guarded.ask_unix("POST", "/api/v1/session/tickets", {}).json
    assert made["path"] == f"ui/#t={made['ticket']}"
    asked = {"ticket": made["ticket"], "path": "/mq/"}
    answer = guarded.ask("POST", "/api/v1/session", asked)
    assert (answer.status, answer.json["role"]) == (200, "control")
    cookie = answer.headers["set-cookie"]
    name = f"mqworker_{answer.json['instance']}"
    assert re.fullmatch(rf"{name}=v1\.[\w.-]+; Path=/mq/; Max-Age={LASTS}; HttpOnly; SameSite=Strict", cookie)
    again = guarded.ask("POST", "/api/v1/session", asked)
    assert (again.status, again.json["detail"]) == (401, "the ticket is wrong")
    who = guarded.ask("GET", "/api/v1/session", Cookie=cookie.partition(";")[0], **PAGE)
    assert (who.status, who.json["role"], who.json["by"]) == (200, "control", answer.json["by"])
    assert guarded.ask("GET", "/api/v1/session", **PAGE).status == 401


@pytest.mark.parametrize(("token", "role"), [(TOKEN, "control"), (READ, "read")])
def test_a_token_becomes_a_cookie(guarded, token, role):
    """Each token logs the page in with its own role; over https the cookie is sent over https only."""
    asked = {"token": token, "path": "/"}
    answer = guarded.ask("POST", "/api/v1/session", asked, Origin="https://mq.example.org", Host="mq.example.org")
    assert (answer.status, answer.json["role"]) == (200, role)
    assert answer.headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")
    assert token not in str(answer.headers) + answer.body.decode()


def credentials(service) -> dict[str, tuple[str, dict[str, str]]]:
    """Return every kind of credential: its role, and its headers."""
    return {
        "none": ("", {}),
        "wrong": ("", {"Authorization": "Bearer nonsense"}),
        "basic": ("", {"Authorization": f"Basic {TOKEN}"}),
        "token": ("control", {"Authorization": f"Bearer {TOKEN}"}),
        "read token": ("read", {"Authorization": f"Bearer {READ}"}),
        "cookie": ("control", {"Cookie": log_in(service), **PAGE}),
        "read cookie": ("read", {"Cookie": log_in(service, "read"), **PAGE}),
        "proxy": ("control", {"Cookie": log_in(service), "Authorization": "Basic of-the-proxy", **PAGE}),
        "strange cookie": ("", {"Cookie": "mqworker_12345678=v1.control.1.2.3.p.4", **PAGE}),
    }


OPEN = {"/livez", "/api/v1/livez", "/ui", "/ui/", "/ui/<name>"}
ONCE = {"/api/v1/drain", "/api/v1/sessions"}  # what they do would end the test


def test_every_route_for_every_credential(guarded):
    """Without a credential no route answers but the page's files and /livez; who may only look changes nothing.

    The matrix of S3: every route, each with every credential, at once over one service.
    """
    known = credentials(guarded)
    before = len(guarded.changes)
    for route in ROUTES:
        if route.stream or (route.method, route.path) == ("POST", "/api/v1/session"):
            continue
        for name, (role, headers) in known.items():
            if role == "control" and (route.has_effects or route.path in ONCE):
                continue  # the other tests of the routes are the proof that it is let through
            status = guarded.ask(route.method, path_of(route), **headers).status
            if route.path in OPEN:
                assert status in (200, 303, 404), (route.path, name)
            elif not role:
                assert status in (401, 429), (route.path, name)
            elif route.needs_control:
                assert status == 403, (route.method, route.path, name)
            else:
                assert status not in (401, 403, 421, 429), (route.method, route.path, name)
    assert (len(guarded.changes), guarded.drained) == (before, False)


def test_who_may_only_look_is_told_so(guarded):
    """A refusal because of the role has a kind of its own, for the page."""
    answer = guarded.ask(*MUTATION, Cookie=log_in(guarded, "read"), **PAGE)
    assert (answer.status, answer.json["kind"]) == (403, "role")
    asked = guarded.ask("POST", "/api/v1/session/tickets", {}, Authorization=f"Bearer {READ}")
    assert (asked.status, asked.json["kind"]) == (403, "role")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="a form"),
        pytest.param({"Origin": "http://127.0.0.1:8080"}, id="another port of this host"),
        pytest.param({"Origin": "http://127.0.0.1:8080", **PAGE}, id="another port, with our header"),
        pytest.param({"Origin": "http://evil.example", **PAGE}, id="another site, with our header"),
        pytest.param({"Origin": "null", **PAGE}, id="a sandboxed frame"),
        pytest.param({"Sec_Fetch_Site": "same-site", **PAGE}, id="same-site, without an Origin"),
        pytest.param({"Sec_Fetch_Site": "none"}, id="a link in a mail"),
        pytest.param({"Sec_Fetch_Site": "same-origin"}, id="a form on our own page"),
        pytest.param({"X_Mqworker": "pages"}, id="another value of our header"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path", "body"), [MUTATION, ("GET", "/stoplistening", None), ("POST", "/api/v1/stages/alpha/stop", None)]
)
def test_our_cookie_in_foreign_hands_changes_nothing(guarded, headers, method, path, body):
    """Whatever makes a browser send our cookie, nothing but our page's own requests has effects."""
    before = len(guarded.changes)
    answer = guarded.ask(method, path, body, Cookie=log_in(guarded), **headers)
    assert (answer.status, len(guarded.changes)) == (403, before)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (PAGE, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "same-site", **PAGE}, 403),
    ],
)
def test_our_cookie_in_foreign_hands_costs_nothing(guarded, headers, status):
    """A page on another port, whose requests carry our cookie, does not even have a GET carried out."""
    assert guarded.ask("GET", "/api/v1/stages", Cookie=log_in(guarded), **headers).status == status


def test_a_foreign_page_logs_nobody_in(guarded):
    """Another site's page cannot exchange a ticket for a cookie in its visitor's browser, by a form or by a script."""
    made = ticket(guarded)
    asked = {"ticket": made, "path": "/"}
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        assert guarded.ask("POST", "/api/v1/session", asked, **headers).status == 403
    assert guarded.ask("POST", "/api/v1/session", b'{"ticket": "x"}', Content_Type="text/plain").status == 415
    assert guarded.ask("POST", "/api/v1/session", asked, Host="rebind.example").status == 421
    assert guarded.ask("POST", "/api/v1/session", asked).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "mq/",
        "/mq",
        "/mq/; Domain=evil.example",
        "/mq\r\nSet-Cookie: a=b/",
        "/ /",
        "//",
        "/ü/",
        "/" + "a" * 200 + "/",
    ],
)
def test_a_path_adds_nothing_to_the_cookie(guarded, path):
    """A prefix that could end its attribute, or the header, is refused, and leaves the ticket as it is."""
    made = ticket(guarded)
    answer = guarded.ask("POST", "/api/v1/session", {"ticket": made, "path": path})
    assert (answer.status, answer.json["fields"][0]["field"]) == (422, "path")
    assert "set-cookie" not in answer.headers
    assert guarded.ask("POST", "/api/v1/session", {"ticket": made, "path": "/my_app/~x/"}).status == 200


def test_no_ticket_is_guessed(tmp_path):
    """Wrong tickets and wrong tokens count together: after ten a peer waits; the right one passes all the same."""
    service = LittleService(tmp_path, TOKEN)
    try:
        tried = [{"ticket": "x"}, {"token": "x"}] * 5
        assert {service.ask("POST", "/api/v1/session", asked).status for asked in tried} == {401}
        assert service.ask("POST", "/api/v1/session", {"token": "x"}).status == 429
        assert service.ask("GET", "/api/v1/status", Authorization="Bearer x").status == 429
        assert service.ask("POST", "/api/v1/session", {"token": READ}).status == 429
        assert service.ask("POST", "/api/v1/session", {"token": TOKEN}).status == 200
        assert service.ask("POST", "/api/v1/session", {"ticket": ticket(service)}).status == 200
    finally:
        service.close()


def test_a_login_outlives_a_killed_service(tmp_path):
    """A Service that starts again in the same folder takes the cookie; one with another token, or elsewhere, not."""
    (here := tmp_path / "here").mkdir()
    (there := tmp_path / "there").mkdir()
    first = LittleService(here, TOKEN, read_token=READ)
    cookie, spare = log_in(first), ticket(first)
    first.close()
    assert stat.S_IMODE((first.loaded.state_dir / "session.key").stat().st_mode) == 0o600
    for folder, tokens, status in (
        (here, {"token": TOKEN, "read_token": READ}, 200),
        (here, {"token": TOKEN}, 401),
        (here, {"token": "another", "read_token": READ}, 401),
        (there, {"token": TOKEN, "read_token": READ}, 401),
    ):
        service = LittleService(folder, **tokens)
        try:
            assert service.ask("GET", "/api/v1/status", Cookie=cookie, **PAGE).status == status
            assert service.ask("POST", "/api/v1/session", {"ticket": spare}).status == 401
        finally:
            service.close()


@pytest.mark.parametrize("given", [TOKEN, READ, "", "f", TOKEN + "x", "x" * 9000, TOKEN[:-1], "\xff" * 10])
def test_the_time_tells_nothing_of_a_token(guarded, given, monkeypatch):
    """Whatever is sent, each token is compared, in constant time and by digests of one length."""
    compared = []

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    monkeypatch.setattr(logins.hmac, "compare_digest", spy)
    status = guarded.ask("GET", "/api/v1/status", Authorization=f"Bearer {given}").status
    assert (status == 200) is (given in (TOKEN, READ))
    assert compared == [(32, 32)] * 2


def test_all_sessions_end_at_once(tmp_path):
    """With a new key every cookie and every ticket has ended, for whoever had stolen one too."""
    service = LittleService(tmp_path, TOKEN)
    try:
        cookie, spare = log_in(service), ticket(service)
        assert service.ask_unix("DELETE", "/api/v1/sessions").status == 200
        assert service.ask("GET", "/api/v1/status", Cookie=cookie, **PAGE).status == 401
        assert service.ask("POST", "/api/v1/session", {"ticket": spare}).status == 401
        assert service.ask("GET", "/api/v1/status", Cookie=log_in(service), **PAGE).status == 200
    finally:
        service.close()


def test_a_stream_ends_with_its_login(tmp_path, monkeypatch):
    """When all sessions end, streams by a cookie end too; by a token they go on. Those of a browser end some day."""
    service = LittleService(tmp_path, TOKEN)
    try:
        places = service.server._answering.api.tcp
        paths = ("feed", "events", "logs?follow=1")

        def begin(path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
            connection = service.connect()
            connection.request("GET", f"/api/v1/{path}", headers=headers)
            return connection.getresponse()

        theirs = begin("events", {"Authorization": f"Bearer {TOKEN}"})
        cookie = {"Cookie": log_in(service), "X-Mqworker": "page"}
        begun = [begin(path, cookie) for path in paths]
        assert service.ask_unix("DELETE", "/api/v1/sessions").status == 200
        assert b"event: bye" in begun[0].read()
        for stream in begun[1:]:
            stream.read()
        wait_for(lambda: places.running == {"feed": 0, "events": 1, "logs": 0}, AMPLE, "places")
        monkeypatch.setattr(streams, "LIFE", 0.0)
        for path in paths:
            begin(path, {"Cookie": log_in(service), "X-Mqworker": "page"}).read()
        assert theirs.readline() == b": mqworker\n"
        theirs.close()
    finally:
        service.close()


def test_a_login_by_a_cookie_goes_on_until_it_expires(guarded):
    """Whether a login goes on is asked of the cookie that the request came with."""
    ours: logins.Logins = guarded.server._answering.api.logins
    now = int(time.time())
    for expires, goes_on in ((now + 100, True), (now - 1, False)):
        session = ours.sessions.begin("read", "/", now, secure=False)._replace(expires=expires)
        cookie = ours.sessions.set_cookie(session, now).partition(";")[0]
        came = {logins.CALLER: logins.Identity("read", session.by, session), "HTTP_COOKIE": cookie}
        assert ours.goes_on(came)() is goes_on


def test_a_cookie_is_renewed_while_it_is_used(guarded):
    """After an hour any answer to the page carries a cookie with a later end; logging out takes it away."""
    sessions: Sessions = guarded.server._answering.api.logins.sessions
    fresh = log_in(guarded)
    now = sessions.read(fresh, time.time())
    assert now is not None
    assert "set-cookie" not in guarded.ask("GET", "/api/v1/stages", Cookie=fresh, **PAGE).headers
    old = now._replace(begun=now.begun - 4000, expires=now.expires - 4000)
    cookie = sessions.set_cookie(old, 0).partition(";")[0]
    renewed = guarded.ask("GET", "/api/v1/stages", Cookie=cookie, **PAGE).headers["set-cookie"]
    again = sessions.read(renewed.partition(";")[0], time.time())
    assert (again.nonce, again.begun) == (old.nonce, old.begun)
    assert again.expires >= now.expires
    out = guarded.ask("DELETE", "/api/v1/session", Cookie=cookie, **PAGE).headers["set-cookie"]
    assert re.fullmatch(r"mqworker_\w+=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict", out)


def test_without_a_token_everybody_is_let_in(service):
    """Where no token is configured there is nothing to log in to, and no key is made."""
    who = service.ask("GET", "/api/v1/session").json
    assert (who["role"], who["by"], who["login"]) == ("control", "anybody", False)
    answer = service.ask("POST", "/api/v1/session", {"ticket": "old"})
    assert (answer.status, "set-cookie" in answer.headers) == (200, False)
    assert not (service.loaded.state_dir / "session.key").exists()


@pytest.mark.parametrize("made", ["link", "short", "open", "folder"])
def test_a_key_that_others_may_know_is_replaced(tmp_path, made):
    """A key file that others can read, that is a link or too short is not used: a new one takes its place."""
    path = tmp_path / "session.key"
    known = b"k" * 32
    if made == "link":
        (tmp_path / "elsewhere").write_bytes(known)
        path.symlink_to(tmp_path / "elsewhere")
    elif made == "folder":
        path.mkdir()
    else:
        path.write_bytes(known if made == "open" else b"short")
        path.chmod(0o644 if made == "open" else 0o600)
    key = session_key(path)
    assert (len(key), key == known) == (32, False)
    if made != "folder":
        assert (path.is_symlink(), stat.S_IMODE(path.stat().st_mode), session_key(path)) == (False, 0o600, key)
