"""What a route is, what a view gets, and how a request is read: the vocabulary of the modules with routes.

Runs in the server's threads. Each module with routes has one list `ROUTES`; app.py registers them all, and
/openapi.json is made of the same list. A view takes the Api and the variables of its path, and returns a Response, or
a value for a 200, or a value and a status.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from flask import Response, request

from mqworker.control.control import Control, Snapshot, StageView
from mqworker.control.desired_state import Change, SetLogLevel
from mqworker.http.problems import Problem, retry_later
from mqworker.http.totals import Totals

API = "/api/v1"
WAITS = 8  # waiting requests and event streams at a time
WAIT_MAX = 30.0  # seconds
LOOK = 1.0  # seconds after which whoever waits looks whether its client is still there
SMALL_BODY = 64_000  # bytes of a request, except where messages are sent
DEPTH = 32  # of JSON

T = TypeVar("T")


class Route(msgspec.Struct, frozen=True):
    """One method and path, and all that the documentation says of it."""

    method: str
    path: str  # of werkzeug: /stages/<stage>
    view: Callable[..., Any]
    summary: str
    query: tuple[str, ...] = ()
    body: Any = None  # type of the JSON body
    any_body: bool = False  # any content type, up to the stage's max_body
    changes: bool = False  # it has effects; always so unless the method is GET

    @property
    def has_effects(self) -> bool:
        """Whether a foreign page must not be able to send it."""
        return self.changes or self.method != "GET"


class Api:
    """What views work with."""

    def __init__(self, control: Control, totals: Totals) -> None:
        self.control = control
        self.totals = totals
        self.stopping = threading.Event()
        self.article_turn = threading.Lock()
        self._waits = threading.BoundedSemaphore(WAITS)

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        snapshot = self.control.snapshot()
        if snapshot is None:
            raise retry_later("the service is still starting", 1)
        return snapshot

    def stage(self, name: str) -> StageView:
        """One stage, or 404."""
        stages = self.snapshot().stages
        if name not in stages:
            raise Problem(404, f"there is no stage {name!r}; there is: {', '.join(stages)}", stages=list(stages))
        return stages[name]

    def take_wait(self) -> None:
        """Take one of the few places for requests that last; `give_wait` gives it back."""
        if not self._waits.acquire(blocking=False):
            raise retry_later(f"{WAITS} requests wait or stream already", 2)

    def give_wait(self) -> None:
        """See take_wait."""
        self._waits.release()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait inside this."""
        self.take_wait()
        try:
            yield
        finally:
            self.give_wait()

    def change(self, asked: Change) -> tuple[dict[str, Any], int]:
        """Store a change and answer when, with `?wait=`, it is applied."""
        wait = wait_asked()
        stage = "" if isinstance(asked, SetLogLevel) else self.stage(asked.stage).name
        if not wait:
            return self.stored(self.control.change(asked), stage)
        with self.waiting():
            return self.stored(self.control.change(asked), stage, wait)

    def stored(self, revision: int, stage: str, wait: float = 0.0) -> tuple[dict[str, Any], int]:
        """Answer for a stored revision: 200 once it is applied to the stage ("": to all), if that is waited for."""
        applied = self._is_applied(revision, stage, wait)
        return {"revision": revision, "applied": applied}, 200 if wait and applied else 202

    def _is_applied(self, revision: int, stage: str, wait: float) -> bool:
        gone, end = client_gone(), time.monotonic() + wait
        while True:
            left = end - time.monotonic()
            found = self.control.wait(lambda snapshot: _applied(snapshot, stage) >= revision, min(left, LOOK))
            if found is not None or left <= LOOK or self.stopping.is_set() or gone():
                return found is not None


def _applied(snapshot: Snapshot, stage: str) -> int:
    return snapshot.stages[stage].applied if stage in snapshot.stages else snapshot.applied


def client_gone() -> Callable[[], bool]:
    """What tells whether the client of this request has closed its connection."""
    gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return gone


def number(name: str, default: float, least: float, most: float) -> float:
    """A number of the query, or 422."""
    given = request.args.get(name)
    if given is None:
        return default
    words = f"must be a number from {least:g} to {most:g}"
    try:
        value = float(given)
    except ValueError:
        value = most + 1
    if not least <= value <= most:  # nan is neither
        raise Problem(422, f"{name} {words}", fields=[(name, words)])
    return value


def wait_asked() -> float:
    """`?wait=` in seconds; 0: do not."""
    return number("wait", 0.0, 0.0, WAIT_MAX)


def body(form: type[T]) -> T:
    """The JSON body in the form that is asked for; 400 when it is no JSON, 422 when it has another form."""
    data = request.get_data()
    try:
        value = msgspec.json.decode(data or b"{}", type=form)
    except msgspec.ValidationError as error:
        field, words = _blame(str(error))
        raise Problem(422, f"{field}: {words}" if field else words, fields=[(field, words)]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from None
    if _is_deep(value, DEPTH):
        raise Problem(422, f"the body is nested deeper than {DEPTH}")
    return value


def _is_deep(value: Any, left: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not left or any(_is_deep(item, left - 1) for item in inside)


def _blame(words: str) -> tuple[str, str]:
    """Tell the field and the fault of one of msgspec's messages."""
    words, _, path = words.partition(" - at `$")
    named = re.search(r"field `(.*)`", words)
    field = ".".join(part for part in (path.rstrip("`").strip("."), named[1] if named else "") if part)
    return field, words


def json_response(value: Any, status: int = 200) -> Response:
    """Any value of plain data and structs as JSON."""
    return Response(msgspec.json.encode(value) + b"\n", status, content_type="application/json")
