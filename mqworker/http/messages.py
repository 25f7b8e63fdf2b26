"""The route for one message, found by its id: where it is, its way through the stages, its log lines, its dead letters.

Runs in the server's threads. Asks all Producers at once, through Control, and answers within a second; only `look`
takes longer, because it goes through the dead-letter queues. An unknown message is an answer too: it says how far back
the stages remember.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from mqworker.control.control import ControlError
from mqworker.control.whereabouts import Where, where, where_now
from mqworker.http.problems import Problem
from mqworker.http.queues import SEARCH
from mqworker.http.routing import API, Api, Route, flag
from mqworker.ipc import logs
from mqworker.ipc.admin_messages import LOOK_AT
from mqworker.ipc.inspection import MessageAnswer, Trace
from mqworker.ipc.logs import says

LONGEST = 255  # bytes of an id: AMQP allows no more
LINES = 200  # log lines of an answer, the newest ones
_TIMES = ("received", "begun", "finished", "settled", "due")
_MORE = ("slot", "generation", "size", "redelivered", "reason", "error_type", "error", "place")


def found(api: Api, message_id: str) -> Any:
    """Return everything that is known here of a message."""
    if len(message_id.encode("utf-8", "surrogateescape")) > LONGEST:
        raise Problem(422, f"the id of a message has at most {LONGEST} bytes")
    look = flag("look")
    answers = api.control.find_message(message_id)
    wall, now = time.time(), time.monotonic()
    known = {stage: answer for stage, answer in answers.items() if isinstance(answer, MessageAnswer)}
    places = {stage: where(answer, now, wall) for stage, answer in known.items()}
    letters = _letters(api, list(answers), message_id) if look else []
    here = where_now(places, looked=look, letters=[each["stage"] for each in letters])
    return {
        "message_id": message_id,
        "state": here.state,
        "sentence": here.sentence,
        "stages": [_stage(stage, known[stage], place, wall - now) for stage, place in places.items()],
        "letters": letters,
        "letters_as_of": 0 if look else None,
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
    told: dict[str, Any] = {
        "state": trace.state,
        "attempt": trace.attempt,
        "at": {name: logs.timestamp(value + offset) if value else None for name, value in at.items()},
        "duration_s": round(trace.duration, 6),
    }
    told |= {name: getattr(trace, name) for name in _MORE}
    told["consumer"] = None if trace.slot < 0 else told["slot"]
    del told["slot"]
    return told


def _letters(api: Api, stages: list[str], message_id: str) -> list[dict[str, Any]]:
    """Return the dead letters of the message, of all stages."""
    letters: list[dict[str, Any]] = []
    for stage in stages:
        question = {"stage": stage, "limit": LOOK_AT, "after": 0, "chosen": {}, "fresh": 0.0}
        listed = api.control.ask_admin("dlq_list", question, SEARCH)["dead_letters"]
        letters += [{"stage": stage} | letter for letter in listed if letter.get("message_id") == message_id]
    return letters


def _lines(api: Api, message_id: str) -> list[msgspec.Raw]:
    recent = api.control.logs.recent(0, 0.0)
    return [msgspec.Raw(line.encode()) for _, line in recent if says(line, "message_id", message_id)][-LINES:]


def _unanswered(answers: Mapping[str, MessageAnswer | ControlError]) -> list[dict[str, str]]:
    return [{"stage": stage, "why": str(why)} for stage, why in answers.items() if isinstance(why, ControlError)]


ROUTES = [
    Route(
        "GET", f"{API}/messages/<path:message_id>", found, "Where the message with this id is, and its way", ("look",)
    )
]
