"""What a route is, what a view receives, and how a request is read: shared by all modules with routes.

Runs in the server's threads. Each module with routes has one list `ROUTES`; app.py registers them all, and
/openapi.json is generated from the same list. A view takes the Api and the variables of its path, and returns a
Response, or a value for a 200, or a value and a status.
"""

import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, get_args

import msgspec
from flask import Response, request

from mqworker.config.line import is_embedded, line
from mqworker.config.model import JobSpec, Name
from mqworker.control.chain import LinkSpec
from mqworker.control.control import Control
from mqworker.control.desired_state import Change, SetLogLevel, SetSource
from mqworker.control.views import Snapshot, StageView
from mqworker.http import paths
from mqworker.http.feed_state import FeedState
from mqworker.http.logins import Logins
from mqworker.http.places import CALLS, PLACES, TCP_STREAMS, UNIX_STREAMS, Places
from mqworker.http.problems import Problem, retry_later
from mqworker.http.send_places import TCP_SENDS, UNIX_SENDS
from mqworker.http.totals import Totals

API = paths.API
WAIT_MAX = 30.0  # seconds
LOOK = 1.0  # seconds after which a waiting request checks that its client is still connected
SMALL_BODY = 64_000  # bytes of a request body, except where messages are sent
DEPTH = 32  # nesting of JSON

T = TypeVar("T")


class Route(msgspec.Struct, frozen=True):
    """One method and path, and everything that is documented about it."""

    method: str
    path: str  # in werkzeug's form: /stages/<stage>
    view: Callable[..., Any]
    summary: str
    query: tuple[str, ...] = ()
    body: Any = None  # type of the JSON body
    any_body: bool = False  # any content type, up to the stage's max_body
    headers: tuple[str, ...] = ()  # of the request
    changes: bool = False  # it has effects; implied unless the method is GET
    control: bool = False  # it needs the full role although it changes nothing
    own: bool = False  # its effects are on the caller's own login: the read-only role may have them
    stream: bool = False  # text/event-stream, which does not end by itself
    audited: bool = True  # if it has effects
    slow: bool = False  # it may take half a minute: that needs a place, and no page of another site may ask for it

    @property
    def has_effects(self) -> bool:
        """Return whether a page of another site must not be able to send it."""
        return self.changes or self.method != "GET"

    @property
    def needs_control(self) -> bool:
        """Return whether the read-only role is refused."""
        return self.control or (self.has_effects and not self.own)


class Api:
    """What views work with."""

    def __init__(self, control: Control, totals: Totals, logins: Logins) -> None:
        self.control = control
        self.logins = logins
        self.totals = totals
        self.stopping = threading.Event()
        self.legacy_turn = threading.Lock()
        self.tcp = Places(CALLS, TCP_STREAMS, TCP_SENDS)
        self.feed = FeedState()
        self.unix = Places(CALLS, UNIX_STREAMS, UNIX_SENDS)
        loaded = control.loaded
        self.line = line(loaded.all_stages, embedded=is_embedded(loaded.config.broker))

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot; raises a 503 Problem when there is none yet."""
        snapshot = self.control.snapshot()
        if snapshot is None:
            raise retry_later("the service is still starting", 1)
        return snapshot

    def stage(self, name: str) -> StageView:
        """Return one stage; raises a 404 Problem when there is none of this name."""
        stages = self.snapshot().stages
        if name not in stages:
            raise Problem(404, self.control.loaded.no_stage(name), stages=list(stages))
        return stages[name]

    @property
    def places(self) -> Places:
        """The places of the listener that this request came to."""
        places: Places = request.environ[PLACES]
        return places

    def waiting(self) -> AbstractContextManager[None]:
        """Hold a place for a waiting call while inside."""
        return self.places.waiting()

    def change(self, change: Change) -> tuple[dict[str, Any], int]:
        """Store a change and answer; with `?wait=`, once it is applied."""
        wait = requested_wait()
        if isinstance(change, SetLogLevel | SetSource):  # nothing to wait for: no Consumer is replaced
            return {"revision": self.control.change(change), "applied": True}, 200 if wait else 202
        stage = self.stage(change.stage).name
        if not wait:
            return self.stored(self.control.change(change), stage)
        with self.waiting():
            return self.stored(self.control.change(change), stage, wait)

    def stored(self, revision: int, stage: str, wait: float = 0.0) -> tuple[dict[str, Any], int]:
        """Answer for a stored revision: 200 if its stage has applied it within `wait` seconds, else 202."""
        applied = self.wait_for(lambda snapshot: snapshot.stages[stage].applied >= revision, wait)
        return {"revision": revision, "applied": applied}, 200 if wait and applied else 202

    def wait_for(self, until: Callable[[Snapshot], bool], wait: float) -> bool:
        """Wait up to `wait` seconds for a snapshot that fits, while the client waits; returns whether it came."""
        gone, end = client_gone(), time.monotonic() + wait
        while True:
            left = end - time.monotonic()
            found = self.control.wait(until, min(left, LOOK))
            if found is not None or left <= LOOK or self.stopping.is_set() or gone():
                return found is not None


def client_gone() -> Callable[[], bool]:
    """Return a function that returns whether this request's client has closed its connection."""
    gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return gone


