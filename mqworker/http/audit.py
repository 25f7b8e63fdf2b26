"""Notes every request with effects in the audit, and answers what is in it.

Runs in the server's threads, around the views (app.py). A record is made once the answer is known, of refused requests
too; only requests without a login, and messages that are sent, are not recorded: of both there may be any number. For
the same reason what those ask for who may only look, and what a page of another site has sent, displaces no other
record, and of the latter one a minute is logged. The body of a request is noted by its beginning, but never one with a
credential or with a message. Never fails a request.
"""

import itertools
import logging
import time
from typing import Any

import msgspec
from flask import Response, g, request

from mqworker.control.audit import ORIGIN, RECORDS, AuditRecord, Origin
from mqworker.http.access import foreign
from mqworker.http.logins import CALLER, Identity
from mqworker.http.routing import API, Api, Route, number

BODY = 200  # characters of a request, and of an answer, that are noted
PATH = 300
AGENT = 100

log = logging.getLogger("mqworker.http")
_numbers = itertools.count(1)


class _Seldom:
    """Is due once in a while; may be due for two threads at the same moment."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self, now: float) -> bool:
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


_foreign = _Seldom(60.0)


def begin(route: Route) -> None:
    """Note who asks, so that what is stored for him knows it."""
    g.pop("asked_at", None)
    ORIGIN.set(None)
    if route.has_effects and route.audited and request.method != "HEAD":
        caller: Identity | None = request.environ.get(CALLER)
        g.asked_at = time.monotonic()
        ORIGIN.set(Origin(next(_numbers), caller.by if caller is not None else "login"))


def finish(api: Api, route: Route, response: Response) -> None:
    """Add the record of a request that is answered."""
    origin, caller = ORIGIN.get(), request.environ.get(CALLER)
    if origin is None or caller is None or "asked_at" not in g:  # a login that has failed is nobody's
        return
    try:
        record = _record(api, route, origin, caller, response)
        strange = foreign(request.environ)
        lasting = caller.role == "control" and not strange
        api.control.trail.add(record, lasting=lasting, logged=not strange or _foreign.due(time.monotonic()))
    except Exception:
        log.exception("a request could not be noted in the audit", extra={"event": "http_failed"})
    finally:
        ORIGIN.set(None)


def _record(api: Api, route: Route, origin: Origin, caller: Identity, response: Response) -> AuditRecord:
    snapshot = api.control.snapshot()
    changed = [each for each in snapshot.changes if each.origin == origin] if snapshot is not None else []
    query = request.query_string.decode("latin-1")
    return AuditRecord(
        n=0,
        time=time.time(),
        by=caller.by,
        sender=request.remote_addr or "",
        agent=_plain(request.headers.get("User-Agent", ""), AGENT),
        method=request.method,
        path=_plain(f"{request.path}?{query}" if query else request.path, PATH),
        stage=_plain((request.view_args or {}).get("stage") or request.args.get("stage", ""), BODY),
        what=route.summary,
        status=response.status_code,
        answer=_answer(response),
        seconds=round(time.monotonic() - g.asked_at, 3),
        asked=_asked(route),
        forwarded=_plain(request.headers.get("X-Forwarded-For", ""), AGENT),
        changes=tuple(row for each in changed for row in each.changes),
    )


def _asked(route: Route) -> str:
    """Return the beginning of the body: of a command, which is JSON; credentials and messages are left out."""
    if route.body is None or route.own or route.any_body:
        return ""
    return _plain(request.get_data().decode(errors="replace"), BODY)


def _answer(response: Response) -> str:
    """Return why a request was refused, or whether its change is in force; the rest of an answer is left out."""
    if response.is_streamed or not (response.mimetype or "").endswith("json"):
        return ""
    document = msgspec.json.decode(response.get_data())
    if not isinstance(document, dict):
        return ""
    if response.status_code >= 400:
        return _plain(str(document.get("detail", "")), BODY)
    return {True: "applied", False: "stored"}.get(document.get("applied"), "")  # type: ignore[arg-type]  # None: neither


def _plain(text: str, most: int) -> str:
    """Return text that can be encoded, not longer than this."""
    return text[:most].encode(errors="replace").decode()


def records(api: Api) -> Any:
    """Return the newest records, the oldest first, after one whose number is known."""
    after, limit = int(number("after", 0, 0, 2**53)), int(number("limit", 100, 0, RECORDS))
    found, forgotten = api.control.trail.after(after, limit, request.args.get("stage"))
    return {"records": found, "forgotten": forgotten}


ROUTES = [
    Route("GET", f"{API}/audit", records, "Who changed what, from what to what", ("after", "limit", "stage")),
]
