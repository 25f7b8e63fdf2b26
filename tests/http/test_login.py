"""Who may do what: tickets, cookies, the two tokens, and what a page of another site tries with our cookie."""

import re

import pytest

from mqworker.http.app import ROUTES
from mqworker.http.login import Logins, session_key
from tests.http.operator import LittleService

TOKEN, READ = "full-canary-token", "read-canary-token"
PAGE = {"X_Mqworker": "page"}
SAME = {"Sec_Fetch_Site": "same-origin"}


@pytest.fixture
def guarded(tmp_path):
    little = LittleService(tmp_path, TOKEN, read_token=READ, hosts=("mq.example.org",))
    yield little
    little.close()


def log_in(service, role="control", **headers) -> str:
    """Return the cookie of a new session, as a browser sends it."""
    ticket = service.ask_unix("POST", "/api/v1/session/tickets", {"role": role}).json["ticket"]
    answer = service.ask("POST", "/api/v1/session", {"ticket": ticket, "path": "/"}, **headers)
    assert answer.status == 200, answer.body
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_ticket_becomes_a_cookie_once(guarded):
    """A ticket logs the page in once; the cookie is hidden from scripts and from other sites, and lasts twelve hours."""
    made = guarded.ask_unix("POST", "/api/v1/session/tickets", {}).json
    ticket = made["ticket"]
    assert made["path"] == f"ui/#t={ticket}"
    asked = {"ticket": ticket, "path": "/mq/"}
    answer = guarded.ask("POST", "/api/v1/session", asked)
    assert (answer.status, answer.json["role"]) == (200, "control")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(
        rf"mqworker_{guarded.server._answering.api.logins.instance}=v1\.[\w.-]+; "
        "Path=/mq/; Max-Age=43200; HttpOnly; SameSite=Strict",
        cookie,
    )
    assert guarded.ask("POST", "/api/v1/session", asked).status == 401
    who = guarded.ask("GET", "/api/v1/session", Cookie=cookie.partition(";")[0], **PAGE)
    assert (who.status, who.json["role"], who.json["by"]) == (200, "control", answer.json["by"])
    assert guarded.ask("GET", "/api/v1/session", **PAGE).status == 401
