"""Routes for dead letters: lists and groups, single ones, selections, and operations on what is selected.

Runs in the server's threads; every answer comes from the broker admin. A list is read from what was seen last if that
is true enough (`fresh` says how old it may be), because each look takes all letters for a moment.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any

import msgspec
from flask import Response, request
from msgspec import Meta

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties
from mqworker.control.errors import ControlError
from mqworker.control.operator import BULK_DEADLINE
from mqworker.http.problems import Problem
from mqworker.http.queues import SEARCH, in_full
from mqworker.http.routing import API, Api, Route, body, number
from mqworker.http.sending import FORM, TABLE, header
from mqworker.ipc.admin_messages import LOOK_AT, LetterFilter, Text

LISTED = 100  # dead letters that are listed by default
NAMED = 200  # dead letters that one request names
OLDEST = 3600.0  # seconds
FORGOTTEN = 600.0  # seconds after which a selection that nobody uses is forgotten
FILTER = (
    *("reason", "error_type", "place", "fault", "message_id", "text", "header", "since", "until", "attempt"),
    "generation",
)
JSON_LINES = "application/jsonl"


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which dead letters: those named, those with one reason, or all; `dry` only counts them."""

    ids: list[str] | None = None
    reason: Text = ""  # not given; else it must not be empty, as that would be all
    limit: Annotated[int, Meta(ge=1, le=LOOK_AT)] = LOOK_AT
    dry: bool = False