def number(name: str, default: float, least: float, most: float) -> float:
    """Return a number from the query; raises a 422 Problem."""
    text = request.args.get(name)
    if text is None:
        return default
    reason = f"must be a number from {least:g} to {most:g}"
    try:
        value = float(text)
    except ValueError:
        value = most + 1
    if not least <= value <= most:  # nan is neither
        raise Problem(422, f"{name} {reason}", fields=[(name, reason)])
    return value


def flag(name: str) -> bool:
    """Return a flag from the query; raises a 422 Problem."""
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        reason = "must be true or false"
        raise Problem(422, f"{name} {reason}", fields=[(name, reason)])
    return text == "true"


def requested_wait() -> float:
    """Return `?wait=` in seconds; 0: do not wait."""
    return number("wait", 0.0, 0.0, WAIT_MAX)


_FORMS = {  # what msgspec would report as a pattern
    repr(info.pattern): f"must be {info.title}" for form in (JobSpec, LinkSpec, Name) for info in get_args(form)[1:]
}
_JOB = f"must be {get_args(JobSpec)[1].title}; a program (exec) is named in the configuration only"
_FORMS[repr(get_args(JobSpec)[1].pattern)] = _JOB
_NO_JOB = ("Expected `str`, got `object`", "Expected `str`, got `array`", "Object contains unknown field `exec`")


def body(form: type[T]) -> T:
    """Return the JSON body as a `form`; raises a Problem: 400 when it is not JSON, 422 when it has another form."""
    data = request.get_data()
    try:
        value = msgspec.json.decode(data or b"{}", type=form)
    except msgspec.ValidationError as error:
        field, reason = _split_error(str(error))
        raise Problem(422, f"{field}: {reason}" if field else reason, fields=[(field, reason)]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if _is_deep(value, DEPTH):
        raise Problem(422, f"the body is nested deeper than {DEPTH}")
    return value


def _is_deep(value: Any, left: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not left or any(_is_deep(item, left - 1) for item in inside)


def _split_error(text: str) -> tuple[str, str]:
    """Split one of msgspec's messages into (field, fault)."""
    reason, _, path = text.partition(" - at `$")
    for pattern, words in _FORMS.items():
        reason = words if pattern in reason else reason
    named = re.search(r"field `(.*)`", reason)
    field = ".".join(part for part in (path.rstrip("`").strip("."), named[1] if named else "") if part)
    if reason in _NO_JOB and field.rpartition(".")[2] in ("job", "exec"):
        reason = _JOB
    return field, reason


def json_response(value: Any, status: int = 200) -> Response:
    """Return a value of plain data and structs as a JSON response."""
    return Response(msgspec.json.encode(value) + b"\n", status, content_type="application/json")
