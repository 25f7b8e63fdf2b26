"""The four calls of the article that mqworker started from: same texts, same codes, in any order, any number of times.

Runs in the server's threads. They apply to every stage, or to `?stage=`, and answer from the desired state; one at a
time, so that each answer is true when given. Unlike all other routes they also have effects on GET, for curl: requests
that a browser sends from another site are refused, and so is HEAD.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import request

from mqworker.control.desired_state import Change, SetListening, SetWorking
from mqworker.control.views import StageView
from mqworker.http.problems import retry_later
from mqworker.http.routing import Api, Route

TURN = 6.0  # seconds to wait for earlier calls


def start_listening(api: Api) -> Any:
    """Start taking new messages."""
    changed = _change(api, lambda stage: None if stage.desired.listening else SetListening(stage.name, enabled=True))
    return {"status": "listening" if changed else "already listening"}


def stop_listening(api: Api) -> Any:
    """Stop taking new messages."""
    changed = _change(api, lambda stage: SetListening(stage.name, enabled=False) if stage.desired.listening else None)
    return ({"status": "stopped"}, 200) if changed else ({"status": "not running"}, 400)


def start_working(api: Api) -> Any:
    """Start computing."""
    changed = _change(api, lambda stage: None if stage.desired.working else SetWorking(stage.name, enabled=True))
    return ({"status": "started working"}, 200) if changed else ({"status": "already working"}, 202)


def stop_working(api: Api) -> Any:
    """Stop computing; the number of Consumers is kept."""
    _change(api, lambda stage: SetWorking(stage.name, enabled=False) if stage.desired.working else None)
    return {"status": "stopped working"}


def _change(api: Api, due: Callable[[StageView], Change | None]) -> bool:
    """Apply to each selected stage the change that is `due`; return whether there was any."""
    name = request.args.get("stage")
    with _turn(api):
        chosen = [api.stage(name)] if name is not None else list(api.snapshot().stages.values())
        changes = [change for stage in chosen if (change := due(stage)) is not None]
        if changes:
            newest = max([api.control.change(change) for change in changes])
            api.control.wait(lambda snapshot: snapshot.document.revision >= newest, 1.0)
    return bool(changes)


@contextmanager
def _turn(api: Api) -> Iterator[None]:
    if not api.legacy_turn.acquire(timeout=TURN):
        raise retry_later("an earlier call is still running", 1)
    try:
        yield
    finally:
        api.legacy_turn.release()


_FOUR = {
    "/startlistening": (start_listening, "Start taking new messages"),
    "/stoplistening": (stop_listening, "Stop taking new messages"),
    "/startworking": (start_working, "Start computing"),
    "/stopworking": (stop_working, "Stop computing"),
}
ROUTES = [
    Route(method, path, view, summary, ("stage",), changes=True)
    for path, (view, summary) in _FOUR.items()
    for method in ("GET", "POST")
]
