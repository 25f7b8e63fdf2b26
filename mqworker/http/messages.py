"""The route for one message, found by its id: where it is, its way through the stages, its log lines, its dead letters.

Runs in the server's threads. Asks all Producers at once, through Control, and answers within a second; dead letters are
reported as they were last seen. Only `look` takes longer, because it goes through their queues. An unknown message is
an answer too: it says how far back the stages remember.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import request

from mqworker.control.errors import ControlError
from mqworker.control.operator import FIND_DEADLINE
from mqworker.control.whereabouts import Where, where, where_now
from mqworker.http.access import refuse_foreign
from mqworker.http.problems import Problem
from mqworker.http.queues import SEARCH
from mqworker.http.routing import API, Api, Route, flag
from mqworker.ipc import logs
from mqworker.ipc.inspection import MessageAnswer, Trace
from mqworker.ipc.logs import says

KNOWN = 0.5  # seconds for the broker admin to say which dead letters it has seen
LONGEST = 255  # bytes of an id: AMQP allows no more
LINES = 200  # log lines of an answer, the newest ones
_TIMES = ("received", "begun", "finished", "settled", "due")
_MORE = ("slot", "generation", "size", "redelivered", "reason", "error_type", "error", "place")


def found_by_query(api: Api) -> Any:
    """Return the same for an id in the query: proxies decode paths, and follow the `..` that an id may have in it."""
    return found(api, request.args.get("id", ""))


def found(api: Api, message_id: str) -> Any:
    """Return everything that is known here of a message."""
    if not message_id:
        raise Problem(422, "the id of a message is needed: ?id=")
    if len(message_id.encode("utf-8", "surrogateescape")) > LONGEST:
        raise Problem(422, f"the id of a message has at most {LONGEST} bytes")
    if request.args.get("look") != "1" and not flag("look"):
        return _document(api, message_id, look=False)
    refuse_foreign(request.environ)  # each takes one of few places, also from a page that may not read it
    with api.places.slow():
        return _document(api, message_id, look=True)


def _document(api: Api, message_id: str, *, look: bool) -> dict[str, Any]:
    answers = api.control.ask(lambda operator: operator.find_message(message_id), FIND_DEADLINE)
    wall, now = time.time(), time.monotonic()
    known = {stage: answer for stage, answer in answers.items() if isinstance(answer, MessageAnswer)}
    places = {stage: where(answer, now, wall) for stage, answer in known.items()}
    letters, age = _letters(api, message_id, look)
    here = where_now(places, age, [each["stage"] for each in letters], answers.keys() - known.keys())
    return {
        "message_id": message_id,
        "state": here.state,
        "sentence": here.sentence,
        "stages": [_stage(stage, known[stage], place, wall - now) for stage, place in places.items()],
        "letters": letters,
        "letters_as_of": None if age is None else round(age, 3),
        "lines": _lines(api, message_id),
        "unanswered": _unanswered(answers),
    }


def _stage(stage: str, answer: MessageAnswer, place: Where, offset: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "state": place.state,
        "sentence": place.sentence,
        "traces": [_trace(trace, offset) for trace in answer.traces],
        "remembers": answer.remembers,
        "since": logs.timestamp(answer.since + offset),
    }


def _trace(trace: Trace, offset: float) -> dict[str, Any]:
    at = {name: getattr(trace, name) for name in _TIMES}
    document: dict[str, Any] = {
        "state": trace.state,
        "attempt": trace.attempt,
        "at": {name: logs.timestamp(value + offset) if value else None for name, value in at.items()},
        "duration_s": round(trace.duration, 6),
    }
    document |= {name: getattr(trace, name) for name in _MORE}
    document["consumer"] = None if trace.slot < 0 else document["slot"]
    del document["slot"]
    return document


def _letters(api: Api, message_id: str, look: bool) -> tuple[list[dict[str, Any]], float | None]:
    """Return the dead letters of the message, and how old that is in seconds; None: not all stages were looked at."""
    deadline = SEARCH if look else KNOWN
    try:
        found = api.control.ask(lambda operator: operator.find_letters(message_id, deadline, look=look), deadline)
    except ControlError:
        if look:
            raise
        return [], None
    ages: dict[str, float] = found["ages"]
    seen = ages.keys() >= api.control.loaded.config.stages.keys()
    return found["letters"], max(ages.values(), default=0.0) if seen else None


def _lines(api: Api, message_id: str) -> list[msgspec.Raw]:
    recent = api.control.logs.recent(0, 0.0)
    return [msgspec.Raw(line.encode()) for _, line in recent if says(line, "message_id", message_id)][-LINES:]


def _unanswered(answers: Mapping[str, MessageAnswer | ControlError]) -> list[dict[str, str]]:
    return [{"stage": stage, "why": str(why)} for stage, why in answers.items() if isinstance(why, ControlError)]


_SUMMARY = "Where the message with this id is, and its way"
ROUTES = [
    Route("GET", f"{API}/messages", found_by_query, f"{_SUMMARY}; for any id", ("id", "look")),
    Route("GET", f"{API}/messages/<path:message_id>", found, _SUMMARY, ("look",)),
]
