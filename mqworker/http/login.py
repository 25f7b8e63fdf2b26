"""The routes by which the page logs in and out, and by which tickets for that are made.

Runs in the server's threads; what a login is, is in `logins` and `sessions`.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from flask import request
from msgspec import Meta

from mqworker.http.logins import ANYBODY, CALLER, Identity
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, body, json_response
from mqworker.http.sessions import Role, is_prefix
from mqworker.ipc import logs

SESSION = f"{API}/session"

log = logging.getLogger("mqworker.http")


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page logs in with: a ticket or a token; `path`, for the cookie, is that of the page without `ui/`."""

    ticket: Annotated[str, Meta(max_length=100)] = ""
    token: Annotated[str, Meta(max_length=10_000)] = ""
    path: str = "/"


class For(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the holder of a ticket may do."""

    role: Role = "control"


def log_in(api: Api) -> Any:
    """Exchange a ticket or a token for a cookie."""
    logins, asked, now = api.logins, body(Credential), time.time()
    if not is_prefix(asked.path):
        reason = "must begin and end with / and have no unusual characters"
        raise Problem(422, f"path {reason}", fields=[("path", reason)])
    if not logins.needed:
        return _who(api, ANYBODY)
    if asked.ticket:
        role = logins.tickets.redeem(asked.ticket, time.monotonic())
        if role is None:
            raise logins.refusal(request.environ, "tickets")
    else:
        role = logins.check(asked.token.encode(errors="surrogatepass"), request.environ, "tokens").role
    secure = request.headers.get("Origin", "").lower().startswith("https://")
    session = logins.sessions.begin(role, asked.path, now, secure=secure)
    caller = Identity(role, session.by, session)
    request.environ[CALLER] = caller
    logins.begun[role] += 1
    logs.report(log, logging.INFO, "login", f"{session.by} begins ({role}), from {request.remote_addr or 'the socket'}")
    response = json_response(_who(api, caller))
    response.headers["Set-Cookie"] = logins.sessions.set_cookie(session, now)
    return response


def who(api: Api) -> Any:
    """Return who the caller is taken for."""
    return _who(api, request.environ[CALLER])


def _who(api: Api, caller: Identity) -> dict[str, Any]:
    ends = datetime.fromtimestamp(caller.session.expires, UTC).isoformat() if caller.session else None
    return {
        "role": caller.role,
        "by": caller.by,
        "expires": ends,
        "service": api.control.loaded.config.service.name,
        "instance": api.logins.instance,
        "login": api.logins.needed,
    }


def log_out(api: Api) -> Any:
    """Make the browser forget the cookie."""
    caller: Identity = request.environ[CALLER]
    response = json_response({"status": "logged out"})
    if caller.session is not None:
        response.headers["Set-Cookie"] = api.logins.sessions.unset_cookie(caller.session)
    return response


def ticket(api: Api) -> Any:
    """Return a ticket, and the page's path with it."""
    made = api.logins.tickets.make(body(For).role, time.monotonic())
    return {"ticket": made, "path": f"ui/#t={made}", "url": api.logins.url, "login": api.logins.needed}, 201


def end_all(api: Api) -> Any:
    """End all sessions."""
    try:
        api.logins.end_all()
    except OSError as error:
        raise Problem(507, f"the new key cannot be stored, so all sessions go on: {error.strerror}") from None
    return {"status": "all sessions have ended"}


ROUTES = [
    Route("GET", SESSION, who, "Who the caller is, and what he may do"),
    Route("POST", SESSION, log_in, "Log the page in: a ticket or a token becomes a cookie", body=Credential, own=True),
    Route("DELETE", SESSION, log_out, "Log the page out: this browser forgets its cookie", own=True),
    Route("POST", f"{SESSION}/tickets", ticket, "Make a ticket for one login of the page", body=For),
    Route("DELETE", f"{API}/sessions", end_all, "End all sessions of the page, and all tickets"),
]
