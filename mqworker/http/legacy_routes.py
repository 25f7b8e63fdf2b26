"""The four calls of the article that mqworker began with: same words, same codes, any order, any number of times.

Runs in the server's threads. They speak of every stage, or of `?stage=`, and answer from what is desired; one at a
time, so that each answer is true of its moment. Unlike all others they also change on GET, for curl: what a browser
sends from another site is refused, and so is HEAD.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import request

from mqworker.control.control import StageView
from mqworker.control.desired_state import Change, SetListening, SetWorking
from mqworker.http.problems import retry_later
from mqworker.http.routing import Api, Route

TURN = 6.0  # seconds to wait for the calls before this one


def start_listening(api: Api) -> Any:
    """Take new messages."""
    changed = _change(api, lambda stage: None if stage.desired.listening else SetListening(stage.name, enabled=True))
    return {"status": "listening" if changed else "already listening"}


def stop_listening(api: Api) -> Any:
    """Take no new messages."""
    changed = _change(api, lambda stage: SetListening(stage.name, enabled=False) if stage.desired.listening else None)
    return ({"status": "stopped"}, 200) if changed else ({"status": "not running"}, 400)


def start_working(api: Api) -> Any:
    """Compute."""
    changed = _change(api, lambda stage: None if stage.desired.working else SetWorking(stage.name, enabled=True))
    return ({"status": "started working"}, 200) if changed else ({"status": "already working"}, 202)


def stop_working(api: Api) -> Any:
    """Do not compute; the number of Consumers is kept."""
    _change(api, lambda stage: SetWorking(stage.name, enabled=False) if stage.desired.working else None)
    return {"status": "stopped working"}


def _change(api: Api, due: Callable[[StageView], Change | None]) -> bool:
    """Change the stages in question as is due; tells whether any was."""
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
    if not api.article_turn.acquire(timeout=TURN):
        raise retry_later("an earlier call is not finished", 1)
    try:
        yield
    finally:
        api.article_turn.release()


_FOUR = {
    "/startlistening": (start_listening, "Take new messages"),
    "/stoplistening": (stop_listening, "Take no new messages"),
    "/startworking": (start_working, "Compute"),
    "/stopworking": (stop_working, "Do not compute"),
}
ROUTES = [
    Route(method, path, view, summary, ("stage",), changes=True)
    for path, (view, summary) in _FOUR.items()
    for method in ("GET", "POST")
]