class Confirmed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many dead letters whoever asks believes to be selected: with another number nothing is done."""

    count: Annotated[int, Meta(ge=0)]


def dlq_list(api: Api, stage: str) -> Any:
    """List dead letters, oldest first; with `ids` only those, in full."""
    api.stage(stage)
    limit = int(number("limit", LISTED, 1, LOOK_AT))
    if ids := [name for name in request.args.get("ids", "").split(",") if name]:
        found = api.control.ask_admin("dlq_show", {"stage": stage, "ids": ids[:NAMED]}, SEARCH)
        return {"dead_letters": [in_full(letter) for letter in found]}
    arguments = {"limit": limit, "after": int(number("after", 0, 0, LOOK_AT))}
    answer = api.control.ask_admin("dlq_list", _chosen(stage) | arguments, SEARCH)
    for row in answer["dead_letters"]:
        row["message"] = row["text"]  # its name since there is a list
    return answer


def dlq_groups(api: Api, stage: str) -> Any:
    """List the groups of dead letters, the largest first."""
    api.stage(stage)
    return api.control.ask_admin("dlq_groups", _chosen(stage), SEARCH)


def _chosen(stage: str) -> dict[str, Any]:
    """Return stage, filter and `fresh` of the query; raises a 422 Problem."""
    given: dict[str, Any] = {name: request.args[name] for name in FILTER if name in request.args}
    for name in ("attempt", "generation"):
        if name in given:
            given[name] = int(number(name, 0, -(2**53), 2**53))
    try:
        msgspec.convert(given, LetterFilter)
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from None
    fresh = number("fresh", 0.0, 0.0, OLDEST) if "fresh" in request.args else None
    return {"stage": stage, "chosen": given, "fresh": fresh}


def dlq_show(api: Api, stage: str, letter: str) -> Any:
    """Return one dead letter in full."""
    api.stage(stage)
    found = api.control.ask_admin("dlq_show", {"stage": stage, "ids": [letter], "preview": True}, SEARCH)
    if not found:
        raise _no_such(stage, letter)
    return in_full(found[0])


def dlq_replay(api: Api, stage: str) -> Any:
    """Send dead letters back to the input, and wait for it."""
    api.stage(stage)
    chosen = msgspec.to_builtins(body(Replay))
    return {"replayed": api.control.ask_admin("dlq_replay", {"stage": stage, **chosen}, SEARCH)}


def dlq_drop(api: Api, stage: str, letter: str) -> Any:
    """Remove one dead letter for good."""
    api.stage(stage)
    dropped = api.control.ask_admin("dlq_drop", {"stage": stage, "ids": [letter], "limit": 1}, SEARCH)
    if not dropped:
        raise _no_such(stage, letter)
    return {"dropped": dropped}


def dlq_edit(api: Api, stage: str, letter: str) -> Any:
    """Send one dead letter back with the body of this request instead of its own."""
    api.stage(stage)
    data, most = request.get_data(), api.control.loaded.config.stages[stage].max_body
    if len(data) > most:
        raise Problem(413, f"the body has {len(data)} bytes; max_body of this stage allows {most}")
    content_type = header("Content-Type")
    if content_type is not None and content_type.partition(";")[0].strip().lower() == FORM:
        content_type = None  # curl's for every body
    changes: dict[str, Any] = {
        "content_type": content_type,
        "content_encoding": header("Content-Encoding"),
        "headers": _changed(),
    }
    try:
        given = Headers({name: value for name, value in changes["headers"].items() if value is not None})
        Properties(content_type, changes["content_encoding"], given).encode()
    except ValueError as error:
        raise Problem(422, f"a header of the request does not fit into a message: {error}") from None
    arguments = {"stage": stage, "letter": letter, "body": data, "changes": changes}
    replayed = api.control.ask_admin("dlq_edit", arguments, SEARCH)
    if not replayed:
        raise _no_such(stage, letter)
    return {"replayed": replayed}


def _changed() -> dict[str, Any]:
    """Return the headers that are to be changed, null for one to be removed; raises a 422 Problem."""
    form = dict[str, bool | int | float | str | None]
    try:
        values = msgspec.json.decode(header(TABLE) or b"{}", type=form)
    except msgspec.DecodeError as error:
        raise Problem(422, f"{TABLE} must be a JSON object of texts, numbers, booleans and nulls: {error}") from None
    for name in values:
        if why := headers.reserved(name):
            raise Problem(422, f"the header {name} of a message {why}", fields=[(TABLE, f"{name} {why}")])
    return values


def select(api: Api, stage: str) -> Any:
    """Freeze the dead letters that fit a filter, so that exactly those are replayed or dropped."""
    api.stage(stage)
    chosen = msgspec.to_builtins(body(LetterFilter))
    answer = api.control.ask_admin("dlq_select", {"stage": stage, "chosen": chosen}, SEARCH)
    return answer | {"expires": time.time() + FORGOTTEN}, 201


def replay_selected(api: Api, stage: str, selection: str) -> Any:
    """Begin to send what is selected back to the input."""
    return _begin(api, stage, selection, "replay")


def drop_selected(api: Api, stage: str, selection: str) -> Any:
    """Begin to remove what is selected for good."""
    return _begin(api, stage, selection, "drop")


def _begin(api: Api, stage: str, selection: str, kind: str) -> Any:
    api.stage(stage)
    by = getattr(request.environ.get("mqworker.caller"), "by", "")
    count = body(Confirmed).count
    begun = api.control.ask(lambda operator: operator.bulk.begin(stage, selection, kind, count, by), BULK_DEADLINE)
    return {"operation": begun.operation}, 202


def export_selected(api: Api, stage: str, selection: str) -> Any:
    """Return what is selected in full, a JSON document in each line; it stays where it is."""
    api.stage(stage)
    name = "".join(each if each.isascii() and each.isalnum() else "-" for each in stage)
    headers = {"Content-Disposition": f'attachment; filename="{name}-{selection}.jsonl"'}
    with ExitStack() as place:
        place.enter_context(api.waiting())
        ids = api.control.ask_admin("dlq_selected", {"stage": stage, "selection": selection}, SEARCH)
        if request.method == "HEAD":
            return Response(headers=headers, content_type=JSON_LINES)
        response = Response(_exported(api, stage, ids), headers=headers, content_type=JSON_LINES)
        response.call_on_close(place.pop_all().close)
    return response


def _exported(api: Api, stage: str, ids: list[str]) -> Iterator[bytes]:
    """Yield each letter as often as it is selected; those that are gone are left out.

    Raises what breaks the answer off, also when the service ends: else what is missing would look like all.
    """
    times = Counter(ids)
    left = dict.fromkeys(ids)
    while left:
        if api.stopping.is_set():
            raise ControlError("draining", f"the service ends: {len(left)} letters of an export are missing")
        some = list(left)[:NAMED]
        found = api.control.ask_admin("dlq_show", {"stage": stage, "ids": some}, SEARCH)
        for letter in [letter["id"] for letter in found] or some:  # none of these is there any more
            left.pop(letter, None)
        lines = [(letter["id"], msgspec.json.encode(in_full(letter)) + b"\n") for letter in found]
        yield b"".join(line * times[letter] for letter, line in lines)


def _no_such(stage: str, letter: str) -> Problem:
    what = f"stage {stage} has no dead letter {letter!r}"
    return Problem(404, f"{what}: it has been replayed or dropped, or has another id (`mqworker dlq list` shows them)")


_DLQ = f"{API}/stages/<stage>/dlq"
_SELECTION = f"{_DLQ}/selections/<selection>"
ROUTES = [
    Route(
        *("GET", _DLQ, dlq_list, "Dead letters, oldest first; looking changes nothing"),
        query=("limit", "after", "fresh", "ids", *FILTER),
        slow=True,
    ),
    Route(
        "GET", f"{_DLQ}/groups", dlq_groups, "Dead letters by reason, error and place", ("fresh", *FILTER), slow=True
    ),
    Route("GET", f"{_DLQ}/<letter>", dlq_show, "One dead letter, with all the evidence", slow=True),
    Route("POST", f"{_DLQ}/replay", dlq_replay, "Send dead letters back to the input", body=Replay, slow=True),
    Route("DELETE", f"{_DLQ}/<letter>", dlq_drop, "Remove one dead letter for good", slow=True),
    Route(
        *("POST", f"{_DLQ}/<letter>/messages", dlq_edit, "Send one dead letter back with another body and headers"),
        any_body=True,
        headers=(TABLE,),
        slow=True,
    ),
    Route(
        *("POST", f"{_DLQ}/selections", select, "Freeze the dead letters that fit a filter"),
        body=LetterFilter,
        slow=True,
    ),
    Route("POST", f"{_SELECTION}/replay", replay_selected, "Send exactly these back to the input", body=Confirmed),
    Route("POST", f"{_SELECTION}/drop", drop_selected, "Remove exactly these for good", body=Confirmed),
    Route("GET", f"{_SELECTION}/export", export_selected, "These in full, a JSON document in each line"),
]
